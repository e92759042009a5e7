"""How likely the original Transformer, or any encoder-decoder, finds a choice: its context is the source.

Everything before a choice goes into the encoder, description and shots too; the decoder is asked for the choice and the
token that ends it, each token behind the right ones before it. The sources of a question are encoded once, whatever
the number of its choices.

A model trained to translate alone has never seen a prompt: it can be asked without shots only in its own task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from ..models import VaswaniTransformerForConditionalGeneration
from .bounded_batches import BATCH_TOKENS, BoundedBatches, batches, most_logits, scores_alike
from .packed_scoring import logits_at
from .scoring import Likelihood, likelihood, read_logits
from .translation import evaluating, pad_right, token_batches


@dataclass(frozen=True)
class Pair:
    """A source and its target.

    Args:
        source: tokens, with what the tokenizer ends a source with.
        target: tokens, the last being the one that ends a text.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def read(self) -> int:
        """Returns the tokens of the longer side."""
        return max(len(self.source), len(self.target))


class PairTokens:
    """Tokenises contexts as sources and choices as targets, spaces at their ends left out.

    Args:
        tokenizer: of sources and targets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, context: str, choice: str) -> Pair:
        """Returns the tokens of both.

        Raises:
            ValueError: either has no token, not even one that ends a text.
        """
        call: Any = self._tokenizer
        source = call(context.rstrip(), verbose=False)["input_ids"]
        target = call(text_target=choice.strip(), verbose=False)["input_ids"]
        end = self._tokenizer.eos_token_id
        if end is not None and target[-1:] != [end]:
            target = [*target, end]
        if not source or not target:
            raise ValueError(f"source and target must have a token each; got {context[-40:]!r} and {choice!r}")
        return Pair(tuple(source), tuple(target))


@torch.inference_mode()
def score_pairs_plainly(model: PreTrainedModel, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Returns the likelihood of each target, a forward pass each, without padding.

    Args:
        model: any encoder-decoder that takes labels, in evaluation mode.
        pairs: that fit its context.
    """
    found = []
    for pair in pairs:
        source, target = (torch.tensor([ids], device=model.device) for ids in (pair.source, pair.target))
        logits_TV = model(input_ids=source, labels=target).logits[0]
        found.append(likelihood(*read_logits(logits_TV, target[0])))
    return found


