"""Pages that are one file: the data stand in them, and they ask nothing of any network."""

import base64
import json
import re
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

STEPS = 2**19  # a weight is told to half of 1 / STEPS, which is below 1e-6


def make_page(name: str, data: dict[str, Any], *, title: str, parts: Sequence[str] = ()) -> str:
    """Returns a page with its data, style and code in it.

    Args:
        name: of the page's body and code, NAME.html and NAME.js beside this module.
        data: what JSON can hold; texts are shown as text, whatever stands in them.
        title: of the page.
        parts: code and style that it shares with other pages, PART.js and PART.css.
    """
    place = files("vaswani_transformer.viewing")

    def read(*names: str) -> str:
        return "".join((place / name).read_text(encoding="utf-8") for name in names)

    found = {
        "TITLE": title.replace("&", "&amp;").replace("<", "&lt;"),
        "STYLE": read("page.css", *(f"{part}.css" for part in parts if (place / f"{part}.css").is_file())),
        "BODY": read(f"{name}.html"),
        "DATA": json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
        "CODE": read("page.js", *(f"{part}.js" for part in parts), f"{name}.js"),
    }
    return re.sub("@([A-Z]+)@", lambda mark: found[mark[1]], read("page.html"))


def packed_weights(weights: np.ndarray) -> str:
    """Returns numbers from 0 to 1 in few letters, each to within 1e-6.

    Multiples of 1 / `STEPS` in three bytes, the first bytes of all, then the second and the third, compressed (zlib)
    and written in base64. The page unpacks them.
    """
    numbers = np.rint(weights.astype(np.float64).ravel() * STEPS).astype("<u4")
    planes = numbers.view(np.uint8).reshape(-1, 4)[:, :3].T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode("ascii")
