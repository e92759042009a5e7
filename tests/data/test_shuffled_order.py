"""A random order that is computed, not kept."""

import pickle

import numpy as np
import pytest

from vaswani_transformer.data.shuffled_order import ShuffledOrder


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 64, 65, 1000, 100_003])
def test_each_thing_stands_at_one_place(size):
    order = ShuffledOrder(size, [1, 2])
    assert len(order) == size
    assert sorted(order[:].tolist()) == list(range(size))


def test_any_part_of_it_is_computed_alone():
    order = ShuffledOrder(1000, [7])
    whole = order[:]
    assert order[130:140].tolist() == whole[130:140].tolist()
    assert pickle.loads(pickle.dumps(order))[990:2000].tolist() == whole[990:].tolist()


def test_another_key_is_another_order():
    orders = {tuple(ShuffledOrder(50, [key])[:].tolist()) for key in range(20)}
    assert len(orders) == 20


def test_neighbours_are_as_far_apart_as_chance_has_it():
    size = 20_000
    found = ShuffledOrder(size, [3])[:]
    assert abs(np.corrcoef(found, np.arange(size))[0, 1]) < 0.03
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.03
    assert abs(np.abs(np.diff(found)).mean() / size - 1 / 3) < 0.01


def test_each_thing_stands_anywhere_over_many_keys():
    places = np.array([ShuffledOrder(10, [key])[:] for key in range(1000)])
    counts = np.array([np.bincount(column, minlength=10) for column in places.T])
    assert (np.abs(counts - 100) < 60).all()
