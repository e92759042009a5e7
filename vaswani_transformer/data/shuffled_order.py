"""A random order of any number of things in no memory: each place of it is computed when it is asked for."""

import numpy as np

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
