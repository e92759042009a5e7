"""Runs of `vaswani train` that are started, watched and killed from outside."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from vaswani_transformer.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds; a busy machine takes a minute to import


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Run:
    """A run under way, in one process or under `accelerate launch`; its words go to a file.

    Args:
        recipe: what to train.
        folder: where the recipe's file and the words go.
        processes: how many train.
        restarts: how often the launcher starts them again.
        words: more words of `vaswani train`.
        before: words in front of the command.
        launcher: more words of `accelerate launch`.
        environment: more of it.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        processes: int = 1,
        restarts: int = 0,
        words: list[str] | None = None,
        before: list[str] | None = None,
        launcher: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.output, self.processes = Path(recipe.output), processes
        file = folder / f"{self.output.name}.yaml"
        file.write_text(yaml.safe_dump(recipe.to_dict()))
        command = [*(before or []), sys.executable, "-m"]
        if processes > 1:
            command += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
            command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--monitor_interval", "0.5"]
            command += launcher or ["--num_machines", "1", "--main_process_port", str(free_port())]
            command += ["--max_restarts", str(restarts), "--module"]
        command += ["vaswani_cli", "train", str(file), *(words or [])]
        command += ["--max-restarts", str(restarts)] if restarts and processes == 1 else []
        self.restarting = restarts > 0
        variables = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.log = folder / f"{self.output.name}-{len(list(folder.glob('*.log')))}.log"
        with self.log.open("w") as told:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | variables | (environment or {}), stdout=told, stderr=told
            )

    @property
    def told(self) -> str:
        return self.log.read_text()

    def finish(self, status: int = 0) -> str:
        assert self.process.wait(timeout=PATIENCE) == status, self.told
        return self.told

    def wait_for(self, there, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not there():
            assert self.process.poll() is None, self.told
            assert time.monotonic() < end, f"no {what}: {self.told}"
            time.sleep(0.002)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.saved() >= step, f"checkpoint of step {step}")

    def saved(self) -> int:
        """The step of the newest checkpoint, 0 for none."""
        names = [path.name for path in (self.output / "checkpoints").glob("step-*")]
        return max((int(name[5:]) for name in names if name[5:].isdigit()), default=0)

    def saving(self) -> set[int]:
        """A mark of each save that is under way or was cut short."""
        marks = set()
        for path in (self.output / "checkpoints").glob("step-*.partial"):
            try:
                marks.add(path.stat().st_ctime_ns)
            except FileNotFoundError:  # done in between
                continue
        return marks

    def trainers(self) -> list[psutil.Process]:
        """The processes that train, where some do."""
        if self.processes == 1 and not self.restarting:
            return [psutil.Process(self.process.pid)]
        return psutil.Process(self.process.pid).children()

    def kill(self, chance: random.Random) -> None:
        """Kills one of the processes that train, as a crash or the kernel would."""
        self.wait_for(self.trainers, "process that trains")
        victim = chance.choice(self.trainers())
        victim.send_signal(signal.SIGKILL)
        self.wait_for(lambda: _dead(victim), "death")

    def end(self) -> None:
        """Ends what is left of it."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
