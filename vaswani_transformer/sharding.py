"""How weights, gradients and optimiser states are spread over GPUs, in bytes: data parallelism and ZeRO (Rajbhandari et
al. 2020), as DeepSpeed 0.19 does it with its default settings.
"""

from dataclasses import dataclass
from typing import Literal

from .traced_memory import Precision

STATES = 2  # numbers that Adam, AdamW and LAMB keep for each weight
REDUCE_BUCKET = 500_000_000  # numbers; DeepSpeed's reduce_bucket_size
PERSISTENT = 100_000  # numbers; DeepSpeed's stage3_param_persistence_threshold: no smaller tensor is taken apart
SUB_GROUP = 1_000_000_000  # numbers; DeepSpeed's sub_group_size, what ZeRO-3 updates at a time
WHOLE_LAYERS = 2  # under ZeRO-3, the one that computes and the one that is fetched


@dataclass(frozen=True)
class Sizes:
    """What is spread, in numbers (not bytes).

    Args:
        groups: of each tensor that is trained, in the optimiser's groups and order.
        largest_layer: parameters of the largest layer.
        outside_layers: those in no layer: embeddings, heads.
        gpus: N.
        half: bf16 or fp16; else float32 throughout.
        ema: whether an average of the weights is kept, in float32.
    """

    groups: tuple[tuple[int, ...], ...]
    largest_layer: int
    outside_layers: int
    gpus: int
    half: bool
    ema: bool

    @property
    def tensors(self) -> list[int]:
        """Returns the numbers of each tensor."""
        return [tensor for group in self.groups for tensor in group]

    @property
    def parameters(self) -> int:
        """Returns P, all that are trained."""
        return sum(self.tensors)


@dataclass(frozen=True)
class Strategy:
    """One way to spread a model. Its bytes are those of the process that holds most, between two micro batches.

    Args:
        name: as told.
        stage: 0 for data parallelism without sharding, else ZeRO's.
        offload: optimiser states and gradients lie in the host's memory.
    """

    name: str
    stage: Literal[0, 1, 2, 3]
    offload: bool = False

    @property
    def precision(self) -> Precision:
        """Returns what a bf16 recipe becomes: autocast over float32 weights, or (DeepSpeed) bfloat16 weights."""
        return "autocast" if self.stage == 0 else "bf16"

    def weights(self, sizes: Sizes) -> int:
        """Returns bytes of weights: float32 in data parallelism, in DeepSpeed half of that for bf16."""
        if self.stage == 0:
            return 4 * sizes.parameters
        if self.stage < 3:
            return self._number(sizes) * sizes.gpus * self._share(sizes)
        small = [_piece(tensor, sizes.gpus) for tensor in sizes.tensors if tensor <= PERSISTENT]
        return self._number(sizes) * (self._share(sizes) + sizes.gpus * sum(small))

    def gradients(self, sizes: Sizes) -> int:
        """Returns bytes of gradients, of the weights' type."""
        if self.offload:
            return 0
        kept = (sizes.parameters, sizes.parameters, _touched(sizes), self._share(sizes))[self.stage]
        return self._number(sizes) * kept

    def optimizer(self, sizes: Sizes) -> int:
        """Returns bytes of the optimiser's states and counts of updates, and of the recipe's average of the weights.

        DeepSpeed's hold the float32 weights too, whatever the precision.
        """
        average = 4 * (self._share(sizes) if self.stage == 3 else sizes.parameters) if sizes.ema else 0
        return average + (0 if self.offload else self._states(sizes))

    def host(self, sizes: Sizes) -> int:
        """Returns bytes in the host's memory for each GPU: states, and in float32 the gradients of an update."""
        return self._states(sizes) + 4 * self._share(sizes) if self.offload else 0

    def buffers(self, sizes: Sizes) -> int:
        """Returns bytes of communication: DDP's buckets, a copy of all gradients; DeepSpeed's one bucket; whole layers.

        How many layers ZeRO-3 has whole at a time depends on how fast they come: two, and what is in no layer.
        """
        if self.stage == 0:
            return 4 * sizes.parameters if sizes.gpus > 1 else 0
        whole = WHOLE_LAYERS * sizes.largest_layer + sizes.outside_layers if self.stage == 3 else 0
        return self._number(sizes) * (REDUCE_BUCKET + whole)

    def total(self, sizes: Sizes, activations: int) -> int:
        """Returns the most that a GPU holds: in the middle of a micro batch, or when DeepSpeed updates the weights.

        The update copies a GPU's gradients to float32; activations and buckets are gone then.

        Args:
            sizes: of the model.
            activations: bytes, what `step_memory` finds for a micro batch.
        """
        at_rest = self.weights(sizes) + self.gradients(sizes) + self.optimizer(sizes)
        share = min(self._share(sizes), SUB_GROUP) if self.stage == 3 else self._share(sizes)
        update = 4 * share if self.stage and not self.offload else 0
        return at_rest + max(self.buffers(sizes) + activations, update)

    def _states(self, sizes: Sizes) -> int:
        if self.stage == 0:
            return 4 * (STATES * sizes.parameters + len(sizes.tensors))
        return 4 * ((1 + STATES) * self._share(sizes) + len(sizes.groups))

    def _share(self, sizes: Sizes) -> int:
        """A process's part: below ZeRO-3 of a group's tensors in one row, a multiple of 2; then of each tensor."""
        if self.stage == 3:
            return sum(_piece(tensor, sizes.gpus) for tensor in sizes.tensors)
        return sum(2 * _piece(sum(group), 2 * sizes.gpus) for group in sizes.groups)

    def _number(self, sizes: Sizes) -> int:
        return 2 if sizes.half and self.stage else 4


def _piece(numbers: int, parts: int) -> int:
    return -(-numbers // parts)


def _touched(sizes: Sizes) -> int:
    """Gradients that ZeRO-2 keeps, of the process with most: a tensor that lies on a border is whole on both sides."""
    held = [0] * sizes.gpus
    for group in sizes.groups:
        share, begin = 2 * _piece(sum(group), 2 * sizes.gpus), 0
        for tensor in group:
            for process in range(begin // share, (begin + tensor - 1) // share + 1):
                held[process] += tensor
            begin += tensor
    return max(held)


STRATEGIES = (
    Strategy("ddp", 0),
    Strategy("zero1", 1),
    Strategy("zero2", 2),
    Strategy("zero3", 3),
    Strategy("zero3_offload", 3, offload=True),
)
