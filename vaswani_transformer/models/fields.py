"""Checks that the fields of every configuration share; each raises a ValueError with the rule, then what was got."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeGuard

from transformers.activations import ACT2FN


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def nearest(name: object, choices: Iterable[str]) -> str:
    """The end of a message that names the nearest right choice; empty where none is near."""
    match = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def take_overrides(config_class: Any, fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration's fields with the caller's in their place, so that they are checked like all others.

    transformers sets a caller's fields on the finished configuration, past every check.

    Args:
        config_class: whose fields and other names of fields these are.
        fields: as saved, under the class's own names.
        given: keyword arguments of `from_pretrained`; the fields among them are taken out.
    """
    names = {name: config_class.attribute_map.get(name, name) for name in given}
    own = {*config_class.__annotations__, "problem_type"} & config_class.__dataclass_fields__.keys()
    return fields | {names[name]: given.pop(name) for name in list(given) if names[name] in own}


def check_size(name: str, value: object) -> None:
    """Refuses what is no positive integer."""
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {name}={value!r}")


def check_rate(name: str, value: object) -> None:
    """Refuses what is no number in [0, 1)."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1); got {name}={value!r}")


def check_switch(name: str, value: object) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false; got {name}={value!r}")


def check_token(name: str, value: object, vocab_size: int) -> None:
    """Refuses what is no id of the vocabulary; None is no token at all."""
    for token in value if isinstance(value, list) else [value]:
        if token is not None and not (is_integer(token) and 0 <= token < vocab_size):
            raise ValueError(f"{name} must be in [0, vocab_size={vocab_size}); got {name}={value!r}")


def check_activation(name: str, value: object) -> None:
    """Refuses what is no name in transformers' ACT2FN."""
    if not isinstance(value, str) or value not in ACT2FN:
        raise ValueError(f"{name} must be a name in transformers' ACT2FN; got {name}={value!r}{nearest(value, ACT2FN)}")
