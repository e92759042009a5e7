"""Two hosts, played by two network namespaces with a cable between them: training, a death, a cut."""

# ruff: noqa: F811  (fixtures of another file)
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from vaswani_transformer.peers import LOST_SECONDS

from .launching import Run, free_port
from .test_train import files, identical, own_accelerator, own_cache, toy, train_records  # noqa: F401

HOSTS = ("10.77.0.1", "10.77.0.2")


def ip(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done.returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces; the interface of each has its name."""
    names = [f"vas{side}{os.getpid() % 100000}" for side in "ab"]
    if shutil.which("ip") is None or not ip("netns", "add", names[0], check=False):
        pytest.skip("needs the right to make network namespaces (root, and `ip` of iproute2)")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", names[1], "netns", names[1])
        for name, address in zip(names, HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def start(recipe, folder, hosts: list[str]) -> list[Run]:
    port, runs = free_port(), []
    for rank, name in enumerate(hosts):
        launcher = ["--num_machines", "2", "--machine_rank", str(rank)]
        launcher += ["--main_process_ip", HOSTS[0], "--main_process_port", str(port)]
        runs.append(
            Run(
                recipe,
                folder,
                processes=2,
                restarts=4,
                before=["ip", "netns", "exec", name],
                launcher=launcher,
                environment={"GLOO_SOCKET_IFNAME": name},
            )
        )
    return runs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hosts_train_as_one_and_a_killed_process_of_the_second_comes_back(toy, tmp_path, hosts):
    settings = {"steps": 150, "save": {"every_steps": 5}}
    straight, recipe = toy("straight", **settings), toy("hosts", **settings)
    Run(straight, tmp_path, processes=2).finish()
    runs = start(recipe, tmp_path, hosts)
    try:
        runs[0].wait_for_step(10)
        runs[1].kill(random.Random(0))
        told = [run.finish() for run in runs]
    finally:
        for run in runs:
            run.end()
    assert "process 1 is gone" in told[0]
    assert "going on from" in told[0]
    assert [record["step"] for record in train_records(recipe.output)] == list(range(1, 151))
    assert identical(straight.output, recipe.output)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cut_link_is_told_with_the_lost_process_within_a_minute(toy, tmp_path, hosts):
    runs = start(toy("hosts", steps=100_000, save={"every_minutes": 60.0}), tmp_path, hosts)
    try:
        runs[0].wait_for(lambda: len(train_records(runs[0].output)) > 5, "update")
        ip("-n", hosts[0], "link", "set", hosts[0], "down")
        cut = time.monotonic()
        for run in runs:
            run.wait_for(lambda run=run: re.search("is gone", run.told), "word of the loss")
        assert time.monotonic() - cut < 60.0
    finally:
        for run in runs:
            run.end()
    assert f"process 1 is gone: no sign of life for {LOST_SECONDS:.0f} s" in runs[0].told
    assert f"from the store on {HOSTS[0]}, the host of process 0" in runs[1].told
