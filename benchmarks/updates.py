"""What the benchmarks of training share: an update with torch's fused AdamW, and the memory that updates take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEARNING_RATE = 1e-4
MEMORY_UPDATES = 2  # the second holds Adam's averages from the start


class Stepper:
    """A model with its optimiser: torch's fused AdamW, the same on both sides.

    Args:
        model: of either kind.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def update(self, batch: dict[str, Tensor]) -> None:
        """Forward, backward and one step of AdamW."""
        self.model(**batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def held(what: str) -> float:
    """MiB this process holds ("VmRSS") or has held at most ("VmHWM")."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024


def print_memory(stepper: Stepper, batch: dict[str, Tensor]) -> None:
    """Prints the most that a few updates held beyond what was held before them; for a process of its own."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = held("VmRSS")
    for _ in range(MEMORY_UPDATES):
        stepper.update(batch)
    print(json.dumps({"mib": held("VmHWM") - before}))


def memory_of(script: str, *arguments: str) -> float:
    """MiB that `print_memory` tells in a fresh process of this script, called as SCRIPT --memory-of ARGUMENTS.

    What is freed is given back at once: what glibc would keep of it differs by a hundred MiB from run to run.
    """
    command = [sys.executable, script, "--memory-of", *arguments]
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "1000000"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(answer.stdout.splitlines()[-1])["mib"]
