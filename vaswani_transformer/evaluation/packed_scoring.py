"""Log-likelihoods many times faster: what questions and choices share is computed once.

The tokens that all questions begin with (shots that are shared) are read once and their keys and values kept. What all
choices of a question begin with stands in a row once, and the rest of each choice behind it, none seeing another, at
the positions it has behind the context alone. The output head is computed only where its logits are read, and GPT-2's
activation in one pass over memory instead of eight. A model that cannot be asked in this way is found by a trial, and
is scored plainly, with a notice.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.cache_utils import DynamicCache

from ..models.caches import CACHE
from .bounded_batches import BATCH_TOKENS, BoundedBatches, batches, most_logits, refused, scores_alike
from .scoring import Continuation, Likelihood, likelihood, read_logits, score_plainly
from .translation import evaluating

SHORTEST_PREFIX = 16  # shared tokens that are worth a forward pass of their own
Group = Sequence[Continuation]  # the choices of a question
# What trials found, of models that are asked again, as in training: what was tried, and whether rows are taken.
_TRIALS: WeakKeyDictionary[PreTrainedModel, tuple[Any, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class PackedRow:
    """The choices of a question in one row.

    Args:
        ids: what they share, then the rest of each.
        positions: of each token in the text it belongs to, the common prefix counted.
        segments: 0 for what is shared, then 1, 2 ... for the choices.
        reads: for each choice the columns whose logits foretell its tokens.
        wanted: for each choice its tokens.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    reads: list[list[int]]
    wanted: list[tuple[int, ...]]


def pack(group: Group, prefix: int) -> PackedRow:
    """Returns the row of a question's choices.

    Args:
        group: the choices behind their contexts.
        prefix: so many first tokens, fewer than the choices share, are read already.
    """
    shared = _shared([choice.ids[:-1] for choice in group])
    ids = list(group[0].ids[prefix:shared])
    positions, segments = list(range(prefix, shared)), [0] * (shared - prefix)
    reads = []
    for number, choice in enumerate(group, start=1):
        columns = [*range(shared - prefix), *range(len(ids), len(ids) + choice.read - shared)]
        reads.append([columns[place - 1 - prefix] for place in range(choice.begin, len(choice.ids))])
        ids += choice.ids[shared:-1]
        positions += range(shared, choice.read)
        segments += [number] * (choice.read - shared)
    return PackedRow(ids, positions, segments, reads, [choice.ids[choice.begin :] for choice in group])


