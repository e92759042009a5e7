"""How many updates fit into a time: measured on the run's own model, batches and machine before the first of them."""

from collections.abc import Callable
from time import monotonic
from typing import Any

WARM_UP, TIMED = 5, 20  # updates: the first ones pay for compiling and for memory


def steps_that_fit(minutes: float, *, most: int, gradients: Callable[[int], Any]) -> int:
    """Returns how many updates take about `minutes`, at least 1 and at most `most`.

    What is not measured comes on top: the optimiser's arithmetic, validation and saving.

    Args:
        minutes: wall-clock time.
        most: the limit on a fast machine.
        gradients: computes the gradients of one update, given its number, and waits for them.
    """
    began = monotonic()
    for number in range(WARM_UP + TIMED):
        if number == WARM_UP:
            began = monotonic()
        gradients(number)
    seconds = (monotonic() - began) / TIMED
    return max(1, min(most, int(60.0 * minutes / seconds)))
