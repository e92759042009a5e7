"""The byte-level tokenizer of GPT-2 and GPT-3 (Radford et al. 2019, 2.2): transformers' own, and its training."""

import copy
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as backend_models
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Tokenizer

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257  # the bytes and the end of text


class VaswaniGPT2Tokenizer(GPT2Tokenizer):
    """transformers' GPT-2 tokenizer, which is faithful, with a way to learn one from texts.

    `from_pretrained` takes any folder or Hub repository of a `gpt2` model. Saved folders name transformers' own class:
    `AutoTokenizer` loads them, with the same ids, where this package is not installed. Any text comes back exactly.
    """

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, min_frequency: int = 2) -> "VaswaniGPT2Tokenizer":
        """Learns a vocabulary from texts; the same texts and settings give the same tokenizer.

        Args:
            texts: in any order; read once, only word counts are kept in memory.
            vocab_size: tokens in all: 256 bytes, the merged ones, and <|endoftext|>, which has the last id, as in
                GPT-2. Fewer are made when the texts hold too little.
            min_frequency: how often a pair of pieces must occur to be merged.

        Returns:
            The tokenizer.

        Raises:
            ValueError: a vocabulary smaller than bytes and <|endoftext|>, no text, no str.
        """
        for name, value, least in (("vocab_size", vocab_size, SMALLEST), ("min_frequency", min_frequency, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {name}={value!r}")
        if isinstance(texts, str):
            raise ValueError(f"texts must be an iterable of texts, not one string; got texts={texts[:40]!r}")
        learner = Tokenizer(backend_models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=min_frequency,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        learner.train_from_iterator(_checked(texts), trainer=trainer)
        vocab, merges = _learnt(learner)
        vocab[END_OF_TEXT] = len(vocab)
        if len(vocab) < vocab_size:
            logger.warning("the texts gave %d tokens instead of vocab_size=%d: too little text", len(vocab), vocab_size)
        return cls(vocab=vocab, merges=merges)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> tuple[str, ...]:
        """Saves `tokenizer.json` and `tokenizer_config.json` under the name of transformers' own class."""
        stock = copy.copy(self)
        stock.__class__ = GPT2Tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        return GPT2Tokenizer.save_pretrained(stock, save_directory, *args, **kwargs)


def _learnt(learner: Tokenizer) -> tuple[dict[str, int], Any]:
    """The tokens by their ids and the merges in their order, as the learner would write them down."""
    model = json.loads(learner.to_str())["model"]
    return dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yields texts, telling of one that is no str and of their being all empty."""
    anything = False
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts must be strings; got {type(text).__name__} as text number {number}")
        anything = anything or bool(text)
        yield text
    if not anything:
        raise ValueError("texts must hold at least one that is not empty; got none")
