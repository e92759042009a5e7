"""Documents to rows of one length for a causal language model: tokenised once to disk, cut anew for every epoch.

The documents stand one after the other in one stream of tokens, each after an end-of-text token where the tokenizer has
one. A row is a slice of the stream and its targets are the slice one token further, so that in an epoch every token but
the very first is foretold once. Neither text nor tokens are held in memory, however large the corpus.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.tokenization_gpt import END_OF_WORD, NEWLINE, VaswaniGPTTokenizer
from ..models.tokenization_gpt2 import VaswaniGPT2Tokenizer
from ..sections import at_least
from .document_options import DocumentOptions, has_documents, open_documents, texts_of
from .documents import NOTES, Documents, read_sentences, write_documents
from .parallel_text import cache_folder
from .shuffled_order import EPOCH_SHIFT, EpochPlan, ShuffledOrder
from .token_batches import pad
from .tokenizer_cache import digest, load_or_train, tokenizer_fingerprint
from .translation import IGNORED, batch_setting

logger = logging.getLogger(__name__)

CACHE_FORMAT = 2  # raise it when reading or tokenising changes, so that no older cache is taken for today's
BLOCK = 50_000  # characters of a document that are tokenised together
SHIFT, ORDER = 3, 4  # what a generator is for


@dataclass(frozen=True)
class CausalOptions(DocumentOptions):
    """The recipe's `data` section for GPT: the keys of `DocumentOptions`, and how they become rows.

    A text file is one document, its blank lines included.

    Args:
        max_seq_length: tokens of a row: 512 in GPT, 1024 in GPT-2, 2048 in GPT-3.
        separate_documents: positions start again with each document of a row, and none sees another. False: a row is
            read as one text, as the three papers do.

    Raises:
        ValueError: as `DocumentOptions`, or a row of no token.
    """

    max_seq_length: int = 1024
    separate_documents: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, **{"data.max_seq_length": self.max_seq_length})


class CausalData:
    """Batches for causal language models, the same whatever the number of processes. Made by `prepare`.

    Every epoch cuts the stream at other places, drawn from the seed and its number, and shuffles the rows. The first
    and the last row of an epoch may be shorter than the others.

    Departure from the paper of 2018, whose rows are drawn at random: an epoch reads every token once.

    Attributes:
        tokenizer: any; its end-of-text token, if it has one, stands before every document.
        fingerprint: of text, tokenizer and options; equal on two machines where the data are.
        counts: {split: {"documents", "tokens", "rows" of the first epoch, and what was left out}}.
        documents: {split: the tokens of its documents}.
    """

    Options = CausalOptions

    def __init__(
        self,
        options: CausalOptions,
        tokenizer: PreTrainedTokenizerBase,
        documents: Mapping[str, Documents],
        batch: Any,
        *,
        seed: int,
    ) -> None:
        self.options, self.tokenizer, self.seed = options, tokenizer, seed
        self.sequences, self.accumulation = batch_setting(batch, "sequences"), batch_setting(batch, "accumulation", 1)
        self.documents = dict(documents)
        self._streams = {split: _Stream(text, options.max_seq_length) for split, text in documents.items()}
        self.counts = {
            split: {what: count for what, count in text.counts.items() if what != "sentences"}
            | {"rows": self._streams[split].rows(options.max_seq_length)}
            for split, text in documents.items()
        }
        texts = {split: text.fingerprint for split, text in documents.items()}
        self.fingerprint = digest([options.max_seq_length, options.separate_documents, texts])

    @classmethod
    def prepare(
        cls,
        options: CausalOptions,
        tokenizer: Mapping[str, Any] | PreTrainedTokenizerBase,
        batch: Any,
        *,
        seed: int,
        cache_dir: str | None = None,
    ) -> "CausalData":
        """Reads and tokenises the training and validation text, each once: the second call finds the results.

        Args:
            options: the recipe's `data` section.
            tokenizer: one to use, or the recipe's section: {kind: byte-bpe, vocab_size} trains one on the training
                text, {from: folder or Hub name} loads one.
            batch: the recipe's `batch` section, a mapping or an object: sequences (rows), accumulation.
            seed: of the rows and their order.
            cache_dir: where tokens and a trained tokenizer are kept; a folder in datasets' own cache by default.

        Raises:
            FileNotFoundError: a data file that is not there.
            ValueError: a malformed line with its file and number, text of fewer than two tokens, a bad tokenizer.
        """
        if isinstance(tokenizer, Mapping):
            tokenizer = load_or_train(
                tokenizer,
                VaswaniGPT2Tokenizer,
                kind="byte-bpe",
                texts=lambda: texts_of(options, verbatim=True),
                folder=cache_folder(cache_dir),
            )
        documents = {
            split: _load(options, split, tokenizer, cache_dir)
            for split in ("train", "validation")
            if has_documents(options, split)
        }
        return cls(options, tokenizer, documents, batch, seed=seed)

    def __len__(self) -> int:
        """Returns the number of rows of the first epoch; others have one more."""
        return self.counts["train"]["rows"]

    @property
    def source_share(self) -> float:
        """Returns 0: there is no encoder beside a decoder whose share of the arithmetic would differ."""
        return 0.0

    def _offset(self, epoch: int) -> int:
        """Returns the length of an epoch's first row: a whole one in the first epoch, drawn in later ones."""
        length = self.options.max_seq_length
        return int(np.random.default_rng([self.seed, epoch, SHIFT]).integers(1, length + 1)) if epoch else length

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Returns the world's batches of one epoch, each row in one: a pure function of text, seed and number.

        Args:
            number: of the epoch, from 0.

        Returns:
            Arrays of row numbers, one an update. A number says its epoch too, which decides where its text begins.
        """
        rows = self._streams["train"].rows(self._offset(number))
        return EpochPlan(number, ShuffledOrder(rows, [self.seed, number, ORDER]), self.sequences)

    def target_tokens(self, indices: np.ndarray) -> int:
        """Returns how many tokens these training rows foretell: the labels of the update's loss."""
        return sum(self._targets("train", begin, end) for begin, end in self._spans(indices))

    def real_tokens(self, indices: np.ndarray) -> int:
        """Returns the tokens of these training rows: what speed is told in."""
        return sum(end - begin for begin, end in self._spans(indices))

    def micro_batches(
        self, indices: np.ndarray, parts: int, *, wanted: Sequence[int] | None = None
    ) -> list[dict[str, Tensor]]:
        """Splits one batch of the world into parts of nearly equal size and collates them.

        Args:
            indices: training row numbers, an element of `epoch(...)`.
            parts: processes times accumulation steps.
            wanted: numbers of the parts to collate, in this order (a process's own); None for all.

        Returns:
            One dictionary a part: input_ids and shift_labels [B, T], int64. The label at a place is the token one place
            further in the text, -100 after the last and where a row is shorter than T. With `separate_documents` also
            position_ids [B, T], which start again at each document; without an end-of-text token the first token of a
            document is then foretold by nothing. With fewer rows than parts the surplus parts repeat one, all its
            labels -100.

        Raises:
            ValueError: no row, no part.
        """
        if not len(indices) or parts < 1:
            raise ValueError(f"a batch must hold at least one row, in at least one part; got {len(indices)=}, {parts=}")
        pieces = np.array_split(indices, parts)
        batches = []
        for part in range(parts) if wanted is None else wanted:
            counted = len(pieces[part]) > 0
            batches.append(self._collate("train", self._spans(pieces[part] if counted else indices[:1])))
            if not counted:
                batches[-1]["shift_labels"].fill_(IGNORED)
        return batches

    def validation_batches(self) -> list[np.ndarray]:
        """Returns batches of validation row numbers in their order, each the size of one micro batch of one process;
        none where there is no validation text.
        """
        if "validation" not in self._streams:
            return []
        rows, size = self.counts["validation"]["rows"], max(1, self.sequences // self.accumulation)
        return [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]

    def validation_micro_batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Returns validation rows collated as `micro_batches` does."""
        stream = self._streams["validation"]
        return self._collate("validation", [stream.span(int(row), self.options.max_seq_length) for row in indices])

    def _spans(self, indices: np.ndarray) -> list[tuple[int, int]]:
        """Returns where training rows, all of one epoch, begin and end in the stream."""
        epochs = np.unique(indices >> EPOCH_SHIFT)
        if len(epochs) > 1:
            raise ValueError(f"a batch must hold rows of one epoch; got epochs {epochs.tolist()}")
        offset = self._offset(int(epochs[0])) if len(epochs) else 1
        return [self._streams["train"].span(row, offset) for row in (indices & ((1 << EPOCH_SHIFT) - 1)).tolist()]

    @property
    def _cut(self) -> bool:
        """Whether the first token of a document has nothing to be foretold from."""
        return self.options.separate_documents and self.tokenizer.eos_token_id is None

    def _targets(self, split: str, begin: int, end: int) -> int:
        stream = self._streams[split]
        last = min(end + 1, stream.size)
        return last - begin - 1 - (stream.documents_in(begin + 1, last) if self._cut else 0)

    def _collate(self, split: str, spans: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        stream = self._streams[split]
        rows, labels, positions = [], [], []
        for begin, end in spans:
            ids = stream.tokens[begin : end + 1].astype(np.int64)
            rows.append(ids[: end - begin])
            labels.append(np.append(ids[1:], [IGNORED] * (end - begin - len(ids) + 1)))
            if self.options.separate_documents:
                starts = stream.starts_of(begin, end + 1)
                positions.append(np.arange(begin, end) - starts[:-1])
                if self._cut:
                    labels[-1][starts[1:] == np.arange(begin + 1, end + 1)] = IGNORED
        batch = {"input_ids": pad(rows, 0), "shift_labels": pad(labels, IGNORED)}
        if positions:
            batch["position_ids"] = pad(positions, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


class _Stream:
    """All documents of a split one after the other, and the rows it is cut into."""

    def __init__(self, documents: Documents, length: int) -> None:
        self.tokens, self.length = documents.tokens, length
        self.size = documents.counts["tokens"]
        self._starts = documents.starts()

    def rows(self, offset: int) -> int:
        """Returns how many rows there are where the first one ends at `offset`; all have a token to foretell."""
        return 1 + max(0, -(-(self.size - 1 - offset) // self.length))

    def span(self, row: int, offset: int) -> tuple[int, int]:
        """Returns where a row begins and ends."""
        end = offset + row * self.length
        return max(0, end - self.length), min(end, self.size)

    def starts_of(self, begin: int, end: int) -> np.ndarray:
        """Returns, for each place from `begin` to `end`, where its document starts, or `begin` if before it."""
        places = np.arange(begin, end)
        return np.maximum(self._starts[np.searchsorted(self._starts, places, side="right") - 1], begin)

    def documents_in(self, begin: int, end: int) -> int:
        """Returns how many documents start from `begin` on and before `end`."""
        return int(np.searchsorted(self._starts, end) - np.searchsorted(self._starts, begin))


def _load(options: CausalOptions, split: str, tokenizer: PreTrainedTokenizerBase, cache_dir: str | None) -> Documents:
    """Reads and tokenises the documents of a split, or takes them from the cache where the source is unchanged."""
    origin, pieces = open_documents(options, split, verbatim=True)
    key = [CACHE_FORMAT, origin, split, options.column, options.on_bad_line, tokenizer_fingerprint(tokenizer)]
    folder = cache_folder(cache_dir) / f"causal-{digest(key)[:20]}"
    if not (folder / NOTES).exists():
        counts: dict[str, int] = {}
        lines = read_sentences(pieces, counts, split=None, skip_bad=options.on_bad_line == "skip")
        end_of_text = tokenizer.eos_token_id
        assert end_of_text is None or isinstance(end_of_text, int)
        joint = joint_token(tokenizer)
        write_documents(text_blocks(lines), tokenizer, folder, counts, first_id=end_of_text, joint_id=joint)
    documents = Documents(folder)
    counts = documents.counts
    logger.info("%s: %s", split, ", ".join(f"{count} {what}" for what, count in counts.items() if what != "sentences"))
    if counts["tokens"] < 2:
        left_out = {what: counts[what] for what in ("empty", "malformed")}
        raise ValueError(f"{split} text must hold at least two tokens; got {counts['tokens']}, {left_out=}")
    return documents


def text_blocks(lines: Iterator[str | None], size: int = BLOCK) -> Iterator[str | None]:
    """Yields documents in blocks of about `size` characters, their line breaks kept, and None at the end of each.

    A document is cut before a line break that follows a character which is no space: there no tokenizer of the GPTs
    looks across, so that the tokens, with `joint_token` between blocks, are those of the whole document.

    Args:
        lines: of documents, without their line breaks, None at the end of each.
        size: characters of a block, at least; the last one of a document may be shorter.
    """
    block: list[str] = []
    held, first = 0, True
    for line in lines:
        if line is None:
            if block:
                yield "".join(block)
            yield None
            block, held, first = [], 0, True
            continue
        if held >= size and block[-1][-1:].strip():
            yield "".join(block)
            block, held = [], 0
        block.append(line if first else f"\n{line}")
        held, first = held + len(block[-1]), False


def joint_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token between two blocks of a document: the tokenizer of 2018 strips the line break they start by."""
    if not isinstance(tokenizer, VaswaniGPTTokenizer):
        return None
    newline = tokenizer.convert_tokens_to_ids(NEWLINE + END_OF_WORD)
    assert isinstance(newline, int)
    return newline
