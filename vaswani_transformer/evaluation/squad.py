"""SQuAD: answers out of logits, as run_squad.py of Google's code finds them, and exact match and F1 as SQuAD's script.

Departure from Google's code: the tokenizer tells where each piece stands in the text, so an answer is the text's own
characters, without aligning a detokenised answer to it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Features, List, Value

from ..data.labelled_rows import Row
from ..data.question_answering import QuestionAnsweringOptions, Window, answers_of
from .glue import metric_info
from .text_metrics import exact_match, f1, normalized

try:
    import evaluate
except ImportError as error:
    raise ImportError("metrics need evaluate: pip install 'vaswani-transformer[eval]'") from error

NO_CANDIDATE = "empty"  # what Google's code answers where no window has an answer that may be given


@dataclass(frozen=True)
class Candidate:
    """A span of tokens that may be the answer.

    Args:
        text: the characters of the text, "" for no answer.
        score: its start's and its end's logit.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Answers:
    """What is found for a set of questions, by their ids.

    Args:
        texts: the answer, "" for none.
        n_best: candidates with their `probability`, best first: a softmax over the list's scores.
        null_odds: SQuAD 2.0: how much better no answer scores than the best answer.
    """

    texts: dict[str, str]
    n_best: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]


def find_answers(
    rows: Sequence[Row],
    windows: Sequence[Window],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    *,
    options: QuestionAnsweringOptions,
) -> Answers:
    """Finds the answers in the logits of the windows.

    A span starts in a token that has its maximal context in that window, ends at it or behind, and has at most
    `answer_length` tokens. The first of equal scores wins, and the better of two spans of one text.

    Args:
        rows: the questions.
        windows: all of theirs.
        start_logits: for each window, a logit for each of its positions; what follows them is padding.
        end_logits: likewise.
        options: answer_length, candidates, null_threshold.

    Raises:
        ValueError: other numbers of logits than of windows, fewer logits than positions.
    """
    if not len(windows) == len(start_logits) == len(end_logits):
        raise ValueError(
            "logits must be one row for each window; "
            f"got {len(windows)} windows, {len(start_logits)} starts, {len(end_logits)} ends"
        )
    found: list[list[Candidate]] = [[] for _ in rows]
    null_scores = [math.inf] * len(rows)
    for window, starts, ends in zip(windows, start_logits, end_logits, strict=True):
        _check_length(window, starts, ends)
        found[window.row] += _candidates(window, starts, ends, str(rows[window.row]["context"]), options)
        null_scores[window.row] = min(null_scores[window.row], float(starts[0]) + float(ends[0]))
    answers = Answers({}, {}, {})
    for row, candidates, null_score in zip(rows, found, null_scores, strict=True):
        name = str(row["id"])
        answers.n_best[name] = n_best = _n_best(candidates, null_score, options)
        answers.texts[name] = n_best[0]["text"]
        if options.null_threshold is not None:
            score = next((entry["score"] for entry in n_best if entry["text"]), -math.inf)
            answers.null_odds[name] = null_score - score
            texts = (entry["text"] for entry in n_best if entry["text"])
            none = answers.null_odds[name] > options.null_threshold
            answers.texts[name] = "" if none else next(texts, "")
    return answers


def _check_length(window: Window, starts: np.ndarray, ends: np.ndarray) -> None:
    length = len(window.inputs["input_ids"])
    if len(starts) < length or len(ends) < length:
        raise ValueError(
            f"a window must have a logit for each position; got {len(starts)} and {len(ends)} for {length} positions"
        )


def _candidates(
    window: Window, starts: np.ndarray, ends: np.ndarray, text: str, options: QuestionAnsweringOptions
) -> Iterator[Candidate]:
    length = len(window.inputs["input_ids"])
    tokens = len(window.characters)
    best_starts = _best(starts[:length], options.candidates)
    best_ends = _best(ends[:length], options.candidates)
    for start in best_starts:
        first = start - window.offset
        if not 0 <= first < tokens or not window.max_context[first]:
            continue
        for end in best_ends:
            last = end - window.offset
            if first <= last < tokens and last - first < options.answer_length:
                span = text[window.characters[first][0] : window.characters[last][1]]
                yield Candidate(span, float(starts[start]) + float(ends[end]))


def _best(logits: np.ndarray, count: int) -> list[int]:
    return np.argsort(-logits, kind="stable")[:count].tolist()


def _n_best(candidates: list[Candidate], null_score: float, options: QuestionAnsweringOptions) -> list[dict[str, Any]]:
    """The best candidates of different texts, no answer among them for SQuAD 2.0, with their probabilities."""
    best: dict[str, float] = {}
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        if candidate.text not in best and len(best) < options.candidates:
            best[candidate.text] = candidate.score
    if options.null_threshold is not None:
        best.setdefault("", null_score)
    if not best:
        best[NO_CANDIDATE] = 0.0
    ranked = sorted(best.items(), key=lambda item: -item[1])
    scores = np.array([score for _, score in ranked])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return [
        {"text": text, "score": score, "probability": float(share)}
        for (text, score), share in zip(ranked, shares, strict=True)
    ]


class Squad(evaluate.Metric):
    """Exact match and F1, of SQuAD 1.1 and 2.0, in percent: for each question, those of its best gold answer.

    Predictions are {id, prediction_text}, "" for no answer; references {id, answers: {text, answer_start}}, no text
    for a question without answer. Where there are such questions, HasAns_ and NoAns_ have both kinds' own.
    """

    def _info(self) -> evaluate.MetricInfo:
        answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
        features = {
            "predictions": {"id": Value("string"), "prediction_text": Value("string")},
            "references": {"id": Value("string"), "answers": answers},
        }
        return metric_info("Exact match and F1 of answers (Rajpurkar et al. 2016, 2018).", Features(features))

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        found = {str(row["id"]): str(row["prediction_text"]) for row in predictions}
        return squad_scores(found, {str(row["id"]): list(row["answers"]["text"]) for row in references})


def squad_scores(found: Mapping[str, str], gold: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What `Squad` computes, of answers and gold answers by id.

    Raises:
        ValueError: a question without a prediction.
    """
    if missing := [name for name in gold if name not in found]:
        raise ValueError(f"every question must have a prediction; got none for {len(missing)}, {missing[0]!r} first")
    scores: dict[str, tuple[float, float]] = {}
    for name, texts in gold.items():
        wanted = [text for text in texts if normalized(text)] or [""]
        scores[name] = (
            max(exact_match(found[name], text) for text in wanted),
            max(f1(found[name], text) for text in wanted),
        )
    results = _means("", list(scores.values()))
    answered = {name for name, texts in gold.items() if any(normalized(text) for text in texts)}
    if len(answered) < len(gold):
        results |= _means("HasAns_", [scores[name] for name in scores if name in answered])
        results |= _means("NoAns_", [scores[name] for name in scores if name not in answered])
    return results


def _means(prefix: str, scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    if not scores:
        return {}
    exact, f1_score = (100.0 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return {f"{prefix}exact_match": exact, f"{prefix}f1": f1_score}


def gold_answers(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The gold answers of each question, by id."""
    return {str(row["id"]): [text for text, _ in answers_of(row)] for row in rows}


def references(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The questions as `Squad` takes its references."""
    found = []
    for row in rows:
        answers = answers_of(row)
        texts, starts = [text for text, _ in answers], [start for _, start in answers]
        found.append({"id": str(row["id"]), "answers": {"text": texts, "answer_start": starts}})
    return found
