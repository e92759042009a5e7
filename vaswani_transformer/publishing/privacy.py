"""What must not become public: optimiser states, data, logs, tokens, paths, names of users."""

import getpass
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .contents import CODE, Contents, may_travel

# A person's folder on any system, whose name is the user's. Behind a word or a dot it is a part of an address.
HOME = re.compile(r"(?<![\w.])(?:/home/|/Users/|/root/|[A-Za-z]:(?:\\+|/)Users(?:\\+|/))[\w.-]+")
# Where machines that people share keep their work.
ROOTS = "tmp|var|mnt|media|data|scratch|work|workspace|content|kaggle|opt|srv|nfs|gpfs|lustre|Volumes|private|storage"
WORK = re.compile(rf"(?<![\w./:~-])/(?:{ROOTS})/[\w.-]+")
HUB_TOKEN = re.compile(r"\bhf_(?:oauth_\S{16,}|[A-Za-z0-9]{20,})")
ABSOLUTE = re.compile(r"(?:/[^/\s]+){3,}/?|[A-Za-z]:[\\/].+|file://.+|~[\\/].+")
# Accounts that many people have: no one's name. They are words as well.
SHARED_ACCOUNTS = ("root", "user", "ubuntu", "admin", "jovyan", "runner", "nobody", "")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
VOCABULARIES = (*VOCABULARIES, "source.spm", "target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json")
HEADER_LENGTH = 8  # bytes of a safetensors file that say how long its header is
SHOWN = 40  # characters of what was found


def refuse_private(contents: Contents, repo: str) -> None:
    """Checks all that would be sent: names against the list of what travels, then text for what tells of a person.

    Weights are looked into as far as their headers. A user's name is looked for where people and programs write of
    machines, not in pictures, vocabularies and this package's own code, where it may be letters like any others.

    Args:
        contents: all that would be sent.
        repo: NAMESPACE/NAME; the namespace is public, so that it is no secret where it is also a user's name here.

    Raises:
        ValueError: what was found, file by file.
    """
    found = [f"{name}: no file that a model's repository has" for name in contents if not may_travel(name)]
    for name, content in contents.items():
        if may_travel(name):
            found += [f"{name}: {what}" for what in _findings(name, content, repo)]
    if found:
        raise ValueError(
            "nothing that tells of a machine or a person may be published, and no file but those of a model; got "
            + "; ".join(found)
            + ": take it out, nothing was sent"
        )


def _findings(name: str, content: Path | bytes, repo: str) -> Iterator[str]:
    text = _text(name, content)
    yield from (f"a path, {_shown(match)}" for match in HOME.finditer(text))
    yield from (f"a token of the Hub, {match[0][:6]}..." for match in HUB_TOKEN.finditer(text))
    if name in CODE or name in VOCABULARIES or name.endswith(".png"):
        return
    yield from (f"a path, {_shown(match)}" for match in WORK.finditer(text))
    user = _user()
    if user not in (*SHARED_ACCOUNTS, repo.partition("/")[0]) and re.search(rf"\b{re.escape(user)}\b", text):
        yield f"the user's name, {user}"
    if name.endswith(".json"):
        yield from (f"a path, {value[:SHOWN]}" for value in _strings(json.loads(text)) if ABSOLUTE.fullmatch(value))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process without an account, as in some containers
        return ""


def _shown(match: re.Match[str]) -> str:
    return match[0][:SHOWN]


def _text(name: str, content: Path | bytes) -> str:
    """What of a file is looked into; of weights, their header, which is JSON."""
    if isinstance(content, bytes):
        return content.decode("utf-8", errors="replace")
    with content.open("rb") as file:
        if name.endswith(".safetensors"):
            return file.read(int.from_bytes(file.read(HEADER_LENGTH), "little")).decode("utf-8", errors="replace")
        return file.read().decode("utf-8", errors="replace")


def _strings(value: Any) -> Iterator[str]:
    """Every text in what JSON gives."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
