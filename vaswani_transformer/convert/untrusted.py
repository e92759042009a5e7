"""Files of strangers, read without running what they hold.

A pickle may call anything while it is read. Here it may name tensors, containers of Python's own and the classes that a
reader allows, which hold nothing but values; an archive may write nowhere but into its folder; and no size that a file
claims is believed before the file's own is known.
"""

import bz2
import gzip
import json
import lzma
import math
import pickle
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Weights hardly shrink when they are packed; what unpacks to more than this is no model.
LARGEST_RATIO = 20
SMALL = 2**26  # bytes that an archive of any size may unpack to
MOST_FILES = 10_000
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # by the first bytes
ADVICE = ("Weights only load failed", "Please file an issue", "Check the documentation")  # torch's own
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz")


class Plain:
    """Stands for a class of another library in a pickle: what was in it is its attributes, nothing of it is run."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Plain":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def plain_dict(*args: Any) -> dict[Any, Any]:
    """Stands for a dict of another class, without what that class does where a key is missing."""
    return {}


def load_torch(path: str | Path, *, allowed: Sequence[Any] = ()) -> Any:
    """Returns what `torch.save` wrote, on the CPU.

    The file is read twice: first without any number in it, to see that what it claims to hold is there.

    Args:
        path: the file.
        allowed: classes beside torch's own that may stand in it, such as argparse.Namespace; or pairs of a class and
            the name of another that it stands for, such as (Plain, "fairseq.meters.AverageMeter").

    Raises:
        ValueError: a file that is truncated or not torch's, that names what is not allowed, or that claims more than it
            holds.
    """
    path = Path(path)
    _check_zip(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            _check_sizes(path, torch.load(path, map_location="meta", weights_only=True))
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken pickle fails in any way: an opcode's operands are whatever it holds
        raise ValueError(
            f"a checkpoint must be a whole file of torch with tensors and plain values alone; got {path}: "
            f"{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file regardless."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it names {named[1]}, which could be run"
    lines = [line.strip() for line in str(error).splitlines()]
    told = (line for line in lines if line and not line.startswith(ADVICE))
    return next(told, type(error).__name__)


def _check_zip(path: Path) -> None:
    """torch stores what it writes as it is: an entry that unpacks is a bomb."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # what torch goes by
    if not zipped:
        return
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # what this library cannot read cannot be checked
        raise ValueError(f"a checkpoint must be a whole file of torch; got {path}: {error}") from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    claimed = sum(entry.file_size for entry in entries)
    if packed or claimed > size:
        raise ValueError(
            f"a file of torch must hold what it claims, unpacked; got {path} of {size} bytes with entries of "
            f"{claimed}, {len(packed)} of them packed"
        )


def _check_sizes(path: Path, found: Any) -> None:
    """Every tensor lies in its storage, and every storage in the file.

    Their sum says nothing: without numbers each name of a tied weight has a storage of its own. torch compares each
    storage with what the file has for it when it reads, and touches no memory before.
    """
    size = path.stat().st_size
    for tensor in _tensors(found):
        if tensor.layout != torch.strided:
            raise ValueError(f"a checkpoint's tensors must be dense; got one of {tensor.layout}")
        held = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > held:
            raise ValueError(f"a tensor must lie in its storage; got {list(tensor.shape)} in {held} bytes")
        if held > size:
            raise ValueError(f"a checkpoint must hold what it claims; got a tensor of {held} bytes in a file of {size}")


def _tensors(found: Any) -> Iterator[Tensor]:
    """Every tensor in containers and plain objects, however deep or tangled they are."""
    left, seen = [found], set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            left += one
        if not isinstance(one, type):
            left += getattr(one, "__dict__", {}).values()


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """Returns the weights in a folder of transformers: `model.safetensors`, or `pytorch_model.bin` of earlier days,
    whole or in the parts that an index beside it names.

    Raises:
        ValueError: neither is there, a part is missing or lies elsewhere, a file is broken, or holds more than tensors
            under names.
    """
    folder = Path(folder)
    for name, load in (("model.safetensors", _load_safetensors), ("pytorch_model.bin", _load_bin)):
        if (path := folder / name).is_file():
            return load(path)
        if (index := folder / f"{name}.index.json").is_file():
            found: dict[str, Tensor] = {}
            for part in _parts(index):
                found |= load(folder / part)
            return found
    raise ValueError(
        f"a model's folder must hold model.safetensors or pytorch_model.bin, or the index of their parts; got {folder} "
        "without any: weights of TensorFlow or Flax must be saved by transformers for PyTorch first"
    )


def _parts(index: Path) -> list[str]:
    """The files that an index names, all of them there, beside it."""
    names = load_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(part, str) for part in names.values()):
        raise ValueError(f"{index.name} must say in weight_map which file holds each weight; got {index}")
    parts = sorted(set(names.values()))
    for part in parts:
        if part in ("", "..") or "\0" in part or PureWindowsPath(part).name != part:
            raise ValueError(f"the parts of a model must lie beside their index; got {part!r} in {index}")
        if not (index.parent / part).is_file():
            raise ValueError(
                f"a model must have all {len(parts)} files that {index.name} names; got {index.parent} without {part}: "
                "is the download complete?"
            )
    return parts


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights must be a whole file of safetensors; got {path}: {error}") from error


