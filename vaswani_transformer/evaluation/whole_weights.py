"""Loading a model that has all its weights, or an error in words: transformers warns, and draws the rest at random."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as hf_logging


def load_whole(model_class: Any, name: str | Path, *, part: str, unneeded: str = "", **options: Any) -> Any:
    """Returns a model in evaluation mode. Weights of another head than the class has are left alone in silence.

    Args:
        model_class: a model's class or an Auto class.
        name: a folder, or a name on the Hub.
        part: what must have its weights there, for the message.
        unneeded: a part of the names of weights that may be missing; "" for none.
        options: of `from_pretrained`.

    Raises:
        OSError: nothing to load.
        ValueError: weights that are not there, or of other shapes than the configuration says.
    """
    with quiet_reports():
        found: Any = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    model, told = found
    missing = sorted(key for key in told["missing_keys"] if not unneeded or unneeded not in key)
    if missing:
        raise ValueError(f"MODEL must have the weights of its {part}; got {name} without {missing[0]}")
    if told["mismatched_keys"]:
        key, held, asked = sorted(told["mismatched_keys"])[0]
        raise ValueError(f"MODEL must have the weights of its config.json, {key} {tuple(asked)}; got {tuple(held)}")
    return model.eval()


@contextmanager
def quiet_reports() -> Iterator[None]:
    """Has transformers tell errors alone, where what it warns of is told in other words."""
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
