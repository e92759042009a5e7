"""An encoder and a decoder beside each other as a page: masks, attention of the blank, and what each puts there."""

from typing import Any

from .page import make_page


def compare_page(compared: dict[str, Any]) -> str:
    """Returns one HTML file that asks nothing of any network.

    Args:
        compared: what `compare_models` returns.
    """
    *first, last = (model["name"] for model in compared["models"])
    title = "The same blank, filled by " + (f"{', '.join(first)} and {last}" if first else last)
    return make_page("compare", {"title": title} | compared, title=title, parts=("views",))
