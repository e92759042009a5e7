"""BERT's tokenizer (section 3 of Devlin et al. 2018, word pieces of Wu et al. 2016), with the ids of Google's code.

That code, tokenization.py, is a BasicTokenizer (words) before a WordpieceTokenizer (longest match first in a word).
"""

import copy
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as backend_models
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # of a vocabulary trained here their ids are 0 to 4
CONTINUATION = "##"
LONGEST_WORD = 200  # characters; a longer word is [UNK] (max_input_chars_per_word of Google's code, 100 elsewhere)
LARGEST_ALPHABET = 1000  # the rest of the characters, rare ones, are [UNK]

# What stock BertNormalizer and BertPreTokenizer do otherwise than Google's code, mended in front of them.
# It drops private use characters with the control characters: Google keeps them, the word is unknown.
DROPPED = Regex(r"[\x{0}\x{FFFD}\p{Cf}[\p{Cc}&&[^\t\n\r]]]")
# It lowers letter by letter: Python knows the sigma at the end of a word.
FINAL_SIGMA = Regex(r"(?<=\p{L})\x{3A3}(?!\p{L})")
# It leaves these 256 ideographs out (U+2B920 where Google has U+2B820).
LEFT_OUT_IDEOGRAPHS = Regex(r"[\x{2B820}-\x{2B91F}]")


class VaswaniBertTokenizer(PreTrainedTokenizerFast):
    """Word pieces of English text or any other, saved as a stock fast tokenizer.

    `from_pretrained` takes any folder or Hub repository of a `bert` model, from its vocab.txt or tokenizer.json; its
    tokenizer_config.json says whether it is cased. Saved folders name transformers' own class: `AutoTokenizer` loads
    them, with the same ids, where this package is not installed.

    Departures from Google's code: the strings "[CLS]", "[MASK]" and so on in a text are the special tokens, as
    transformers has it (`split_special_tokens=True` makes them text); what is a letter, a mark or punctuation is said
    by the Unicode tables of `tokenizers`, not of Python. Departures from transformers' BertTokenizer: words of 101 to
    200 characters, words with private use characters, a capital sigma at the end of a word and the ideographs U+2B820
    to U+2B91F are as in Google's code.

    Args:
        vocab: a vocab.txt, one token a line, or {token: id}.
        do_lower_case: False for the cased models.
        unk_token: stands for a word that the vocabulary cannot spell.
        sep_token: ends a text.
        pad_token: fills up.
        cls_token: starts a sequence.
        mask_token: hides a token in pre-training.
        tokenize_chinese_chars: make a word of each ideograph.
        strip_accents: take marks off letters; None where `do_lower_case` does.

    Raises:
        ValueError: no vocabulary, or one without a special token.
    """

    vocab_files_names = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self,
        vocab: str | os.PathLike | dict[str, int] | None = None,
        do_lower_case: bool = True,
        unk_token: str = "[UNK]",
        sep_token: str = "[SEP]",
        pad_token: str = "[PAD]",
        cls_token: str = "[CLS]",
        mask_token: str = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **kwargs,
    ) -> None:
        if vocab is None:
            raise ValueError("a BERT tokenizer needs vocab, a vocab.txt or {token: id}; got vocab=None: or use train")
        vocab = vocab if isinstance(vocab, dict) else read_vocabulary(vocab)
        special = {str(token) for token in (unk_token, sep_token, pad_token, cls_token, mask_token)}
        if missing := sorted(special - vocab.keys()):
            raise ValueError(f"vocab must hold every special token; got {len(vocab)} tokens without {missing}")
        model = backend_models.WordPiece(
            vocab,
            unk_token=str(unk_token),
            max_input_chars_per_word=LONGEST_WORD,
            continuing_subword_prefix=CONTINUATION,
        )
        backend = _pipeline(model, do_lower_case, tokenize_chinese_chars, strip_accents)
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in sorted(special)])
        cls_, sep = str(cls_token), str(sep_token)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls_}:0 $A:0 {sep}:0",
            pair=f"{cls_}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls_, vocab[cls_]), (sep, vocab[sep])],
        )
        kwargs.pop("post_processor", None)  # of a loaded file; the one above is built of its tokens
        kwargs.setdefault("model_input_names", self.model_input_names)  # written down: the stock class has two names
        super().__init__(
            tokenizer_object=backend,
            do_lower_case=do_lower_case,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            tokenize_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            **kwargs,
        )

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int, min_frequency: int = 2, do_lower_case: bool = True
    ) -> "VaswaniBertTokenizer":
        """Learns a vocabulary from texts; the same texts and settings give the same tokenizer.

        Google never released how its vocabularies were learnt. Here the characters of the text (the thousand most
        frequent) are tokens, at the start of a word and inside it; then pairs of pieces are merged by frequency.

        Args:
            texts: in any order; read once, and copied to a temporary file: the characters must be counted first.
            vocab_size: tokens in all, special ones included. Fewer are made when the texts hold too little.
            min_frequency: how often a pair of pieces must occur to be merged.
            do_lower_case: False makes a cased tokenizer.

        Returns:
            The tokenizer.

        Raises:
            ValueError: a vocabulary smaller than special tokens and characters, no text, no str.
        """
        _check_settings(texts, vocab_size, min_frequency)
        vocab = _train_vocabulary(texts, vocab_size, min_frequency, do_lower_case)
        if len(vocab) < vocab_size:
            logger.warning("the texts gave %d tokens instead of vocab_size=%d: too little text", len(vocab), vocab_size)
        return cls(vocab, do_lower_case=do_lower_case)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> tuple[str, ...]:
        """Saves `tokenizer.json` and `tokenizer_config.json` under the name of transformers' class for any pipeline.

        Not of its BertTokenizer: that one builds a pipeline of its own, with a limit of 100 characters.
        """
        stock = copy.copy(self)
        stock.__class__ = PreTrainedTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainedTokenizerFast.save_pretrained(stock, save_directory, *args, **kwargs)


