"""The source-and-target tokenizer of the original Transformer (section 5.1 of Vaswani et al. 2017): byte-pair encoding
(English-German) or word pieces (English-French), one vocabulary for both languages.

Both kinds work on the 256 bytes, so any text there is comes back exactly as it went in. A space is put before each text
and taken off again on decoding: the first word of a sentence is then the same token as that word elsewhere.
"""

import copy
import logging
import os
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as backend_models
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, EOS, UNK)  # their ids are 0, 1, 2
KINDS = ("bpe", "wordpiece")

# Marks a piece that goes on inside a word. It stands outside the byte alphabet, so no text can be taken for it.
CONTINUATION = "\u2581"
# WordPiece's longest match first is cubic in the length of a word: longer words are cut here first (loses nothing).
LONGEST_WORD = 64


def byte_alphabet() -> list[str]:
    """Returns the 256 characters that stand for the bytes, in a fixed order."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


class VaswaniTransformerTokenizer(PreTrainedTokenizerFast):
    """A shared source-and-target vocabulary, trained from text by `train`, saved as a stock fast tokenizer.

    Encoding appends `</s>`, for sources and for targets (`text_target=`) alike. `<pad>` is 0, `</s>` 1 and `<unk>` 2
    (never made from text: every byte has a token); there is no start token, the decoder starts from pad. The strings
    "</s>", "<pad>" and "<unk>" in a text are text (`split_special_tokens=True`): raw data cannot end a sentence early.

    Saved folders name transformers' own class: `AutoTokenizer` loads them where this package is not installed.

    Departures from the paper: bytes instead of characters underneath (the paper's code fell back to escaped code
    points), words split by GPT-2's regular expression, no casing, no normalisation, no Moses tokenisation.
    """

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int, kind: str = "bpe", min_frequency: int = 2
    ) -> "VaswaniTransformerTokenizer":
        """Learns a vocabulary from texts; the same texts and settings give the same tokenizer.

        Args:
            texts: sentences of both languages, in any order; read once, only word counts are kept in memory.
            vocab_size: tokens in all, special ones included. Fewer are made when the texts hold too little.
            kind: "bpe" (byte-pair encoding) or "wordpiece" (longest match first).
            min_frequency: how often a pair of pieces must occur to be merged.

        Returns:
            The tokenizer.

        Raises:
            ValueError: an unknown kind, a vocabulary smaller than bytes and special tokens, no text, no str.
        """
        _check_settings(texts, vocab_size, kind, min_frequency)
        backend = _train_backend(texts, vocab_size, kind, min_frequency)
        if len(backend.get_vocab()) < vocab_size:
            made = len(backend.get_vocab())
            logger.warning("the texts gave %d tokens instead of vocab_size=%d: too little text", made, vocab_size)
        return cls(
            tokenizer_object=backend,
            pad_token=PAD,
            eos_token=EOS,
            unk_token=UNK,
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
            padding_side="right",
            model_input_names=["input_ids", "attention_mask"],
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> tuple[str, ...]:
        """Saves `tokenizer.json` and `tokenizer_config.json` under the name of transformers' own class."""
        stock = copy.copy(self)
        stock.__class__ = PreTrainedTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainedTokenizerFast.save_pretrained(stock, save_directory, *args, **kwargs)


def smallest_vocabulary(kind: str) -> int:
    """Returns the size below which a text could not be encoded: special tokens and bytes (twice for word pieces)."""
    return len(SPECIAL_TOKENS) + 256 * (2 if kind == "wordpiece" else 1)


def _check_settings(texts: Iterable[str], vocab_size: int, kind: str, min_frequency: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind=}")
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < smallest_vocabulary(kind):
        raise ValueError(
            f"vocab_size must be a whole number of at least {smallest_vocabulary(kind)} for {kind} (special tokens and "
            f"bytes); got {vocab_size=}"
        )
    if isinstance(min_frequency, bool) or not isinstance(min_frequency, int) or min_frequency < 0:
        raise ValueError(f"min_frequency must be a whole number of at least 0; got {min_frequency=}")
    if isinstance(texts, str):
        raise ValueError(f"texts must be an iterable of sentences, not one string; got texts={texts[:40]!r}")


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


def _train_backend(texts: Iterable[str], vocab_size: int, kind: str, min_frequency: int) -> Tokenizer:
    alphabet = byte_alphabet()
    settings = {
        "vocab_size": vocab_size,
        "min_frequency": min_frequency,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    if kind == "bpe":
        model = backend_models.BPE()
        trainer = BpeTrainer(special_tokens=list(SPECIAL_TOKENS), **settings)
    else:
        model = backend_models.WordPiece(unk_token=UNK, max_input_chars_per_word=LONGEST_WORD)
        # The trainer numbers continuing characters in the order of a hash map, which differs from run to run, and makes
        # only those it meets. Named as special tokens they come first, all 256, in our order.
        continuing = [CONTINUATION + character for character in alphabet]
        trainer = WordPieceTrainer(
            special_tokens=[*SPECIAL_TOKENS, *continuing], continuing_subword_prefix=CONTINUATION, **settings
        )
    learner = _pipeline(model, kind)
    learner.train_from_iterator(_checked(texts), trainer=trainer)
    backend = _pipeline(learner.model, kind)  # without the trainer's idea of what is special
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, SPECIAL_TOKENS.index(EOS))]
    )
    return backend


def _pipeline(model: backend_models.Model, kind: str) -> Tokenizer:
    backend = Tokenizer(model)
    # Prepend always adds its space; ByteLevel's own add_prefix_space would not where one is there, and lose it.
    backend.normalizer = normalizers.Prepend(" ")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    text = [decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]
    if kind == "bpe":
        backend.pre_tokenizer = words
        backend.decoder = decoders.Sequence(text)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD)])
        backend.decoder = decoders.Sequence([decoders.Replace(CONTINUATION, ""), *text])
    return backend
