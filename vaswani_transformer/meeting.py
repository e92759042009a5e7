"""How the processes of a run find each other, in a launcher's store that may hold what dead ones left there.

The static rendezvous of `torchrun` and `accelerate launch` keeps one store over all restarts, and the workers' keys in
it have no number of the restart (torch 2.13). Who reads the address of a process that died before the new one has
written its own waits for a connection that nobody makes. So the living first agree on a name that no one used before,
and everything after that goes under it.
"""

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

import torch.distributed
from torch.distributed import PrefixStore

MEETING = timedelta(minutes=3)  # for all to come, and for their connections after that: no beat watches that yet
POLL_SECONDS = 0.1
SCHEME = "vaswani"
INIT_METHOD = f"{SCHEME}://"


def _rendezvous(url: str, timeout: timedelta = MEETING, **kwargs: Any) -> Iterator[tuple[PrefixStore, int, int]]:
    """torch's "env://", its store narrowed to the processes that live now."""
    environment = f"env://?{urlparse(url).query}"  # rank and world, where the caller named them
    for store, rank, world in torch.distributed.rendezvous(environment, timeout=timeout, **kwargs):  # type: ignore[operator]
        yield PrefixStore(meet(store, rank, world, timeout), store), rank, world


torch.distributed.register_rendezvous_handler(SCHEME, _rendezvous)


def meet(store: Any, rank: int, world: int, timeout: timedelta) -> str:
    """Agrees on a name with the other processes that live.

    Each writes that it is there, by an id that nobody had before. Process 0 invites those it finds, under a new name
    whenever one of them is another than before; the name holds when all have answered it, which only the living can.

    Args:
        store: a torch.distributed.Store that all reach.
        rank: this process.
        world: how many there are.
        timeout: how long to wait for them.

    Raises:
        ConnectionError: some did not come in that time; process 0 says which.
    """
    me, end = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    store.set(_there(rank), me)
    name, invited = "", []
    while True:
        if rank == 0:
            name, invited = _invite(store, world, name, invited)
            missing = [str(other) for other, member in enumerate(invited) if other and not _came(store, member, name)]
            if not missing:
                store.set(f"agreed/{name}", "")
                return name
        elif store.check([f"invite/{me}"]):
            name = store.get(f"invite/{me}").decode()
            store.set(f"answer/{me}", name)
            if store.check([f"agreed/{name}"]):
                return name
        if time.monotonic() > end:
            who = f"process {', '.join(missing)} did" if rank == 0 else "process 0, or one it waits for, did"
            raise ConnectionError(
                f"all {world} processes must find each other within {timeout.total_seconds():.0f} s; {who} not come to "
                f"process {rank}: look in the words of that one, and whether its host reaches this one's"
            )
        time.sleep(POLL_SECONDS)


def _there(rank: int) -> str:
    return f"there/{rank}"


def _invite(store: Any, world: int, name: str, invited: list[str]) -> tuple[str, list[str]]:
    """Looks who is there, and invites all anew where that has changed; an empty id stands for nobody."""
    keys = [_there(rank) for rank in range(world)]
    found = [store.get(key).decode() if store.check([key]) else "" for key in keys]
    if found == invited:
        return name, invited
    name = uuid.uuid4().hex
    for member in filter(None, found):
        store.set(f"invite/{member}", name)
    return name, found


def _came(store: Any, member: str, name: str) -> bool:
    key = f"answer/{member}"
    return bool(member) and store.check([key]) and store.get(key).decode() == name
