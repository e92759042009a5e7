"""GPT's tokenizer of 2018 from the files that transformers' OpenAIGPTTokenizer is saved in."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ..models import VaswaniGPTTokenizer
from .untrusted import load_json

ROLES = ("unk_token", "bos_token", "eos_token", "sep_token", "pad_token", "cls_token", "mask_token")


def tokenizer_of_2018(folder: Path) -> VaswaniGPTTokenizer:
    """Returns the tokenizer with a folder's vocabulary: from vocab.json and merges.txt, else from tokenizer.json.

    Raises:
        ImportError: without ftfy or spaCy.
        ValueError: broken files, an added token that has another id here.
    """
    if (folder / "vocab.json").is_file():
        return VaswaniGPTTokenizer.from_pretrained(folder, local_files_only=True)
    found, path = load_json(folder / "tokenizer.json"), folder / "tokenizer_config.json"
    settings = load_json(path) if path.is_file() else {}
    roles = {role: settings[role] for role in ROLES if settings.get(role) is not None}
    roles = {role: token["content"] if isinstance(token, dict) else token for role, token in roles.items()}
    vocab, merges = found["model"]["vocab"], found["model"]["merges"]
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "vocab.json", Path(place) / "merges.txt"
        files[0].write_text(json.dumps(vocab), encoding="utf-8")
        lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
        files[1].write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8", newline="\n")
        tokenizer = VaswaniGPTTokenizer(*files, unk_token=roles.get("unk_token", "<unk>"))
    _add(tokenizer, found.get("added_tokens", []), roles)
    return tokenizer


def _add(tokenizer: VaswaniGPTTokenizer, added: list[dict[str, Any]], roles: dict[str, str]) -> None:
    tokens = sorted(added, key=lambda token: token["id"])
    tokenizer.add_tokens([token["content"] for token in tokens if token["content"] not in tokenizer.get_vocab()])
    tokenizer.add_special_tokens(roles)  # type: ignore[arg-type]
    ids = tokenizer.get_vocab()
    if wrong := {token["content"]: token["id"] for token in tokens if ids[token["content"]] != token["id"]}:
        raise ValueError(f"added tokens must follow the vocabulary; got {wrong}, of {len(ids)} tokens in all")
