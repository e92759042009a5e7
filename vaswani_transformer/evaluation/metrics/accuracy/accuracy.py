"""Accuracy of choices with its standard error, for `evaluate.load`."""

from typing import Any

import numpy as np
from datasets import Features, Value

from vaswani_transformer.evaluation.few_shot_figures import spread
from vaswani_transformer.evaluation.loadable_metric import LoadableMetric


class Accuracy(LoadableMetric):
    """Share of choices that are right, as few-shot evaluation tells it.

    Args:
        predictions: the number of the choice of each question.
        references: that of the right one.

    Returns:
        `accuracy`, 0 to 1, `accuracy_stderr` over questions, `accuracy_interval`, 95% by bootstrap.
    """

    FEATURES = Features({"predictions": Value("int64"), "references": Value("int64")})
    CITATION = (
        "@inproceedings{brown2020language, title={Language Models are Few-Shot Learners}, author={Brown, Tom B. and "
        "others}, booktitle={NeurIPS}, year={2020}}"
    )

    def _compute(self, *, predictions: list[int], references: list[int]) -> dict[str, Any]:
        values = (np.asarray(predictions) == np.asarray(references)).astype(float)
        return {"accuracy": float(values.mean())} | spread(values, "accuracy")