def _shared(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens are the same in all."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


class PackedScorer(BoundedBatches):
    """Scores the choices of questions.

    Args:
        model: a causal language model; it is in evaluation mode while it scores.
        batch_tokens: most tokens of a batch with padding; a longer question is alone. Halved, for good, where memory
            does not hold a batch.

    Attributes:
        fast: whether the model takes the rows, found by a trial on a few questions.
    """

    def __init__(self, model: PreTrainedModel, *, batch_tokens: int = BATCH_TOKENS) -> None:
        super().__init__(batch_tokens)
        self.model = model
        kind = (model.config._attn_implementation, model.dtype, model.device)
        if _TRIALS.get(model, (None, False))[0] != kind:
            _TRIALS[model] = (kind, self._trial())
        self.fast = _TRIALS[model][1]

    def __call__(self, groups: Sequence[Group]) -> Iterator[tuple[int, list[Likelihood]]]:
        """Yields the number of each question and its choices' likelihoods, batch by batch, the longest first."""
        if not self.fast:
            for number, group in enumerate(groups):
                with evaluating(self.model):
                    found = score_plainly(self.model, group)
                yield number, found
            return
        prefix = self._prefix(groups)
        with evaluating(self.model), fused_activations(self.model):
            cache = self._read_prefix(groups[0][0].ids[:prefix]) if prefix else None
        rows = [pack(group, prefix) for group in groups]
        for batch in self._batches(rows):
            with evaluating(self.model), fused_activations(self.model):
                found = self.in_halves(partial(self._forward, cache=cache), [rows[number] for number in batch])
            yield from zip(batch, found, strict=True)

    def _prefix(self, groups: Sequence[Group]) -> int:
        """How many first tokens all questions share, none of which foretells a choice's token."""
        if len(groups) < 2:
            return 0
        shared = _shared([choice.ids[: choice.begin - 1] for group in groups for choice in group])
        return shared if shared >= SHORTEST_PREFIX else 0

    def _batches(self, rows: Sequence[PackedRow]) -> Iterator[list[int]]:
        """Rows of like length, so many that tokens and logits are within bounds."""
        most = most_logits(self.model)

        def fits(batch: Sequence[int]) -> bool:
            logits = sum(len(reads) for number in batch for reads in rows[number].reads)
            return len(batch) * len(rows[batch[0]].ids) <= self.batch_tokens and logits <= most

        return batches(sorted(range(len(rows)), key=lambda number: -len(rows[number].ids)), fits)

    @torch.inference_mode()
    def _read_prefix(self, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [1, H, P, K] of each layer."""
        cache = DynamicCache(config=self.model.config)
        given = torch.tensor([ids], device=self.model.device)
        with logits_at(self.model, torch.zeros(1, dtype=torch.long, device=self.model.device)):
            self.model(input_ids=given, use_cache=True, **given_cache(self.model, cache))
        layers: Any = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[PackedRow], cache: Any) -> list[list[Likelihood]]:
        device, width = self.model.device, max(len(row.ids) for row in rows)
        past = 0 if cache is None else cache[0][0].shape[2]

        def padded(lists: Iterable[list[int]], value: int) -> Tensor:
            return torch.tensor([given + [value] * (width - len(given)) for given in lists], device=device)

        ids_BT = padded((row.ids for row in rows), 0)
        positions_BT = padded((row.positions for row in rows), 0)
        mask = block_mask(padded((row.segments for row in rows), -1), past, self.model.dtype)
        flat = [place + number * width for number, row in enumerate(rows) for reads in row.reads for place in reads]
        wanted = [token for row in rows for tokens in row.wanted for token in tokens]
        more: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            expanded = _expanded(cache, len(rows), self.model.config)
            more = {"use_cache": True, **given_cache(self.model, expanded)}
        with logits_at(self.model, torch.tensor(flat, device=device)):
            call = {"input_ids": ids_BT, "attention_mask": mask, "position_ids": positions_BT}
            logits_NV = self.model(**call, **more).logits[0]
        logprobs_N, likeliest_N = (x.cpu() for x in read_logits(logits_NV, torch.tensor(wanted, device=device)))
        counts = [len(tokens) for row in rows for tokens in row.wanted]
        parts = zip(logprobs_N.split(counts), likeliest_N.split(counts), strict=True)
        scores = iter([likelihood(*part) for part in parts])
        return [[next(scores) for _ in row.reads] for row in rows]

    def _trial(self) -> bool:
        """Whether a small question in a row is scored as its choices alone are."""
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None)):
            return refused(f"layers of the kinds {', '.join(sorted(kinds)) or 'sliding window'}")
        size = config.vocab_size
        tokens = [(7 * number + 3) % size for number in range(17)]
        groups = [
            [Continuation((*tokens[:8], *tokens[8 + 2 * choice : 11 + 3 * choice]), 8) for choice in range(3)],
            [Continuation((*tokens[:5], *tokens[9:12]), 7)] * 2,
        ]
        with evaluating(self.model):
            expected = [score_plainly(self.model, group) for group in (*groups, groups[0])]

            def fast() -> list[Likelihood]:
                with fused_activations(self.model):
                    cache = self._read_prefix(tokens[:4])
                    found = self._forward([pack(group, 4) for group in groups], cache)
                    found += self._forward([pack(groups[0], 0)], None)
                return [score for scores in found for score in scores]

            return scores_alike(self.model, [score for scores in expected for score in scores], fast)


def _expanded(cache: Sequence[tuple[Tensor, Tensor]], rows: int, config: Any) -> DynamicCache:
    """A cache for so many rows that all have the same keys and values, which are not copied."""
    made = DynamicCache(config=config)
    layers: Any = made.layers
    for layer, (keys, values) in zip(layers, cache, strict=True):
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = (x.expand(rows, -1, -1, -1) for x in (keys, values))
    return made


def block_mask(segments_BT: Tensor, past: int, dtype: torch.dtype) -> Tensor:
    """Returns the mask [B, 1, T, past + T] added to attention's scores: a choice sees the shared tokens and its own.

    Args:
        segments_BT: 0 for shared tokens, a choice's number from 1, -1 for padding, which sees what is shared.
        past: keys in the cache, which all see.
        dtype: of the scores.
    """
    seen_BTS = (segments_BT[:, None, :] == 0) | (segments_BT[:, None, :] == segments_BT[:, :, None])
    seen_BTS = seen_BTS.tril()
    mask_BTS = torch.zeros(seen_BTS.shape, dtype=dtype, device=segments_BT.device)
    mask_BTS = mask_BTS.masked_fill(~seen_BTS, torch.finfo(dtype).min)
    return nn.functional.pad(mask_BTS, (past, 0))[:, None]


@contextmanager
def fused_activations(model: PreTrainedModel) -> Iterator[None]:
    """Has torch's own kernel compute GPT-2's activation, which transformers writes out as eight operations."""
    written_out = [module for module in model.modules() if type(module) is NewGELUActivation]
    for module in written_out:
        module.forward = partial(nn.functional.gelu, approximate="tanh")
    try:
        yield
    finally:
        for module in written_out:
            del module.forward


def given_cache(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """Returns a cache under the name that a model takes it by; code from before transformers 5.24 has the older one.

    Args:
        model: of any library.
        cache: a Cache of transformers.
    """
    names = inspect.signature(model.forward).parameters
    older = "past_key_values" in names and CACHE not in names
    return {"past_key_values" if older else CACHE: cache}


@contextmanager
def logits_at(model: PreTrainedModel, places_N: Tensor) -> Iterator[None]:
    """Has the output head see only the hidden states at places of the flattened batch, so that logits are [1, N, V].

    What the model does to its logits, a scale or a soft cap, is done to these.
    """
    head: Any = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"a language model must have an output head; got none of {type(model).__name__}")

    def narrowed(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1)[places_N].unsqueeze(0), *inputs[1:])

    hook: Callable[..., Any] = head.register_forward_pre_hook(narrowed).remove
    try:
        yield
    finally:
        hook()
