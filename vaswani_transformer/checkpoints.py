"""Training checkpoints that survive a kill at any moment.

A checkpoint is one folder, `step-00001000/`: the model as `save_pretrained` writes it (so it loads by itself), the
optimiser, `state.json`, a random state per rank, and `manifest.json` with the size and SHA-256 of every other file.
It is written as `step-00001000.partial`, every file is synced, the manifest comes last, and a rename gives it its name:
a folder without the suffix was complete when it was named, and the manifest tells whether it still is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 1  # of the manifest; a reader refuses a later one

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PARTIAL = ".partial"  # being written
REPLACED = ".replaced"  # the older one of the same name, kept until the new one has the name
REMOVED = ".removed"  # being deleted
SYNC_MODE = "rb+" if os.name == "nt" else "rb"  # Windows syncs writable files only
_STEP = re.compile(r"step-(\d+)(\.replaced)?")
_UNFINISHED = re.compile(r"step-(\d+)\.partial")


def save_checkpoint(folder: Path | str, step: int, *, write: Callable[[Path], None], keep: int) -> Path:
    """Writes the checkpoint of `step` under `folder` so that it is there whole or not at all, then prunes.

    One process calls it. First it removes what a killed save left behind. When `write` or the sealing fails (a full
    disk, Ctrl-C), what was staged is removed, the checkpoints already there are untouched, and the exception goes on
    with a note saying so.

    Args:
        folder: where the checkpoints are, one run's only.
        step: updates done.
        write: fills the staged folder it is given; it must close its files.
        keep: how many complete checkpoints remain, this one included.

    Returns:
        The folder of the new checkpoint.

    Raises:
        ValueError: a negative step, or keep below 1.
    """
    if step < 0:
        raise ValueError(f"a checkpoint's step must be 0 or more; got {step=}")
    if keep < 1:
        raise ValueError(f"save.keep must be 1 or more, the newest checkpoint always stays; got {keep=}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    path = replace_folder(folder / f"step-{step:08d}", write=write, step=step)
    prune(folder, keep, newest=path)
    return path


def replace_folder(target: Path | str, *, write: Callable[[Path], None], step: int | None = None) -> Path:
    """Writes a sealed folder (`best/`, say) whole or not at all; one already there stays until then.

    A kill leaves the old folder or the new one under the name, or, between the two renames, the old one as
    `NAME.replaced`, where `newest_complete` finds it too.

    Args:
        target: the final name.
        write: fills the staged folder it is given.
        step: recorded in the manifest; for `step-` folders it must agree with the name.
    """
    target = Path(target)
    partial, replaced = target.with_name(target.name + PARTIAL), target.with_name(target.name + REPLACED)
    remove_tree(partial)
    partial.mkdir(parents=True)
    try:
        write(partial)
        seal(partial, step=step)
    except BaseException as error:
        reason = "the disk is full: " if _disk_full(error, partial) else ""
        shutil.rmtree(partial, ignore_errors=True)
        error.add_note(f"{reason}saving {target.name} failed; what was saved before it in {target.parent} is untouched")
        raise
    if target.exists():
        remove_tree(replaced)
        target.rename(replaced)
    partial.rename(target)
    sync_folder(target.parent)
    remove_tree(replaced)
    return target


def _disk_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return shutil.disk_usage(folder).free < 2**20  # torch and safetensors raise errors of their own


def seal(folder: Path, *, step: int | None = None) -> None:
    """Syncs every file under `folder` to disk, then writes and syncs the manifest: the last file of a checkpoint."""
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        with open(path, SYNC_MODE) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        files[path.relative_to(folder).as_posix()] = {"size": size, "sha256": digest}
    with open(folder / MANIFEST, "w", encoding="utf-8", newline="\n") as file:
        manifest = {"format": FORMAT, "step": step, "files": files}
        json.dump({**manifest, "sha256": _digest(manifest)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for inner in (p for p in folder.rglob("*") if p.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest without its own, so that damage to it is not blamed on a file."""
    own = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable; without it a power cut may undo a rename."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Deletes a folder by way of another name, so that a kill halfway does not leave a damaged one under its own."""
    if not folder.exists():
        return
    doomed = folder if folder.name.endswith((PARTIAL, REMOVED)) else folder.with_name(folder.name + REMOVED)
    if doomed != folder:
        if doomed.exists():
            shutil.rmtree(doomed)
        folder.rename(doomed)
    shutil.rmtree(doomed)


def clean(folder: Path) -> None:
    """Removes what killed saves and removals left among the checkpoints; nothing complete is touched."""
    for path in sorted(folder.glob("step-*")):
        if path.name.endswith((PARTIAL, REMOVED)):
            logger.info("removing %s, left by a save that did not finish", path.name)
            remove_tree(path)
        elif path.name.endswith(REPLACED) and verify(folder / path.name.removesuffix(REPLACED)) is None:
            remove_tree(path)


