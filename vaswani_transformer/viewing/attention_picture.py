"""The attention of a model to a text as a picture, PNG or SVG."""

from pathlib import Path
from typing import Any

import numpy as np

from .attention_maps import AttentionMap

LARGEST_TEXT = 30  # tokens that still have room for their names


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
    shown = [(row, column) for row in range(layers) for column in range(heads)]
    shown = [(row, column) for row, column in shown if layer in (None, row + 1) and head in (None, column + 1)]
    wide = len({column for _, column in shown})
    across = min(wide, 4) if layer is not None else wide
    down = -(-len(shown) // across)
    named = len(shown) <= 4 and max(rows, columns) <= LARGEST_TEXT
    side = max(3.0, 0.28 * max(rows, columns)) if named else 1.6
    figure: Any = Figure(figsize=(side * across + 0.5, side * down + 0.8), layout="constrained")
    places = np.ravel(figure.subplots(down, across, squeeze=False))
    for place, (row, column) in zip(places, shown, strict=False):
        place.imshow(found.weights[row, column], vmin=0, vmax=1, cmap="Blues", norm="linear", aspect="auto")
        place.set_title(f"layer {row + 1}, head {column + 1}", fontsize=9)
        _name(place, found if named else None)
    for place in places[len(shown) :]:
        place.set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(out, dpi=150)


def _name(place: Any, found: AttentionMap | None) -> None:
    """Puts the tokens beside a heat map; dollars in them begin no formula."""
    if found is None:
        place.set(xticks=[], yticks=[])
        return
    columns, rows = ([word.replace("$", r"\$") for word in words] for words in (found.seen, found.looking))
    place.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    place.set_yticks(range(len(rows)), rows, fontsize=8)
