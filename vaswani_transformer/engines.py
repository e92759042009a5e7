"""What differs between the ways to spread a model over processes: gradients, whole weights, optimiser state.

One process and data parallelism keep everything on every process; DeepSpeed's ZeRO (Rajbhandari et al. 2020) splits the
optimiser's state (stage 1), the gradients (2) and the weights (3); FSDP2 splits all three. The loop is the same.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from . import checkpoints
from .number_watch import gradient_norm
from .optimizer_state import NamedState, named_state
from .recipe import Recipe
from .world import split_of

logger = logging.getLogger(__name__)

OPTIMIZER = "optimizer.pt"
SHARDS = "shards"  # the folder of a checkpoint that holds every process's part
TAG = "state"


class Replicated:
    """One process, or data parallelism: each process has all weights and the whole state of the optimiser.

    Args:
        accelerator: of the run.
        recipe: of the run.
        accumulation: the most micro batches of an update, over the run's phases.
    """

    splits_weights = False

    def __init__(self, accelerator: Accelerator, recipe: Recipe, accumulation: int) -> None:
        self.accelerator, self.recipe, self.accumulation = accelerator, recipe, accumulation
        self.split = split_of(accelerator)
        self.model: Any = None
        self.optimizer: Any = None  # as Accelerate wraps it
        self.base: Any = None  # torch's own, whose groups have the learning rate

    def check(self) -> None:
        """Raises ValueError for what the recipe asks and this split cannot do."""

    def prepare(self, model: PreTrainedModel, optimizer: Optimizer) -> None:
        """Spreads model and optimiser over the processes."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.names = [names[id(one)] for group in optimizer.param_groups for one in group["params"]]
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.base = optimizer

    @property
    def bare_model(self) -> PreTrainedModel:
        """The model without wrappers; its parameters may be parts of the weights."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Within it forward and backward of a micro batch run; only the update's last one makes processes talk."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss that is this process's part of a sum over all.

        All three take the mean of the processes' gradients; a sum of losses needs their sum.
        """
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def clip(self) -> float | Tensor | None:
        """Clips the gradient where the recipe asks for it; returns its norm before, None where the step tells it."""
        if self.recipe.optimizer.max_grad_norm is not None:
            return self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.max_grad_norm)
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        return gradient_norm(self.model.parameters())

    def step(self, norm: float | Tensor | None) -> float | Tensor | None:
        """Updates the weights; returns the gradient's norm, which `clip` gave or the step found."""
        self.optimizer.step()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole, in float32, on the main process (maybe on others too). Every process must call it."""
        weights: Any = self.accelerator.get_state_dict(self.model)
        return dict(weights)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrites the model's weights; the optimiser's own copies, where it has them, stay as they are."""
        self.bare_model.load_state_dict(dict(weights))

    # --------------------------------------------------------------------------------------------------- checkpoints

    def description(self) -> dict[str, Any]:
        """What a checkpoint must say so that another split can read it."""
        return {"split": self.split, "processes": self.accelerator.num_processes, "parameters": self.names}

    def state_dict(self) -> dict[str, Any]:
        """What the main process writes into `optimizer.pt`."""
        state: dict[str, Any] = {"optimizer": self.base.state_dict()}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def save_shard(self, folder: Path) -> None:
        """Writes this process's part into a staged checkpoint; every process calls it."""

    def load(self, checkpoint: Path, saved_by: Mapping[str, Any]) -> None:
        """Takes the optimiser's state from a checkpoint, whatever split wrote it.

        Args:
            checkpoint: its folder.
            saved_by: the `description` of the run that wrote it.

        Raises:
            ValueError: a state that cannot be read here.
        """
        if self._is_own(saved_by):
            self._load_own(checkpoint)
            return
        logger.warning(
            "resuming on %s, %d processes, from %s, %d processes: weights, schedule and data go on exactly, the "
            "optimiser's state is put together anew",
            *(self.split, self.accelerator.num_processes, saved_by["split"], saved_by["processes"]),
        )
        with named_state(checkpoint, saved_by, self.accelerator, self.names) as state:
            missing = sorted(set(self.names) - set(state.tensors))
            if missing:
                raise ValueError(
                    f"the optimiser's state must hold every parameter; got none for {missing[:5]} in {checkpoint}: "
                    f"resume on {saved_by['split']} with {saved_by['processes']} processes"
                )
            self._load_named(state)
        self.accelerator.wait_for_everyone()

    def _is_own(self, saved_by: Mapping[str, Any]) -> bool:
        return saved_by["split"] in ("one device", "data parallel")

    def _load_own(self, checkpoint: Path) -> None:
        saved = checkpoints.load_tensors(checkpoint / OPTIMIZER)
        self.base.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in saved:
            self.accelerator.scaler.load_state_dict(saved["scaler"])

    def _load_named(self, state: NamedState) -> None:
        plain = self.base.state_dict()
        plain["state"] = {number: state.tensors[name] for number, name in enumerate(self.names)}
        self.base.load_state_dict(plain)


