"""A training process watched by a parent that starts it again when it dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

RESTART = "VASWANI_RESTART"  # which start of the training process this is, from 0
PARENT = "VASWANI_PARENT"  # a pipe that ends when the parent does
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Bad input and Ctrl-C, which would only come again, and a reader of our output that is gone.
FINAL = (0, 2, 130, 141)


def supervise(words: Sequence[str], restarts: int) -> int:
    """Runs `vaswani` with these words in a child, and again from its last checkpoint each time it dies.

    A death is a signal or an exception nobody expected; bad input and a full disk end it at once. SIGINT and SIGTERM
    are passed on, and after them nothing is started again. When this process dies itself, the child saves and stops.

    Args:
        words: verb and arguments, without --max-restarts.
        restarts: how often at most.

    Returns:
        The exit status of the last child; 128 and the signal's number where one killed it.
    """
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    theirs, ours = os.pipe()
    try:
        for number in range(restarts + 1):
            environment = {**os.environ, RESTART: str(number), PARENT: str(theirs)}
            command = [sys.executable, "-m", "vaswani_cli", *words]
            child = subprocess.Popen(command, env=environment, pass_fds=[theirs])
            status = child.wait()
            if status in FINAL or asked or number == restarts:
                break
            told = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            print(f"vaswani: training died ({told}); restart {number + 1} of {restarts}", file=sys.stderr)
        return status if status >= 0 else 128 - status
    finally:
        os.close(ours)
        os.close(theirs)
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_with_the_parent() -> None:
    """In a supervised child: SIGTERM, on which the loop saves, when the parent is gone.

    Else it would go on unseen, and a second run with --resume would train in the same folder.
    """
    import threading

    pipe = os.environ.get(PARENT)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)  # nothing is ever written: it returns at the end
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
