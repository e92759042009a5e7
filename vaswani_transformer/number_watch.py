"""Losses and gradients watched: one that is not finite stops the run or is skipped, one that jumps is told."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from .progress import Progress
from .recipe import Recipe

logger = logging.getLogger(__name__)

LOOK_EVERY = 10  # updates between two looks where the numbers are on a GPU; a look makes the CPU wait for it
NORMS = 100  # gradient norms that a new one is compared with, and how many there must be
LEAST_NORMS = 20
SPIKE = 5.0  # times their median
SKIPPED_AT_LEAST = 10  # skipped updates that no run stops for
SKIPPED_SHARE = 0.01


@dataclass(frozen=True)
class Update:
    """Which update it was: its number from 1, and its batch as phase, epoch and number in that epoch's plan."""

    step: int
    phase: int
    epoch: int
    position: int


class NumberWatch:
    """Looks at the loss and the gradient's norm of every update.

    Both are the same in all processes (summed losses, averaged gradients), so all decide alike. On the CPU, and with
    `skip`, the look comes before the weights change. On a GPU that would make the CPU wait at every update: there
    `stop` looks every LOOK_EVERY updates and before every save. The weights may be spoilt by then; no checkpoint is,
    and `--resume` comes to the same update again.

    Args:
        skip: pass over the update instead of stopping the run.
        at_once: look before the weights change; always so with `skip`.
        scaled: the gradients are scaled (fp16), whose overflow is the scaler's to mend: only the loss must be finite.
        keep: writes an update's batch for replay, given its numbers, and returns where.
    """

    def __init__(
        self, *, skip: bool, at_once: bool, scaled: bool, keep: Callable[[Update, dict[str, float | None]], str]
    ) -> None:
        self.skip, self.scaled, self.keep = skip, scaled, keep
        self.every = 1 if at_once or skip else LOOK_EVERY
        self.pending: list[tuple[Update, Tensor, Tensor | float | None]] = []
        self.norms: deque[float] = deque(maxlen=NORMS)

    def passes(self, progress: Progress, losses: Tensor, grad_norm: Tensor | float | None) -> bool:
        """Whether the update after `progress` may change weights, optimiser and schedule; counts it there if not.

        Args:
            progress: where the run stands before the update.
            losses: loss and negative log-likelihood of the whole world [2].
            grad_norm: of the whole world's gradient before clipping; None where it is not known.

        Raises:
            ValueError: not finite, without `skip` or once too often.
        """
        place = Update(progress.step + 1, progress.phase, progress.epoch, progress.position)
        self.pending.append((place, losses, grad_norm))
        if len(self.pending) < self.every:
            return True
        return self.look(progress)

    def look(self, progress: Progress) -> bool:
        """Looks at all updates not looked at yet; see `passes`."""
        pending, self.pending = self.pending, []
        if not pending:
            return True
        # One transfer for all of them; a norm that is not known counts as finite.
        values = torch.stack(
            [torch.stack([*losses.double(), _norm(norm, losses.device)]) for _, losses, norm in pending]
        ).tolist()
        sound = True
        for (place, _, norm), (loss, nll, size) in zip(pending, values, strict=True):
            if math.isfinite(loss) and math.isfinite(nll) and (self.scaled or math.isfinite(size)):
                if norm is not None and math.isfinite(size):
                    self._tell_spike(place, size)
            else:
                found = {"loss": loss, "nll": nll, "grad_norm": None if norm is None else size}
                self._refuse(place, found, progress)
                sound = False
        return sound

    def _tell_spike(self, place: Update, norm: float) -> None:
        if len(self.norms) >= LEAST_NORMS and norm > SPIKE * (usual := statistics.median(self.norms)):
            logger.warning(
                "gradient norm %.3g at step %d, %.1f times the usual %.3g (epoch %d, batch %d)",
                *(norm, place.step, norm / usual if usual else math.inf, usual, place.epoch, place.position),
            )
        self.norms.append(norm)

    def _refuse(self, place: Update, found: dict[str, float | None], progress: Progress) -> None:
        file = self.keep(place, found)
        what = (
            "the gradient's norm"
            if all(map(math.isfinite, (found["loss"] or 0.0, found["nll"] or 0.0)))
            else "the loss"
        )
        got = found["grad_norm"] if what != "the loss" else found["loss"]
        if not self.skip:
            raise ValueError(
                f"{what} must stay finite; got {got} at step {place.step}, whose batch is in {file}: lower the "
                "learning rate (schedule.scale), set optimizer.max_grad_norm, or pass over such updates with "
                "on_nonfinite=skip; nothing was saved over the last checkpoint"
            )
        progress.skipped += 1
        logger.warning("skipping update %d: %s is %s; its batch is in %s", place.step, what, got, file)
        if progress.skipped > max(SKIPPED_AT_LEAST, SKIPPED_SHARE * place.step):
            raise ValueError(
                f"on_nonfinite=skip passes over at most {SKIPPED_AT_LEAST} updates, or one in {1 / SKIPPED_SHARE:.0f}; "
                f"got {progress.skipped} by step {place.step}: lower the learning rate (schedule.scale) or set "
                "optimizer.max_grad_norm; nothing was saved over the last checkpoint"
            )


def _norm(norm: Tensor | float | None, device: torch.device) -> Tensor:
    return torch.as_tensor(0.0 if norm is None else norm, dtype=torch.float64, device=device)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor | None:
    """The 2-norm of all gradients together; None where there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    return torch.nn.utils.get_total_norm(gradients)


def watch_for(recipe: Recipe, accelerator: Accelerator, data_by_phase: Sequence[Any]) -> NumberWatch:
    """Returns a run's watch, which keeps refused batches as `nonfinite-STEP.pt` in its folder.

    Raises:
        ValueError: `on_nonfinite: skip` under DeepSpeed.
    """
    skip = recipe.on_nonfinite == "skip"
    if skip and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "on_nonfinite=skip must be able to leave an update out, and DeepSpeed takes it with the gradient; "
            "got DeepSpeed: set on_nonfinite=stop"
        )
    recipes = recipe.by_phase()

    def keep(place: Update, found: dict[str, float | None]) -> str:
        file = Path(recipe.output) / f"nonfinite-{place.step:08d}.pt"
        if accelerator.is_main_process:
            parts = accelerator.num_processes * recipes[place.phase - 1].batch.accumulation
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(replay(place, found, data_by_phase[place.phase - 1], parts), file)
        accelerator.wait_for_everyone()  # the first that leaves has its launcher stop the others
        return str(file)

    at_once, scaled = accelerator.device.type == "cpu", accelerator.scaler is not None
    return NumberWatch(skip=skip, at_once=at_once, scaled=scaled, keep=keep)


def replay(place: Update, found: dict[str, float | None], data: Any, parts: int) -> dict[str, Any]:
    """What is kept of an update that was refused; `torch.load(file, weights_only=True)` reads it.

    Args:
        place: which update.
        found: its loss, nll and grad_norm.
        data: of its phase.
        parts: micro batches it was split into, over all processes.

    Returns:
        step, phase, epoch, position, loss, nll, grad_norm; `examples`, the numbers of its examples in the training
        split as read; `micro_batches`, what the model was given in each process and accumulation step.
    """
    examples = np.asarray(data.epoch(place.epoch)[place.position])
    batches = data.micro_batches(examples, parts)
    return {**vars(place), **found, "examples": torch.as_tensor(examples), "micro_batches": batches}
