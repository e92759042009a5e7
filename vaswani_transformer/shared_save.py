"""One staged folder filled by all processes: the main one stages, seals and names it, each writes its own part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

Write = Callable[[Path], None]


def save_together(accelerator: Accelerator, *, stage: Callable[[Write], Any], part: Write, rest: Write) -> None:
    """Writes a folder by all processes, whole or not at all; an error in any of them is raised in every one.

    Every process calls it, and sees the same file system. After an error of its own part a process still waits for the
    others', so that none is left waiting for it.

    Args:
        accelerator: of the run.
        stage: called on the main process with the function that fills the staged folder; it seals and renames it.
        part: fills in a process's own part; it may be a collective operation.
        rest: what the main process writes beside its part.

    Raises:
        ValueError: on every process, that another one failed; the one that did raises its own error.
    """
    mine: list[BaseException] = []

    def write(folder: Path) -> None:
        broadcast_object_list([str(folder)])
        _write_parts(accelerator, part, folder, mine)
        rest(folder)

    error: BaseException | None = None
    if accelerator.is_main_process:
        staged: list[Path] = []

        def noting(folder: Path) -> None:
            staged.append(folder)
            write(folder)

        try:
            stage(noting)
        except BaseException as problem:
            error = problem
        if not staged:  # the others wait for a folder
            broadcast_object_list([None])
    else:
        folder = broadcast_object_list([None])[0]
        if folder is not None:
            try:
                _write_parts(accelerator, part, Path(folder), mine)
            except Exception as problem:  # raised below, after the main process's word
                error = problem
    told = broadcast_object_list([None if error is None else f"{type(error).__name__}: {error}"])[0]
    if mine:
        raise mine[0]
    if error is not None:
        raise error
    if told is not None:
        raise ValueError(f"the main process could not save: {told}; what was saved before is untouched")


def _write_parts(accelerator: Accelerator, part: Write, folder: Path, mine: list[BaseException]) -> None:
    try:
        part(folder)
    except Exception as error:  # raised below, once every process has been told
        mine.append(error)
    told = gather_object([f"{type(mine[0]).__name__}: {mine[0]}" if mine else None])
    failed = [f"process {rank}: {what}" for rank, what in enumerate(told) if what is not None]
    if mine:
        raise mine[0]
    if failed:
        raise ValueError(f"a part of the checkpoint could not be written: {'; '.join(failed)}")
