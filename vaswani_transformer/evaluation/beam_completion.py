"""Beam search for causal language models as GPT-3 answers in free text: width 4, length penalty 0.6.

Brown et al. (2020), section 2.4, with the penalty of Wu et al. (2016) that the original Transformer has, log P divided
by ((5 + |Y|) / 6)^0.6; transformers' own search divides by |Y|^0.6, which ranks texts otherwise. |Y| counts the
new tokens, with the one that ends the text.

Departure: the paper does not say what ends a text; here a line's end does, as well as the model's end of text.
"""

# B prompts   P tokens of the longest   G beams   L new tokens so far and the one before   V vocabulary

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.beams_transformer import Beams, done, extend, with_living
from ..models.caches import CACHE
from .completion import padding_of
from .packed_scoring import given_cache, logits_at
from .translation import evaluating, pad_right, token_batches

BEAMS, LENGTH_PENALTY = 4, 0.6


def line_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the tokens that end an answer: the model's and tokenizer's end of text, all that hold a line's end."""
    settings: Any = model.generation_config
    given = [settings.eos_token_id, tokenizer.eos_token_id]
    ends = {token for ids in given if ids is not None for token in (ids if isinstance(ids, list) else [ids])}
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return sorted(ends | {token for token, text in enumerate(texts) if "\n" in text})


def beam_complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    ends: Sequence[int],
    beams: int = BEAMS,
    batch_tokens: int = 4096,
) -> list[str]:
    """Goes on with prompts by a beam search and returns the best text of each, what ends it included.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        prompts: the ids of each, at least one.
        new_tokens: most tokens to write.
        ends: tokens that end a text, from `line_ends`.
        beams: how many texts are kept at a time.
        batch_tokens: most tokens of a batch, those of all beams and padding included; a longer prompt is alone.
    """
    texts = [""] * len(prompts)
    with evaluating(model):
        for batch in token_batches([beams * (len(ids) + new_tokens) for ids in prompts], batch_tokens):
            left = [list(prompts[number])[::-1] for number in batch]
            ids_BP, mask_BP = (x.flip(1).to(model.device) for x in pad_right(left, padding_of(model, tokenizer)))
            found = beam_search(model, ids_BP, mask_BP, new_tokens=new_tokens, ends=ends, beams=beams)
            for number, ids in zip(batch, found, strict=True):
                texts[number] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


@torch.inference_mode()
def beam_search(
    model: PreTrainedModel, ids_BP: Tensor, mask_BP: Tensor, *, new_tokens: int, ends: Sequence[int], beams: int = BEAMS
) -> list[list[int]]:
    """Returns the best new tokens of each prompt; the living text is taken where none ended within the limit.

    Args:
        model: any causal language model, in evaluation mode.
        ids_BP: [B, P] prompts, padded on the left.
        mask_BP: [B, P], 1 at their tokens.
        new_tokens: most tokens to write.
        ends: tokens that end a text.
        beams: how many texts are kept at a time.
    """
    count, device = ids_BP.shape[0], ids_BP.device
    reader, ends_E = _Reader(model, ids_BP, mask_BP, beams), torch.tensor(ends, dtype=torch.long, device=device)
    log_probs_BG = torch.full((count, beams), -torch.inf, device=device)
    log_probs_BG[:, 0] = 0.0  # all beams are alike at first: one of them may grow
    first_BG1 = ids_BP[:, -1:, None].expand(-1, beams, -1)
    state = Beams(
        first_BG1,
        log_probs_BG,
        first_BG1.new_empty((count, 1, 0)),
        log_probs_BG.new_full((count, 1), -torch.inf),
        torch.arange(count, device=device),
        torch.full((count,), new_tokens, device=device),
    )
    found: list[list[int]] = [[] for _ in range(count)]
    while len(state.sentence_B):
        state, parents_BG = extend(state, reader.log_probs(state.tokens_BGL), ends_E, LENGTH_PENALTY)
        ready_B = done(state, LENGTH_PENALTY)
        if ready_B.any():
            final = with_living(state.keep(ready_B), LENGTH_PENALTY)
            for sentence, ids in zip(final.sentence_B.tolist(), final.finished_BNL[:, 0, 1:].tolist(), strict=True):
                found[sentence] = [token for token in ids if token >= 0]
        rows = (~ready_B).nonzero().squeeze(-1)
        state, parents_BG = state.keep(rows), parents_BG[rows]
        reader.select(parents_BG.flatten())
    return found


class _Reader:
    """A model that has read prompts, each once, and reads on with their beams; without a cache where it has none."""

    def __init__(self, model: PreTrainedModel, ids_BP: Tensor, mask_BP: Tensor, beams: int) -> None:
        self.model, self.beams = model, beams
        self._placed = "position_ids" in inspect.signature(model.forward).parameters
        self._logits, self.cache = self._read(ids_BP, mask_BP, None)
        self._logits = self._logits.repeat_interleave(beams, 0)
        self._ids, self._mask = (x.repeat_interleave(beams, 0) for x in (ids_BP, mask_BP))
        if self.cache is not None:
            self.cache.batch_repeat_interleave(beams)
        self._new = False

    def log_probs(self, tokens_BGL: Tensor) -> Tensor:
        """[B, G, V] log-probabilities of the token after each beam, in float32."""
        if self._new:
            last_N1 = tokens_BGL[..., -1].reshape(-1, 1)
            self._ids = torch.cat((self._ids, last_N1), dim=1)
            self._mask = torch.cat((self._mask, torch.ones_like(last_N1)), dim=1)
            ids = self._ids if self.cache is None else last_N1
            self._logits, self.cache = self._read(ids, self._mask, self.cache)
        self._new = True
        return self._logits.float().log_softmax(-1).view(-1, self.beams, self._logits.shape[-1])

    def select(self, rows: Tensor) -> None:
        """Keeps rows of the beams before, in this order."""
        self._ids, self._mask = self._ids[rows], self._mask[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)

    def _read(self, ids_NT: Tensor, mask_NS: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [N, V] behind the last token, and the cache."""
        rows, width = ids_NT.shape
        more: dict[str, Any] = {"attention_mask": mask_NS, "use_cache": True}
        if self._placed:
            more["position_ids"] = (mask_NS.cumsum(1) - 1).clamp(min=0)[:, -width:]
        if cache is not None:
            more |= given_cache(self.model, cache)
        last_N = torch.arange(1, rows + 1, device=ids_NT.device) * width - 1
        with logits_at(self.model, last_N):
            output = self.model(input_ids=ids_NT, **more)
        return output.logits[0], _repeatable(getattr(output, CACHE, None))


def _repeatable(cache: Any) -> Any:
    """A cache of keys and values alone, which a row may have many beams of; None for one of recurrent states."""
    layers = getattr(cache, "layers", ())
    plain = all(hasattr(layer, "batch_repeat_interleave") and not hasattr(layer, "conv_states") for layer in layers)
    return cache if layers and plain else None
