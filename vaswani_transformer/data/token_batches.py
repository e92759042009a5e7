"""Batches of about so many tokens, bucketed by length (section 5.1 of Vaswani et al. 2017): pure functions of lengths.

A batch here is what one update of the whole world sees, so its make-up cannot depend on the number of processes; only
how it is then split among them does. Batch samplers elsewhere work per process, and repeat or drop examples to make the
processes even.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

BUCKET_WIDTH = 1.1  # ratio of the longest to the shortest target of a bucket, as in the paper's code


class EpochBatches(Dataset):
    """One process's share of an epoch: item i is its micro batches of update i, and the world's target and real tokens.

    Every process holds the same plan and takes its own parts, so nothing is repeated, dropped or sent around, and the
    loss can be divided by the tokens of the whole update before any process has seen the others' batches.
    """

    def __init__(self, data: Any, plan: Sequence[np.ndarray], parts: int, wanted: range) -> None:
        self.data, self.plan, self.parts, self.wanted = data, plan, parts, wanted

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[list[dict[str, Tensor]], int, int]:
        batch, data = self.plan[index], self.data
        return (
            data.micro_batches(batch, self.parts, wanted=self.wanted),
            data.target_tokens(batch),
            data.real_tokens(batch),
        )


def plan_batches(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    source_tokens: int,
    target_tokens: int,
    rng: np.random.Generator | None,
    length_groups: int = 1,
) -> list[np.ndarray]:
    """Cuts all examples into batches of similar length within two token budgets.

    Args:
        source_lengths: tokens of each example's source, `</s>` included.
        target_lengths: the same of its target.
        source_tokens: most real (unpadded) source tokens of a batch.
        target_tokens: the same of the target side.
        rng: breaks ties of length at random and shuffles the batches; None leaves both in order.
        length_groups: runs of neighbouring lengths a batch is made of, each within its share of the budgets.

    Returns:
        Arrays of example numbers. Each example is in exactly one; an example above a budget has a batch to itself
        (with several length groups: a group).

    Raises:
        ValueError: arrays of different size, or a budget below one token a group.
    """
    if len(source_lengths) != len(target_lengths):
        raise ValueError(f"each example needs two lengths; got {len(source_lengths)} and {len(target_lengths)}")
    for name, budget in (("source_tokens", source_tokens), ("target_tokens", target_tokens)):
        if length_groups < 1 or budget < length_groups:
            raise ValueError(
                f"{name} must be at least length_groups, and that 1; got {name}={budget}, {length_groups=}"
            )
    order = _by_length(source_lengths, target_lengths, rng)
    source_ends = np.cumsum(source_lengths[order], dtype=np.int64)
    target_ends = np.cumsum(target_lengths[order], dtype=np.int64)
    groups, start = [], 0
    while start < len(order):
        taken = (source_ends[start - 1], target_ends[start - 1]) if start else (0, 0)
        end = min(
            int(np.searchsorted(source_ends, taken[0] + source_tokens // length_groups, side="right")),
            int(np.searchsorted(target_ends, taken[1] + target_tokens // length_groups, side="right")),
        )
        end = max(end, start + 1)
        groups.append(order[start:end])
        start = end
    if rng is not None:
        # argsort of draws rather than rng.shuffle: numpy promises the same stream of draws in later versions only.
        groups = [groups[number] for number in np.argsort(rng.random(len(groups)), kind="stable")]
    if length_groups == 1:
        return groups
    return [np.concatenate(groups[at : at + length_groups]) for at in range(0, len(groups), length_groups)]


def _by_length(source_lengths: np.ndarray, target_lengths: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Returns example numbers in an order whose neighbours are alike on both sides, ties at random.

    Targets within a tenth of each other lie together, by source length up in one such bucket and down in the next: no
    cut then meets a jump. On 39,717 pairs of descriptions in batches of 4,000 tokens, padding is 8% of the source and
    4% of the target; sorting by (target, source) gives 23% and 1%.
    """
    if not len(source_lengths):
        return np.zeros(0, dtype=np.int64)
    source, target = source_lengths.astype(np.int64), target_lengths.astype(np.int64)
    bucket = np.floor(np.log(np.maximum(target, 1)) / np.log(BUCKET_WIDTH)).astype(np.int64)
    widest, tallest = int(source.max()) + 1, int(target.max()) + 1
    snake = np.where(bucket % 2, widest - source, source)
    keys = (bucket * (widest + 1) + snake) * tallest + target
    if rng is None:
        return np.argsort(keys, kind="stable")
    shuffled = np.argsort(rng.random(len(keys)), kind="stable")
    return shuffled[np.argsort(keys[shuffled], kind="stable")]


def split_evenly(
    indices: np.ndarray, source_lengths: np.ndarray, target_lengths: np.ndarray, parts: int
) -> list[np.ndarray]:
    """Splits one batch into parts of nearly equal padded size, each of neighbouring lengths.

    The largest part is as small as a cut of the sorted examples allows, since all processes wait for it.

    Args:
        indices: the batch's example numbers.
        source_lengths: their source lengths, in the same order.
        target_lengths: their target lengths.
        parts: how many; the last ones are empty where there are fewer examples.

    Returns:
        `parts` arrays of example numbers, each example in exactly one.
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1; got {parts=}")
    order = np.lexsort((indices, source_lengths, target_lengths))
    sources, targets = source_lengths[order].astype(np.int64), target_lengths[order].astype(np.int64)
    ends = _even_ends(sources, targets, min(parts, len(indices))) if parts > 1 else [len(indices)]
    pieces = np.split(indices[order], ends[:-1]) if ends else []
    return pieces + [indices[:0]] * (parts - len(pieces))


def _even_ends(sources: np.ndarray, targets: np.ndarray, parts: int) -> list[int]:
    """Returns where each of exactly `parts` non-empty parts ends, the greatest padded size as small as it can be."""
    if parts < 1:
        return []
    low, high = 0, len(sources) * (int(sources.max()) + int(targets.max()))
    while high - low > max(1, high // 500):  # half a per cent is even enough, and nine steps instead of twenty
        middle = (low + high) // 2
        fits = len(_greedy_ends(sources, targets, middle, parts)) <= parts
        low, high = (low, middle) if fits else (middle, high)
    ends = _greedy_ends(sources, targets, high, parts)
    while len(ends) < parts:  # halve the part of most examples until there are enough
        starts = [0, *ends[:-1]]
        most = max(range(len(ends)), key=lambda part: ends[part] - starts[part])
        ends.insert(most, (starts[most] + ends[most]) // 2)
    return ends


def _greedy_ends(sources: np.ndarray, targets: np.ndarray, limit: int, parts: int) -> list[int]:
    """Fills parts up to a padded size of `limit`; gives up with more than `parts` ends where they do not suffice."""
    ends: list[int] = []
    start = 0
    while start < len(sources) and len(ends) <= parts:
        rows = np.arange(1, len(sources) - start + 1)
        padded = rows * (np.maximum.accumulate(sources[start:]) + targets[start:])
        start += max(1, int(np.searchsorted(padded, limit, side="right")))
        ends.append(start)
    return ends


def pad(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Returns rows of different length as one int64 matrix, `value` after their ends."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix
