"""What saving, the loop and several processes cost: claims saving, overhead and two-processes, and a table of ZeRO.

    python benchmarks/scaling.py --quick

`overhead`: the demo's loop (data, log, watching of losses, agreeing on a stop) over forward, backward and update of
a twin model alone; both take every batch, one after the other, and a pair is the updates between two lines of the log.
`saving`: hundreds of updates of the demo's loop that end with a checkpoint, over hundreds that do not, in turn.
`two-processes`: two processes of one thread, gloo between them, over one process of two; both stand ready, in turn,
on batches of 4,000 tokens a side of the demo's corpus and model. The ratio of each is in speed, ours over theirs.
`memory` and `zero` lines tell tokens a second of the world, and the most MiB that each process held beyond what it held
before its model: one process, two (DDP), and two under ZeRO-1, 2 and 3 where deepspeed is installed.
"""

import argparse
import copy
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pairs import rates, report
from updates import held

from vaswani_transformer.optim import build_optimizer
from vaswani_transformer.recipe import load_recipe
from vaswani_transformer.train import Training

LOG_EVERY, SAVE_EVERY = 25, 100
CLAIMS = ("overhead", "saving", "two-processes", "zero")


def demo(folder: str, *overrides: str) -> Training:
    """The demo's run, without its validations and its clock."""
    always = ["minutes=null", "validate={}", f"log_every={LOG_EVERY}", f"output={folder}/run"]
    return Training(load_recipe("transformer-demo", [*always, *overrides]))


def timed_loop(training: Training, before: Callable[[list[Any]], None]) -> list[float]:
    """Runs the loop to its last step.

    Args:
        training: the run.
        before: called with the micro batches ahead of each update; its time is not counted.

    Returns:
        Seconds from the start of each update to the start of the next; the last one's are not known.
    """
    update, started, seconds = training.update, [0.0], []

    def timed(micro_batches: list[Any], target_tokens: int) -> Any:
        if started[0]:
            seconds.append(time.perf_counter() - started[0])
        before(micro_batches)
        started[0] = time.perf_counter()
        return update(micro_batches, target_tokens)

    training.update = timed
    training.run()
    return seconds


def speeds(seconds: list[float], block: int) -> list[float]:
    """Updates a second of each whole block of so many updates, but for the first."""
    return [block / sum(seconds[at : at + block]) for at in range(block, len(seconds) - block + 1, block)]


def overhead_claim(pairs: int) -> None:
    """The loop's step against the bare one."""
    with tempfile.TemporaryDirectory() as folder:
        training = demo(folder, f"steps={(pairs + 1) * LOG_EVERY + 1}", "save={}")
        model, bare = copy.deepcopy(training.bare_model).train(), []
        optimizer = build_optimizer(model, training.recipe.optimizer)

        def step(micro_batches: list[Any]) -> None:
            began = time.perf_counter()
            for batch in micro_batches:
                model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bare.append(time.perf_counter() - began)

        loop = timed_loop(training, step)
    found = speeds(loop, LOG_EVERY), speeds(bare[: len(loop)], LOG_EVERY)
    report("overhead", *found, unit="updates/s", peer="the bare step of the same model")


def saving_claim(pairs: int) -> None:
    """Updates with a checkpoint every hundred against updates with none."""
    with tempfile.TemporaryDirectory() as folder:
        steps = (2 * pairs + 1) * SAVE_EVERY + 1
        training = demo(folder, f"steps={steps}", f"save={{every_steps: {SAVE_EVERY}, keep: 5}}")
        save, seconds = training.save, []

        def every_other(**how: bool) -> None:
            if training.progress.step // SAVE_EVERY % 2:
                began = time.perf_counter()
                save(**how)
                seconds.append(time.perf_counter() - began)

        training.save = every_other
        found = speeds(timed_loop(training, lambda _: None), SAVE_EVERY)
    # The hundreds are told from 2 on: even ones have no checkpoint at their end.
    report(
        "saving",
        found[1::2],
        found[0::2],
        unit="updates/s",
        peer="the same without saves",
        seconds_a_save=round(sum(seconds) / len(seconds), 3),
    )


class Turns:
    """Processes that train together, stand ready, and take a turn when told to.

    Args:
        world: how many.
        threads: of each.
        updates: of a turn.
        folder: of the run.
    """

    def __init__(self, world: int, threads: int, *, updates: int, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.updates = updates
        self.processes = []
        for rank in range(world):
            own = {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "1"}
            if world > 1:
                own |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            command = [sys.executable, __file__, "--turns-of", str(updates), "--folder", folder]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, env={**os.environ, **own}, stdin=pipe, stdout=pipe, text=True)
            self.processes.append(process)
        self.told: list[dict[str, float]] = self._answers()

    def _answers(self) -> list[dict[str, float]]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout is not None]
        if not all(lines):
            raise RuntimeError("a process of the benchmark ended before its turn; its error stands above")
        return [json.loads(line) for line in lines]

    def turn(self, _: int) -> float:
        """Has all take their turn; returns the real tokens of the world."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        self.told = self._answers()
        return self.told[0]["tokens"]

    def close(self) -> None:
        """Lets them end."""
        for process in self.processes:  # all told before one is waited for: they end together
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()


def take_turns(updates: int, folder: str) -> None:
    """In each process: a turn for every line of standard input, its tokens and memory as a line of standard output."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = held("VmRSS")
    tokens = [f"batch.{side}_tokens=4000" for side in ("source", "target")]
    training = demo(folder, *tokens, "steps=1000000", "data.max_words=null")
    coming = training.updates()
    print(json.dumps({}), flush=True)
    with training.peers.named():
        for _ in sys.stdin:
            done, began = 0, time.perf_counter()
            for _ in range(updates):
                micro_batches, target_tokens, real_tokens = next(coming)
                training.update(micro_batches, target_tokens)
                done += real_tokens
            seconds = time.perf_counter() - began
            told = json.dumps({"tokens": done, "seconds": seconds, "mib": held("VmHWM") - before})
            print(f"{told}\n", end="", flush=True)  # in one piece: ZeRO's processes share this output
    training.accelerator.end_training()


def two_processes_claim(pairs: int, updates: int) -> None:
    """Two processes of one thread against one of two, and what each of them holds."""
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for name, world in (("two", 2), ("one", 1)):  # one after the other: the first fills the cache
            sides.append(Turns(world, 2 // world, updates=updates, folder=f"{folder}/{name}"))
        found = rates(sides[0].turn, sides[1].turn, pairs=pairs)
        for side, own, name in zip(sides, found, ("two processes, DDP", "one process"), strict=True):
            memory_line(name, sorted(own)[len(own) // 2], side.told)
            side.close()
    report("two-processes", *found, unit="real tokens/s", peer="one process of two threads")


def memory_line(name: str, speed: float, told: list[dict[str, float]]) -> None:
    """Prints tokens a second of the world and MiB of each process."""
    mib = [round(one["mib"]) for one in told]
    print(json.dumps({"memory": name, "mib_a_process": mib, "real_tokens_a_second": round(speed)}), flush=True)


def zero_lines(updates: int) -> None:
    """ZeRO's three stages under `accelerate launch`, where deepspeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        print(json.dumps({"zero": "not measured: deepspeed is not installed (extra [deepspeed])"}), flush=True)
        return
    for stage in ("1", "2", "3"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", "--zero_stage", stage]
            command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
            command += ["--dynamo_backend", "no", __file__, "--turns-of", str(updates), "--folder", f"{folder}/run"]
            variables = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
            # Three turns, the first not counted; every process reads them from a file of its own.
            lines = Path(folder, "turns")
            lines.write_text("\n" * 3, encoding="utf-8")
            done = subprocess.run(
                [*command, "--turns", str(lines)], env=variables, stdout=subprocess.PIPE, text=True, check=True
            )
            told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"tokens"')]
            last = told[-2:]
            memory_line(f"two processes, ZeRO-{stage}", last[0]["tokens"] / max(one["seconds"] for one in last), last)


def main() -> None:
    """Runs the claims asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=list(CLAIMS), help=f"{', '.join(CLAIMS)} (all)")
    parser.add_argument("--quick", action="store_true", help="under four minutes on two cores")
    parser.add_argument("--turns-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.turns_of:
        if arguments.turns:
            sys.stdin = open(arguments.turns, encoding="utf-8")  # noqa: SIM115
        take_turns(arguments.turns_of, arguments.folder)
        return
    torch.set_num_threads(os.cpu_count() or 1)
    quick = arguments.quick
    for claim in arguments.claims:
        if claim == "overhead":
            overhead_claim(10 if quick else 40)
        elif claim == "saving":
            saving_claim(6 if quick else 20)
        elif claim == "two-processes":
            two_processes_claim(10 if quick else 30, updates=4)
        elif claim == "zero":
            zero_lines(updates=4)
        else:
            parser.error(f"unknown claim {claim!r}; known: {', '.join(CLAIMS)}")


if __name__ == "__main__":
    main()
