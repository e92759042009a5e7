"""Output folders: whether something new may have one, and the checkpoint from which an interrupted run goes on."""

import logging
import os
from pathlib import Path

from . import checkpoints

logger = logging.getLogger(__name__)

RUN = "run.json"  # written last of all: where it is, the run is finished
UNDER_WAY = "under-way"  # there while a run trains: a restarted process may go on in this folder
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "VASWANI_RESTART")  # set by the launchers, 0 the first time


def new_folder(out: str | Path, *, use: str) -> Path:
    """A folder that something whole is written to; it need not be there.

    Args:
        out: the folder.
        use: what it is for, as in "export to".

    Raises:
        ValueError: it is in use.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"the folder to {use} must be new or empty; got {out}: name another one")
    return out


def starting_point(output: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    A process that its launcher has started again resumes without being told, but only where the first one had begun to
    train: the launcher starts it again after a refusal too.

    Raises:
        ValueError: see `checkpoint_to_resume` and `check_unused`.
    """
    again = any(os.environ.get(name, "0") != "0" for name in RESTARTS)
    if not again and os.environ.get("RANK", "0") == "0":
        (output / UNDER_WAY).unlink(missing_ok=True)  # left by a run that its launcher gave up
    return checkpoint_to_resume(output) if resume or (again and (output / UNDER_WAY).exists()) else check_unused(output)


def checkpoint_to_resume(output: Path) -> Path | None:
    """The newest complete checkpoint; None where a run has not come to its first.

    Raises:
        ValueError: there are checkpoints and none is whole, or a finished model and no checkpoint.
    """
    found, passed_over = checkpoints.newest_complete(output / "checkpoints")
    for path, problem in passed_over:
        logger.warning("passing over checkpoint %s: %s", path.name, problem)
    if found is not None:
        return found
    damaged = [f"{path.name}: {why}" for path, why in passed_over if not path.name.endswith(checkpoints.PARTIAL)]
    if damaged:
        raise ValueError(f"resuming needs a whole checkpoint; got in {output}: {'; '.join(damaged)}")
    if (output / RUN).exists():
        raise ValueError(f"resuming needs a checkpoint; got a finished run without one in output={output}")
    logger.warning("nothing to resume in %s: starting anew", output)
    return None


def check_unused(output: Path) -> None:
    """Raises ValueError where a new run would write over what is there: checkpoints, a finished run, any model."""
    folder = output / "checkpoints"
    if any((output / name).exists() for name in (RUN, "config.json")) or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(
            f"the output folder already holds a run or a model; got output={output}. "
            "Give --resume to go on with a run, or another --out (or output=) to start a new one"
        )
