"""F1 of the words of written answers, for `evaluate.load`."""

from typing import Any

from vaswani_transformer.evaluation.loadable_metric import ANSWERS, SQUAD, LoadableMetric, answer_figures


class F1(LoadableMetric):
    """Mean over questions of the F1 of an answer's words with the nearest accepted answer's, as SQuAD's script has it.

    Args:
        predictions: a text a question.
        references: for each all texts that are accepted.

    Returns:
        `f1`, 0 to 1, `f1_stderr` over questions, `f1_interval`, 95% by bootstrap.
    """

    FEATURES = ANSWERS
    CITATION = SQUAD

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        return answer_figures("f1", predictions, references=references, name="f1")
