"""Pages that are one file: the data stand in them, and they ask nothing of any network."""

import base64
import json
import re
import unicodedata
import zlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

STEPS = 2**19  # a weight is told to half of 1 / STEPS, which is below 1e-6
LONGEST_WORD = 24  # letters of a token that are shown


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
        "TITLE": escape(named(title)),
        "STYLE": read("page.css", *(f"{part}.css" for part in parts if (place / f"{part}.css").is_file())),
        "BODY": read(f"{name}.html"),
        "DATA": json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
        "CODE": read("page.js", *(f"{part}.js" for part in parts), f"{name}.js"),
    }
    return re.sub("@([A-Z]+)@", lambda mark: found[mark[1]], read("page.html"))


def named(text: str) -> str:
    """Returns a text as pages show it: what has no shape, or turns the direction of others, is told by its number."""
    joiners = "" if set(text) <= {"\u200c", "\u200d"} else "\u200c\u200d"  # which alone are nothing too
    unseen = ("Cc", "Cf", "Zl", "Zp", "Cs")
    return "".join(
        f"\\u{ord(letter):04x}" if unicodedata.category(letter) in unseen and letter not in joiners else letter
        for letter in text
    )


def shown(word: str) -> str:
    """Returns a token as pages show it, a long one cut."""
    safe = named(word)
    return safe if len(safe) <= LONGEST_WORD else safe[: LONGEST_WORD - 1] + "…"


def packed_weights(weights: np.ndarray) -> str:
    """Returns numbers from 0 to 1 in few letters, each to within 1e-6.

    Multiples of 1 / `STEPS` in three bytes, the first bytes of all, then the second and the third, compressed (zlib)
    and written in base64. The page unpacks them.
    """
    numbers = np.rint(weights.astype(np.float64).ravel() * STEPS).astype("<u4")
    return _deflated(numbers.view(np.uint8).reshape(-1, 4)[:, :3])


def packed_digits(numbers: np.ndarray, bits: int) -> str:
    """Returns numbers in fewer letters, each to within one part in 2^(bits + 1).

    float32 whose mantissas are rounded to so many bits, the highest bytes of all, then the second and the third,
    compressed as `packed_weights` are.

    Args:
        numbers: of any size.
        bits: of the mantissa, at most 15.
    """
    dropped = 23 - bits
    whole = np.ascontiguousarray(numbers, "<f4").ravel().view("<u4").astype(np.uint64)
    rounded = ((whole + (1 << dropped >> 1)) >> dropped << dropped).astype("<u4")
    return _deflated(rounded.view(np.uint8).reshape(-1, 4)[:, :0:-1])


def _deflated(bytes_of: np.ndarray) -> str:
    """The columns of bytes one behind another, compressed."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(bytes_of.T).tobytes(), 6)).decode("ascii")
