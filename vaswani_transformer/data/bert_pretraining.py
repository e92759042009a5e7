"""Documents to batches of BERT's pre-training: tokenised once, memory-mapped, then paired and masked afresh for every
epoch from the seed alone (sections 3.1 and A.1 of Devlin et al. 2018).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.tokenization_bert import CONTINUATION, VaswaniBertTokenizer
from .bert_examples import EXAMPLE, ExampleRules, Key, mask, read_plan, sequence, write_plan
from .bert_options import BertPretrainingOptions, load_documents
from .document_options import has_documents, texts_of
from .documents import Documents
from .parallel_text import cache_folder
from .shuffled_order import EPOCH_SHIFT, EpochPlan, ShuffledOrder
from .token_batches import pad, split_evenly
from .tokenizer_cache import digest, load_or_train, tokenizer_fingerprint
from .translation import IGNORED, batch_setting

logger = logging.getLogger(__name__)

PLAN_FORMAT = 1  # raise it when the examples change, so that no older cached plan is taken for today's
ORDER = 2  # what a generator is for, beside bert_examples' own
FIXED: Key = (0, 0)  # seed and pass of validation: the same examples in every run, or losses could not be compared


class _Split:
    """The documents of one split with the plans of the passes over them, made on disk when they are asked for."""

    def __init__(self, documents: Documents, rules: ExampleRules, stem: Path, num_proc: int) -> None:
        self.documents, self.rules, self.stem, self.num_proc = documents, rules, stem, num_proc
        self._plans: dict[Key, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": {}}  # other processes map the files themselves

    def path(self, key: Key) -> Path:
        """Returns the file of a pass's plan."""
        return self.stem.with_name(f"{self.stem.name}-{key[0]}-{key[1]}.bin")

    def plan(self, key: Key) -> np.ndarray:
        """Returns the examples of a pass, memory-mapped."""
        if key not in self._plans:
            path = self.path(key)
            if not path.exists():
                write_plan(self.documents, self.rules, key, path, num_proc=self.num_proc)
            while len(self._plans) > 1:  # two epochs may overlap
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = read_plan(path)
        return self._plans[key]


