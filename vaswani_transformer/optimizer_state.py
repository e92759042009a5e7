"""The optimiser's state of a checkpoint by parameter name, whatever split of the model wrote it.

ZeRO's shards go through DeepSpeed's universal checkpoint, FSDP2's through torch.distributed.checkpoint.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from . import checkpoints

UNIVERSAL = "universal"  # a folder of its own: DeepSpeed writes a file beside it


class ZeroFolder(Mapping[str, dict[str, Tensor]]):
    """Adam's state in DeepSpeed's universal checkpoint: a folder a parameter, read when it is asked for."""

    def __init__(self, folder: Path, updates: float) -> None:
        self.folder, self.updates = folder / "zero", updates

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        state = {key: self._read(name, key) for key in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.tensor(self.updates, dtype=torch.float32), **state}

    def _read(self, name: str, key: str) -> Tensor:
        found = checkpoints.load_tensors(self.folder / name / f"{key}.pt")
        return found["param"] if isinstance(found, dict) else found  # stages 1 and 2, and stage 3

    def __iter__(self) -> Iterator[str]:
        return (path.parent.name for path in self.folder.glob("*/exp_avg.pt"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class NamedState:
    """The state of every parameter, whole.

    Args:
        tensors: by the parameter's name: `step`, `exp_avg`, `exp_avg_sq`.
        updates: updates taken, the `step` of all.
    """

    tensors: Mapping[str, Mapping[str, Any]]
    updates: float


@contextlib.contextmanager
def named_state(
    checkpoint: Path, saved_by: Mapping[str, Any], accelerator: Accelerator, names: Sequence[str]
) -> Iterator[NamedState]:
    """The state of a checkpoint's optimiser; every process calls it, one converts where that is needed.

    Args:
        checkpoint: its folder, which all processes see.
        saved_by: the `description` of the engine that wrote it.
        accelerator: of the run.
        names: the parameters in the optimiser's order.

    Raises:
        ValueError: it cannot be converted; the message says how to go on.
    """
    if saved_by["split"] in ("one device", "data parallel"):
        saved = checkpoints.load_tensors(checkpoint / "optimizer.pt")["optimizer"]
        order = [number for group in saved["param_groups"] for number in group["params"]]
        tensors = {
            name: saved["state"][number] for name, number in zip(names, order, strict=True) if number in saved["state"]
        }
        yield NamedState(tensors, float(next(iter(tensors.values()))["step"]) if tensors else 0.0)
        return
    updates = float(checkpoints.load_tensors(checkpoint / "optimizer.pt")["updates"])
    with contextlib.ExitStack() as stack:
        folder, error = None, None
        if accelerator.is_main_process:
            # of a name that the next save clears away, should this process be killed
            scratch = {"prefix": f"{checkpoint.name}-", "suffix": checkpoints.PARTIAL, "dir": checkpoint.parent}
            folder = stack.enter_context(tempfile.TemporaryDirectory(**scratch))
            try:
                _convert(checkpoint, saved_by["split"], Path(folder))
            except Exception as problem:  # told on every process, below
                error = f"{type(problem).__name__}: {problem}"
        told: Any = broadcast_object_list([folder, error])
        folder, error = told
        if error is not None:
            raise ValueError(
                f"the optimiser's state of {checkpoint} cannot be put together for another split: {error}. Resume on "
                f"{saved_by['split']} with {saved_by['processes']} processes"
            )
        out = Path(folder)
        if saved_by["split"] == "fsdp2":
            yield NamedState(checkpoints.load_tensors(out / "whole.pt")["optimizer"]["state"], updates)
        else:
            yield NamedState(ZeroFolder(out / UNIVERSAL, updates), updates)
        accelerator.wait_for_everyone()  # before the folder goes


def _convert(checkpoint: Path, split: str, out: Path) -> None:
    if split == "fsdp2":
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        dcp_to_torch_save(checkpoint / "shards", out / "whole.pt")
        return
    from deepspeed.checkpoint.ds_to_universal import main as to_universal  # pyright: ignore[reportMissingImports]

    settings = argparse.Namespace(
        input_folder=str(checkpoint / "shards" / "state"),
        output_folder=str(out / UNIVERSAL),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its prints and bars
        to_universal(settings)
