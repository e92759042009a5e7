"""The paper's beam search as a tree: which hypotheses it keeps at each step, and what the length penalty does."""

# G beams   L tokens so far   V vocabulary

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ..models.beams_transformer import length_penalty
from .attention_maps import words_of

MOST_BEAMS, MOST_STEPS = 4, 12


class Watcher(LogitsProcessor):
    """Sees the hypotheses that the search keeps before each step and the log-probabilities of what may follow."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # type: ignore[override]
        self.steps.append((input_ids.clone(), scores.clone()))
        return scores


def beam_tree(model: Any, tokenizer: PreTrainedTokenizerBase, input_ids: Tensor) -> dict[str, Any]:
    """Returns what the model's own beam search keeps, as data of a page.

    The log-probability of a hypothesis is the sum of those that the search saw, added in its order.

    Args:
        model: a `VaswaniTransformerForConditionalGeneration`.
        tokenizer: its tokenizer.
        input_ids: [1, S] the source.

    Returns:
        "steps": for each of the first `MOST_STEPS` steps the hypotheses that were kept, each with its word, the
        number of its parent in the step before, and its log-probability. "finished": the best finished ones, best
        first, with their path (its number at each step that is shown), |Y|, the penalty ((5 + |Y|) / 6)^alpha, the
        log-probability and the score, which is their quotient. "ids": [L] of the best one, without the start token.

    Raises:
        ValueError: log-probabilities that are no numbers.
    """
    own, watcher = model.generation_config, Watcher()
    beams = min(max(own.num_beams or 1, 2), MOST_BEAMS)
    alpha = 0.6 if own.length_penalty is None else own.length_penalty
    found = model.generate(
        input_ids,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        length_penalty=alpha,
        return_dict_in_generate=True,
        logits_processor=[watcher],
    )
    if any(log_probs.isnan().any() for _, log_probs in watcher.steps):
        raise ValueError("a model must compute numbers; got NaN in its beam search: did its training diverge?")
    levels, places = _kept(watcher.steps)
    finished = [
        _finished(ids, score, tokenizer, places, own.eos_token_id, alpha)
        for ids, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True)
        if score > -torch.inf
    ]
    steps = [
        [node | {"word": word} for node, word in zip(level, _words(tokenizer, level), strict=True)]
        for level in levels[:MOST_STEPS]
    ]
    return {
        "kind": "beam",
        "beams": beams,
        "alpha": alpha,
        "steps": steps,
        "all_steps": len(watcher.steps),
        "finished": finished,
        "ids": finished[0]["ids"],
    }


def _words(tokenizer: PreTrainedTokenizerBase, level: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return words_of(tokenizer, [node["id"] for node in level])


def _kept(
    steps: Sequence[tuple[Tensor, Tensor]],
) -> tuple[list[list[dict[str, Any]]], dict[tuple[int, ...], int]]:
    """The hypotheses kept after each step, and of each its number among those of its step."""
    start = tuple(steps[0][0][0].tolist())
    totals, places, levels = {start: 0.0}, {start: 0}, []
    for (before, log_probs), (ids, _) in itertools.pairwise(steps):
        rows = {tuple(row): number for number, row in reversed(list(enumerate(before.tolist())))}
        level = []
        for row in map(tuple, ids.tolist()):
            step = float(log_probs[rows[row[:-1]], row[-1]])
            if row in totals or step == -torch.inf or row[:-1] not in totals:
                continue  # a beam that has not begun yet
            totals[row], places[row] = totals[row[:-1]] + step, len(level)
            level.append({"id": row[-1], "parent": places[row[:-1]], "log_prob": step, "total": totals[row]})
        levels.append(level)
    return levels, places


def _finished(
    ids: Sequence[int],
    score: float,
    tokenizer: PreTrainedTokenizerBase,
    places: dict[tuple[int, ...], int],
    end: int,
    alpha: float,
) -> dict[str, Any]:
    ended = end in ids[1:]
    length = ids.index(end, 1) if ended else len(ids) - 1
    penalty = float(length_penalty(length, alpha))
    taken = [tuple(ids[: step + 2]) for step in range(min(length - ended, MOST_STEPS))]
    return {
        "text": tokenizer.decode(list(ids[1 : length + 1]), skip_special_tokens=True),
        "ids": list(ids[1 : length + 1]),
        "ended": ended,
        "path": [places[prefix] for prefix in taken if prefix in places],
        "length": length,
        "penalty": penalty,
        "total": score * penalty,
        "score": score,
    }
