"""Pairs of sentences to batches of token ids for the original Transformer: tokenised once, memory-mapped, then planned
afresh for every epoch from the seed alone (section 5.1 of Vaswani et al. 2017).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.tokenization_transformer import VaswaniTransformerTokenizer
from .parallel_text import Pairs, TranslationOptions, cache_folder, has_split, load_pairs
from .token_batches import pad, plan_batches, split_evenly
from .tokenizer_cache import digest, load_tokenizer, move_into_place, tokenizer_fingerprint

logger = logging.getLogger(__name__)

IGNORED = -100  # label of a target position that counts for nothing
TOKENIZER_FORMAT = 1  # raise it when training changes, so that no older cached tokenizer is taken for today's
TOKENS = datasets.Features({side: datasets.Sequence(datasets.Value("int32")) for side in ("source", "target")})


class TokenTable:
    """Token ids of many sentences, memory-mapped: a row is a view into the file, read when it is asked for.

    Args:
        dataset: arrow data with a column of lists of int32.
        column: its name.
    """

    def __init__(self, dataset: datasets.Dataset, column: str) -> None:
        self.dataset, self.column = dataset, column
        chunks = [chunk for chunk in dataset.data.column(column).chunks if len(chunk)]
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)])
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int32)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, (self.dataset, self.column)  # loader processes map the file themselves

    def rows(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Returns the ids of the rows asked for."""
        chunks = np.searchsorted(self._starts, numbers, side="right") - 1
        found = []
        for chunk, row in zip(chunks.tolist(), (numbers - self._starts[chunks]).tolist(), strict=True):
            offsets = self._offsets[chunk]
            found.append(self._values[chunk][offsets[row] : offsets[row + 1]])
        return found


class _Split:
    """The tokenised pairs of one split that are short enough to use, numbered from 0."""

    def __init__(self, tokens: datasets.Dataset, kept: np.ndarray) -> None:
        self.source, self.target = TokenTable(tokens, "source"), TokenTable(tokens, "target")
        self.kept = kept
        self.source_lengths, self.target_lengths = self.source.lengths[kept], self.target.lengths[kept]