class Split(Replicated):
    """What ZeRO and FSDP2 have in common."""

    def check(self) -> None:
        """Raises ValueError for what the recipe asks and this split cannot do."""
        if self.recipe.optimizer.name == "lamb":
            raise ValueError(
                f"LAMB needs whole matrices for its trust ratio, {self.split} has slices of them; got "
                "optimizer.name=lamb: train it by data parallelism, or take adamw"
            )
        if self.recipe.ema_decay and (self.splits_weights or self.recipe.precision != "fp32"):
            raise ValueError(
                f"a moving average keeps all weights in float32 on every process, which {self.split} in "
                f"{self.recipe.precision} does not have; got ema_decay={self.recipe.ema_decay}: set average_last "
                "instead, or train by data parallelism"
            )
        if self.recipe.save.background:
            raise ValueError(
                f"a checkpoint written in the background is copied on one process first, {self.split} has a part on "
                "each; got save.background=true: leave it out, or train by data parallelism"
            )
        metrics = [name for name in self.recipe.validate.metrics if name != "loss"]
        if self.splits_weights and metrics:
            raise ValueError(
                f"validate.metrics={metrics} need the whole model on each process, which {self.split} splits: set "
                "validate.metrics=[loss] and score the checkpoints, or use zero2"
            )

    def state_dict(self) -> dict[str, Any]:
        """The number of updates taken; all else is in the shards."""
        steps = [state["step"] for state in self.base.state.values() if "step" in state]
        return {"updates": float(steps[0]) if steps else 0.0}


