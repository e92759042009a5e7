"""From the logits of a fine-tuned model to the metrics of its task."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ..data.labelled_rows import Row
from ..data.question_answering import QuestionAnsweringData
from ..data.token_labels import TokenLabelsData
from ..sections import unknown_name

# The first is a task's own where GLUE or SQuAD has one; what a class computes beside it is reported too.
METRICS = {
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "regression": ("pearson", "spearmanr"),
    "multi-label": ("f1",),
    "token-labels": ("f1",),
    "question-answering": ("exact_match", "f1"),
    "multiple-choice": ("accuracy",),
}
OUTSIDE = "O"  # the tag of a word that is part of no entity
Score = Callable[[EvalPrediction], dict[str, float]]


def check_metrics(task: str, metrics: Sequence[str]) -> None:
    """Raises ValueError for a metric that a task does not have, with the nearest that it has."""
    for name in metrics:
        if name not in METRICS[task]:
            raise ValueError(unknown_name(name, METRICS[task], f"metric in validate.metrics of {task}"))


def score_of(
    data: Any, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, metrics: Sequence[str]
) -> Score | None:
    """The function of logits that `Trainer` calls; None where no metric is asked for.

    Args:
        data: the task's data module.
        rows: the validation rows, in the order of their predictions.
        tokenizer: as for their features.
        metrics: names from `METRICS`.

    Raises:
        ImportError: the extra [eval] is not installed.
    """
    if not metrics:
        return None
    if isinstance(data, QuestionAnsweringData):
        return _answers_score(data, rows, tokenizer)
    if isinstance(data, TokenLabelsData):
        return _entities_score(data, rows, tokenizer)
    return _glue_score(data.options.task, metrics)


def _glue_score(task: str, names: Sequence[str]) -> Score:
    from . import glue

    classes = {
        "accuracy": glue.Accuracy,
        "f1": glue.MultiLabelF1 if task == "multi-label" else glue.F1,
        "matthews_correlation": glue.MatthewsCorrelation,
        "pearson": glue.Pearson,
        "spearmanr": glue.Spearman,
    }
    metrics = [classes[name](keep_in_memory=True) for name in names]

    def score(prediction: EvalPrediction) -> dict[str, float]:
        logits, references = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if task == "regression":
            found = logits.reshape(-1)
        elif task == "multi-label":
            found, references = (logits > 0).astype(int), references.astype(int)
        else:
            found = logits.argmax(-1)
        results: dict[str, float] = {}
        for metric in metrics:
            results |= metric.compute(predictions=found.tolist(), references=references.tolist()) or {}
        return results

    return score


def _entities_score(data: TokenLabelsData, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Score:
    from .entities import EntityF1

    metric = EntityF1(keep_in_memory=True)
    words = [data.words(row)[1] for row in rows]
    gold = [[data.labels[label] for label in labels] for labels in words]
    _, firsts = data.encode(rows, tokenizer)

    def score(prediction: EvalPrediction) -> dict[str, float]:
        found = []
        for labels, first, logits in zip(words, firsts, np.asarray(prediction.predictions), strict=True):
            tags = [OUTSIDE] * len(labels)  # also where a word was cut off, or has no piece
            for place, word in enumerate(first):
                if word is not None:
                    tags[word] = data.labels[int(logits[place].argmax())]
            found.append(tags)
        return metric.compute(predictions=found, references=gold) or {}

    return score


def _answers_score(data: QuestionAnsweringData, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Score:
    from . import squad

    metric = squad.Squad(keep_in_memory=True)
    windows, gold = data.windows(rows, tokenizer), squad.references(rows)

    def score(prediction: EvalPrediction) -> dict[str, float]:
        starts, ends = tuple(prediction.predictions)[:2]
        answers = squad.find_answers(rows, windows, list(starts), list(ends), options=data.options)
        found = [{"id": name, "prediction_text": text} for name, text in answers.texts.items()]
        return metric.compute(predictions=found, references=gold) or {}

    return score
