"""The metrics of GLUE (Wang et al. 2018) as classes of `evaluate` that need no network, by scikit-learn and SciPy."""

from collections.abc import Sequence

from datasets import Features, List, Value

try:
    import evaluate
    from scipy import stats
    from sklearn import metrics
except ImportError as error:
    raise ImportError("metrics need evaluate and scikit-learn: pip install 'vaswani-transformer[eval]'") from error

CLASSES = Features({"predictions": Value("int64"), "references": Value("int64")})
VALUES = Features({"predictions": Value("float64"), "references": Value("float64")})
SETS = Features({"predictions": List(Value("int64")), "references": List(Value("int64"))})


def metric_info(description: str, features: Features) -> evaluate.MetricInfo:
    """What `evaluate` asks a metric to tell of itself."""
    return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=features)


class Accuracy(evaluate.Metric):
    """Share of classes that are right: SST-2, MRPC, RTE, multiple choice."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Share of classes that are right.", CLASSES)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(metrics.accuracy_score(references, predictions))}


class F1(evaluate.Metric):
    """Harmonic mean of precision and recall of class 1: MRPC."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("F1 of class 1.", CLASSES)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        if (largest := max(max(predictions), max(references))) > 1:
            raise ValueError(f"f1 is of two classes, 0 and 1; got class {largest}")
        return {"f1": float(metrics.f1_score(references, predictions, zero_division=0.0))}  # type: ignore[arg-type]


class MatthewsCorrelation(evaluate.Metric):
    """Correlation of classes and predictions, 0 for a constant prediction: CoLA."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Matthews' correlation.", CLASSES)

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"matthews_correlation": float(metrics.matthews_corrcoef(references, predictions))}


class Pearson(evaluate.Metric):
    """Linear correlation of values and predictions: STS-B. NaN where either is constant."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Pearson's correlation.", VALUES)

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {"pearson": float(stats.pearsonr(predictions, references)[0])}  # type: ignore[arg-type]


class Spearman(evaluate.Metric):
    """Correlation of the ranks of values and predictions: STS-B. NaN where either is constant."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Spearman's correlation.", VALUES)

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {"spearmanr": float(stats.spearmanr(predictions, references)[0])}  # type: ignore[arg-type]


class MultiLabelF1(evaluate.Metric):
    """F1 over all labels of all rows together (micro); each row a list of 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Micro F1 of several labels a row.", SETS)

    def _compute(self, predictions: Sequence[list[int]], references: Sequence[list[int]]) -> dict[str, float]:
        found = metrics.f1_score(references, predictions, average="micro", zero_division=0.0)  # type: ignore[arg-type]
        return {"f1": float(found)}