class Zero(Split):
    """DeepSpeed's ZeRO, stages 1 to 3.

    The loss comes with its denominator, so DeepSpeed's division by the accumulation steps is left out; where an update
    ends is told to it, not counted by it.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, accumulation: int) -> None:
        super().__init__(accelerator, recipe, accumulation)
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        plugin: Any = accelerator.state.deepspeed_plugin
        self.stage = int(plugin.zero_stage)
        self.splits_weights = self.stage == 3
        # Else from_pretrained splits the weights itself, and the optimiser cannot tell a matrix from a vector.
        plugin.zero3_init_flag = False
        unset_hf_deepspeed_config()

    def prepare(self, model: PreTrainedModel, optimizer: Optimizer) -> None:
        """Spreads model and optimiser over the processes."""
        plugin: Any = self.accelerator.state.deepspeed_plugin
        config = plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1  # else Accelerate looks for a DataLoader; nothing is scaled by it
        config["gradient_accumulation_steps"] = self.accelerator.gradient_accumulation_steps = self.accumulation
        config["train_batch_size"] = self.accumulation * self.accelerator.num_processes
        config["gradient_clipping"] = self.recipe.optimizer.max_grad_norm or 0.0
        super().prepare(model, optimizer)
        self.base = self.model.optimizer.optimizer  # another one where the state is offloaded

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Tells DeepSpeed whether the update ends here; ZeRO-2 and 3 reduce at every micro batch all the same."""
        self.model.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """As in Replicated; DeepSpeed too takes the mean."""
        self.model.backward(loss * self.accelerator.num_processes, scale_wrt_gas=False)

    def clip(self) -> float | Tensor | None:
        """Nothing: DeepSpeed clips in its step."""
        return None

    def step(self, norm: float | Tensor | None) -> float | Tensor | None:
        """As in Replicated; DeepSpeed clips by itself, and empties the gradients."""
        self.model.step()
        return None if self.recipe.optimizer.max_grad_norm is None else self.model.get_global_grad_norm()

    def weights(self) -> dict[str, Tensor]:
        """The float32 weights the optimiser keeps where the model's are rounded or split."""
        if self.stage < 3 and self.recipe.precision == "fp32":
            return dict(self.bare_model.state_dict())
        from deepspeed import zero  # pyright: ignore[reportMissingImports]
        from deepspeed.utils import safe_get_full_fp32_param  # pyright: ignore[reportMissingImports]

        weights = {}
        main = self.accelerator.is_main_process
        for name, parameter in self.bare_model.named_parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
            else:
                with zero.GatheredParameters([parameter]):
                    whole = parameter.detach().float().clone()
            if main:
                weights[name] = whole.reshape(getattr(parameter, "ds_shape", parameter.shape)).cpu()
        names = self.bare_model.state_dict().keys()
        return weights | {name: one.cpu() for name, one in self.bare_model.named_buffers() if name in names}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """As in Replicated."""
        if self.stage < 3:
            super().load_weights(weights)
            return
        from deepspeed import zero  # pyright: ignore[reportMissingImports]

        for name, parameter in self.bare_model.named_parameters():
            with zero.GatheredParameters([parameter], modifier_rank=0):
                if self.accelerator.is_main_process:
                    parameter.data.copy_(weights[name])

    def save_shard(self, folder: Path) -> None:
        """DeepSpeed's own format: each process writes its part."""
        try:
            self.model.save_checkpoint(str(folder / SHARDS), tag=TAG, save_latest=False)
        except Exception:
            self.accelerator.wait_for_everyone()  # the barrier at whose end the others' saves wait
            raise

    def _is_own(self, saved_by: Mapping[str, Any]) -> bool:
        return (saved_by["split"], saved_by["processes"]) == (self.split, self.accelerator.num_processes)

    def _load_own(self, checkpoint: Path) -> None:
        path, _ = self.model.load_checkpoint(str(checkpoint / SHARDS), tag=TAG, load_lr_scheduler_states=False)
        if path is None:
            raise ValueError(f"DeepSpeed must find its part of the checkpoint; got nothing in {checkpoint / SHARDS}")

    def _load_named(self, state: NamedState) -> None:
        flat = self._flat_parameters()
        for one in flat:
            self.base.state[one] = {
                "step": torch.tensor(state.updates, dtype=torch.float32),
                "exp_avg": torch.zeros_like(one),
                "exp_avg_sq": torch.zeros_like(one),
            }
        parameters = dict(self.bare_model.named_parameters())
        for name in self.names:
            for key in ("exp_avg", "exp_avg_sq"):
                self._set_part(flat, parameters[name], key, state.tensors[name][key])

    def _flat_parameters(self) -> list[Tensor]:
        if self.stage == 3:
            return list(self.model.optimizer.fp32_partitioned_groups_flat)
        return [one for group in self.base.param_groups for one in group["params"]]

    def _set_part(self, flat: list[Tensor], parameter: Any, key: str, whole: Tensor) -> None:
        """Copies this process's part of a state into the optimiser."""
        if self.stage < 3:
            part = parameter._hp_mapping
            if part is not None:
                here, there = part.hp_fragment_address, part.lp_fragment_address
                mine = self.base.state[flat[part.param_group_index]][key].narrow(0, here.start, here.numel)
                mine.copy_(whole.flatten().narrow(0, there.start, there.numel))
            return
        from deepspeed.utils import safe_get_local_optimizer_state, safe_set_local_optimizer_state  # pyright: ignore[reportMissingImports]

        size = safe_get_local_optimizer_state(parameter, key).numel()
        first = size * self.accelerator.process_index
        mine = torch.zeros(size, dtype=torch.float32, device=self.accelerator.device)  # the last part is padded
        found = whole.flatten()[first : first + size]
        mine[: found.numel()] = found.to(mine.device)
        safe_set_local_optimizer_state(parameter, mine, key)


