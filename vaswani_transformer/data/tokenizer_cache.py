"""Tokenizers of recipes, whatever the family: loaded by name, told apart by a hash, kept in the cache."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..models.tokenization_gpt import VaswaniGPTTokenizer

logger = logging.getLogger(__name__)

FORMAT = 1  # raise it when training a tokenizer changes, so that no older one is taken for today's


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


def load_tokenizer(source: str, *, kind: str | None = None) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that a recipe's tokenizer.from names.

    Args:
        source: a folder or Hub repository.
        kind: "gpt1" reads an openai-gpt vocabulary by OpenAI's rules, not by those of transformers' tokenizer.

    Raises:
        ValueError: nothing there, or a folder without a tokenizer.
    """
    try:
        return (VaswaniGPTTokenizer if kind == "gpt1" else AutoTokenizer).from_pretrained(source)
    except (OSError, ValueError) as error:  # transformers' words for a folder without one are about packages
        raise ValueError(f"tokenizer.from must name a folder or Hub repository; got {source!r}") from error


def load_or_train(
    section: Mapping[str, Any],
    learner: Any,
    *,
    kind: str,
    texts: Callable[[], tuple[Any, Iterator[str]]],
    folder: Path,
) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that a recipe's `tokenizer` section names, trained where it is not in the cache yet.

    Args:
        section: {kind, vocab_size, min_frequency} trains one, {from: folder or Hub name} loads one, with {kind: gpt1}
            by OpenAI's rules of 2018.
        learner: a tokenizer class with `train`.
        kind: what it learns.
        texts: the origin of the training text, and the text.
        folder: the cache.

    Raises:
        ValueError: another kind, no size, nothing at `from`.
    """
    if "from" in section:
        return load_tokenizer(section["from"], kind=section.get("kind"))
    if section.get("kind") != kind or "vocab_size" not in section:
        raise ValueError(f"tokenizer needs kind: {kind} and vocab_size, or from; got {dict(section)}")
    settings = {key: section[key] for key in ("vocab_size", "min_frequency") if key in section}
    origin, lines = texts()
    kept = folder / f"tokenizer-{kind}-{digest([FORMAT, settings, origin])[:20]}"
    if not kept.exists():
        logger.info("training a tokenizer of %d tokens", settings["vocab_size"])
        move_into_place(learner.train(lines, **settings), kept)
    return learner.from_pretrained(kept)


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
