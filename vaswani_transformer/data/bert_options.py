"""The recipe's `data` section for BERT's pre-training, and the documents it names."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from ..sections import read_section
from .document_options import DocumentOptions, open_documents
from .documents import NOTES, Documents, read_sentences, sentence_splitter, write_documents
from .parallel_text import cache_folder
from .tokenizer_cache import digest, tokenizer_fingerprint

logger = logging.getLogger(__name__)

CACHE_FORMAT = 1  # raise it when reading or tokenising changes, so that no older cache is taken for today's


@dataclass(frozen=True)
class BertPretrainingOptions(DocumentOptions):
    """The recipe's `data` section for BERT: the keys of `DocumentOptions`, and how they become examples.

    The documents of a text file have blank lines between them.

    Args:
        sentences: "lines" where each line is a sentence, "split" where it is a paragraph to cut into sentences.
        language: code of the language to split.
        max_seq_length: longest sequence, special tokens included; the paper: 128, then 512.
        next_sentence: pairs of texts, half of them with a random second one (section 3.1). False: masked words alone,
            in whole sentences of one document packed up to the length (DOC-SENTENCES of RoBERTa, Liu et al. 2019,
            table 2): a sequence never runs on into the next document, so the last one of each may be short.
        short_seq_prob: how often a pass over a document aims at shorter pairs, of 2 tokens or more; 0.1 by default.
        masked_lm_prob: share of a sequence's tokens, special ones counted, that are masked: an exact count, no chance.
        max_predictions_per_seq: most masks of a sequence; by default `masked_lm_prob` of the longest, rounded up (20 of
            128, 77 of 512).
        whole_word_mask: mask all pieces of a word or none.
        dupe_factor: make so many sets of examples and go through them again and again, as Google's files do; by default
            every epoch has examples and masks of its own.
        num_proc: processes that plan an epoch's examples; they make no difference to them.

    Raises:
        ValueError: as `DocumentOptions`, or a number out of range.
    """

    sentences: Literal["lines", "split"] = "lines"
    language: str = "en"
    max_seq_length: int = 512
    next_sentence: bool = True
    short_seq_prob: float | None = None
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int | None = None
    whole_word_mask: bool = False
    dupe_factor: int | None = None
    num_proc: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sentences not in ("lines", "split"):
            raise ValueError(f"data.sentences must be lines or split; got sentences={self.sentences!r}")
        least = {"max_seq_length": 5 if self.next_sentence else 3}
        least |= dict.fromkeys(("max_predictions_per_seq", "dupe_factor", "num_proc"), 1)
        for key, value in ((key, getattr(self, key)) for key in least):
            if value is not None and value < least[key]:
                raise ValueError(f"data.{key} must be at least {least[key]}; got {key}={value}")
        if not 0 < self.masked_lm_prob < 1:
            raise ValueError(f"data.masked_lm_prob must lie between 0 and 1; got {self.masked_lm_prob=}")
        if self.short_seq_prob is not None and not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"data.short_seq_prob must be in [0, 1]; got short_seq_prob={self.short_seq_prob}")
        if self.short_seq_prob is not None and not self.next_sentence:
            raise ValueError(
                "data.short_seq_prob goes with next_sentence=true only, runs of sentences are as long as they can be; "
                f"got short_seq_prob={self.short_seq_prob}, next_sentence=False"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BertPretrainingOptions":
        """Returns the options of a recipe's `data` section; an unknown key is told with the nearest right one."""
        return read_section(cls, values, "data")

    @property
    def predictions(self) -> int:
        """Returns the most masks of a sequence."""
        return self.max_predictions_per_seq or math.ceil(self.max_seq_length * self.masked_lm_prob)

    @property
    def short(self) -> float:
        """Returns how often a pass over a document aims at shorter pairs."""
        return 0.1 if self.short_seq_prob is None else self.short_seq_prob


def load_documents(
    options: BertPretrainingOptions, split: str, tokenizer: PreTrainedTokenizerBase, *, cache_dir: str | None = None
) -> Documents:
    """Reads, splits and tokenises the documents of a split, or takes them from the cache where the source is unchanged.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a malformed line with its file and number, text without a sentence, one document alone where a
            random next sentence must come from another.
    """
    origin, pieces = open_documents(options, split)
    splitter = sentence_splitter(options.language) if options.sentences == "split" else None
    key = [CACHE_FORMAT, origin, split, options.column, options.on_bad_line, tokenizer_fingerprint(tokenizer)]
    key += [options.language if splitter else None]
    folder = cache_folder(cache_dir) / f"documents-{digest(key)[:20]}"
    if not (folder / NOTES).exists():
        counts: dict[str, int] = {}
        sentences = read_sentences(pieces, counts, split=splitter, skip_bad=options.on_bad_line == "skip")
        write_documents(sentences, tokenizer, folder, counts)
    documents = Documents(folder)
    counts = documents.counts
    logger.info("%s: %s", split, ", ".join(f"{count} {what}" for what, count in counts.items()))
    if not counts["documents"]:
        left_out = {what: counts[what] for what in ("empty", "malformed")}
        raise ValueError(f"{split} text must hold at least one document with a sentence; got none, {left_out=}")
    if options.next_sentence and counts["documents"] == 1:
        raise ValueError(
            f"{split} text must hold at least two documents for next_sentence, a random sentence is another one's; "
            "got 1 document: put blank lines between documents, or set data.next_sentence=false"
        )
    return documents
