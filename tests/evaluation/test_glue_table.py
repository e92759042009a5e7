import math

import pytest

from vaswani_transformer.evaluation.glue_table import PUBLISHED, TASKS, glue_table, glue_task


@pytest.mark.parametrize(
    ("data", "column"),
    [
        ({"name": "nyu-mll/glue", "config": "sst2"}, "SST-2"),
        ({"files": {"train": "../shared/data/glue/CoLA/train.tsv.xz"}}, "CoLA"),
        ({"files": {"train": ["MNLI/train.tsv"]}}, "MNLI-m"),
    ],
)
def test_a_task_is_told_by_its_configuration_or_its_folder(data, column):
    task = glue_task(data)
    assert task is not None
    assert task.column == column


@pytest.mark.parametrize("data", [{"name": "me/sst2", "config": "sst2"}, {"files": {"train": "a/train.tsv"}}, {}])
def test_data_of_another_kind_are_no_task_of_glue(data):
    assert glue_task(data) is None


def run(config: str, metric: str, value: float) -> dict:
    data = {"name": "nyu-mll/glue", "config": config}
    return {"recipe": {"data": data}, "data": {"validation": 101}, "results": {"validation": {metric: value}}}


def test_several_runs_of_a_task_are_averaged_and_an_accuracy_has_its_error():
    table = glue_table(
        [run("rte", "accuracy", 0.4), run("rte", "accuracy", 0.6), run("cola", "matthews_correlation", 0.1)]
    )
    assert table is not None
    ours = table["rows"][-1]
    assert ours["scores"] == pytest.approx({"RTE": 50.0, "CoLA": 10.0})
    assert ours["errors"] == {"RTE": pytest.approx(100 * math.sqrt(0.25 / 100)), "CoLA": None}
    assert table["tests"]["RTE"] == {"rows": 101, "runs": 2}


def test_runs_without_a_metric_of_the_table_make_none():
    assert glue_table([run("rte", "loss", 0.4)]) is None


def test_the_published_scores_have_the_averages_that_the_paper_prints():
    averages = {name: sum(scores) / len(TASKS) for name, scores in PUBLISHED.items()}
    assert {name: round(value, 1) for name, value in averages.items()} == {
        "OpenAI GPT": 75.1,
        "BERT base": 79.6,
        "BERT large": 82.1,
    }
