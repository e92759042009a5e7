"""Runs one after another in the processes of one launch: accelerate launch several_runs.py JOBS.

JOBS is a JSON list of runs: the recipe, whether it resumes, and the launcher's environment, ZeRO's stage say. Starting
processes and importing DeepSpeed takes longer than a toy run.
"""

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from vaswani_transformer.recipe import Recipe
from vaswani_transformer.train import train


def fsdp2_on_a_cpu() -> None:
    """Accelerate offers FSDP2 on accelerators only; for a test its state is told that this is one."""
    import torch

    state = PartialState(backend="gloo")
    state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    state._shared_state["device"] = torch.device("cpu")


def main(jobs: list[dict]) -> None:
    for job in jobs:
        os.environ.update(job.get("environment", {}))
        AcceleratorState._reset_state()
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            fsdp2_on_a_cpu()
        try:
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