def read_vocabulary(path: str | os.PathLike) -> dict[str, int]:
    """Returns {token: id} of a vocab.txt, a token's id being its line from 0.

    Raises:
        ValueError: the same token twice, with both lines.
    """
    vocab: dict[str, int] = {}
    # Tokens may be any character: a line ends at "\n" alone.
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            token = line.removesuffix("\n").removesuffix("\r")
            if token in vocab:
                lines_of_both = f"{path}:{vocab[token] + 1} and {number + 1}"
                raise ValueError(f"a vocabulary must hold each token once; got {token!r} in {lines_of_both}")
            vocab[token] = number
    return vocab


def _pipeline(
    model: backend_models.Model, do_lower_case: bool, tokenize_chinese_chars: bool, strip_accents: bool | None
) -> Tokenizer:
    backend = Tokenizer(model)
    steps = [normalizers.Replace(DROPPED, "")]
    if do_lower_case:
        steps.append(normalizers.Replace(FINAL_SIGMA, "\u03c2"))
    backend.normalizer = normalizers.Sequence(
        [
            *steps,
            normalizers.BertNormalizer(
                clean_text=False,  # done above; the pre-tokenizer splits at any white space
                handle_chinese_chars=tokenize_chinese_chars,
                strip_accents=strip_accents,
                lowercase=do_lower_case,
            ),
        ]
    )
    words = [pre_tokenizers.BertPreTokenizer()]
    if tokenize_chinese_chars:
        words = [pre_tokenizers.Split(LEFT_OUT_IDEOGRAPHS, "isolated"), *words]
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return backend


def _check_settings(texts: Iterable[str], vocab_size: int, min_frequency: int) -> None:
    for name, value, least in (
        ("vocab_size", vocab_size, len(SPECIAL_TOKENS) + 2),
        ("min_frequency", min_frequency, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}; got {name}={value!r}")
    if isinstance(texts, str):
        raise ValueError(f"texts must be an iterable of sentences, not one string; got texts={texts[:40]!r}")


def _train_vocabulary(texts: Iterable[str], vocab_size: int, min_frequency: int, do_lower_case: bool) -> dict[str, int]:
    """Learns a vocabulary whose every id is decided by the text.

    The trainer numbers continuing characters in the order of a hash map, which differs from run to run, and of two
    equally frequent pairs takes the one of lower numbers. So all of them are named to it beforehand, in our order.
    """
    learner = _pipeline(
        backend_models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=CONTINUATION), do_lower_case, True, None
    )
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as copy_of_texts:
        alphabet = _alphabet(_copied(texts, copy_of_texts), learner.normalizer)
        least = len(SPECIAL_TOKENS) + 2 * len(alphabet)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} for these texts: {len(SPECIAL_TOKENS)} special tokens and twice "
                f"their {len(alphabet)} characters; got {vocab_size=}"
            )
        continuing = [CONTINUATION + character for character in alphabet]
        trainer = WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[*SPECIAL_TOKENS, *continuing],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=CONTINUATION,
            show_progress=False,
        )
        copy_of_texts.seek(0)
        learner.train_from_iterator(copy_of_texts, trainer=trainer)
    return learner.get_vocab(with_added_tokens=False)


def _copied(texts: Iterable[str], file: IO[str]) -> Iterator[str]:
    """Yields texts and writes them down, a line each; tells of one that is no str and of their being all empty."""
    anything = False
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts must be strings; got {type(text).__name__} as text number {number}")
        anything = anything or bool(text.strip())
        file.write(text.replace("\n", " ") + "\n")
        yield text
    if not anything:
        raise ValueError("texts must hold at least one that is not empty; got none")


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer) -> list[str]:
    """Returns the most frequent characters of the texts as the model sees them, in the order of their code points."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    seen: Counter[str] = Counter()
    for character, count in raw.items():
        for piece in normalizer.normalize_str(character):
            if not piece.isspace():
                seen[piece] += count
    if seen["\u03c3"]:
        seen["\u03c2"] += 1  # a capital alone does not stand at the end of a word
    most = sorted(seen, key=lambda character: (-seen[character], character))[:LARGEST_ALPHABET]
    return sorted(most)
