"""`.eval_results` of a model's repository: results on benchmarks of the Hub, in huggingface_hub's own form."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries

from vaswani_cli import main
from vaswani_transformer.evaluation import public_tasks
from vaswani_transformer.evaluation.eval_results import eval_results, write_eval_results
from vaswani_transformer.evaluation.few_shot import Settings, told_of
from vaswani_transformer.evaluation.task_rows import Row
from vaswani_transformer.evaluation.tasks import Task

WORDS = ("man", "reads", "book", "dogs", "snow", "house", "rides", "a", "the")


def rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(4)
    made = [
        {"ctx": " ".join(rng.choices(WORDS, k=4)), "endings": [" ".join(rng.choices(WORDS, k=3)) for _ in range(3)]}
        for _ in range(count)
    ]
    return [row | {"label": index % 3} for index, row in enumerate(made)]


@pytest.fixture
def hub(monkeypatch):
    """The Hub's rows without a network."""

    def hub_rows(name: str, config: str | None, split: str):
        return (Row(f"{name} {split} {number}", row) for number, row in enumerate(rows(12)))

    monkeypatch.setattr(public_tasks, "hub_rows", hub_rows)


def read(path: Path) -> list[EvalResultEntry]:
    return parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_results_on_a_benchmark_of_the_hub_are_read_back_by_the_hubs_own_code(folder, hub, tmp_path):
    words = ["--tasks", "hellaswag", "--shots", "0,2", "--seeds", "3", "--draw", "shared", "--device", "cpu"]
    assert main(["evaluate", str(folder), *words, "--out", str(tmp_path / "all")]) == 0
    (path,) = (tmp_path / "all" / ".eval_results").iterdir()
    assert path.name == "hellaswag.yaml"
    zero, two = read(path)
    figures = json.loads((tmp_path / "all" / "results.json").read_text())["results"]["hellaswag"]
    assert {(entry.dataset_id, entry.task_id) for entry in (zero, two)} == {("Rowan/hellaswag", "default")}
    assert (zero.value, two.value) == tuple(round(100 * figures[shots]["acc"], 2) for shots in ("0", "2"))
    error, spread = (round(100 * figures["2"][name], 2) for name in ("acc_stderr", "acc_seeds_std"))
    start = f"2-shot; accuracy in %; standard error {error}; examples drawn shared; mean of 3 seeds (standard deviation"
    assert str(two.notes).startswith(f"{start} {spread}); log-probability by token; vaswani-transformer ")
    assert str(two.notes).endswith("hellaswag version 1, Rowan/hellaswag (default, validation) and shots of train")
    assert str(zero.notes).startswith("0-shot; accuracy in %; standard error ")
    assert "seed" not in str(zero.notes)


def test_a_result_over_the_first_questions_says_so(folder, hub, tmp_path):
    words = ["--tasks", "hellaswag", "--shots", "0", "--device", "cpu"]
    for limit in (5, 50):
        assert main(["evaluate", str(folder), *words, "--limit", str(limit), "--out", str(tmp_path / str(limit))]) == 0
    five, all_twelve = (read(tmp_path / limit / ".eval_results" / "hellaswag.yaml")[0] for limit in ("5", "50"))
    assert str(five.notes).startswith("0-shot; limited to the first 5 questions; ")
    assert "limited" not in str(all_twelve.notes)


def test_local_files_and_generated_tasks_are_no_benchmarks_of_the_hub(folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(4)), encoding="utf-8")
    words = ["--tasks", "hellaswag,anagrams1", "--data", f"hellaswag={data}", "--shots", "0", "--limit", "4"]
    assert main(["evaluate", str(folder), *words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / ".eval_results").exists()
    entries = yaml.safe_load((tmp_path / "out" / "model-index.yaml").read_text())["model-index"][0]["results"]
    assert {entry["dataset"]["name"] for entry in entries} == {"hellaswag", "anagrams1"}


def found(task: Task, model: Any, figures: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """What `evaluate_few_shot` returns of one task and no shots."""
    told = told_of(model, [task], Settings(shots=(0,), **settings)) | {"pll": None}
    same = {
        "questions": 9,
        "shots_dropped": 0,
        "shots_mean": 0.0,
        "acc": 0.75,
        "acc_stderr": 0.1,
        "acc_seeds_std": None,
    }
    return {"results": {task.name: {"0": same | figures}}, "settings": told}


@pytest.mark.parametrize(
    ("name", "metric", "value", "way"),
    [
        ("triviaqa", "em", 12.34, "exact match in %; standard error 2.0; 4 beams, length penalty 0.6; "),
        ("wmt14-en-fr", "bleu", 0.12, "sacreBLEU; standard error 0.02; 4 beams, length penalty 0.6; tok:13a; "),
        ("sst2", "acc", 75.0, "accuracy in %; standard error 10.0; contextual calibration; "),
        ("blimp_wh_island", "acc", 75.0, "accuracy in %; standard error 10.0; log-probability unnormalised; "),
        (
            "lambada_openai",
            "acc",
            75.0,
            "accuracy in %; standard error 10.0; right where the greedy choice is the last",
        ),
    ],
)
def test_the_value_is_the_tasks_main_metric(name, metric, value, way, model):
    task = public_tasks.public_task(name)
    more = {metric: 0.1234, f"{metric}_stderr": 0.02, f"{metric}_seeds_std": None, "bleu_signature": "tok:13a"}
    [entry] = eval_results(found(task, model, {} if metric == "acc" else more, beams=4, calibrate=True))[name]
    assert entry.value == value
    assert str(entry.notes).startswith(f"0-shot; {way}")


def test_examples_that_had_no_room_are_told(model):
    task = public_tasks.public_task("piqa")
    [entry] = eval_results(found(task, model, {"shots_dropped": 3, "shots_mean": 1.6667}))["piqa"]
    assert "; 1.67 examples fit the model's context on average; " in str(entry.notes)


def test_every_public_task_of_the_hub_names_its_data_set_and_the_task_in_it():
    named = {name: public_tasks.public_task(name).benchmark for name in public_tasks.PUBLIC}
    assert [name for name, place in named.items() if place is None or place[0].count("/") != 1 or not place[1]] == []
    assert named["arc_easy"] == ("allenai/ai2_arc", "ARC-Easy")


def test_nothing_is_written_where_no_task_is_a_benchmark(model, tmp_path):
    task = Task(name="mine", kind="choice", queries=list)
    assert write_eval_results(found(task, model, {}), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
