"""Processes that look for each other in a store where dead ones have left their words."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from vaswani_transformer.meeting import meet

from .launching import ROOT, free_port

SOON = timedelta(seconds=20)


def all_meet(store, world: int, late: int | None = None) -> list[str]:
    """The names that all processes of a world agree on, one of them coming half a second after the others."""

    def come(rank: int) -> str:
        time.sleep(0.5 if rank == late else 0.0)
        return meet(store, rank, world, SOON)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(come, range(world)))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_all_agree_on_one_name_whoever_comes_last(late):
    assert len(set(all_meet(HashStore(), 3, late))) == 1


def test_a_process_alone_waits_for_nobody():
    assert meet(HashStore(), 0, 1, timedelta(0))


@pytest.mark.parametrize("late", [0, 1])
def test_those_who_meet_again_in_the_same_store_agree_on_another_name(late):
    store = HashStore()
    (first,), (second,) = set(all_meet(store, 2, late)), set(all_meet(store, 2, late))
    assert first != second


def test_nothing_is_agreed_with_a_process_that_died_after_it_was_invited():
    store = HashStore()
    store.set("there/1", "dead")
    names = []
    first = threading.Thread(target=lambda: names.append(meet(store, 0, 2, SOON)))
    first.start()
    while not store.check(["invite/dead"]):
        time.sleep(0.01)
    store.set("answer/dead", "an older name")
    time.sleep(0.3)
    assert not names
    second = meet(store, 1, 2, SOON)
    first.join()
    assert names == [second]
    assert second != store.get("invite/dead").decode()


def test_the_first_process_names_those_who_did_not_come():
    store = HashStore()
    store.set("there/2", "dead")
    with pytest.raises(ConnectionError, match=r"all 3 processes must .* within 0 s; process 1, 2 did not come"):
        meet(store, 0, 3, timedelta(seconds=0.3))


def test_the_others_say_that_the_first_may_be_missing():
    with pytest.raises(ConnectionError, match="process 0, or one it waits for, did not come to process 1"):
        meet(HashStore(), 1, 2, timedelta(seconds=0.3))


SCRIPT = """
import os, signal, sys, time
from datetime import timedelta
import torch
from vaswani_transformer.meeting import INIT_METHOD
rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
time.sleep(2.0 * rank * start)
world = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=15)}
torch.distributed.init_process_group("gloo", init_method=INIT_METHOD, **world)
total = torch.ones(1)
torch.distributed.all_reduce(total)
if rank == 1 and start == 0:
    os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.barrier()
sys.stdout.write(f"met {int(total)}\\n")
"""


@pytest.mark.slow
def test_two_processes_meet_after_a_restart_in_the_launchers_old_store(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--rdzv-backend", "static", "--master-port", str(free_port()), "--monitor-interval", "0.5"]
    told = subprocess.run(
        [*command, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("met 2") == 2