def _load_bin(path: Path) -> dict[str, Tensor]:
    return state_dict(load_torch(path), path)


def state_dict(found: Any, path: str | Path) -> dict[str, Tensor]:
    """Returns `found` if it is tensors under names.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(found, dict) or not found:
        raise ValueError(f"a state dict must be tensors under names; got {type(found).__name__} in {path}")
    odd = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise ValueError(f"a state dict must be tensors under names; got {odd[0]!r} that is none in {path}")
    return dict(found)


def load_json(path: str | Path, *, kind: type[Any] = dict) -> Any:
    """Returns the object in a JSON file, or the list where `kind` is list.

    Raises:
        ValueError: the file is missing, broken, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the source must have a file {path.name}; got {path.parent} without one")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} must be a whole file of JSON; got {path}: {error}") from error
    if not isinstance(found, kind):
        what = "names and values" if kind is dict else f"a {kind.__name__}"
        raise ValueError(f"{path.name} must hold {what}; got {type(found).__name__} in {path}")
    return found


def load_npy(path: str | Path) -> np.ndarray:
    """Returns the array of a .npy file, mapped from the file: no more memory than is read.

    Raises:
        ValueError: a file that is truncated, longer than its array, no array, or an array of Python's objects.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):  # headers of later ones may claim gigabytes; numbers never need one
                raise ValueError(f"version {version} of the format, not (1, 0)")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        if dtype.kind not in "fiu":
            raise ValueError(f"elements of {dtype}, not numbers")
        claimed, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
        if min(shape, default=1) < 1 or claimed != held:
            raise ValueError(f"{held} bytes for the shape {shape} of {dtype}, which takes {claimed}")
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except OSError:
        raise
    except Exception as error:  # numpy takes the header for a literal of Python, which fails in many ways
        raise ValueError(f"an array must be a whole .npy file of numbers; got {path}: {error}") from error


def load_plain_pickle(path: str | Path) -> Any:
    """Returns what a pickle holds of Python's own containers, strings and numbers.

    Raises:
        ValueError: a file that is truncated, no pickle, or that names any class or function.
    """
    try:
        with Path(path).open("rb") as file:
            return _PlainUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a broken pickle fails in any way, as in `load_torch`
        raise ValueError(
            f"a pickle must hold containers, strings and numbers alone; got {path}: {error or type(error).__name__}"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Finds no class and no function: there is nothing to call."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which could be run")


def is_archive(path: str | Path) -> bool:
    """Whether a file's name is that of an archive that `unpack` reads."""
    return Path(path).is_file() and str(path).endswith(ARCHIVES)


def unpack(archive: str | Path, into: str | Path) -> Path:
    """Unpacks a .zip or .tar, packed or not, into a folder: regular files alone, none outside it, none twice.

    Args:
        archive: the file.
        into: a new or empty folder; what was unpacked before an error stays there.

    Returns:
        The folder that holds the files: `into`, or the only folder in it.

    Raises:
        ValueError: a broken archive, a path that leads out of the folder, a link or a device, more than a model may
            unpack to.
    """
    archive, into = Path(archive), Path(into)
    most = max(SMALL, LARGEST_RATIO * archive.stat().st_size)
    into.mkdir(parents=True, exist_ok=True)
    left, files = most, 0
    try:
        for name, size, stream in _members(archive, most):
            left, files = left - size, files + 1
            if left < 0 or files > MOST_FILES:
                raise ValueError(
                    f"an archive of {archive.stat().st_size} bytes must unpack to at most {most} in {MOST_FILES} "
                    f"files; got {archive}, which unpacks to more"
                )
            target = into / _inside(name, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, open(target, "xb") as file:
                shutil.copyfileobj(stream, file, 2**20)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"an archive must be a whole .zip or .tar; got {archive}: {error}") from error
    found = list(into.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else into


class _Bounded:
    """A stream that ends in an error where it holds more than it may: headers of a .tar are read whole."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file, self.left = file, most + MOST_FILES * 1024

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("an archive must unpack to no more than a model can; got more in its headers")
        return data


def _members(archive: Path, most: int) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each file; neither library reads more of one than its size."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, packed.open(entry)
        return
    with open(archive, "rb") as file:
        start = file.read(6)
    opened = next((of for magic, of in PACKED.items() if start.startswith(magic)), open)
    with opened(archive, "rb") as file, tarfile.open(fileobj=_Bounded(file, most), mode="r|") as packed:  # type: ignore[arg-type]
        for member in packed:
            if member.isdir():
                continue
            content = packed.extractfile(member) if member.isreg() else None
            if content is None:
                raise ValueError(f"an archive must hold plain files alone; got {member.name!r}, a link or device")
            yield member.name, member.size, content


def _inside(name: str, archive: Path) -> PurePosixPath:
    """The name as a path that stays in the folder, on any system."""
    path, other = PurePosixPath(name), PureWindowsPath(name)
    if (
        path.is_absolute()
        or other.is_absolute()
        or other.drive
        or ".." in {*path.parts, *other.parts}
        or not path.parts
    ):
        raise ValueError(f"an archive's files must stay in its folder; got {name!r} in {archive}")
    return path
