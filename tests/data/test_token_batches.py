"""Batches by token count: nothing lost, budgets kept, the same for any number of processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaswani_transformer.data.token_batches import BUCKET_WIDTH, pad, plan_batches, split_evenly

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=0, max_size=120)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return matrix[:, 0], matrix[:, 1]


def plan(pairs, *, budget=100, seed: int | None = 0, groups=1) -> list[np.ndarray]:
    source, target = arrays(pairs)
    rng = None if seed is None else np.random.default_rng([1, seed])
    return plan_batches(source, target, source_tokens=budget, target_tokens=budget, rng=rng, length_groups=groups)


def corpus(size: int = 3000) -> list[tuple[int, int]]:
    rng = np.random.default_rng(5)
    source = np.clip(rng.poisson(12, size), 2, None)
    return list(zip(source.tolist(), np.clip(source + rng.integers(-3, 4, size), 2, None).tolist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(
    pairs=lengths, budget=st.integers(1, 300), seed=st.one_of(st.none(), st.integers(0, 9)), groups=st.integers(1, 4)
)
def test_every_example_is_in_exactly_one_batch(pairs, budget, seed, groups):
    batches = plan(pairs, budget=max(budget, groups), seed=seed, groups=groups)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(pairs)))
    assert all(len(batch) for batch in batches)


@settings(max_examples=200, deadline=None)
@given(pairs=lengths, source_tokens=st.integers(1, 300), target_tokens=st.integers(1, 300))
def test_a_batch_of_several_examples_never_exceeds_its_token_budgets(pairs, source_tokens, target_tokens):
    source, target = arrays(pairs)
    rng = np.random.default_rng(0)
    for batch in plan_batches(source, target, source_tokens=source_tokens, target_tokens=target_tokens, rng=rng):
        if len(batch) > 1:
            assert source[batch].sum() <= source_tokens
            assert target[batch].sum() <= target_tokens


@settings(max_examples=200, deadline=None)
@given(pairs=lengths.filter(bool), parts=st.integers(1, 9))
def test_a_split_loses_and_repeats_no_example(pairs, parts):
    source, target = arrays(pairs)
    pieces = split_evenly(np.arange(len(pairs)) + 7, source, target, parts)
    assert len(pieces) == parts
    assert sum(1 for piece in pieces if len(piece)) == min(parts, len(pairs))
    assert sorted(np.concatenate(pieces).tolist()) == list(range(7, 7 + len(pairs)))


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    first, again, other = ([batch.tolist() for batch in plan(corpus(), seed=seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(map(sorted, first)) != sorted(map(sorted, other)), "ties of length are broken anew"


def test_batches_hold_neighbouring_lengths():
    _, target = arrays(corpus())
    spans = [int(np.ptp(target[batch])) for batch in plan(corpus(), budget=300)]
    assert np.mean(spans) < 1


def test_batches_come_in_shuffled_order_of_length():
    _, target = arrays(corpus())
    means = [target[batch].mean() for batch in plan(corpus(), budget=300)]
    assert means != sorted(means)


def test_batches_without_a_generator_come_in_order_of_length():
    _, target = arrays(corpus())
    means = [target[batch].mean() for batch in plan(corpus(), budget=300, seed=None)]
    assert all(later * BUCKET_WIDTH >= earlier for earlier, later in itertools.pairwise(means))
    assert means[-1] > 2 * means[0]


def test_batches_hold_less_source_padding_than_sorting_by_target_gives():
    source, target = arrays(corpus())
    batches = plan(corpus(), budget=300, seed=None)
    ends = np.cumsum([len(batch) for batch in batches])[:-1]
    by_target = np.split(np.lexsort((source, target)), ends)

    def padded(cut: list[np.ndarray]) -> int:
        return sum(len(batch) * int(source[batch].max()) for batch in cut)

    assert padded(batches) < padded(by_target)


def test_batches_are_nearly_full():
    source, target = arrays(corpus())
    fill = [max(source[batch].sum(), target[batch].sum()) / 400 for batch in plan(corpus(), budget=400)]
    assert np.mean(fill) > 0.9


def test_length_groups_mix_lengths_within_the_budget():
    source, target = arrays(corpus())
    batches = plan(corpus(), budget=400, groups=4)
    assert all(source[batch].sum() <= 400 and target[batch].sum() <= 400 for batch in batches)
    assert np.mean([np.ptp(target[batch]) for batch in batches]) > 3


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_have_nearly_equal_padded_size(parts):
    source, target = arrays(corpus())
    for batch in plan(corpus(), budget=4000, groups=4):
        pieces = split_evenly(batch, source[batch], target[batch], parts)
        sizes = [len(piece) * (source[piece].max() + target[piece].max()) for piece in pieces]
        assert max(sizes) < 1.25 * np.mean(sizes)


def test_splitting_a_batch_of_mixed_lengths_saves_padding():
    source, target = arrays(corpus())
    batch = np.concatenate(plan(corpus(), budget=4000)[:4])  # four lengths

    def padding(parts: int) -> int:
        pieces = split_evenly(batch, source[batch], target[batch], parts)
        return sum(int(np.sum(source[p].max() - source[p]) + np.sum(target[p].max() - target[p])) for p in pieces)

    assert padding(8) < padding(1) / 2


def test_an_example_above_the_budget_has_a_batch_to_itself():
    batches = plan([(5, 5), (900, 2), (5, 5)], budget=100)
    assert [1] in [batch.tolist() for batch in batches]


def test_a_million_pairs_are_planned_without_a_loop_over_pairs(monkeypatch):
    calls = []
    search = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda *args, **kwargs: calls.append(1) or search(*args, **kwargs))
    batches = plan(corpus(200_000), budget=25_000)
    assert len(calls) == 2 * len(batches)
    assert len(calls) < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "source_tokens must be at least"),
        ({"budget": 3, "groups": 4}, "length_groups"),
        ({"groups": 0}, "length_groups"),
    ],
)
def test_bad_budgets_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan([(1, 1)], **arguments)


def test_lengths_of_different_size_are_told():
    with pytest.raises(ValueError, match="got 2 and 1"):
        plan_batches(np.ones(2, int), np.ones(1, int), source_tokens=9, target_tokens=9, rng=None)


def test_no_part_is_told():
    with pytest.raises(ValueError, match="parts must be at least 1"):
        split_evenly(np.arange(2), np.ones(2, int), np.ones(2, int), 0)


def test_padding_fills_the_ends_of_shorter_rows():
    assert pad([np.array([1, 2]), np.array([3])], -100).tolist() == [[1, 2], [3, -100]]
