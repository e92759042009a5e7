"""Exact match of written answers, for `evaluate.load`."""

from typing import Any

from vaswani_transformer.evaluation.loadable_metric import ANSWERS, SQUAD, LoadableMetric, answer_figures


class ExactMatch(LoadableMetric):
    """Share of answers that equal an accepted one without case, punctuation and articles, as SQuAD's script compares.

    Args:
        predictions: a text a question.
        references: for each all texts that are accepted.

    Returns:
        `exact_match`, 0 to 1, `exact_match_stderr` over questions, `exact_match_interval`, 95% by bootstrap.
    """

    FEATURES = ANSWERS
    CITATION = SQUAD

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        return answer_figures("em", predictions, references=references, name="exact_match")
