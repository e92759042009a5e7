"""Texts of any length for models that read so many tokens: contexts lose their beginning, whole texts come in pieces.

What is cut is whole words, since a masked language model or an encoder-decoder has special tokens around a text that
must stay.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

Tokens = Callable[[str, str, str], Any]  # of a context, what follows it and its tail; see `Scorer`


def fitted(tokens: Tokens, context: str, continuation: str, *, most: int | None) -> tuple[Any, bool]:
    """Returns the tokens of a context's end and what follows it, and whether words of the context were left out.

    Args:
        tokens: what `Scorer.tokens` is.
        context: may be empty.
        continuation: what is scored, whole.
        most: tokens that the model reads; None for any number.

    Raises:
        ValueError: a continuation that does not fit alone.
    """
    whole = tokens(context, continuation, "")
    if most is None or whole.read <= most:
        return whole, False
    begins = [*[word.start() for word in re.finditer(r"\S+", context)][1:], len(context)]
    first = bisect_left(begins, True, key=lambda begin: tokens(context[begin:], continuation, "").read <= most)
    if first == len(begins):
        raise ValueError(
            f"a continuation must fit the model's {most} tokens; got {tokens('', continuation, '').read}: "
            f"{continuation[:60]!r}"
        )
    return tokens(context[begins[first] :], continuation, ""), True


def pieces(tokens: Tokens, text: str, *, most: int | None) -> list[Any]:
    """Returns the tokens of a text, each word once, in as few pieces from its beginning as fit; none of a blank text.

    Raises:
        ValueError: a word that does not fit alone.
    """
    found, ends = [], [word.end() for word in re.finditer(r"\S+", text)]
    start = 0
    while ends:
        begin = start
        count = bisect_left(
            ends, True, key=lambda end: most is not None and tokens("", text[begin:end], "").read > most
        )
        if not count:
            raise ValueError(f"a word must fit the model's {most} tokens; got {text[start : ends[0]].strip()[:60]!r}")
        found.append(tokens("", text[start : ends[count - 1]], ""))
        start, ends = ends[count - 1], ends[count:]
    return found
