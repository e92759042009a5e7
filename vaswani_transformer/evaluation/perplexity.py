"""Perplexity over windows that overlap, of a token, a word and a byte, also by GPT-2's convention for WikiText."""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.causal import joint_token, text_blocks
from .causal_lm import context_of, start_token
from .translation import evaluating, pad_right, token_batches

WINDOWS_AT_ONCE = 256  # sorted by length and cut into batches together


@dataclass(frozen=True)
class Perplexity:
    """How well a model foretells texts; every figure follows from the first four.

    Attributes:
        nats: minus the logarithm of the probability of all tokens foretold.
        tokens: how many they are.
        words: of the texts as they were before any detokenising, what white space separates.
        bytes: of the same texts, in UTF-8.
        documents: how many texts there were.
        window: most tokens that a window reads.
        stride: tokens from one window's start to the next one's.
    """

    nats: float
    tokens: int
    words: int
    bytes: int
    documents: int
    window: int
    stride: int

    @property
    def nats_per_token(self) -> float:
        """Returns the mean loss."""
        return self.nats / self.tokens

    @property
    def per_token(self) -> float:
        """Returns the perplexity of a token."""
        return _exponential(self.nats_per_token)

    @property
    def per_word(self) -> float:
        """Returns the perplexity of a word: comparable between tokenizers."""
        return _exponential(self.nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        """Returns the bits that a byte of text takes."""
        return self.nats / self.bytes / math.log(2)

    def as_dict(self) -> dict[str, float | int]:
        """Returns all figures, plain values for JSON."""
        names = ("nats_per_token", "per_token", "per_word", "bits_per_byte")
        return {name: getattr(self, name) for name in names} | asdict(self)


def _exponential(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf  # where a float ends


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 4096,
    detokenize: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Perplexity:
    """Foretells every token of every text once, no text seeing another.

    A text stands behind the token that starts one (`causal_lm.start_token`), which is not foretold itself; without any
    its own first token is not. The end of a text is not foretold.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        texts: documents; read one by one.
        window: most tokens that are read together; the model's context where left out.
        stride: tokens from one window to the next: a token sees at least `window - stride` others, as far as there are
            so many. Half the window where left out; equal to it, windows do not overlap.
        batch_tokens: most tokens of a batch of windows, padding included; a longer window is alone.
        detokenize: "wikitext" undoes WikiText's spacing first (`DETOKENIZERS`), as GPT-2's authors and lm-eval do.
        progress: called with the number of tokens foretold since its last call.

    Raises:
        ValueError: a window the model cannot read, a stride of 0 or beyond the window, an unknown detokeniser, texts
            in which there is nothing to foretell.
    """
    if detokenize is not None and detokenize not in DETOKENIZERS:
        raise ValueError(f"detokenize must be one of {', '.join(DETOKENIZERS)}; got {detokenize=}")
    change, start = DETOKENIZERS.get(detokenize or "", str), start_token(model, tokenizer)
    words = size = documents = 0

    def rows() -> Iterator[np.ndarray]:
        nonlocal words, size, documents
        for text in texts:
            words, size, documents = words + len(text.split()), size + len(text.encode()), documents + 1
            yield _tokens(change(text), tokenizer, start)

    window, stride = _window(model, window, stride)
    nats, tokens = score_tokens(
        model, rows(), window=window, stride=stride, batch_tokens=batch_tokens, progress=progress
    )
    if not tokens or not words:
        raise ValueError(
            f"there must be a token to foretell; got {documents} documents, {words} words, {tokens} tokens"
        )
    return Perplexity(nats, tokens, words, size, documents, window, stride)


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase, start: int | None) -> np.ndarray:
    """The ids of a text, a block at a time as in training, behind the start token where there is one."""
    joint, ids = joint_token(tokenizer), []
    for block in text_blocks(iter([*text.split("\n"), None])):
        settings: Any = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        if block and (more := tokenizer(block, **settings)["input_ids"]):
            ids += [joint, *more] if ids and joint is not None else more
    return np.array(ids if start is None else [start, *ids], dtype=np.int64)


def score_tokens(
    model: PreTrainedModel,
    rows: Iterable[np.ndarray],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 4096,
    progress: Callable[[int], object] | None = None,
) -> tuple[float, int]:
    """Returns the nats of all tokens but each row's first, and how many they are.

    The first window of a row foretells as many tokens as it reads; each further one the `stride` tokens behind those
    foretold already. The other arguments are those of `perplexity`.

    Args:
        model: any causal language model.
        rows: [N] ids each, of any integer type; none sees another.

    Raises:
        ValueError: as `perplexity`, or a batch of no tokens.
    """
    window, stride = _window(model, window, stride)
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1; got {batch_tokens=}")
    windows = (one for row in rows for one in _windows(row, window, stride))
    nats, tokens = 0.0, 0
    with evaluating(model), torch.inference_mode():
        while some := list(itertools.islice(windows, WINDOWS_AT_ONCE)):
            for batch in token_batches([len(one.ids) for one in some], batch_tokens):
                found, count = _score(model, [some[index] for index in batch])
                nats, tokens = nats + found, tokens + count
                if progress:
                    progress(count)
    return nats, tokens


class _Window(NamedTuple):
    ids: np.ndarray
    targets: np.ndarray  # of its last places


def _window(model: PreTrainedModel, window: int | None, stride: int | None) -> tuple[int, int]:
    most = context_of(model)
    window = most if window is None else window
    if window is None:
        raise ValueError(
            "window must say how many tokens to read together; got None, and a model whose context is open"
        )
    if window < 1 or (most is not None and window > most):
        raise ValueError(f"window must be from 1 to the model's context of {most} tokens; got {window=}")
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be from 1 to the window, or tokens are left out; got {stride=}, {window=}")
    return window, stride


def _windows(row: np.ndarray, window: int, stride: int) -> Iterator[_Window]:
    done, last = 0, len(row) - 1  # of the places that have a target, so many have been scored
    for begin in range(0, max(0, last), stride):
        end = min(begin + window, last)
        if end > done:
            yield _Window(row[begin:end], row[done + 1 : end + 1])
            done = end


def _score(model: PreTrainedModel, windows: Sequence[_Window]) -> tuple[float, int]:
    """The nats of the windows' targets, from the logits of the places that have one, and their number."""
    ids_BT, mask_BT = pad_right([one.ids.tolist() for one in windows], 0)
    targets_BT = torch.full_like(ids_BT, -100)
    for index, one in enumerate(windows):
        targets_BT[index, len(one.ids) - len(one.targets) : len(one.ids)] = torch.tensor(one.targets.astype(np.int64))
    keep = ids_BT.shape[1] - int((targets_BT >= 0).any(0).nonzero()[0])
    fewer = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    inputs: dict[str, Any] = {"input_ids": ids_BT.to(model.device), "attention_mask": mask_BT.to(model.device)}
    logits: Tensor = model(**inputs, use_cache=False, **fewer).logits
    nats = torch.zeros((), dtype=torch.float64)
    for logits_TV, targets_T in zip(logits[:, -keep:], targets_BT[:, -keep:].to(logits.device), strict=True):
        nats += nn.functional.cross_entropy(logits_TV.float(), targets_T, reduction="sum").double().cpu()
    return nats.item(), int((targets_BT >= 0).sum())


# WikiText's spacing undone: what "invertible detokenizers" are in GPT-2's paper (section 3.1), by the rules that
# Megatron-LM and lm-eval share; their rule for "' 1", which is misspelt there and matches nothing, is left out.
_PAIRED = ((r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ('"', '"'), ("'", "'"))
_BEFORE = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
)
_AFTER = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def wikitext_detokenized(text: str) -> str:
    """Returns a page of WikiText as it was written: no space before a comma, none inside brackets and quotes."""
    for old, new in _BEFORE:
        text = text.replace(old, new)
    for opening, closing in _PAIRED:
        text = re.sub(rf"({opening})\s*([^{closing}]*?)\s*({closing})", r"\1\2\3", text)
    for old, new in _AFTER:
        text = text.replace(old, new)
    return text


DETOKENIZERS: dict[str, Callable[[str], str]] = {"wikitext": wikitext_detokenized}
