"""Optimisers, learning-rate schedules and the moving average of weights that the recipes name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vaswani_transformer.recipe import OptimizerSection, ScheduleSection

logger = logging.getLogger(__name__)

OPTIMIZERS = ("adam", "adamw", "lamb")
SCHEDULES = ("noam", "inverse_sqrt", "linear", "cosine", "constant")
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")  # torch has a one-kernel Adam for these
CORRECTED = 1_000_000  # updates after which 1 - beta^t is 1, exactly, for any beta up to 0.9999


def build_optimizer(model: nn.Module, optimizer_section: OptimizerSection) -> Optimizer:
    """Adam, AdamW or LAMB over the trainable parameters, as few kernels as the library has for it.

    Weight decay touches matrices only: norms and biases (all the tensors of one dimension) have none. Adam's decay is
    the L2 term in the gradient, AdamW's is decoupled, LAMB's is a term of the update whose length the trust ratio sets.
    Tied weights are one parameter. The rate in the groups is the recipe's peak, or 0 where the schedule computes its
    own, until `build_schedule` takes it over.

    Args:
        model: on its final device, or moved later as a whole.
        optimizer_section: the recipe's `optimizer:`, whose values it has checked.

    Raises:
        ValueError: unknown name, a model without trainable parameters, or LAMB without its library.
    """
    section = optimizer_section
    if section.name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name must be one of {list(OPTIMIZERS)}; got optimizer.name={section.name!r}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model must have at least one parameter with requires_grad; got none, so nothing to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": float(section.weight_decay)},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    beta1, beta2 = section.betas
    settings: dict[str, Any] = {"lr": float(section.learning_rate or 0.0), "eps": float(section.eps)}
    settings["betas"] = (float(beta1), float(beta2))
    if section.name == "lamb":
        return _lamb(groups, settings)
    fused = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in trained)
    kind = Adam if section.name == "adam" else AdamW
    optimizer = kind([group for group in groups if group["params"]], fused=fused, **settings)
    if not section.bias_correction:
        optimizer.register_step_pre_hook(_start_corrected)
    return optimizer


def _start_corrected(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Gives parameters without a state one that counts from CORRECTED: torch's kernels then correct nothing.

    They have no switch for it. The count is a float32, exact up to 16 million updates.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and not optimizer.state[weight]:
                device = weight.device if group["fused"] else "cpu"  # where torch itself keeps the count
                optimizer.state[weight] = {
                    "step": torch.tensor(float(CORRECTED), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
                }


def _lamb(groups: list[dict[str, Any]], settings: dict[str, Any]) -> Optimizer:
    """LAMB (You et al. 2020, algorithm 2) as NVIDIA's kernel for BERT has it, but for its bias correction.

    What has no decay (norms and biases) gets Adam's update, its trust ratio being 1; the norm of a weight, which the
    library cuts off at 10 as the first version of the paper did, is not; and the rate is the schedule's own, where the
    library would by default raise it in the first updates by 1 / (1 - beta1^t).
    """
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise ValueError(
            "optimizer.name=lamb needs the package pytorch_optimizer: pip install 'vaswani-transformer[lamb]'; "
            "got name=lamb without it"
        ) from error

    matrices, others = groups
    kept = [group for group in (matrices, others | {"adam": True}) if group["params"]]
    optimizer = Lamb(kept, weight_decouple=False, adam_debias=True, **settings)
    optimizer.clamp = math.inf
    return optimizer


def learning_rate(
    schedule_section: ScheduleSection,
    optimizer_section: OptimizerSection,
    *,
    d_model: int | None,
    step: int,
    steps: int,
) -> float:
    """The rate of one update.

    Updates count from 1: `step=1` is the first, so no update is wasted on a rate of zero. (transformers' schedules
    count from 0 and give the first update a rate of zero; theirs at t equals ours at step t.)

    - noam: scale * d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), equation 3 of Vaswani et al. (2017).
    - inverse_sqrt: linear to the peak at `warmup_steps`, then peak * sqrt(warmup_steps / step).
    - linear: to the peak as peak * step / warmup_steps, from there peak * (1 - step / steps)^power. As in Google's BERT
      the clock of the decay starts with the run, so the rate falls at once by warmup_steps / steps at the peak.
    - cosine: linear to the peak, then half a cosine down to peak * minimum_ratio at the last update.
    - constant: linear to the peak, then the peak.

    Args:
        schedule_section: the recipe's `schedule:`.
        optimizer_section: the recipe's `optimizer:`, for its learning_rate, the peak; not read by noam.
        d_model: width of the model, read by noam only.
        step: number of the update, 1-based.
        steps: updates of the whole run, read by linear and cosine only.

    Raises:
        ValueError: unknown name, a step below 1, or a missing peak or width.
    """
    _check_schedule(schedule_section, optimizer_section, d_model=d_model, steps=steps)
    if step < 1:
        raise ValueError(f"step must be 1 or more, updates count from 1; got {step=}")
    warmup = schedule_section.warmup_steps
    if schedule_section.name == "noam":
        assert d_model is not None
        return float(schedule_section.scale) * d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
    peak = float(optimizer_section.learning_rate)  # pyright: ignore[reportArgumentType]  # _check_schedule saw it
    if step < warmup:
        return peak * step / warmup
    if schedule_section.name == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / step)
    if schedule_section.name == "linear":
        return peak * max(0.0, 1.0 - step / steps) ** float(schedule_section.power)
    if schedule_section.name == "cosine":
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        floor = float(schedule_section.minimum_ratio)
        return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    return peak


def _check_schedule(schedule: ScheduleSection, optimizer: OptimizerSection, *, d_model: int | None, steps: int) -> None:
    if schedule.name not in SCHEDULES:
        raise ValueError(f"schedule.name must be one of {list(SCHEDULES)}; got schedule.name={schedule.name!r}")
    if schedule.name == "noam":
        if d_model is None or d_model < 1:
            raise ValueError(f"noam needs the model's width, 1 or more; got {d_model=}")
    elif optimizer.learning_rate is None:
        raise ValueError(
            f"schedule.name={schedule.name} needs a peak; got optimizer.learning_rate=None; set "
            "optimizer.learning_rate, or use schedule.name=noam, which computes its own"
        )
    if schedule.name in ("linear", "cosine") and steps < 1:
        raise ValueError(f"{schedule.name} needs the number of updates of the run, 1 or more; got {steps=}")


def build_schedule(
    optimizer: Optimizer,
    schedule_section: ScheduleSection,
    optimizer_section: OptimizerSection,
    *,
    d_model: int | None,
    steps: int | Callable[[], int],
) -> LambdaLR:
    """A LambdaLR that gives the s-th update `learning_rate(step=s)`; call `.step()` once after each update.

    The rate for the first update is set at once. Every group gets the same rate. The saved state holds the number of
    the update and not the formula, so a resumed run follows the recipe it is given. Step it in the loop itself:
    Accelerate's wrapper would advance it once for every process.

    Args:
        optimizer: from `build_optimizer`.
        schedule_section: the recipe's `schedule:`.
        optimizer_section: the recipe's `optimizer:`.
        d_model: width of the model, read by noam only.
        steps: updates of the whole run; a function is asked before every update, for a plan that changes.

    Raises:
        ValueError: as `learning_rate`.
    """
    planned = steps if callable(steps) else lambda: steps
    _check_schedule(schedule_section, optimizer_section, d_model=d_model, steps=planned())
    if schedule_section.name == "noam" and optimizer_section.learning_rate is not None:
        logger.warning(
            "optimizer.learning_rate=%s is ignored: schedule.name=noam computes its own, schedule.scale changes it",
            optimizer_section.learning_rate,
        )
    if schedule_section.name != "noam" and float(schedule_section.scale) != 1.0:
        logger.warning("schedule.scale=%s is ignored: only noam reads it", schedule_section.scale)
    if schedule_section.name != "linear" and float(schedule_section.power) != 1.0:
        logger.warning("schedule.power=%s is ignored: only linear reads it", schedule_section.power)
    if schedule_section.name != "cosine" and float(schedule_section.minimum_ratio) != 0.0:
        logger.warning("schedule.minimum_ratio=%s is ignored: only cosine reads it", schedule_section.minimum_ratio)

    def rate(updates_done: int) -> float:
        step = updates_done + 1
        return learning_rate(schedule_section, optimizer_section, d_model=d_model, step=step, steps=planned())

    for group in optimizer.param_groups:
        # LambdaLR multiplies by the initial rate; 1 makes the lambda the rate itself, without rounding.
        group["lr"] = group["initial_lr"] = 1.0
    return LambdaLR(optimizer, rate)


class EMA:
    """Exponential moving average of a model's trainable weights: shadow = d * shadow + (1 - d) * weight.

    The shadow is float32 whatever the weights are (in bfloat16 a step of 1 - d below 2^-8 is rounded away) and holds
    a tied weight once: 4 bytes for each trainable parameter, on the parameter's device. It starts as the weights
    themselves. With `warmup`, d = min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not an average
    of its random start. Buffers are not averaged.

    Args:
        model: the bare model; wrappers of torch.compile and DistributedDataParallel are seen through.
        decay: d, in [0, 1); 0.999 averages over about a thousand updates.
        warmup: start with a smaller d, see above.

    Raises:
        ValueError: decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1); got ema_decay={decay}")
        self.decay = float(decay)
        self.warmup = warmup
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: weight.detach().to(torch.float32, copy=True) for name, weight in _trained(model).items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights as they are now; call once after each update of the optimiser."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        weights = _trained(model)
        self._check_names(weights)
        if self.shadow:
            current = [weights[name].detach().to(torch.float32) for name in self.shadow]
            get_ema_multi_avg_fn(decay)(list(self.shadow.values()), current, self.updates)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrites the model's trainable weights with the average, rounded to their dtype."""
        weights = _trained(model)
        self._check_names(weights)
        for name, average in self.shadow.items():
            weights[name].copy_(average)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within it the model holds the average; after it, also after an exception, the weights it had.

        Costs one copy of the trainable weights while it lasts.
        """
        kept = {name: weight.detach().clone() for name, weight in _trained(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in _trained(model).items():
                    weight.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """`{"decay", "updates", "weights": {name: float32 tensor}}`; torch.load(weights_only=True) reads it back."""
        return {"decay": self.decay, "updates": self.updates, "weights": dict(self.shadow)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the average and its count; the decay stays this object's own, so the recipe rules.

        Raises:
            ValueError: other names or shapes than this model's.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        self._check_names(weights)
        for name, average in self.shadow.items():
            if average.shape != weights[name].shape:
                raise ValueError(
                    "a saved average must have the model's shapes; "
                    f"got {name}: saved {tuple(weights[name].shape)}, model {tuple(average.shape)}"
                )
        for name, average in self.shadow.items():
            average.copy_(weights[name])
        self.updates = int(state["updates"])

    def _check_names(self, weights: Mapping[str, Tensor]) -> None:
        if weights.keys() != self.shadow.keys():
            differ = sorted(weights.keys() ^ self.shadow.keys())
            raise ValueError(
                f"the weights must be those that the average was started with; got differing names {differ[:5]}"
                f"{' and more' if len(differ) > 5 else ''}"
            )


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, a tied one once, without the prefixes of DDP and torch.compile."""
    return {
        name.replace("_orig_mod.", "").removeprefix("module."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
