"""The attention of a model to a text as a picture, PNG or SVG."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from .attention_maps import AttentionMap
from .page import named, shown

LARGEST_TEXT = 30  # tokens of several heads that still have room for their names; one head always has
LARGEST_SIDE = 20.0  # inches, of one head
LETTER = 0.1  # inches, the width of a letter of the title at most, all but the widest


def draw_attention(found: AttentionMap, out: str | Path, *, title: str, layer: int | None, head: int | None) -> None:
    """Draws heat maps: one head large, the heads of a layer, or all layers.

    Args:
        found: of one kind of attention.
        out: the file, .png or .svg.
        title: above it.
        layer: from 1; all layers, a row each, where left out.
        head: from 1; all heads of the layer where left out.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install 'vaswani-transformer[viz]'") from error
    layers, heads, rows, columns = found.weights.shape
    chosen = [(row, column) for row in range(layers) for column in range(heads)]
    chosen = [(row, column) for row, column in chosen if layer in (None, row + 1) and head in (None, column + 1)]
    wide = len({column for _, column in chosen})
    across = min(wide, 4) if layer is not None else wide
    down = -(-len(chosen) // across)
    most = max(rows, columns)
    labelled = len(chosen) == 1 or (len(chosen) <= 4 and most <= LARGEST_TEXT)
    side = max(3.0, min(0.28 * most, LARGEST_SIDE)) if labelled else 1.6
    width = side * across + 0.5
    figure: Any = Figure(figsize=(width, side * down + 0.8), layout="constrained")
    places = np.ravel(figure.subplots(down, across, squeeze=False))
    for place, (row, column) in zip(places, chosen, strict=False):
        place.imshow(found.weights[row, column], vmin=0, vmax=1, cmap="Blues", norm="linear", aspect="auto")
        place.set_title(f"layer {row + 1}, head {column + 1}", fontsize=9)
        _name(place, found if labelled else None)
    for place in places[len(chosen) :]:
        place.set_visible(False)
    lines = textwrap.fill(named(title), int(width / LETTER))
    figure.suptitle(lines, fontsize=11, parse_math=False)
    figure.savefig(out, dpi=150, metadata={"Title": named(title)})  # an SVG is told by it, whose letters are curves


def _name(place: Any, found: AttentionMap | None) -> None:
    """Puts the tokens beside a heat map."""
    if found is None:
        place.set(xticks=[], yticks=[])
        return
    columns, rows = ([shown(word) for word in words] for words in (found.seen, found.looking))
    place.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, parse_math=False)
    place.set_yticks(range(len(rows)), rows, fontsize=8, parse_math=False)
