"""A forward pass stage by stage as a page: each stage with its equation, its line of code, its shapes and numbers."""

from typing import Any

from .page import make_page


def explain_page(explained: dict[str, Any], *, model: str) -> str:
    """Returns one HTML file that asks nothing of any network.

    Args:
        explained: what `explain_model` returns.
        model: its name, for the title.
    """
    title = f"What {model} computes"
    about = (
        f"The forward pass of this {explained['family']}, layer {explained['layer']}, with the numbers that it really "
        "computed. Point at a colour, or move with the arrow keys, to read the number."
    )
    return make_page("explain", {"title": title, "about": about} | explained, title=title, parts=("views", "beam"))
