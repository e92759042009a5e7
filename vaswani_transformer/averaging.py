"""The averaging of checkpoints' weights, section 6.1 of Vaswani et al. (2017)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .checkpoints import (
    MANIFEST,
    PARTIAL,
    STATE,
    SYNC_MODE,
    WEIGHTS,
    WEIGHTS_INDEX,
    remove_tree,
    sync_folder,
    verify,
)

# What belongs to a model beside its weights: configuration, tokenizer, chat template, code for trust_remote_code.
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.py")
NOT_MODEL_FILES = (MANIFEST, STATE, WEIGHTS_INDEX, "trainer_state.json")


def average_checkpoints(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Writes a model whose weights are the mean of several checkpoints' (section 6.1 of Vaswani et al. 2017).

    Sums in float32 (float64 for float64) one tensor at a time, and stores in the dtype of the first; memory is one
    file of weights plus one tensor. Weights tied in the checkpoints are stored once, as there, and stay tied.
    Configuration, tokenizer and code come from the last path. Files of other names in `out` are left alone; each new
    file is moved into it whole, the weights last.

    Args:
        paths: folders with safetensors weights: training checkpoints (whose weights are verified first) or models.
        out: the folder to write, loadable by AutoModel.

    Returns:
        `out`.

    Raises:
        ValueError: no path, a damaged or missing file, other names or shapes than the first's, integers that differ.
    """
    folders, out = [Path(path) for path in paths], Path(out)
    if not folders:
        raise ValueError("averaging needs at least one checkpoint; got paths=[]")
    _check_average(folders, out)
    where = [_weight_files(folder) for folder in folders]
    for folder, files in zip(folders[1:], where[1:], strict=True):
        differ = sorted(files.keys() ^ where[0].keys())
        if differ:
            raise ValueError(
                f"averaged checkpoints must hold the same tensors; got {folder} and {folders[0]}, which differ in "
                f"{differ[:5]}{' and more' if len(differ) > 5 else ''}"
            )
    staged = out.resolve().with_name(out.resolve().name + PARTIAL)
    remove_tree(staged)
    staged.mkdir(parents=True)
    try:
        for file in dict.fromkeys(where[0].values()):  # the first one's split into files is kept
            names = [name for name, holder in where[0].items() if holder == file]
            means = {name: _mean(name, [files[name] for files in where]) for name in names}
            save_file(means, staged / file.name, metadata={"format": "pt"})
        if (folders[0] / WEIGHTS_INDEX).exists():
            shutil.copyfile(folders[0] / WEIGHTS_INDEX, staged / WEIGHTS_INDEX)
        for file in _model_files(folders[-1]):
            shutil.copyfile(file, staged / file.name)
        _move_files(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return out


def _check_average(folders: Sequence[Path], out: Path) -> None:
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise ValueError(f"the average must not overwrite a checkpoint it is made of; got out={out}")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"a checkpoint must be a folder; got {folder}")
        if (folder / MANIFEST).exists():
            problem = verify(folder, only=lambda name: name.endswith(".safetensors"))
            if problem:
                raise ValueError(f"an averaged checkpoint must be undamaged; got {folder}: {problem}")
    new = {file.name for file in _weight_files(folders[0]).values()}
    stale = sorted(p.name for p in out.glob("model*.safetensors") if p.name not in new)
    if stale:
        raise ValueError(f"out must not hold weights that the average does not replace; got {stale} in {out}")


def _weight_files(folder: Path) -> dict[str, Path]:
    """For each tensor's name, the safetensors file that holds it."""
    if (folder / WEIGHTS).exists():
        files: Iterable[Path] = [folder / WEIGHTS]
    elif (folder / WEIGHTS_INDEX).exists():
        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    else:
        raise ValueError(f"a checkpoint must hold {WEIGHTS} or {WEIGHTS_INDEX}; got neither in {folder}")
    where: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                where.update(dict.fromkeys(tensors.keys(), file))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"weights must be readable safetensors; got {file}: {error}") from error
    return where


def _mean(name: str, files: Sequence[Path]) -> Tensor:
    """The mean of the tensor `name` over the files, in the first one's dtype."""
    first = _read(files[0], name)
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
    for file in files[1:]:
        other = _read(file, name)
        if other.shape != first.shape:
            raise ValueError(
                f"averaged checkpoints must hold the same shapes; got {name}: {tuple(first.shape)} in "
                f"{files[0].parent}, {tuple(other.shape)} in {file.parent}"
            )
        if first.is_floating_point():
            total += other
        elif not torch.equal(first, other):
            raise ValueError(f"a tensor of {first.dtype} has no mean and must be the same in all; got {name} differing")
    return (total / len(files)).to(first.dtype) if first.is_floating_point() else first


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name)


def _model_files(folder: Path) -> list[Path]:
    found = {path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file() and path.name not in NOT_MODEL_FILES)


def _move_files(staged: Path, out: Path) -> None:
    """Syncs the staged files and moves them into `out` one by one, weights last."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staged.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name)):
        with open(file, SYNC_MODE) as opened:
            os.fsync(opened.fileno())
        os.replace(file, out / file.name)
    sync_folder(out)
