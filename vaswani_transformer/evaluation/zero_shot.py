"""What a language model knows of four tasks without a label: the heuristics of section 5 of Radford et al. (2018).

Each function takes model and tokenizer of any causal language model, and gives a score for each choice of each row, the
highest being the model's; CoLA's has one score a row, which a threshold turns into a class.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTIMENTS = ("negative", "positive")  # in the order of SST-2's labels
Scores = list[list[float]]


def acceptability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], *, batch_size: int = 16
) -> list[float]:
    """The mean log-probability of each sentence's tokens, in nats: linguistic acceptability, CoLA.

    The first token counts where the tokenizer has one that starts a text; OpenAI's GPT-1 has none.

    Args:
        model: whose next-token probabilities are read.
        tokenizer: its own.
        sentences: none of them empty.
        batch_size: sentences read at once.

    Raises:
        ValueError: a sentence that has nothing to foretell, or does not fit the model's context.
    """
    pairs = [("", sentence) for sentence in sentences]
    return [float(found.mean()) for found in _log_probabilities(model, tokenizer, pairs, batch_size)]


def best_threshold(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The threshold on `acceptability` whose classes (1 at it and above) correlate best with labels, as CoLA counts.

    Args:
        scores: of labelled sentences.
        labels: 1 for acceptable, 0 for not.

    Raises:
        ValueError: no scores, or another number of labels.
    """
    if not len(scores) or len(scores) != len(labels):
        raise ValueError(f"a threshold needs a label for each of its scores; got {len(scores)}, {len(labels)} labels")
    order = np.argsort(scores)
    values, truth = np.asarray(scores, float)[order], np.asarray(labels)[order]
    below, good_below = np.arange(len(values)), np.concatenate([[0], truth.cumsum()[:-1]])
    good, bad, above = truth.sum(), len(truth) - truth.sum(), len(values) - below
    # Matthews' correlation of "from here on acceptable" with the truth, 0 where it is not defined.
    hits, right_below = good - good_below, below - good_below
    top = hits * right_below - (above - hits) * good_below
    bottom = np.sqrt((above * below * good * bad).astype(float))
    matthews = np.divide(top, bottom, out=np.zeros(len(values)), where=bottom > 0)
    matthews[1:][values[1:] == values[:-1]] = -np.inf  # equal scores are of one class
    return float(values[int(matthews.argmax())])


def sentiment(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    words: Sequence[str] = SENTIMENTS,
    batch_size: int = 16,
) -> Scores:
    """Log-probabilities of `words` behind each text and the word "very": SST-2.

    Args:
        model: whose next-token probabilities are read.
        tokenizer: its own.
        texts: reviews.
        words: the paper's two; one of several tokens has the sum of theirs.
        batch_size: sequences read at once.

    Raises:
        ValueError: as `acceptability`.
    """
    pairs = [(f"{text} very", f" {word}") for text in texts for word in words]
    sums = [float(found.sum()) for found in _log_probabilities(model, tokenizer, pairs, batch_size)]
    return [sums[i : i + len(words)] for i in range(0, len(sums), len(words))]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: int = 16,
) -> Scores:
    """The mean log-probability of each answer's tokens behind its context: question answering, RACE.

    A context that is too long loses its beginning.

    Args:
        model: whose next-token probabilities are read.
        tokenizer: its own.
        contexts: a document and a question each.
        choices: the answers of each.
        batch_size: sequences read at once.

    Raises:
        ValueError: another number of contexts than of lists of answers; as `acceptability`.
    """
    if len(contexts) != len(choices):
        raise ValueError(f"every context needs its answers; got {len(contexts)} contexts, {len(choices)} lists")
    pairs = [(text, f" {one}") for text, several in zip(contexts, choices, strict=True) for one in several]
    return _grouped_means(model, tokenizer, pairs, choices, batch_size)


def substitutions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[str, Sequence[str], str]],
    *,
    batch_size: int = 16,
) -> Scores:
    """The mean log-probability of what follows a pronoun, each of its referents put in its place: Winograd's schemas.

    Args:
        model: whose next-token probabilities are read.
        tokenizer: its own.
        rows: (text before the pronoun, referents, text behind it) each, with the spaces that part them.
        batch_size: sequences read at once.

    Raises:
        ValueError: as `acceptability`; nothing stands behind the pronoun.
    """
    pairs = [(before + referent, behind) for before, referents, behind in rows for referent in referents]
    return _grouped_means(model, tokenizer, pairs, [referents for _, referents, _ in rows], batch_size)


def _grouped_means(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    groups: Sequence[Sequence[str]],
    batch_size: int,
) -> Scores:
    means = iter([float(found.mean()) for found in _log_probabilities(model, tokenizer, pairs, batch_size)])
    return [[next(means) for _ in group] for group in groups]


def _log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], batch_size: int
) -> list[Tensor]:
    """Log-probabilities of each token of a continuation behind its context, in the order of the pairs."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size=}")
    limit = getattr(model.config, "max_position_embeddings", None)
    rows = [_row(tokenizer, context, continuation, limit) for context, continuation in pairs]
    found: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            found |= dict(zip(part, _read(model, [rows[index] for index in part]), strict=True))
    finally:
        model.train(training)
    return [found[index] for index in range(len(rows))]


def _row(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str, limit: int | None
) -> tuple[list[int], int]:
    """Token ids of a text, and where its continuation begins; the beginning that does not fit is left out."""
    first = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    start = [] if first is None else [first]
    before, whole = (
        start + tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for text in (context, context + continuation)
    )
    # A token that spans both belongs to the continuation.
    begin = next((i for i, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(before))
    begin = max(begin, 1)
    if begin >= len(whole):
        raise ValueError(
            f"a text to score must have a token that others precede; got {continuation!r} behind {context[-40:]!r}"
        )
    over = 0 if limit is None else max(0, len(whole) - limit)
    if over >= begin:
        raise ValueError(
            f"a text to score and a token before it must fit the model's context of {limit}; got "
            f"{len(whole) - begin} tokens: {continuation[:40]!r}"
        )
    return whole[over:], begin - over


@torch.inference_mode()
def _read(model: PreTrainedModel, rows: Sequence[tuple[list[int], int]]) -> list[Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows], device=model.device)
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows], device=model.device)
    logits = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    found = []
    for row, (ids, begin) in enumerate(rows):
        scores = logits[row, begin - 1 : len(ids) - 1].float().log_softmax(-1)
        found.append(scores.gather(-1, ids_BT[row, begin : len(ids), None]).squeeze(-1).cpu())
    return found
