"""A random order of any number of things in no memory: each place of it is computed when it is asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

EPOCH_SHIFT = 40  # an example's number is its epoch, then its place in that epoch's pass in so many bits
ROUNDS = 6
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's


class ShuffledOrder:
    """A permutation of 0 to size - 1, a pure function of its key: a Feistel network, walked until it lands inside.

    A network of keyed rounds permutes the numbers of an even count of bits, at most four times `size` here. What it
    sends outside is sent on until it is inside, which keeps it a permutation (Black and Rogaway 2002).

    Args:
        size: how many things.
        key: whole numbers of at least 0.
    """

    def __init__(self, size: int, key: list[int]) -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
        self._low = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, places: slice) -> np.ndarray:
        """Returns what stands at the places of a slice, int64."""
        found = np.arange(*places.indices(self.size), dtype=np.uint64)
        outside = np.ones(len(found), dtype=bool)
        while outside.any():
            found[outside] = self._once(found[outside])
            outside = found >= self.size
        return found.astype(np.int64)

    def _once(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._low
        for key in self._keys:
            mixed = right + key  # wraps around
            for mixer in MIXERS:
                mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(mixer)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(29))) & self._low)
        return (left << self._half) | right


class EpochPlan(Sequence[np.ndarray]):
    """The world's batches of one epoch, each computed when it is asked for.

    Args:
        epoch: its number.
        order: of its examples.
        size: sequences of a batch; the last one may have fewer.
    """

    def __init__(self, epoch: int, order: ShuffledOrder, size: int) -> None:
        self.epoch, self.order, self.size = epoch, order, size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"an epoch of {len(self)} batches has no number {index}")
        start = index % len(self) * self.size
        return self.order[start : start + self.size] + (self.epoch << EPOCH_SHIFT)
