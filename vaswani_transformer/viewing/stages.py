"""The stages of a forward pass as data of a page: what is computed, in which line, of what shape, the numbers."""

import base64
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = Path(__file__).resolve().parent.parent


def taken_away(scores: Tensor) -> Tensor:
    """Returns where a mask took scores away, in whatever precision a model computes."""
    return scores < torch.finfo(scores.dtype).min / 2


def code(function: Callable[..., Any], text: str) -> dict[str, Any]:
    """Returns where a line stands: its file, the function, its number and itself.

    Args:
        function: that holds it.
        text: that the line holds; the first such line of the function is meant.

    Raises:
        ValueError: no line of the function holds it.
    """
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getsourcefile(function) or "").resolve().relative_to(PACKAGE.parent)
    for number, line in enumerate(lines):
        if text in line:
            found = {"file": file.as_posix(), "symbol": function.__qualname__, "line": first + number}
            return found | {"text": line.strip()}
    raise ValueError(
        f"a stage must name a line of its function; got {text!r}, not in {function.__qualname__} of {file}"
    )


def stage(
    name: str,
    title: str,
    about: str,
    *,
    equation: str = "",
    paper: str = "",
    lines: Sequence[dict[str, Any]] = (),
    shapes: Sequence[str] = (),
    views: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Returns one stage.

    Args:
        name: that no other stage of the page has.
        title: a few words.
        about: what happens, in a sentence or two.
        equation: with _{below} and ^{above}.
        paper: the section.
        lines: what `code` returns.
        shapes: what `shape` returns.
        views: what `matrix` and its like return.
    """
    return {"name": name, "title": title, "about": about, "equation": equation, "paper": paper} | {
        "code": list(lines),
        "shapes": list(shapes),
        "views": list(views),
    }


def shape(name: str, letters: str, tensor: Tensor) -> str:
    """Returns a tensor's shape in letters and in numbers, "Q [H, T, d_k] = [4, 7, 32]"."""
    return f"{name} [{letters}] = {list(tensor.shape)}"


def packed(numbers: Tensor | np.ndarray) -> str:
    """Returns numbers as the page unpacks them: float32, little-endian, in base64; none is rounded."""
    array = numbers.detach().float().cpu().numpy() if isinstance(numbers, Tensor) else numbers
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")


def matrix(
    title: str,
    numbers: Tensor,
    rows: str | Sequence[str],
    *,
    columns: str | None = None,
    scale: str = "signed",
    parts: int = 1,
) -> dict[str, Any]:
    """Returns a matrix, drawn as coloured strips or, where it is small and its columns have names, as a table.

    Args:
        title: above it.
        numbers: [rows, columns], or [H, rows, columns] of H heads, of which the reader chooses one.
        rows: the row's names, or which of the page's words they are.
        columns: which of the page's words the columns are; numbered where left out.
        scale: "signed", coloured from the least to the greatest around 0; "unit", from 0 to 1.
        parts: how many parts, such as heads, lie side by side in a row.
    """
    return {"kind": "matrix", "title": title, "rows": rows, "columns": columns, "scale": scale, "parts": parts} | {
        "shape": list(numbers.shape),
        "numbers": packed(numbers),
    }


def norm_view(before: Tensor, after: Tensor, rows: str) -> dict[str, Any]:
    """Returns each row's mean and standard deviation before and after a norm.

    Args:
        before: [T, D].
        after: the same.
        rows: which of the page's words they are.
    """
    numbers = [[[float(row.mean()), float(row.std(correction=0))] for row in part] for part in (before, after)]
    return {"kind": "norm", "rows": rows, "before": numbers[0], "after": numbers[1]}


def candidates(
    title: str,
    logits: Tensor,
    rows: str | Sequence[str],
    words: Callable[[Sequence[int]], Sequence[str]],
    *,
    chosen: Sequence[int],
) -> dict[str, Any]:
    """Returns the likeliest words of each place, with what makes probabilities of their logits.

    Args:
        title: above them.
        logits: [T, V].
        rows: which of the page's words the places are.
        words: gives the words of ids.
        chosen: [T] the id that stands at each place, told where it is among the candidates; -1 for none.

    Raises:
        ValueError: logits that are no numbers.
    """
    if logits.isnan().any():
        raise ValueError("a model must compute numbers; got NaN among its logits: did its training diverge?")
    top, ids = logits.float().topk(min(MOST_CANDIDATES, logits.shape[-1]))
    places = [
        {
            "log_sum": float(row.float().logsumexp(-1)),
            "chosen": int(given),
            "words": list(words(numbers.tolist())),
            "ids": numbers.tolist(),
            "logits": best.tolist(),
        }
        for row, best, numbers, given in zip(logits, top, ids, chosen, strict=True)
    ]
    return {"kind": "candidates", "title": title, "rows": rows, "places": places}


MOST_CANDIDATES = 12