class FSDP2(Split):
    """PyTorch's fully_shard: weights, gradients and state are split by rows; saved by torch.distributed.checkpoint."""

    splits_weights = True

    def prepare(self, model: PreTrainedModel, optimizer: Optimizer) -> None:
        """Spreads model and optimiser over the processes, a unit a layer.

        Accelerate wants every class of `_no_split_modules` in the model, ours name blocks of both norm orders. And it
        makes a unit of embeddings and head, whose weight other modules of ours share: all of them must lie in the
        outermost unit, so they are hidden from it meanwhile.
        """
        whole, embeddings = set(model._no_split_modules or ()), model.get_input_embeddings()
        units = {type(one).__name__ for one in model.modules() if embeddings not in set(one.modules())}
        plugin: Any = self.accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = sorted(units & whole)
        hidden: Any = model
        hidden.get_input_embeddings = hidden.get_output_embeddings = lambda: None
        try:
            super().prepare(model, optimizer)
        finally:
            del hidden.get_input_embeddings, hidden.get_output_embeddings

    def weights(self) -> dict[str, Tensor]:
        """As in Replicated, a tied weight once."""
        names = {name for name, _ in (*self.bare_model.named_parameters(), *self.bare_model.named_buffers())}
        return {name: tensor for name, tensor in super().weights().items() if name in names}

    def clip(self) -> float | Tensor | None:
        """As in Replicated, the parts' norms put together."""
        norm: Any = super().clip()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """As in Replicated."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(self.model, dict(weights), options=StateDictOptions(full_state_dict=True))

    def save_shard(self, folder: Path) -> None:
        """torch.distributed.checkpoint: each process writes its part, any number of processes reads them."""
        from torch.distributed.checkpoint import save
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        state = get_optimizer_state_dict(self.model, self.base)
        save({"optimizer": state}, checkpoint_id=str(folder / SHARDS))

    def _is_own(self, saved_by: Mapping[str, Any]) -> bool:
        return saved_by["split"] == self.split

    def _load_own(self, checkpoint: Path) -> None:
        from torch.distributed.checkpoint import load
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        state = {"optimizer": get_optimizer_state_dict(self.model, self.base)}
        load(state, checkpoint_id=str(checkpoint / SHARDS))
        set_optimizer_state_dict(self.model, self.base, state["optimizer"])

    def _load_named(self, state: NamedState) -> None:
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_optimizer_state_dict,
            set_optimizer_state_dict,
        )

        groups = get_optimizer_state_dict(self.model, self.base)["param_groups"]
        whole = {"state": {name: state.tensors[name] for name in self.names}, "param_groups": groups}
        set_optimizer_state_dict(self.model, self.base, whole, options=StateDictOptions(full_state_dict=True))


def engine_for(accelerator: Accelerator, recipe: Recipe, *, accumulation: int) -> Replicated:
    """The engine of a launch.

    Args:
        accelerator: of the run.
        recipe: of the run.
        accumulation: the most micro batches of an update, over the run's phases.

    Raises:
        ValueError: the recipe asks for what cannot be done with weights or state split.
    """
    kinds = {DistributedType.DEEPSPEED: Zero, DistributedType.FSDP: FSDP2}
    engine = kinds.get(accelerator.distributed_type, Replicated)(accelerator, recipe, accumulation)
    engine.check()
    return engine
