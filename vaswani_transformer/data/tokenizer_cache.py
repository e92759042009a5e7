"""Tokenizers of recipes, whatever the family: loaded by name, told apart by a hash, kept in the cache."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase


def digest(values: Any) -> str:
    """Returns a hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a hash of everything that decides how a tokenizer encodes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content |= {"truncation": None, "padding": None}  # of the last call, not of the tokenizer
    else:
        content = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    split = getattr(tokenizer, "split_special_tokens", False)
    return digest([content, split, tokenizer.pad_token_id, tokenizer.eos_token_id])


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that a recipe's tokenizer.from names.

    Raises:
        ValueError: nothing there, or a folder without a tokenizer.
    """
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:  # transformers' words for a folder without one are about packages
        raise ValueError(f"tokenizer.from must name a folder or Hub repository; got {source!r}") from error


def move_into_place(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves under a name of its own, then renames: another process may be doing the same, and the first one wins."""
    staged = tempfile.mkdtemp(dir=folder.parent, prefix="tokenizer-", suffix=".partial")
    try:
        tokenizer.save_pretrained(staged)
        os.rename(staged, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
