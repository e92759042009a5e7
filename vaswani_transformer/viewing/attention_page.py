"""The attention of a model to a text as a page: lines between words, heat maps, heads side by side, all layers."""

from collections.abc import Mapping
from typing import Any

from .attention_maps import AttentionMap
from .page import STEPS, make_page, packed_weights


def attention_page(
    maps: Mapping[str, AttentionMap],
    *,
    model: str,
    kind: str | None = None,
    layer: int = 1,
    head: int | None = None,
    notice: str = "",
) -> str:
    """Returns one HTML file that asks nothing of any network.

    Args:
        maps: what `attention_maps` returns.
        model: its name, for the title.
        kind: that is shown first.
        layer: the same, from 1.
        head: the same, from 1; the mean of all where left out.
        notice: what the reader must know, such as that the text was cut.
    """
    first = kind or next(iter(maps))
    shapes = {name: found.weights.shape for name, found in maps.items()}
    data: dict[str, Any] = {
        "title": f"Attention of {model}",
        "about": "softmax(Q Kᵀ / √d_k), section 3.2.1 of Vaswani et al. (2017): the weights of the model itself",
        "notice": notice,
        "steps": STEPS,
        "start": {"kind": first, "layer": layer - 1, "head": "all" if head is None else head - 1},
        "maps": {
            name: {
                "looking": found.looking,
                "seen": found.seen,
                "same": name != "cross",
                "layers": shapes[name][0],
                "heads": shapes[name][1],
                "packed": packed_weights(found.weights),
            }
            for name, found in maps.items()
        },
    }
    return make_page("attention", data, title=data["title"])
