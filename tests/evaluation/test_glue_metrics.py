"""GLUE's metrics and entity F1: known values, and that `evaluate` takes the classes for its own."""

import pytest

glue = pytest.importorskip("vaswani_transformer.evaluation.glue", reason="needs the extra [eval]", exc_type=ImportError)
entities = pytest.importorskip("vaswani_transformer.evaluation.entities", reason="needs [eval]", exc_type=ImportError)
import evaluate  # noqa: E402

FOUND, GOLD = [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]  # 2 true and 1 false positives, 2 true and 1 false negatives


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("Accuracy", {"accuracy": 4 / 6}),
        ("F1", {"f1": 2 / 3}),
        ("MatthewsCorrelation", {"matthews_correlation": 1 / 3}),
    ],
)
def test_a_metric_of_classes_has_the_value_worked_out_by_hand(metric, value):
    assert getattr(glue, metric)(keep_in_memory=True).compute(predictions=FOUND, references=GOLD) == pytest.approx(
        value
    )


def test_correlations_have_the_values_worked_out_by_hand():
    found, gold = [1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0]
    spearman = glue.Spearman(keep_in_memory=True).compute(predictions=found, references=gold)
    pearson = glue.Pearson(keep_in_memory=True).compute(predictions=found, references=gold)
    assert spearman == pytest.approx({"spearmanr": 1 - 6 * 2 / (4 * 15)})
    assert pearson == pytest.approx({"pearson": 13.0 / (50.0 * 5.0) ** 0.5})


def test_a_constant_prediction_has_no_matthews_correlation():
    assert glue.MatthewsCorrelation(keep_in_memory=True).compute(predictions=[1] * 6, references=GOLD) == {
        "matthews_correlation": 0.0
    }


def test_evaluate_combines_them_and_takes_batches(tmp_path):
    metrics = [glue.Accuracy(cache_dir=str(tmp_path)), glue.F1(cache_dir=str(tmp_path))]
    combined = evaluate.combine(metrics)
    for start in (0, 3):
        combined.add_batch(predictions=FOUND[start : start + 3], references=GOLD[start : start + 3])
    assert combined.compute() == pytest.approx({"accuracy": 4 / 6, "f1": 2 / 3})


def test_f1_of_three_classes_is_refused():
    with pytest.raises(ValueError, match="f1 is of two classes, 0 and 1; got class 2"):
        glue.F1(keep_in_memory=True).compute(predictions=[0, 2], references=[0, 1])


def test_several_labels_are_counted_together():
    metric = glue.MultiLabelF1(keep_in_memory=True)
    found = metric.compute(predictions=[[1, 1, 0], [0, 0, 1]], references=[[1, 0, 0], [0, 1, 1]])
    assert found == pytest.approx({"f1": 2 / 3})


def test_an_entity_counts_only_whole_and_of_its_kind():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O"]]
    scores = entities.EntityF1(keep_in_memory=True).compute(predictions=found, references=gold)
    assert scores == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})
