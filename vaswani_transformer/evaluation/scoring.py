"""Log-likelihoods of what may follow a context, one text at a time: what every faster way of scoring must equal.

Tokens are lm-eval's: context and continuation are tokenised together, and the tokens behind as many as the context
alone has are the continuation's; spaces at a context's end belong to the continuation; an empty context is the token
that starts a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .causal_lm import start_token


@dataclass(frozen=True)
class Continuation:
    """Tokens of a context and what follows it.

    Args:
        ids: of both.
        begin: where the continuation begins, 1 or more.
    """

    ids: tuple[int, ...]
    begin: int

    @property
    def read(self) -> int:
        """Returns how many tokens a model reads; it need not read the last one."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Args:
        logprob: natural logarithm of its probability, all tokens together.
        tokens: how many there are.
        greedy: whether each is the likeliest behind those before it.
    """

    logprob: float
    tokens: int
    greedy: bool


class Tokens:
    """Tokenises contexts with their continuations, each context once in a row.

    Args:
        model: whose token that starts a text stands for an empty context.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, self._start = tokenizer, start_token(model, tokenizer)
        self._last: tuple[str, int] = ("", 0)

    def __call__(self, context: str, continuation: str) -> Continuation:
        """Returns the tokens of a context and what follows it.

        Raises:
            ValueError: an empty context without a token that starts a text, a continuation without a token.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if not kept:
            start = [] if self._start is None else [self._start]
            ids: list[int] = [*start, *self._ids(continuation, add_special_tokens=False)]
            begin = len(start)
        else:
            if self._last[0] != kept:
                self._last = (kept, len(self._ids(kept)))
            ids, begin = self._ids(kept + continuation), self._last[1]
        if begin < 1 or begin >= len(ids):
            raise ValueError(
                "a continuation must have a token, and one before it; got "
                f"{len(ids)} tokens, {begin} of them before it: {continuation!r} behind {kept[-40:]!r}"
            )
        return Continuation(tuple(ids), begin)

    def _ids(self, text: str, **more: Any) -> list[int]:
        ids: Any = self._tokenizer(text, verbose=False, **more)["input_ids"]
        return ids


@torch.inference_mode()
def score_plainly(model: PreTrainedModel, continuations: Sequence[Continuation]) -> list[Likelihood]:
    """Returns the likelihood of each continuation, a forward pass each, without padding or masks.

    Args:
        model: any causal language model, in evaluation mode.
        continuations: that fit its context.
    """
    found = []
    for continuation in continuations:
        ids = torch.tensor([continuation.ids], device=model.device)
        logits_TV = model(input_ids=ids[:, :-1], use_cache=False).logits[0, continuation.begin - 1 :]
        found.append(likelihood(*read_logits(logits_TV, ids[0, continuation.begin :])))
    return found


def read_logits(logits_NV: Tensor, wanted_N: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the log-probabilities [N] of tokens, and whether each is the likeliest [N]."""
    logits_NV = logits_NV.float()
    logits_N = logits_NV.gather(1, wanted_N[:, None]).squeeze(1)
    largest_N, _ = logits_NV.max(1)
    return logits_N - logits_NV.logsumexp(1), logits_N == largest_N


def likelihood(logprobs_N: Tensor, likeliest_N: Tensor) -> Likelihood:
    """Returns the likelihood of a continuation of N tokens."""
    return Likelihood(float(logprobs_N.double().sum()), len(logprobs_N), bool(likeliest_N.all()))
