"""F1 of named entities as CoNLL-2003 counts them, whole and of the right kind, by seqeval."""

from collections.abc import Sequence

from datasets import Features, List, Value

from .glue import metric_info

try:
    import evaluate
    from seqeval.metrics import f1_score, precision_score, recall_score
except ImportError as error:
    raise ImportError("entity F1 needs seqeval: pip install 'vaswani-transformer[eval]'") from error

TAGS = Features({"predictions": List(Value("string")), "references": List(Value("string"))})


class EntityF1(evaluate.Metric):
    """Precision, recall and F1 of entities; rows are lists of tags, "B-PER", "I-PER", "O"."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Precision, recall and F1 of entities.", TAGS)

    def _compute(self, predictions: Sequence[list[str]], references: Sequence[list[str]]) -> dict[str, float]:
        wanted, found = list(references), list(predictions)
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        return {name: float(score(wanted, found, zero_division=0)) for name, score in scores.items()}  # type: ignore