class EncoderDecoderScorer(BoundedBatches):
    """Scores the choices of questions with an encoder-decoder.

    Args:
        model: an encoder-decoder; it is in evaluation mode while it scores.
        tokenizer: its tokenizer, whose padding is used.
        batch_tokens: most tokens of a batch with padding, where every choice counts its source; a larger question is
            alone. Halved, for good, where memory does not hold a batch.

    Attributes:
        fast: whether sources are encoded once and logits computed where they are read alone, found by a trial.

    Raises:
        ValueError: a model without a token that starts a target.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        super().__init__(batch_tokens)
        self.model: Any = model
        self.start: Any = getattr(model.config, "decoder_start_token_id", None)
        if self.start is None:
            raise ValueError("an encoder-decoder must have a decoder_start_token_id; got none in its configuration")
        self.pad: Any = tokenizer.pad_token_id or 0
        self.fast = self._trial()

    def __call__(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Likelihood]]]:
        """Yields the number of each question and its choices' likelihoods, batch by batch, most choices first."""
        if not self.fast:
            for number, group in enumerate(groups):
                with evaluating(self.model):
                    scores = score_pairs_plainly(self.model, group)
                yield number, scores
            return
        sizes = [(max(len(p.source) for p in group), max(len(p.target) for p in group)) for group in groups]
        most = most_logits(self.model)

        def fits(batch: Sequence[int]) -> bool:
            rows = sum(len(groups[number]) for number in batch)
            longest = sum(max(sizes[number][side] for number in batch) for side in (0, 1))
            logits = sum(len(pair.target) for number in batch for pair in groups[number])
            return rows * longest <= self.batch_tokens and logits <= most

        # questions of as many choices side by side, which our decoder reads without a copy of their sources
        order = sorted(range(len(groups)), key=lambda number: (-len(groups[number]), -sum(sizes[number])))
        for batch in batches(order, fits):
            with evaluating(self.model):
                scored = self.in_halves(self._forward, [groups[number] for number in batch])
            yield from zip(batch, scored, strict=True)

    @torch.inference_mode()
    def _forward(self, groups: Sequence[Sequence[Pair]]) -> list[list[Likelihood]]:
        device = self.model.device
        places: dict[tuple[int, tuple[int, ...]], int] = {}  # a question's own sources, in their order
        which = [places.setdefault((n, pair.source), len(places)) for n, group in enumerate(groups) for pair in group]
        source_BS, mask_BS = (x.to(device) for x in pad_right([source for _, source in places], self.pad))
        encoded_BSD = self.model.get_encoder()(input_ids=source_BS, attention_mask=mask_BS).last_hidden_state
        if not self._regular(which, len(places)):
            rows = torch.tensor(which, device=device)
            encoded_BSD, mask_BS = encoded_BSD[rows], mask_BS[rows]
        targets = [pair.target for group in groups for pair in group]
        given_RT, real_RT = (x.to(device) for x in pad_right([(self.start, *t[:-1]) for t in targets], self.pad))
        wanted_N = torch.tensor([token for target in targets for token in target], device=device)
        with logits_at(self.model, real_RT.flatten().nonzero().squeeze(1)):
            call = {"encoder_outputs": BaseModelOutput(last_hidden_state=encoded_BSD), "attention_mask": mask_BS}
            logits_NV = self.model(**call, decoder_input_ids=given_RT, use_cache=False).logits[0]
        logprobs_N, likeliest_N = (x.cpu().split([len(t) for t in targets]) for x in read_logits(logits_NV, wanted_N))
        scores = iter([likelihood(*part) for part in zip(logprobs_N, likeliest_N, strict=True)])
        return [[next(scores) for _ in group] for group in groups]

    def _regular(self, which: Sequence[int], sources: int) -> bool:
        """Whether each source serves as many rows in turn, and the decoder takes it for them without copies."""
        each = len(which) // sources
        regular = list(which) == [source for source in range(sources) for _ in range(each)]
        return regular and isinstance(self.model, VaswaniTransformerForConditionalGeneration)

    def _trial(self) -> bool:
        """Whether questions of unlike lengths are scored together as their choices are alone."""
        size = self.model.config.get_text_config().vocab_size
        ids = tuple(token for token in ((7 * n + 3) % size for n in range(20)) if token != self.pad)[:9]
        groups = [[Pair(ids, ids[2:5]), Pair(ids, ids[4:6])], [Pair(ids[:4], ids[1:5]), Pair(ids[:5], ids[:2])]]
        with evaluating(self.model):
            expected = score_pairs_plainly(self.model, [pair for group in groups for pair in group])

            def fast() -> list[Likelihood]:
                return [score for scores in self._forward(groups) for score in scores]

            return scores_alike(self.model, expected, fast)


@torch.inference_mode()
def write_targets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    batch_tokens: int,
    **options: Any,
) -> list[str]:
    """Returns the target that a model writes for each source, in batches of sources of like length.

    Args:
        model: any encoder-decoder.
        tokenizer: its tokenizer.
        sources: the ids of each.
        new_tokens: most tokens of a target.
        batch_tokens: most tokens of a batch, new ones and padding included; a longer source is alone.
        **options: those of `generate`.
    """
    texts = [""] * len(sources)
    generate: Any = model.generate
    pad: Any = tokenizer.pad_token_id or 0
    with evaluating(model):
        for batch in token_batches([len(ids) + new_tokens for ids in sources], batch_tokens):
            ids_BS, mask_BS = pad_right([sources[number] for number in batch], pad)
            inputs: dict[str, Any] = {"input_ids": ids_BS.to(model.device), "attention_mask": mask_BS.to(model.device)}
            found = generate(**inputs, max_new_tokens=new_tokens, **options)
            for number, text in zip(batch, tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
                texts[number] = text
    return texts
