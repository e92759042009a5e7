"""Processes that fall silent: who is named, by whom, and what is no silence."""

import contextlib
import threading
import time

import pytest
import torch.distributed as distributed

from vaswani_transformer import peers
from vaswani_transformer.peers import LOST, Peers


class Watching(Peers):
    """Peers that note what they would have ended the process for."""

    def __init__(self, rank: int, world: int, store) -> None:
        self.left = threading.Event()
        self.words = ""
        super().__init__(rank, world, store)

    def _leave(self, lost: str) -> None:
        self.words = lost
        if self.rank == 0:
            with contextlib.suppress(RuntimeError):  # the store itself may be what is lost
                self.store.set(LOST, lost)
        self._over.set()
        self.left.set()


@pytest.fixture
def meet(monkeypatch):
    """Makes the peers of a world in this process, with a quick pulse."""
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(peers, "LOST_SECONDS", 2.0)
    monkeypatch.setattr(peers, "ROLL_CALL_SECONDS", 1.0)
    monkeypatch.setenv("MASTER_ADDR", "first.host")
    made: list[Peers] = []

    def make(world: int, store=None) -> list[Watching]:
        store = store or distributed.HashStore()
        for rank in range(world):
            store.set(str(rank), "0")
        store.set(LOST, "")
        made.extend(Watching(rank, world, store) for rank in range(world))
        return made  # type: ignore[return-value]

    yield make
    for one in made:
        one._over.set()


def test_a_silent_process_is_named_by_the_first_and_then_by_all(meet):
    everyone = meet(3)
    everyone[2]._over.set()
    assert everyone[0].left.wait(20)
    assert everyone[1].left.wait(20)
    assert everyone[0].words.startswith("process 2 is gone: no sign of life for 2 s, of 3 processes")
    assert everyone[1].words == everyone[0].words


def test_processes_that_live_are_left_alone(meet):
    everyone = meet(3)
    time.sleep(3.0)
    assert [one.words for one in everyone] == [""] * 3


def test_a_silent_first_process_is_named_by_the_others(meet):
    first, second = meet(2)
    first._over.set()
    assert second.left.wait(20)
    assert second.words.startswith("process 0 is gone")


class Cut:
    """A store whose connection is lost once told so."""

    def __init__(self) -> None:
        self.store, self.lost = distributed.HashStore(), False

    def set(self, key: str, value: str) -> None:
        if self.lost:
            raise RuntimeError("connection reset")
        self.store.set(key, value)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return self.store.multi_get(keys)


def test_a_store_that_does_not_answer_is_told_with_its_host(meet):
    store = Cut()
    _, second = meet(2, store)
    store.lost = True
    assert second.left.wait(20)
    assert "no answer for 2 s from the store on first.host, the host of process 0" in second.words
    assert second.words.endswith("is gone (connection reset)")


def test_a_collective_that_fails_is_raised_with_the_name_of_the_lost_process(meet):
    everyone = meet(3)
    with pytest.raises(ConnectionError, match=r"process 2 is gone.*--max_restarts") as error, everyone[1].named():
        everyone[2]._over.set()
        raise RuntimeError("Connection closed by peer")
    assert "closed by peer" in str(error.value.__cause__)


def test_an_error_while_all_live_stays_what_it_was(meet):
    with pytest.raises(RuntimeError, match="out of memory"), meet(2)[0].named():
        raise RuntimeError("out of memory")


def test_a_process_that_stood_still_itself_blames_nobody(meet, monkeypatch):
    first, second = meet(2)
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(peers.time, "monotonic", lambda: real() + ahead[0])
    time.sleep(0.3)
    ahead[0] = 100.0  # as after a suspension of the machine
    time.sleep(1.0)
    assert (first.words, second.words) == ("", "")
