"""Dataclasses read from YAML: every key known, every type checked, every complaint in the words of the file."""

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Section = TypeVar("Section")


def read_section(section: type[Section], values: Any, where: str = "") -> Section:
    """Builds a dataclass from a mapping, checking every key and type. Data modules read their options with it.

    Args:
        section: a dataclass whose field types are built of int, float, str, bool, Any, Path, Literal, list, tuple,
            dict, unions and other dataclasses. An int is taken for a float; nothing else is converted.
        values: the mapping, as YAML gives it.
        where: dotted name of the mapping, for messages.

    Raises:
        ValueError: unknown key (with the nearest right one), missing key, wrong type.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'a recipe'} must be a mapping of keys; got {values!r}")
    assert dataclasses.is_dataclass(section)
    names = [item.name for item in dataclasses.fields(section)]
    for key in values:
        if key not in names:
            raise ValueError(unknown_name(f"{prefix}{key}", [prefix + name for name in names], "recipe key"))
    kinds = get_type_hints(section)
    given = {str(key): _read_value(kinds[key], value, prefix + key) for key, value in values.items()}
    for item in dataclasses.fields(section):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in given:
            raise ValueError(f"recipe key {prefix}{item.name} is required and missing")
    return section(**given)


def unknown_name(name: str, choices: Sequence[str], what: str) -> str:
    """Returns a message for a name nobody knows: the nearest right one, then all of them."""
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(choices)})"


def _read_value(kind: Any, value: Any, where: str) -> Any:
    """Checks one value against a type annotation and returns it, an int widened where a float is due."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal and value in arguments and isinstance(value, str):
        return value
    if origin is list and isinstance(value, list | tuple):
        return [_read_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(key): _read_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return read_section(kind, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if kind is Any or (kind in (dict, list) and isinstance(value, kind)):
        return value
    if kind in (int, float, str, bool, type(None)) and type(value) is kind:  # type(): True is not taken for 1
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{where} must be {_describe(kind)}; got {value!r} ({type(value).__name__})")


def _read_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """Returns the value read as the first member that takes it; the error of the only non-null member is kept."""
    if value is None and type(None) in kinds:
        return None
    members = [kind for kind in kinds if kind is not type(None)]
    if len(members) == 1:
        return _read_value(members[0], value, where)
    for kind in members:
        try:
            return _read_value(kind, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where} must be {' or '.join(map(_describe, kinds))}; got {value!r} ({type(value).__name__})")


def _describe(kind: Any) -> str:
    """Names a type as a reader of YAML would."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (list, tuple):
        return f"a list, each {_describe(get_args(kind)[0])}"
    if get_origin(kind) in (dict, Mapping) or dataclasses.is_dataclass(kind) or kind is dict:
        return "a mapping"
    return getattr(kind, "__name__", str(kind))


def at_least(least: int, **values: float | None) -> None:
    """Raises ValueError where a value that is set lies below the least allowed; the keywords are the keys' names."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; got {name}={value}")


def above_zero(**values: float | None) -> None:
    """Raises ValueError where a value that is set is not positive."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0; got {name}={value}")


class _Yaml12Loader(yaml.SafeLoader):
    """YAML whose plain words mean what they do in YAML 1.2, and whose keys may not repeat.

    PyYAML speaks YAML 1.1: there 1e-9 is text, `no` (Norwegian) is false, 1:30 is ninety and 010 is eight.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|", "~n"),
):
    # PyYAML takes the first pattern that matches, so int stands before the float pattern that would match it too.
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the plain values of a YAML text, read by the rules of YAML 1.2; ValueError where it is broken."""
    try:
        return yaml.load(text, Loader=_Yaml12Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} must be valid YAML; got {error}") from error
