"""Runs one after another in the processes of one launch: accelerate launch several_runs.py JOBS.

JOBS is a JSON list of runs: the recipe, whether it resumes, and the launcher's environment, ZeRO's stage say. Starting
processes and importing DeepSpeed takes longer than a toy run. A job may say at which step the loss of the last process,
and of no other, is to be spoilt.
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from vaswani_transformer.recipe import Recipe
from vaswani_transformer.train import Training, train


def fsdp2_on_a_cpu() -> None:
    """Accelerate offers FSDP2 on accelerators only; for a test its state is told that this is one."""
    import torch

    state = PartialState(backend="gloo")
    state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    state._shared_state["device"] = torch.device("cpu")


@contextmanager
def spoilt(step: int | None) -> Iterator[None]:
    """Within it the last process finds its share of that update's loss to be nan."""
    gradients = Training._gradients

    def spoiling(self, micro_batches, target_tokens):
        losses = gradients(self, micro_batches, target_tokens)
        return losses * math.nan if self.progress.step + 1 == step and PartialState().is_last_process else losses

    with patch.object(Training, "_gradients", spoiling):
        yield


def main(jobs: list[dict]) -> None:
    for job in jobs:
        os.environ.update(job.get("environment", {}))
        AcceleratorState._reset_state()
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            fsdp2_on_a_cpu()
        try:
            with spoilt(job.get("spoilt")):
                train(Recipe.from_dict(job["recipe"]), resume=job.get("resume", False))
        except ValueError as error:
            if job.get("error") is None or job["error"] not in str(error):
                raise
            if PartialState().is_main_process:
                Path(job["recipe"]["output"]).mkdir(parents=True, exist_ok=True)
                (Path(job["recipe"]["output"]) / "error.txt").write_text(str(error))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
    PartialState().destroy_process_group()
