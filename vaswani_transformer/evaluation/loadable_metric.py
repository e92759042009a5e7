"""Metrics of ours that `evaluate.load` reads from this package, without a network.

    evaluate.load(metric_path("f1")).compute(predictions=["Paris"], references=[["Paris", "City of Paris"]])

The scripts are in metrics/; the docstring of each tells its metric's inputs and results. Those that evaluate itself has
under such names come from the Hub.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Features, List, Value

from ..sections import unknown_name
from .few_shot_figures import spread
from .text_metrics import text_scores

try:
    import evaluate
except ImportError as error:
    raise ImportError("metrics need evaluate: pip install 'vaswani-transformer[eval]'") from error

FOLDER = Path(__file__).parent / "metrics"
METRICS = ("accuracy", "bleu", "exact_match", "f1", "perplexity", "translation")
SQUAD = (
    "@inproceedings{rajpurkar2016squad, title={{SQuAD}: 100,000+ Questions for Machine Comprehension of Text}, "
    "author={Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy}, booktitle={EMNLP}, "
    "year={2016}}"
)
ANSWERS = Features({"predictions": Value("string"), "references": List(Value("string"))})


def metric_path(name: str) -> str:
    """Returns the folder of a metric, for `evaluate.load`.

    Args:
        name: one of `METRICS`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in METRICS:
        raise ValueError(unknown_name(name, METRICS, "metric"))
    return str(FOLDER / name)


class LoadableMetric(evaluate.Metric, ABC):
    """A metric that says what `evaluate` asks of it in class attributes; its description is its docstring.

    It is abstract, so that `evaluate.load` passes it over and finds the metric in a script that imports it.
    """

    FEATURES: ClassVar[Features]
    CITATION: ClassVar[str]

    def _info(self) -> evaluate.MetricInfo:
        told = inspect.cleandoc(type(self).__doc__ or "")
        description, _, inputs = told.partition("\n\nArgs:\n")
        return evaluate.MetricInfo(
            description=description,
            citation=self.CITATION,
            inputs_description=f"Args:\n{inputs}",
            features=self.FEATURES,
        )

    @abstractmethod
    def _compute(self, **inputs: Any) -> dict[str, Any]: ...


def answer_figures(
    metric: str, predictions: Sequence[str], *, references: Sequence[Sequence[str]], name: str
) -> dict[str, Any]:
    """Returns the mean over questions of a metric of `text_scores`, its standard error and its bootstrap interval.

    Args:
        metric: "em" or "f1".
        predictions: a text a question.
        references: for each all texts that are accepted.
        name: of the figures.
    """
    check_answers(references)
    pairs = zip(predictions, references, strict=True)
    values = np.array([text_scores(text, answers, metrics=(metric,))[metric] for text, answers in pairs])
    return {name: float(values.mean())} | spread(values, name)


def check_answers(references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError for a prediction that nothing is accepted for."""
    for row, answers in enumerate(references):
        if not answers:
            raise ValueError(f"every prediction needs an accepted answer or more; got none in references[{row}]")
