"""Lost peers: every process tells the others that it lives, and one that falls silent is named.

A dead process closes its connections and gloo fails at once, without a name; a dead host or a cut link closes nothing,
and every collective waits until the process group's timeout. So that timeout may be long (preparing, compiling and
saving take what they take), and a thread of each process beats in the store that the processes found each other by.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import PrefixStore, TCPStore
from torch.distributed.distributed_c10d import _set_pg_timeout  # no public name for it yet

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
LOST_SECONDS = 20.0  # without a sign of life; a launcher that stops its processes kills them after 30
ROLL_CALL_SECONDS = 5.0
GROUP_TIMEOUT = timedelta(hours=6)  # of collectives then: one process may tokenise for hours while the others wait
LOST = "lost"
WAY_OUT = "--resume goes on from the last checkpoint; `accelerate launch --max_restarts N` does so by itself"


class Peers:
    """The other processes of a run, watched from two threads: one beats and reads, one judges what was read.

    Process 0 watches all, the others watch process 0, which tells them whom it lost: a few bytes a second each. A
    process that is blocked in a collective cannot raise, so where one is lost for LOST_SECONDS, the judge logs which
    and ends the process. A time in which this process stood still itself (suspended) is nobody's silence.

    Args:
        rank: this process.
        world: how many there are; with 1 nothing is started.
        store: theirs alone; each has set its first beat there.
    """

    def __init__(self, rank: int, world: int, store: Any) -> None:
        self.rank, self.world, self.store = rank, world, store
        self._over, self._roll_call = threading.Event(), False
        self._answered = time.monotonic()
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._told = self._trouble = ""
        if world > 1:
            for work in (self._beat, self._judge):
                threading.Thread(target=work, name=work.__name__, daemon=True).start()

    @classmethod
    def of(cls, accelerator: Accelerator) -> "Peers":
        """Returns the peers of a run whose processes have just found each other; every process must call it."""
        rank, world = accelerator.process_index, accelerator.num_processes
        if world == 1:
            return cls(rank, world, None)
        name = broadcast_object_list([uuid.uuid4().hex])[0]  # the store outlives restarts; older beats are not ours
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A connection of its own: one on which the main thread waits would keep the beats waiting too.
        store = PrefixStore(name, TCPStore(address, port, is_master=False, wait_for_workers=False))
        store.set(str(rank), "0")
        if rank == 0:
            store.set(LOST, "")
        accelerator.wait_for_everyone()
        _set_pg_timeout(GROUP_TIMEOUT)
        return cls(rank, world, store)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Watches until its end; a collective that fails inside it is raised with the name of the process that is gone.

        Raises:
            ConnectionError: a process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            lost = self._call_the_roll() if self.world > 1 else None
            if lost is None:
                raise
            raise ConnectionError(f"{lost}; {WAY_OUT}") from error
        finally:
            self._over.set()

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            watched = range(self.world) if self.rank == 0 or self._roll_call else range(1)
            ranks = [rank for rank in watched if rank != self.rank]
            try:
                self.store.set(str(self.rank), str(count))
                told, *beats = self.store.multi_get([LOST, *map(str, ranks)])
            except RuntimeError as error:  # for good: a TCPStore does not connect again; the judge tells it
                self._trouble = f" ({str(error).splitlines()[0]})"
                return
            self._answered, self._told = time.monotonic(), told.decode()
            for rank, beat in zip(ranks, beats, strict=True):
                if rank not in self._heard or self._heard[rank][0] != beat:
                    self._heard[rank] = (beat, self._answered)

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._over.wait(BEAT_SECONDS):
            now = time.monotonic()
            if now - last > LOST_SECONDS / 2:
                self._answered = now
                self._heard = {rank: (beat, now) for rank, (beat, _) in self._heard.items()}
            last = now
            lost = self._lost(now - LOST_SECONDS)
            if lost is not None:
                self._leave(lost)

    def _lost(self, since: float) -> str | None:
        """Says who gave no sign of life since a time of the monotonic clock."""
        if self._told:
            return self._told
        seconds = time.monotonic() - since
        if self._answered < since:
            return (
                f"no answer for {seconds:.0f} s from the store on {os.environ['MASTER_ADDR']}, the host of process 0: "
                f"that host, its process or the network between is gone{self._trouble}"
            )
        silent = [str(rank) for rank, (_, heard) in sorted(self._heard.items()) if heard < since]
        if not silent:
            return None
        who = f"process {silent[0]} is" if len(silent) == 1 else f"processes {', '.join(silent)} are"
        return f"{who} gone: no sign of life for {seconds:.0f} s, of {self.world} processes"

    def _call_the_roll(self) -> str | None:
        """Asks all, after a collective failed, and waits a moment for their beats."""
        self._roll_call = True
        began = time.monotonic()
        time.sleep(ROLL_CALL_SECONDS)
        return self._lost(began + 2 * BEAT_SECONDS)  # a first beat read after the call proves nothing

    def _leave(self, lost: str) -> None:
        logger.critical("%s; ending process %d; %s", lost, self.rank, WAY_OUT)
        if self.rank == 0:
            try:
                self.store.set(LOST, lost)
            except RuntimeError as error:
                logger.critical("the other processes could not be told: %s", error)
        os._exit(1)