def verify(path: Path | str, *, contents: bool = True, only: Callable[[str], bool] | None = None) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is as it was written.

    Args:
        path: the checkpoint's folder.
        contents: read every byte and compare SHA-256; False compares sizes only.
        only: limits the check to the files whose relative name it accepts.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, step, files = manifest["format"], manifest["step"], manifest["files"]
        if version == FORMAT and manifest["sha256"] != _digest(manifest):
            return f"{MANIFEST} has other contents than were written (SHA-256 differs)"
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing" if path.is_dir() else "there is no such folder"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is unreadable ({type(error).__name__}: {error})"
    if version != FORMAT:
        return f"{MANIFEST} has format {version}, this version reads {FORMAT}"
    named = _STEP.fullmatch(path.name)
    if named and step != int(named[1]):
        return f"{MANIFEST} is of step {step}"
    for name, (size, digest) in expected.items():
        if only is not None and not only(name):
            continue
        problem = _verify_file(path / name, size, digest if contents else None)
        if problem:
            return f"{name} {problem}"
    return None


def _verify_file(path: Path, size: int, digest: str | None) -> str | None:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                return f"has {found} bytes instead of {size}"
            if digest is not None and hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return "has other contents than were written (SHA-256 differs)"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """Folders named as complete checkpoints, newest first; of one step, the replaced one after the other."""
    if not folder.is_dir():
        return []
    matches = ((_STEP.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    found = [(int(match[1]), match[2] is None, path) for match, path in matches if match]
    return [(step, path) for step, _, path in sorted(found, reverse=True)]


def newest_complete(folder: Path | str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest checkpoint that verifies byte by byte, and what was wrong with each newer one.

    Reads only, so it may run beside a training run.
    """
    folder = Path(folder)
    passed_over: list[tuple[Path, str]] = []
    newest, newest_step = None, -1
    for step, path in _candidates(folder):
        problem = verify(path)
        if problem is None:
            newest, newest_step = path, step
            break
        passed_over.append((path, problem))
    for path in folder.glob("step-*" + PARTIAL) if folder.is_dir() else ():
        match = _UNFINISHED.fullmatch(path.name)
        if match and int(match[1]) > newest_step:
            passed_over.append((path, "the save did not finish"))
    return newest, sorted(passed_over, reverse=True)


def newest_checkpoint(folder: Path | str) -> Path | None:
    """The newest checkpoint that verifies, None if there is none; logs what was wrong with those passed over."""
    newest, passed_over = newest_complete(folder)
    for path, problem in passed_over:
        logger.warning("passing over checkpoint %s: %s", path.name, problem)
    return newest


def last_checkpoints(folder: Path | str, n: int) -> list[Path]:
    """The last `n` complete checkpoints, oldest first; fewer, with a warning, where there are fewer.

    Compares sizes, not contents: `average_checkpoints` reads what it uses.

    Raises:
        ValueError: n below 1, or no complete checkpoint at all.
    """
    if n < 1:
        raise ValueError(f"the number of checkpoints must be 1 or more; got {n=}")
    complete: list[Path] = []
    steps: set[int] = set()
    for step, path in _candidates(Path(folder)):
        if len(complete) == n:
            break
        problem = verify(path, contents=False)
        if problem:
            logger.warning("passing over checkpoint %s: %s", path.name, problem)
        elif step not in steps:
            complete.append(path)
            steps.add(step)
    if not complete:
        raise ValueError(f"the folder must hold at least one complete checkpoint (step-...); got folder={folder}")
    if len(complete) < n:
        logger.warning("asked for the last %d checkpoints, %s holds %d", n, Path(folder).name, len(complete))
    return complete[::-1]


def prune(folder: Path | str, keep: int, *, newest: Path | None = None) -> list[Path]:
    """Deletes the checkpoints older than the newest complete one, which stays, but for the `keep` - 1 before it.

    A damaged older checkpoint does not count among the kept and is deleted. One with a higher number than the newest
    complete one (damaged, or of a run that was taken up again further back) is left for a person or a later save.

    Args:
        folder: where the checkpoints are.
        keep: how many stay, at least 1.
        newest: the one known to be complete; without it the newest that verifies is looked for.

    Returns:
        The folders that were deleted.
    """
    if keep < 1:
        raise ValueError(f"save.keep must be 1 or more, the newest checkpoint always stays; got {keep=}")
    folder = Path(folder)
    newest = newest or newest_complete(folder)[0]
    if newest is None:
        return []
    candidates = _candidates(folder)
    newest_step = next((step for step, path in candidates if path == newest), -1)
    kept, removed = 1, []
    for path in (path for step, path in candidates if step < newest_step):
        if kept < keep and verify(path, contents=False) is None:
            kept += 1
        else:
            remove_tree(path)
            removed.append(path)
    return removed


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes `state.json` (step, epoch, position, best metric, seed, recipe hash, tokens seen) into a staged folder."""
    (folder / STATE).write_text(json.dumps(dict(state), indent=1) + "\n", encoding="utf-8")


def read_state(path: Path | str) -> dict[str, Any]:
    """The contents of a checkpoint's `state.json`.

    Raises:
        ValueError: missing or unreadable, so that nothing resumes from half a state.
    """
    file = Path(path) / STATE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"a training checkpoint must hold a readable {STATE}; got {file}: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} must hold a JSON object; got {type(state).__name__} in {file}")
    return state


def load_tensors(file: Path | str) -> Any:
    """What torch.save wrote, on the CPU, refusing anything that could run code (weights_only).

    Raises:
        ValueError: missing or damaged.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"a checkpoint's file must be readable by torch.load; got {file}: {error}") from error
