"""Text that strangers may read: of every place on this machine only the last name is left."""

import re
from collections.abc import Mapping
from typing import Any

STAND_IN = "FOLDER"  # for a place whose last name is a person's
HOMES = ("home", "Users", "users")
SCHEMES = ("http", "https", "hf", "doi")  # what these lead to is public
URL = re.compile(r"\b([A-Za-z][\w+.-]*)://([^\s\"'`<>()\]]*)")
WHOLE = re.compile(r"(?:[/\\~]|[A-Za-z]:[/\\]|(?:[^\n]*[/\\])?\.\.(?:[/\\]|$))[^\n]*")
# Inside a text a place begins where no word, other path or URL goes on.
INSIDE = re.compile(r"(?<![\w./\\~<-])(?:~[\w.-]*|[A-Za-z]:|\.\.)?[/\\](?![/\\*])[^\s\"'`<>|:;,)\]]+")


def without_places(value: Any) -> Any:
    """Returns plain values with every absolute path, path with "..", home folder, host and user of a URL left out.

    A path becomes its last name, or FOLDER where that is the name of a home. Keys of mappings are treated as values.

    Args:
        value: what JSON or YAML give.
    """
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, Mapping):
        return {without_places(key): without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    return value


def _clean(text: str) -> str:
    if WHOLE.fullmatch(text):
        return _last_name(text)
    text = URL.sub(_public, text)
    return INSIDE.sub(lambda found: _last_name(found.group()), text)


def _public(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    if scheme.lower() not in SCHEMES:
        return _last_name(rest)
    return f"{scheme}://{rest.rpartition('@')[2] if '@' in rest.partition('/')[0] else rest}"


def _last_name(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
    if not parts or parts == ["root"] or parts[-1].startswith("~") or re.fullmatch(r"[A-Za-z]:", parts[-1]):
        return STAND_IN
    return STAND_IN if len(parts) > 1 and parts[-2] in HOMES else parts[-1]
