"""Ctrl-C and SIGTERM as a wish that the training loop fulfils between two updates."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 2.0  # a launcher passes on the signal that its whole group has had already


@contextmanager
def stop_requests(unit: str = "update") -> Iterator[list[int]]:
    """A list that SIGINT or SIGTERM fills, so that the loop can end between two updates; a later one kills at once.

    Outside the main thread, where Python takes no signal handlers, the list stays empty.

    Args:
        unit: what is finished first.
    """
    received: list[int] = []
    first = 0.0
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        nonlocal first
        if not received:
            received.append(number)
            first = time.monotonic()
            logger.warning("%s: saving after this %s; once more to stop without", signal.Signals(number).name, unit)
        elif time.monotonic() - first >= ECHO_SECONDS:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                previous[number] = signal.signal(number, note)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_stopping_to_the_parent(worker: int) -> None:
    """For a loader process: Ctrl-C reaches the whole group, and the batches of the last update are still needed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
