"""The cache by both of its names: `cache` from transformers 5.24 on, `past_key_values` before."""

from typing import Any

from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What this transformers calls it, in a model's output and where `generate` gives it to a model."""


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Returns the cache that a caller gave by either name.

    Args:
        cache: by the newer name.
        past_key_values: by the older.

    Raises:
        ValueError: both.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("a cache must be given by one name; got cache and past_key_values: give cache")
    return past_key_values if cache is None else cache


def named_cache(cache: Cache | None) -> dict[str, Any]:
    """Returns a cache under the name that outputs of this transformers have for it."""
    return {CACHE: cache}