class BertPretrainingData:
    """Batches for BERT's pre-training, the same whatever the number of processes. Made by `prepare`.

    Departures from Google's create_pretraining_data.py: the text stays on disk; every epoch has pairs and masks of its
    own unless `dupe_factor` is set; sequences are not padded to one length; documents are not shuffled first, since the
    examples are.

    Attributes:
        tokenizer: with [CLS], [SEP], [MASK] and [PAD].
        fingerprint: of text, tokenizer and options; equal on two machines where the data are.
        counts: {split: {"documents", "sentences", "tokens", "examples" of the first epoch, and what was left out}}.
    """

    Options = BertPretrainingOptions

    def __init__(
        self,
        options: BertPretrainingOptions,
        tokenizer: PreTrainedTokenizerBase,
        documents: Mapping[str, Documents],
        batch: Any,
        *,
        seed: int,
        cache_dir: str | None,
    ) -> None:
        self.options, self.tokenizer, self.seed = options, tokenizer, seed
        self.sequences, self.accumulation = batch_setting(batch, "sequences"), batch_setting(batch, "accumulation", 1)
        rules = _rules_of(options, tokenizer)
        shape = [PLAN_FORMAT, tokenizer_fingerprint(tokenizer), options.max_seq_length, options.predictions]
        shape += [options.masked_lm_prob, options.short, options.next_sentence, options.whole_word_mask]
        self._splits: dict[str, _Split] = {}
        self.counts: dict[str, dict[str, int]] = {}
        for split, text in documents.items():
            stem = cache_folder(cache_dir) / f"examples-{digest([shape, text.fingerprint])[:20]}"
            self._splits[split] = _Split(text, rules, stem, options.num_proc)
            plan = self._splits[split].plan(self._key(0) if split == "train" else FIXED)
            self.counts[split] = text.counts | {"examples": len(plan)}
            logger.info("%s: %d examples", split, len(plan))
        texts = {split: text.fingerprint for split, text in documents.items()}
        self.fingerprint = digest([shape, options.dupe_factor, texts])

    @classmethod
    def prepare(
        cls,
        options: BertPretrainingOptions,
        tokenizer: Mapping[str, Any] | PreTrainedTokenizerBase,
        batch: Any,
        *,
        seed: int,
        cache_dir: str | None = None,
    ) -> "BertPretrainingData":
        """Reads and tokenises the training and validation text, each once: the second call finds the results.

        Args:
            options: the recipe's `data` section.
            tokenizer: one to use, or the recipe's section: {kind: wordpiece, vocab_size, min_frequency} trains one on
                the training text, {from: folder or Hub name} loads one.
            batch: the recipe's `batch` section, a mapping or an object: sequences, accumulation.
            seed: of the examples, their masks and their order.
            cache_dir: where tokens, plans and a trained tokenizer are kept; a folder in datasets' own cache by default.

        Raises:
            FileNotFoundError: a data file that is not there.
            ValueError: bad text (see `load_documents`), a bad tokenizer.
        """
        if isinstance(tokenizer, Mapping):
            folder = cache_folder(cache_dir)
            tokenizer = load_or_train(
                tokenizer, VaswaniBertTokenizer, kind="wordpiece", texts=lambda: texts_of(options), folder=folder
            )
        _check_tokenizer(tokenizer, options)
        documents = {
            split: load_documents(options, split, tokenizer, cache_dir=cache_dir)
            for split in ("train", "validation")
            if has_documents(options, split)
        }
        return cls(options, tokenizer, documents, batch, seed=seed, cache_dir=cache_dir)

    def _key(self, epoch: int) -> Key:
        """Returns the seed and the pass whose examples an epoch sees."""
        return self.seed, epoch % self.options.dupe_factor if self.options.dupe_factor else epoch

    def __len__(self) -> int:
        """Returns the number of training examples of the first epoch; of another it differs a little."""
        return self.counts["train"]["examples"]

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Returns the world's batches of one epoch: a pure function of text, seed and number, each example in one.

        Its examples are planned on disk first; those of the epoch before the last are taken off it, but for the very
        first: a run that goes on later counts them.

        Args:
            number: of the epoch, from 0.

        Returns:
            Arrays of example numbers, one an update. A number says its epoch too: that decides its text and masks.
        """
        train = self._splits["train"]
        if not self.options.dupe_factor and number > 2:
            _unlink(train.path(self._key(number - 2)))
        examples = len(train.plan(self._key(number)))
        return EpochPlan(number, ShuffledOrder(examples, [self.seed, number, ORDER]), self.sequences)

    def target_tokens(self, indices: np.ndarray) -> int:
        """Returns how many tokens of these training examples are masked: the labels of the update's loss."""
        return int(self._examples(indices)["masked"].sum(dtype=np.int64))

    def real_tokens(self, indices: np.ndarray) -> int:
        """Returns the tokens of these training examples, special ones counted, padding not: what speed is told in."""
        return int(_lengths(self._examples(indices)).sum(dtype=np.int64))

    @property
    def source_share(self) -> float:
        """Returns 0: there is no encoder beside a decoder whose share of the arithmetic would differ."""
        return 0.0

    def micro_batches(
        self, indices: np.ndarray, parts: int, *, wanted: Sequence[int] | None = None
    ) -> list[dict[str, Tensor]]:
        """Splits one batch of the world into parts of nearly equal padded size and collates them.

        Args:
            indices: training example numbers, an element of `epoch(...)`.
            parts: processes times accumulation steps.
            wanted: numbers of the parts to collate, in this order (a process's own); None for all.

        Returns:
            One dictionary a part: input_ids, attention_mask, token_type_ids and labels [B, L], int64; labels are -100
            where nothing is masked. With next_sentence also next_sentence_label [B] (0 next, 1 random) and
            num_sequences_in_batch, a scalar: how many the whole batch of the world holds. With fewer examples than
            parts the surplus parts repeat one, all its labels -100.

        Raises:
            ValueError: no example, no part.
        """
        if not len(indices):
            raise ValueError(f"a batch must hold at least one example; got {len(indices)=}")
        lengths = _lengths(self._examples(indices))
        pieces = split_evenly(indices, lengths, np.zeros_like(lengths), parts)
        return [
            self._collate(
                "train", pieces[part] if len(pieces[part]) else pieces[0][:1], len(indices), len(pieces[part])
            )
            for part in (range(parts) if wanted is None else wanted)
        ]

    def validation_batches(self) -> list[np.ndarray]:
        """Returns batches of validation example numbers in order of length, each the size of one micro batch of one
        process; none where there is no validation text.
        """
        if "validation" not in self._splits:
            return []
        order = np.argsort(_lengths(self._splits["validation"].plan(FIXED)), kind="stable")
        size = max(1, self.sequences // self.accumulation)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def validation_micro_batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Returns validation examples collated as `micro_batches` does.

        The loop adds the losses of all of them up and divides by their masked tokens. So that this leaves the mean of
        both losses, num_sequences_in_batch is here validation's sequences for each of its masked tokens, a fraction.
        """
        plan = self._splits["validation"].plan(FIXED)
        return self._collate("validation", indices, len(plan) / max(1, int(plan["masked"].sum(dtype=np.int64))))

    def _examples(self, indices: np.ndarray) -> np.ndarray:
        """Returns the plan of training examples, all of one epoch."""
        epochs = np.unique(indices >> EPOCH_SHIFT)
        if len(epochs) > 1:
            raise ValueError(f"a batch must hold examples of one epoch; got epochs {epochs.tolist()}")
        if not len(indices):
            return np.zeros(0, dtype=EXAMPLE)
        plan = self._splits["train"].plan(self._key(int(epochs[0])))
        return plan[indices & ((1 << EPOCH_SHIFT) - 1)]

    def _collate(self, split: str, indices: np.ndarray, sequences: float, counted: int = 1) -> dict[str, Tensor]:
        data, pad_id = self._splits[split], self.tokenizer.pad_token_id
        assert isinstance(pad_id, int)
        if split == "train":
            key, examples = self._key(int(indices[0]) >> EPOCH_SHIFT), self._examples(indices)
        else:
            key, examples = FIXED, data.plan(FIXED)[indices]
        rows, labels, segments = [], [], []
        for a, b, a_length, b_length, _, _ in examples.tolist():
            ids = sequence(data.documents, data.rules, (a, a_length), (b, b_length))
            hidden, positions = mask(ids, a, a_length, data.rules, key)
            rows.append(hidden)
            labels.append(np.full(len(ids), IGNORED))
            labels[-1][positions] = ids[positions] if counted else IGNORED
            segments.append((np.arange(len(ids)) > a_length + 1).astype(np.int64))
        batch = {
            "input_ids": pad(rows, pad_id),
            "attention_mask": pad([np.ones_like(row) for row in rows], 0),
            "token_type_ids": pad(segments, 0),
            "labels": pad(labels, IGNORED),
        }
        if self.options.next_sentence:
            batch["next_sentence_label"] = np.where(counted, examples["random"], IGNORED).astype(np.int64)
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        if self.options.next_sentence:
            tensors["num_sequences_in_batch"] = torch.tensor(sequences)
        return tensors


def _lengths(examples: np.ndarray) -> np.ndarray:
    """Returns tokens of each example, special ones counted."""
    return examples["a_length"] + examples["b_length"] + np.where(examples["b_length"] > 0, 3, 2)


def _unlink(path: Path) -> None:
    """Takes a file away if nobody minds: another process may have done so, or (on Windows) still read it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.debug("%s stays: %s", path, error)


def _rules_of(options: BertPretrainingOptions, tokenizer: PreTrainedTokenizerBase) -> ExampleRules:
    cls_id, sep_id, mask_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    assert isinstance(cls_id, int)
    assert isinstance(sep_id, int)
    assert isinstance(mask_id, int)
    continues = np.zeros(len(tokenizer), dtype=bool)
    continues[[number for token, number in tokenizer.get_vocab().items() if token.startswith(CONTINUATION)]] = True
    return ExampleRules(
        max_seq_length=options.max_seq_length,
        max_predictions=options.predictions,
        masked_lm_prob=options.masked_lm_prob,
        short_seq_prob=options.short,
        next_sentence=options.next_sentence,
        whole_word_mask=options.whole_word_mask,
        cls_id=cls_id,
        sep_id=sep_id,
        mask_id=mask_id,
        vocab_size=len(tokenizer),
        continues=continues,
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, options: BertPretrainingOptions) -> None:
    """Checks what the examples are made with: four special tokens, and a mark inside words for whole-word masks."""
    names = ("cls_token", "sep_token", "mask_token", "pad_token")
    if missing := [name for name in names if getattr(tokenizer, f"{name}_id") is None]:
        raise ValueError(f"a BERT tokenizer must have {', '.join(names)}; got one without {', '.join(missing)}")
    if options.whole_word_mask and not any(token.startswith(CONTINUATION) for token in tokenizer.get_vocab()):
        raise ValueError(
            f"data.whole_word_mask needs a tokenizer that marks pieces inside a word with {CONTINUATION}; "
            f"got a {type(tokenizer).__name__} without one"
        )
