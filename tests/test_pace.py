import pytest

from vaswani_transformer import pace
from vaswani_transformer.pace import steps_that_fit


@pytest.fixture
def two_seconds_each(monkeypatch) -> list[int]:
    """A clock that only updates move; the first five take a minute each. Returns the updates computed."""
    now, computed = [0.0], []
    monkeypatch.setattr(pace, "monotonic", lambda: now[0])

    def gradients(number: int) -> None:
        now[0] += 60.0 if number < pace.WARM_UP else 2.0
        computed.append(number)

    computed.append(gradients)
    return computed


@pytest.mark.parametrize(("minutes", "most", "steps"), [(1.0, 100, 30), (1.0, 20, 20), (0.001, 100, 1)])
def test_the_updates_that_fit_are_counted_after_a_warm_up(two_seconds_each, minutes, most, steps) -> None:
    gradients = two_seconds_each.pop()
    assert steps_that_fit(minutes, most=most, gradients=gradients) == steps
    assert two_seconds_each == list(range(pace.WARM_UP + pace.TIMED))