class TranslationData:
    """Batches for translation, the same whatever the number of processes. Made by `prepare`.

    Attributes:
        tokenizer: of both languages; appends `</s>` to sources and targets.
        fingerprint: of text, tokenizer and options; equal on two machines where the data are.
        counts: {split: {"read", "kept", and what was left out, by reason}}.
    """

    Options = TranslationOptions

    def __init__(
        self,
        options: TranslationOptions,
        tokenizer: PreTrainedTokenizerBase,
        text: Mapping[str, Pairs],
        batch: Any,
        *,
        seed: int,
        cache_dir: str | None,
    ) -> None:
        self.options, self.tokenizer, self.seed, self.cache_dir = options, tokenizer, seed, cache_dir
        self.source_tokens, self.target_tokens_per_update = (
            batch_setting(batch, "source_tokens"),
            batch_setting(batch, "target_tokens"),
        )
        self.accumulation = batch_setting(batch, "accumulation", 1)
        self.counts: dict[str, dict[str, int]] = {}
        self._splits: dict[str, _Split] = {}
        identity = tokenizer_fingerprint(tokenizer)
        for split, pairs in text.items():
            self._splits[split] = self._tokenised(split, pairs, identity)
        key = [identity, {split: pairs.fingerprint for split, pairs in text.items()}]
        key += [options.max_tokens, options.max_length_ratio, options.length_groups]
        self.fingerprint = digest(key)

    @classmethod
    def prepare(
        cls,
        options: TranslationOptions,
        tokenizer: Mapping[str, Any] | PreTrainedTokenizerBase,
        batch: Any,
        *,
        seed: int,
        cache_dir: str | None = None,
    ) -> "TranslationData":
        """Reads, cleans and tokenises the training and validation text, each once: the second call finds the results.

        Args:
            options: the recipe's `data` section.
            tokenizer: one to use, or the recipe's section: {kind, vocab_size, min_frequency} trains one on the training
                text, {from: folder or Hub name} loads one.
            batch: the recipe's `batch` section, a mapping or an object: source_tokens, target_tokens, accumulation.
            seed: of the order of the epochs.
            cache_dir: where text, tokens and a trained tokenizer are kept; a folder in datasets' own cache by default.

        Raises:
            FileNotFoundError: a data file that is not there.
            ValueError: bad text (see `load_pairs`), a bad tokenizer, no training pair short enough.
        """
        text = {
            split: load_pairs(options, split, cache_dir=cache_dir)
            for split in ("train", "validation")
            if split == "train" or has_split(options, split)
        }
        if isinstance(tokenizer, Mapping):
            tokenizer = _tokenizer_of(tokenizer, text["train"], cache_dir)
        _check_tokenizer(tokenizer)
        return cls(options, tokenizer, text, batch, seed=seed, cache_dir=cache_dir)

    def _tokenised(self, split: str, pairs: Pairs, identity: str) -> _Split:
        """Tokenises one split through datasets' cache and picks the pairs short enough."""
        key = digest([identity, pairs.fingerprint])
        folder = cache_folder(self.cache_dir)
        tokens = pairs.dataset.map(
            _encode,
            batched=True,
            batch_size=2000,
            fn_kwargs={"tokenizer": self.tokenizer},
            remove_columns=["source", "target"],
            features=TOKENS,
            new_fingerprint=key[:32],
            cache_file_name=str(folder / f"tokens-{key[:20]}.arrow"),
            load_from_cache_file=True,
            desc=f"tokenising {split}",
        )
        sources, targets = TokenTable(tokens, "source").lengths, TokenTable(tokens, "target").lengths
        short = np.maximum(sources, targets) <= self.options.max_tokens
        even = np.ones_like(short)
        if split == "train" and self.options.max_length_ratio is not None:
            # Without </s>, and a text has at least one token: the division is safe.
            longer, shorter = np.maximum(sources, targets) - 1, np.minimum(sources, targets) - 1
            even = longer <= self.options.max_length_ratio * np.maximum(shorter, 1)
        kept = np.flatnonzero(short & even)
        left_out = {"too_many_tokens": int((~short).sum()), "length_ratio": int((short & ~even).sum())}
        self.counts[split] = pairs.counts | left_out | {"kept": len(kept)}
        logger.info("%s: %d of %d tokenised pairs kept; left out: %s", split, len(kept), len(short), left_out)
        if not len(kept):
            limit = self.options.max_tokens
            raise ValueError(f"{split} must hold a pair of at most data.max_tokens tokens; got {left_out}, {limit=}")
        return _Split(tokens, kept)

    def __len__(self) -> int:
        """Returns the number of training examples."""
        return len(self._splits["train"].kept)

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Returns the world's batches of one epoch: a pure function of text, seed and number, each example in one.

        Args:
            number: of the epoch, from 0.

        Returns:
            Arrays of training example numbers, one an update.
        """
        train = self._splits["train"]
        return plan_batches(
            train.source_lengths,
            train.target_lengths,
            source_tokens=self.source_tokens,
            target_tokens=self.target_tokens_per_update,
            rng=np.random.default_rng([self.seed, number]),
            length_groups=self.options.length_groups,
        )

    def target_tokens(self, indices: np.ndarray) -> int:
        """Returns how many labels of these training examples count in the loss, `</s>` included."""
        return int(self._splits["train"].target_lengths[indices].sum(dtype=np.int64))

    def real_tokens(self, indices: np.ndarray) -> int:
        """Returns source and target tokens of these training examples, padding not counted: what speed is told in."""
        train = self._splits["train"]
        return self.target_tokens(indices) + int(train.source_lengths[indices].sum(dtype=np.int64))

    @property
    def source_share(self) -> float:
        """Returns the source's share of the training text's tokens: what part of the arithmetic is the encoder's."""
        train = self._splits["train"]
        source, target = (int(lengths.sum(dtype=np.int64)) for lengths in (train.source_lengths, train.target_lengths))
        return source / (source + target)

    def micro_batches(
        self, indices: np.ndarray, parts: int, *, wanted: Sequence[int] | None = None
    ) -> list[dict[str, Tensor]]:
        """Splits one batch of the world into parts of nearly equal padded size and collates them.

        Args:
            indices: training example numbers, an element of `epoch(...)`.
            parts: processes times accumulation steps.
            wanted: numbers of the parts to collate, in this order (a process's own); None for all.

        Returns:
            One dictionary a part: input_ids [B, S], attention_mask [B, S] and labels [B, T], int64; labels are -100
            after their `</s>`. With fewer examples than parts the surplus parts repeat one, its labels all -100.

        Raises:
            ValueError: a token id outside the tokenizer's vocabulary, no example, no part.
        """
        if not len(indices):
            raise ValueError(f"a batch must hold at least one example; got {len(indices)=}")
        train = self._splits["train"]
        pieces = split_evenly(indices, train.source_lengths[indices], train.target_lengths[indices], parts)
        return [
            self._collate("train", pieces[part])
            if len(pieces[part])
            else self._collate("train", pieces[0][:1], counted=False)
            for part in (range(parts) if wanted is None else wanted)
        ]

    def validation_batches(self) -> list[np.ndarray]:
        """Returns batches of validation example numbers in order of length, each the size of one micro batch of one
        process; none where there is no validation text.
        """
        if "validation" not in self._splits:
            return []
        validation = self._splits["validation"]
        return plan_batches(
            validation.source_lengths,
            validation.target_lengths,
            source_tokens=max(1, self.source_tokens // self.accumulation),
            target_tokens=max(1, self.target_tokens_per_update // self.accumulation),
            rng=None,
        )

    def validation_micro_batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Returns validation examples collated as `micro_batches` does."""
        return self._collate("validation", indices)

    def texts(self, split: str) -> tuple[list[str], list[str]]:
        """Returns sources and references of "validation" or "test", for scoring.

        `min_words` and `max_words` hold here too, they say what the task is; `max_tokens` and the length ratio do not:
        a score is over the whole set.
        """
        pairs = load_pairs(self.options, split, cache_dir=self.cache_dir).dataset
        return list(pairs["source"]), list(pairs["target"])

    def _collate(self, split: str, indices: np.ndarray, *, counted: bool = True) -> dict[str, Tensor]:
        data = self._splits[split]
        rows = data.kept[indices]
        source, target = data.source.rows(rows), data.target.rows(rows)
        return collate(source, target, tokenizer=self.tokenizer, counted=counted)


def collate(
    source: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    *,
    tokenizer: PreTrainedTokenizerBase,
    counted: bool = True,
) -> dict[str, Tensor]:
    """Pads token ids into what the model takes; the model itself shifts labels to the right.

    Args:
        source: ids of each source, `</s>` at the end.
        target: ids of each target, `</s>` at the end.
        tokenizer: gives the padding id and the size of the vocabulary.
        counted: False makes every label -100: rows that give a process work and count for nothing.

    Raises:
        ValueError: an id outside the vocabulary, or an empty sequence.
    """
    if not all(map(len, source)) or not all(map(len, target)):
        raise ValueError("each sequence must hold at least one token; got an empty one")
    assert isinstance(tokenizer.pad_token_id, int)
    input_ids, labels = pad(source, tokenizer.pad_token_id), pad(target, IGNORED)
    lengths = np.fromiter(map(len, source), dtype=np.int64, count=len(source))
    real = np.arange(input_ids.shape[1]) < lengths[:, None]
    size = len(tokenizer)
    for name, ids in (("input_ids", input_ids), ("labels", np.where(labels == IGNORED, 0, labels))):
        if ids.min() < 0 or ids.max() >= size:
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise ValueError(f"token ids must be in the tokenizer's vocabulary, 0 to {size - 1}; got {wrong} in {name}")
    if not counted:
        labels[:] = IGNORED
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


def _encode(texts: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[int]]]:
    settings: dict[str, Any] = {"return_attention_mask": False, "verbose": False}
    target = tokenizer(text_target=texts["target"], **settings)
    return {"source": tokenizer(texts["source"], **settings)["input_ids"], "target": target["input_ids"]}


def batch_setting(batch: Any, name: str, default: int | None = None) -> int:
    """Returns one number of the recipe's `batch` section, a mapping or an object; ValueError where it is none."""
    value = batch.get(name, default) if isinstance(batch, Mapping) else getattr(batch, name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"batch.{name} must be a whole number of at least 1; got {name}={value!r}")
    return value


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks what training relies on: a padding token, and </s> after sources and targets."""
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        got = f"pad_token={tokenizer.pad_token!r}, eos_token={tokenizer.eos_token!r}"
        raise ValueError(f"a translation tokenizer must have a pad and an eos token; got {got}")
    for side, ids in (("text", tokenizer("a")["input_ids"]), ("text_target", tokenizer(text_target="a")["input_ids"])):
        if list(ids)[-1:] != [tokenizer.eos_token_id]:
            raise ValueError(f"a translation tokenizer must end {side} with {tokenizer.eos_token!r}; got {ids} for 'a'")


def _tokenizer_of(section: Mapping[str, Any], pairs: Pairs, cache_dir: str | None) -> PreTrainedTokenizerBase:
    """Loads or trains the tokenizer that a recipe's section names."""
    if "from" in section:
        return load_tokenizer(section["from"])
    missing = [key for key in ("kind", "vocab_size") if key not in section]
    if missing:
        raise ValueError(f"tokenizer needs kind and vocab_size, or from; got {dict(section)}")
    settings = {key: section[key] for key in ("kind", "vocab_size", "min_frequency") if key in section}
    key = digest([TOKENIZER_FORMAT, settings, pairs.fingerprint])
    folder = cache_folder(cache_dir) / f"tokenizer-{key[:20]}"
    if not folder.exists():
        logger.info("training a %s tokenizer on %d pairs", settings["kind"], pairs.counts["kept"])
        trained = VaswaniTransformerTokenizer.train(_texts_of(pairs.dataset), **settings)
        move_into_place(trained, folder)
    return VaswaniTransformerTokenizer.from_pretrained(folder)


def _texts_of(dataset: datasets.Dataset) -> Iterator[str]:
    for rows in dataset.iter(batch_size=1000):
        assert isinstance(rows, dict)
        yield from rows["source"]
        yield from rows["target"]
