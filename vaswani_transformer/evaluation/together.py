"""One set of questions answered by several processes, with the numbers and files of one.

Each process takes every n-th question. After a batch all gather what they have, so that each knows all answers, the
first one writes them at once, and Ctrl-C in any of them stops all behind the same batch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch.distributed.distributed_c10d import _set_pg_timeout  # no public name for it yet

from ..meeting import INIT_METHOD, MEETING
from ..peers import GROUP_TIMEOUT
from ..stop_requests import stop_requests
from ..world import check_processes
from .few_shot_figures import QuestionLog, Record

T = TypeVar("T")


class Processes:
    """The processes that have joined, or this one alone.

    Attributes:
        rank: this one, from 0.
        count: how many there are.
        device: of this one among several; None alone.
    """

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self.device: torch.device | None = None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            state = PartialState()
            self.rank, self.count, self.device = state.process_index, state.num_processes, state.device

    @property
    def first(self) -> bool:
        """Returns whether this one writes and tells."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Returns this one's part; lengths are spread evenly where neighbours are alike."""
        return items[self.rank :: self.count]

    def made_once(self, make: Callable[[], T]) -> T:
        """Returns in every process what the first one makes.

        Raises:
            ValueError, OSError: what kept the first one from it, in every process.
        """
        if self.count == 1:
            return make()
        made: T | Exception | None = None
        if self.first:
            try:
                made = make()
            except (ValueError, OSError) as error:
                made = error
        found: Any = broadcast_object_list([made])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def rounds(self, mine: Iterator[list[Record]]) -> Iterator[list[Record]]:
        """Yields what all have answered, a batch of each at a time, the same in every process.

        Args:
            mine: the batches of this one; another may have more of them, or fewer.

        Raises:
            KeyboardInterrupt: one was asked to stop.
            Exception: what this one raised, or a RuntimeError with the words of another.
        """
        if self.count == 1:
            yield from mine
            return
        with stop_requests("batch") as stop:
            while True:
                batch, failure = None, None
                try:
                    batch = next(mine, None)
                except Exception as error:  # raised below, once the others know
                    failure = error
                told = gather_object([(batch, bool(stop), failure and f"{type(failure).__name__}: {failure}")])
                if failure is not None:
                    raise failure
                for rank, (_, _, words) in enumerate(told):
                    if words is not None:
                        raise RuntimeError(f"process {rank} could not go on: {words}")
                answered = [record for records, _, _ in told for record in records or ()]
                if answered:
                    yield answered
                if any(stopped for _, stopped, _ in told):
                    raise KeyboardInterrupt
                if all(records is None for records, _, _ in told):
                    return


@contextmanager
def launched() -> Iterator[Processes]:
    """Joins the processes that `accelerate launch` or `torchrun` has started, until its end; without one, this alone.

    Raises:
        ValueError: fewer processes than were asked for; it says how to launch them.
    """
    if "WORLD_SIZE" not in os.environ:
        check_processes(1)
        yield Processes()
        return
    group = InitProcessGroupKwargs(timeout=MEETING, init_method=INIT_METHOD)
    accelerator = Accelerator(kwargs_handlers=[group])
    check_processes(accelerator.num_processes)
    if accelerator.num_processes > 1:
        _set_pg_timeout(GROUP_TIMEOUT)  # one may download a task while the others wait
    try:
        yield Processes()
    finally:
        accelerator.end_training()


def shared_log(processes: Processes, out: str | Path | None, *, settings: dict[str, Any], resume: bool) -> QuestionLog:
    """Returns the log of all processes, with what the folder holds; the first one's is written.

    Raises:
        ValueError: see `QuestionLog`; in every process.
    """
    log = processes.made_once(lambda: QuestionLog(out, settings=settings, resume=resume))
    if not processes.first:
        log.folder = None
    return log
