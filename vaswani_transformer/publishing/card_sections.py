"""The sections of a model card that a program may renew, between marks, and a person's text around them."""

import re
from collections.abc import Mapping

MARK = re.compile(r"<!-- (/?)vaswani:([a-z0-9-]+) -->")
SECTION = re.compile(r"<!-- vaswani:([a-z0-9-]+) -->\n(.*?)\n?<!-- /vaswani:\1 -->", re.DOTALL)
Piece = tuple[str | None, str]  # a section's name and body, or None and a person's text


def split_sections(text: str) -> dict[str, str]:
    """Returns the sections of a text by name, in order, without blank ones.

    Raises:
        ValueError: a mark without its partner.
    """
    return {name: body for name, body in _pieces(text) if name is not None and body}


def join_sections(title: str, sections: Mapping[str, str]) -> str:
    """Returns a new text: a title, then the sections with their marks."""
    return "\n\n".join([title, *(_marked(name, body) for name, body in sections.items())]) + "\n"


def renew_sections(text: str, sections: Mapping[str, str]) -> str:
    """Returns a text with its sections renewed where they stand, and everything outside them kept.

    A section that the text does not have yet comes behind the one before it in `sections`, else in front of the next
    one, or at the end where the text has neither; one that is not in `sections` any more is taken out.

    Args:
        text: a card's, without its head.
        sections: bodies by name, in order.

    Raises:
        ValueError: a mark without its partner: what is a person's text and what is not cannot be told.
    """
    pieces: list[Piece] = []
    for name, body in _pieces(text):
        if name is None and pieces and pieces[-1][0] is None:  # a section between the two was taken out
            pieces[-1] = (None, pieces[-1][1].rstrip("\n") + body)
        elif name is None:
            pieces.append((None, body))
        elif name in sections:
            pieces.append((name, sections[name]))
    order = list(sections)
    for position, name in enumerate(order):
        if name not in [there for there, _ in pieces]:
            _insert(pieces, (name, sections[name]), before=order[:position], after=order[position + 1 :])
    return "".join(body if name is None else _marked(name, body) for name, body in pieces).rstrip("\n") + "\n"


def _insert(pieces: list[Piece], new: Piece, *, before: list[str], after: list[str]) -> None:
    places = {name: index for index, (name, _) in enumerate(pieces) if name is not None}
    if behind := [places[name] for name in before if name in places]:
        pieces[behind[-1] + 1 : behind[-1] + 1] = [(None, "\n\n"), new]
    elif ahead := [places[name] for name in after if name in places]:
        pieces[ahead[0] : ahead[0]] = [new, (None, "\n\n")]
    else:
        text = "".join(body for _, body in pieces).rstrip("\n")
        pieces[:] = [(None, text + "\n\n" if text else ""), new]


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for found in SECTION.finditer(text):
        pieces += [(None, text[end : found.start()]), (found.group(1), found.group(2).strip())]
        end = found.end()
    pieces.append((None, text[end:]))
    for _, body in pieces:
        if stray := MARK.search(body):
            raise ValueError(
                f"a section of a card must stand between <!-- vaswani:NAME --> and <!-- /vaswani:NAME -->; got "
                f"{stray.group()} without its partner: restore it, or take both out"
            )
    return pieces


def _marked(name: str, body: str) -> str:
    return f"<!-- vaswani:{name} -->\n{body}\n<!-- /vaswani:{name} -->"
