"""The command that a resolved recipe came from: a recipe that ships, and the keys that differ from it."""

import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..finetune_recipe import FinetuneRecipe
from ..recipe import Recipe, load_recipe, recipe_names
from ..sections import parse_yaml
from .local_names import without_places

logger = logging.getLogger(__name__)

MOST_VALUES = 24  # a command with more is no easier to read than the recipe itself


def command_of(recipe: Mapping[str, Any], *, name: str) -> str | None:
    """Returns the `vaswani train` or `finetune` command that trains a recipe again; None where no shipped one is near.

    What is returned has been tried: loaded with these keys, the shipped recipe is the given one. Of a place on this
    machine the last name alone is told.

    Args:
        recipe: resolved, as `run.json` has it.
        name: of the folder that the command writes under runs/.
    """
    kind = FinetuneRecipe if "task" in recipe["data"] else Recipe
    try:
        wanted = kind.from_dict(recipe).to_dict()
    except ValueError as error:  # a recipe of another version of this package
        logger.info("no command for the card: %s", error)
        return None
    found = [(shipped, keys) for shipped in recipe_names() if (keys := _keys(shipped, wanted, kind)) is not None]
    if not found:
        return None
    shipped, keys = min(found, key=lambda pair: (_leaves(pair[1]), pair[0] not in str(recipe["output"])))
    verb = "finetune" if kind is FinetuneRecipe else "train"
    words = [f"{key}={_as_yaml(without_places(value))}" for key, value in keys.items()]
    return shlex.join(["vaswani", verb, shipped, *words, "--out", f"runs/{name}"])


def _keys(shipped: str, wanted: Mapping[str, Any], kind: type[Any]) -> dict[str, Any] | None:
    """The keys that make the shipped recipe the wanted one; None where they are many, or it is of the other kind."""
    try:
        given = load_recipe(shipped, kind=kind).to_dict()
    except ValueError:  # a recipe of the other kind
        return None
    keys = dict(_differences({**given, "output": ""}, {**wanted, "output": ""}))
    if _leaves(keys) > MOST_VALUES:
        return None
    again = load_recipe(shipped, [f"{key}={_as_yaml(value)}" for key, value in keys.items()], kind=kind)
    return keys if {**again.to_dict(), "output": ""} == {**wanted, "output": ""} else None


def _differences(given: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    if prefix and set(given) - set(wanted):  # a key cannot be taken back one by one
        yield prefix.removesuffix("."), dict(wanted)
        return
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            yield from _differences(given[key], value, f"{prefix}{key}.")
        elif key not in given or given[key] != value:
            yield f"{prefix}{key}", value


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value.values())) if isinstance(value, Mapping) else 1


def _as_yaml(value: Any) -> str:
    """A value as a recipe's override has it: JSON is YAML, and a word that YAML reads as itself needs no quotes."""
    if isinstance(value, str) and re.fullmatch(r"[\w/.-]+", value) and parse_yaml(value, where="a word") == value:
        return value
    return json.dumps(value, ensure_ascii=False)
