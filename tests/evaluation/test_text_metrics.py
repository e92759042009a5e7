"""Exact match, F1 and BLEU of written answers."""

import numpy as np
import pytest
from sacrebleu import BLEU

from vaswani_cli.evaluate import table
from vaswani_transformer.evaluation.few_shot_figures import figures, written_record
from vaswani_transformer.evaluation.prompts import Prompt
from vaswani_transformer.evaluation.public_tasks import PUBLIC
from vaswani_transformer.evaluation.task_catalogue import find_tasks
from vaswani_transformer.evaluation.tasks import Question, Task
from vaswani_transformer.evaluation.text_metrics import bleu_figures, text_scores

TEXTS = ["the cat sat on the mat today", "a dog ran to the old red house", "it was good", "she saw him there"]
ANSWERS = [
    ["the cat sat on the mat", "a cat sat on the mat today"],
    ["a dog ran to the red house"],
    ["it was bad", "it was very good indeed"],
    ["they saw him go there"],
]


def rows(texts: list[str], **more: object) -> list[dict[str, object]]:
    made = [{"text": text, "answers": answers} for text, answers in zip(texts, ANSWERS, strict=True)]
    return [{**row, "id": str(n), "dropped": 0, "shot_ids": [], "correct": False, **more} for n, row in enumerate(made)]


@pytest.mark.parametrize(
    ("text", "em", "f1"),
    [
        ("The Beatles!", 1.0, 1.0),
        ("beatles", 1.0, 1.0),
        ("the Fab Four of Liverpool", 0.0, 2 * 2 / (4 + 2)),
        ("", 0.0, 0.0),
        ("Stones", 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_are_those_of_the_best_alias(text, em, f1):
    scores = text_scores(text, ["The Beatles", "Fab Four"], metrics=("em", "f1", "bleu"))
    assert scores == {"em": em, "f1": pytest.approx(f1)}


def test_an_answer_in_other_case_is_right_where_the_metric_is_exact_match():
    prompt = Prompt(Question("0", ("Q:",), (" The Beatles", " Fab Four")), "")
    assert written_record(prompt, " beatles.\nQ:", metrics=("em", "f1"))["correct"]
    assert not written_record(prompt, " beatles.\nQ:", metrics=("f1",))["correct"]


def test_the_figures_have_f1_with_its_standard_error_and_its_deviation_over_seeds():
    task = Task(name="x", kind="completion", queries=list, metrics=("em", "f1"))
    values = [[0.0, 1.0, 0.5, 0.25], [1.0, 1.0, 0.5, 0.75]]
    seeds = [
        [row | {"em": float(value == 1), "f1": value} for row, value in zip(rows(TEXTS), part, strict=True)]
        for part in values
    ]
    found = figures(task, seeds)
    assert found["f1"] == pytest.approx(np.mean(values))
    assert found["f1_stderr"] == pytest.approx(np.std(np.mean(values, 0), ddof=1) / 2)
    assert found["f1_seeds_std"] == pytest.approx(np.std(np.mean(values, 1), ddof=1))
    assert found["em"] == pytest.approx(3 / 8)
    assert found["f1_interval"][0] < found["f1"] < found["f1_interval"][1]


def test_bleu_is_sacrebleus_with_as_many_references_as_each_question_has():
    streams = [[a[0] for a in ANSWERS], [a[1] if len(a) > 1 else None for a in ANSWERS]]
    metric = BLEU()
    expected = metric.corpus_score(TEXTS, streams)  # type: ignore[arg-type]
    found = bleu_figures([rows(TEXTS)])
    assert found["bleu"] == pytest.approx(expected.score)
    assert found["bleu"] > 0
    assert found["bleu_signature"] == str(metric.get_signature())


def test_the_error_of_bleu_is_that_of_resampled_corpora():
    """sacreBLEU's own bootstrap draws otherwise but from the same distribution."""
    expected = BLEU().corpus_score(TEXTS * 10, [[a[0] for a in ANSWERS * 10]], n_bootstrap=2000)
    records = [{"text": text, "answers": answers[:1]} for text, answers in zip(TEXTS * 10, ANSWERS * 10, strict=True)]
    found = bleu_figures([records])
    low, high = found["bleu_interval"]
    assert (high - low) / 2 == pytest.approx(expected._ci, rel=0.15)
    assert high - low == pytest.approx(4 * found["bleu_stderr"], rel=0.15)


def test_bleu_is_the_mean_over_seeds_and_one_question_has_no_error():
    other = ["cat", "a dog ran to the red house", "", "they saw him"]
    both = bleu_figures([rows(TEXTS), rows(other)])
    each = [bleu_figures([rows(texts)])["bleu"] for texts in (TEXTS, other)]
    assert both["bleu_seeds"] == pytest.approx(each)
    assert both["bleu"] == pytest.approx(np.mean(each))
    assert both["bleu_seeds_std"] == pytest.approx(np.std(each, ddof=1))
    assert bleu_figures([rows(TEXTS)[:1]])["bleu_stderr"] is None


def test_nothing_written_has_bleu_zero():
    found = bleu_figures([rows([""] * 4)])
    assert (found["bleu"], found["bleu_stderr"]) == (0.0, 0.0)


def test_closed_book_tasks_tell_exact_match_and_f1_and_translations_bleu():
    assert {n for n, task in PUBLIC.items() if task.more.get("metrics") == ("em", "f1")} == {
        "triviaqa",
        "nq_open",
        "webqs",
    }
    assert all(task.metrics == ("bleu",) for task in find_tasks(["translation"]))


@pytest.mark.parametrize(("kind", "metrics"), [("completion", ("rouge",)), ("choice", ("f1",))])
def test_an_unknown_metric_and_a_metric_of_choices_are_refused(kind, metrics):
    with pytest.raises(ValueError, match="metrics are of tasks of the kind completion"):
        Task(name="x", kind=kind, queries=list, metrics=metrics)


def test_a_task_in_yaml_names_its_metrics(tmp_path):
    text = """
task: facts
output_type: generate_until
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
doc_to_text: question
doc_to_target: answers
metric_list:
  - {metric: exact_match, aggregation: mean, ignore_case: true, ignore_punctuation: true}
  - {metric: bleu}
  - {metric: ter}
"""
    (tmp_path / "facts.yaml").write_text(text, encoding="utf-8")
    assert find_tasks([str(tmp_path / "facts.yaml")])[0].metrics == ("em", "bleu")
    (tmp_path / "facts.yaml").write_text(text.replace(", ignore_case: true", ""), encoding="utf-8")
    assert find_tasks([str(tmp_path / "facts.yaml")])[0].metrics == ("bleu",)


def test_the_table_has_a_line_for_each_metric_of_a_task():
    told = {
        "questions": 4,
        "em": 0.5,
        "em_stderr": 0.25,
        "f1": 0.6,
        "f1_stderr": 0.1,
        "bleu": 12.34,
        "bleu_stderr": 1.5,
    }
    settings = {
        "shots": [0],
        "seeds": 1,
        "draw": "shared",
        "scorer": "causal",
        "pll": None,
        "tasks": {"facts": {"metrics": ["em", "f1"]}, "phrases": {"metrics": ["bleu"]}},
    }
    lines = table({"settings": settings, "results": {"facts": {"0": told}, "phrases": {"0": told}}})
    assert [line.split()[:2] for line in lines[1:4]] == [["facts", "em"], ["facts", "f1"], ["phrases", "bleu"]]
    assert [line.split()[3:] for line in lines[1:4]] == [
        ["50.0", "±", "25.0"],
        ["60.0", "±", "10.0"],
        ["12.3", "±", "1.5"],
    ]
