"""A forward pass stage by stage as a page: each stage with its equation, its line of code, its shapes and numbers."""

import base64
from typing import Any

import numpy as np

from .page import make_page, packed_digits

LARGEST = 6_000_000  # letters of a page; numbers of a larger one are rounded
ROUNDED = ((4, 12), (3, 9))  # digits that are shown, bits that hold them


def explain_page(explained: dict[str, Any], *, model: str) -> str:
    """Returns one HTML file that asks nothing of any network.

    The numbers are float32 as the model computed them. Where the page would have more than `LARGEST` letters they are
    rounded, to 4 digits or to 3, with a notice.

    Args:
        explained: what `explain_model` returns.
        model: its name, for the title.
    """
    title = f"What {model} computes"
    about = (
        f"The forward pass of this {explained['family']}, layer {explained['layer']}, with the numbers that it really "
        "computed. Point at a colour, or move with the arrow keys, to read the number."
    )
    data = {"title": title, "about": about, "digits": 6} | explained
    page = _made(data)
    for digits, bits in ROUNDED:
        if len(page) > LARGEST:
            page = _made(_rounded(data, digits, bits))
    return page


def _made(data: dict[str, Any]) -> str:
    return make_page("explain", data, title=data["title"], parts=("views", "beam"))


def _rounded(data: dict[str, Any], digits: int, bits: int) -> dict[str, Any]:
    """The same data with numbers of fewer digits."""
    told = (
        f"So that the page stays under {LARGEST // 10**6} MB, the numbers of its matrices are told to {digits} digits."
    )

    def rounded(view: dict[str, Any]) -> dict[str, Any]:
        if "numbers" not in view:
            return view
        numbers = np.frombuffer(base64.b64decode(view["numbers"]), "<f4")
        return view | {"numbers": packed_digits(numbers, bits)}

    def stage(found: dict[str, Any]) -> dict[str, Any]:
        return found | {"views": [rounded(view) for view in found["views"]]}

    parts = [part | {"stages": [stage(found) for found in part["stages"]]} for part in data["parts"]]
    return data | {"parts": parts, "digits": digits, "notice": f"{data['notice']} {told}".strip()}
