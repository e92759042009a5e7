"""Files of strangers, read without running what they hold.

A pickle may call anything while it is read. Here it may name tensors, containers of Python's own and the classes that a
reader allows, which hold nothing but values; an archive may write nowhere but into its folder; and no size that a file
claims is believed before the file's own is known.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


def load_torch(path: str | Path, *, allowed: Sequence[Any] = ()) -> Any:
    """Returns what `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        allowed: classes beside torch's own that may stand in it, such as argparse.Namespace.

    Raises:
        ValueError: a file that is truncated or not torch's, or that names what is not allowed.
    """
    path = Path(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"a checkpoint must be a whole file of torch with tensors and plain values alone; got {path}: {reason}"
        ) from error


def load_npy(path: str | Path) -> np.ndarray:
    """Returns the array of a .npy file, mapped from the file: no more memory than is read.

    Raises:
        ValueError: a file that is truncated, no array, or an array of Python's objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"an array must be a whole .npy file of numbers; got {path}: {error}") from error
