"""Fine-tuning at toy size: every task learns, every loss is the same however the batch is split, what a run leaves."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from vaswani_transformer import VaswaniBertConfig, VaswaniBertForPreTraining, VaswaniBertTokenizer
from vaswani_transformer.finetune import build_trainer, finetune, head_model, load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.run_log import read_metrics

pytest.importorskip("seqeval", reason="needs the extra [eval]: evaluate, scikit-learn, seqeval")

GOOD, BAD = ["good", "fine", "great", "nice"], ["bad", "poor", "awful", "sad"]
WORDS = [*GOOD, *BAD, "a", "film", "with", "music", "and", "anna", "paris", "saw", "in", "who", "where", "?", "1", "2"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tsv(rows: list[tuple[Any, ...]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def opinions() -> list[tuple[str, str]]:
    """Sixteen texts of two to six words."""
    tails = ["film", "a film with music", "music", "film and music with a film"]
    return [
        (f"{word} {tails[i % 4]}", label)
        for words, label in ((GOOD, "yes"), (BAD, "no"))
        for i, word in enumerate(words * 2)
    ]


def questions() -> list[str]:
    """Rows of SQuAD's form: who saw, and where."""
    rows = []
    for i in range(8):
        context = "a film " * (i % 3) + "anna saw paris"
        for question, answer in (("who saw ?", "anna"), ("where ?", "paris")):
            answers = {"text": [answer], "answer_start": [context.index(answer)]}
            rows.append(
                json.dumps({"id": f"{i}{answer}", "question": question, "context": context, "answers": answers})
            )
    return rows


def sections(folder: Path) -> dict[str, dict[str, Any]]:
    """The `data` section of each task, its sixteen rows for training and for validation."""
    sentence = (
        "anna\tB-PER\nsaw\tO\nparis\tB-LOC\n\nin\tO\nparis\tB-LOC\n\nmusic\tO\n\nfilm\tO\nwith\tO\nanna\tB-PER\n\n"
    )
    pairs = zip(GOOD * 4, BAD * 4, strict=True)
    choices = [
        {"q": "a film", "a": [good, bad] if i % 2 else [bad, good], "n": 0 if i % 2 else 1}
        for i, (good, bad) in enumerate(pairs)
    ]
    files = {
        "texts.tsv": tsv(opinions()),
        "values.tsv": tsv([(text, 4.0 if label == "yes" else 1.0) for text, label in opinions()]),
        "sets.tsv": tsv([(text, "yes,film" if label == "yes" else "no") for text, label in opinions()]),
        "tags.conll": sentence * 4,
        "questions.jsonl": "\n".join(questions()),
        "choices.jsonl": "\n".join(map(json.dumps, choices)),
    }
    for name, text in files.items():
        (folder / name).write_text(text)

    def section(name: str, **more: Any) -> dict[str, Any]:
        return {"files": {"train": str(folder / name), "validation": str(folder / name)}, "max_length": 16, **more}

    columns = {"text": 0, "label": 1}
    return {
        "classification": section("texts.tsv", columns=columns),
        "regression": section("values.tsv", columns=columns),
        "multi-label": section("sets.tsv", columns=columns, labels=["yes", "no", "film"]),
        "token-labels": section("tags.conll"),
        "question-answering": section("questions.jsonl", question_length=4, stride=4),
        "multiple-choice": section("choices.jsonl", columns={"text": "q", "choices": "a", "label": "n"}),
    }


TASKS = {
    "classification": ["accuracy", "f1", "matthews_correlation"],
    "regression": ["pearson", "spearmanr"],
    "multi-label": ["f1"],
    "token-labels": ["f1"],
    "question-answering": ["exact_match", "f1"],
    "multiple-choice": ["accuracy"],
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> str:
    """The folder of an untrained encoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = VaswaniBertConfig(vocab_size=len(vocab), max_position_embeddings=16, **SIZES, **STILL)
    VaswaniBertForPreTraining(config).save_pretrained(folder)
    VaswaniBertTokenizer({word: index for index, word in enumerate(vocab)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(pretrained, tmp_path):
    """Makes the recipe of a task."""

    def recipe(task: str, output: str = "run", **changes: Any) -> FinetuneRecipe:
        data = {"task": task, **sections(tmp_path)[task], **changes.pop("data", {})}
        values: dict[str, Any] = {
            "model": {"from": pretrained},
            "data": data,
            "batch": {"sequences": 8},
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "betas": [0.9, 0.999]},
            "schedule": {"name": "linear", "warmup_steps": 5},
            "steps": 60,
            "log_every": 1,
            "validate": {"metrics": TASKS[task]},
            "output": str(tmp_path / output),
        }
        return FinetuneRecipe.from_dict(values | changes)

    yield recipe
    AcceleratorState._reset_state(reset_partial_state=True)


def validations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "validation"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns_its_toy_rows_and_reports_its_metrics(make, task):
    folder = finetune(make(task))
    results = json.loads((folder / "run.json").read_text())["results"]["validation"]
    whole = 100.0 if task == "question-answering" else 1.0
    for name in TASKS[task]:
        assert results[name] > 0.95 * whole if name != "spearmanr" else results[name] > 0.8
    assert validations(folder)[-1]["loss"] == pytest.approx(results["loss"])


def gradients(recipe: FinetuneRecipe, family: str = "bert") -> dict[str, torch.Tensor]:
    """One update by plain gradient descent at rate 1: what the weights lost is the gradient."""
    data = load_data(recipe.data, family)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model["from"])
    torch.manual_seed(3)
    model = head_model(recipe.model, data.module, tokenizer)
    trainer = build_trainer(recipe, data, model, tokenizer)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, 1.0)
    trainer.args.max_steps = 1
    trainer.train()
    return {name: before[name] - weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_is_the_same_for_one_batch_of_eight_and_four_of_two(make, task):
    batches = ({"sequences": 8}, {"sequences": 8, "accumulation": 4})
    whole, parts = (gradients(make(task, validate={}, batch=batch)) for batch in batches)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 1e-5  # of choices that differ in a word, before training, it is small
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-3 * largest, rtol=1e-3), name


def test_accumulation_in_a_recipe_splits_the_same_batch(make):
    plain = finetune(make("classification", "plain", steps=4))
    split = finetune(make("classification", "split", steps=4, batch={"sequences": 8, "accumulation": 4}))
    losses = [[r["loss"] for r in read_metrics(folder / "metrics.jsonl")] for folder in (plain, split)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_folder_is_a_model_with_its_tokenizer_and_the_names_of_its_classes(make):
    folder = finetune(make("classification"))
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.problem_type == "single_label_classification"
    logits = model.eval()(**tokenizer(["great music", "awful music"], return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [1, 0]


def test_epochs_are_counted_in_updates_of_the_whole_batch(make):
    folder = finetune(make("classification", steps=None, epochs=1.5, batch={"sequences": 6}))
    assert json.loads((folder / "run.json").read_text())["results"]["steps"] == 5  # 16 rows in 6s: 3 an epoch


def test_the_record_has_six_flops_for_each_weight_and_token_and_the_processes(make):
    folder = finetune(make("classification", steps=2))
    run = json.loads((folder / "run.json").read_text())
    weights = AutoModelForSequenceClassification.from_pretrained(folder).num_parameters(exclude_embeddings=True)
    tokens = run["training_flops"] / (6 * weights)
    assert tokens == int(tokens)
    assert tokens >= 2 * 8 * 3  # updates, rows, and [CLS] word [SEP] at least
    assert run["processes"] == 1


def test_validation_runs_every_so_many_steps_and_at_the_end(make):
    folder = finetune(make("classification", steps=5, validate={"metrics": ["accuracy"], "every_steps": 2}))
    assert [record["step"] for record in validations(folder)] == [2, 4, 5]


def test_the_rate_of_each_update_is_the_recipes_schedule(make):
    folder = finetune(make("classification", steps=4, schedule={"name": "constant", "warmup_steps": 2}))
    rates = [record["learning_rate"] for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "train"]
    assert rates[1:] == pytest.approx([0.01, 0.01, 0.01])


def test_random_weights_of_a_shape_are_trained_with_another_models_tokenizer(make, pretrained):
    shape = {"family": "bert", **SIZES, "max_position_embeddings": 16}
    folder = finetune(make("classification", steps=2, model=shape, tokenizer={"from": pretrained}))
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.hidden_size == 32


def test_a_run_that_was_stopped_goes_on_to_the_weights_it_would_have_had(make, monkeypatch):
    straight = finetune(make("classification", "straight", steps=6, save={"every_steps": 3}))

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    recipe = make("classification", "stopped", steps=6, save={"every_steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer.evaluate", stop)  # the last checkpoint is of step 6: drop it below
        with pytest.raises(KeyboardInterrupt):
            finetune(recipe)
    for file in (Path(recipe.output) / "checkpoints" / "checkpoint-6").iterdir():
        file.unlink()
    (Path(recipe.output) / "checkpoints" / "checkpoint-6").rmdir()
    resumed = finetune(recipe, resume=True)
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in (straight, resumed)
    )
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_checkpoint_without_its_optimizer_is_not_gone_on_from(make):
    recipe = make("classification", steps=4, save={"every_steps": 2})
    folder = finetune(recipe)
    (folder / "run.json").unlink()
    (folder / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    with pytest.raises(
        ValueError, match=r"resuming needs a whole checkpoint; got .*checkpoint-4 without optimizer\.pt"
    ):
        finetune(recipe, resume=True)


def test_a_finished_run_is_not_written_over(make):
    finetune(make("classification", steps=1))
    with pytest.raises(ValueError, match="already holds a run"):
        finetune(make("classification", steps=1))


def test_words_that_are_cut_off_count_as_outside_of_entities(make):
    folder = finetune(make("token-labels", data={"max_length": 3}))  # [CLS], one word, [SEP]
    results = json.loads((folder / "run.json").read_text())["results"]["validation"]
    assert results["precision"] == 1.0
    assert results["recall"] == pytest.approx(1 / 4)  # of anna, paris, paris and anna only the first comes first


def test_a_question_answering_folder_answers(make):
    folder = finetune(make("question-answering"))
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("where ?", "anna saw paris", return_tensors="pt")
    outputs = model.eval()(**encoded)
    start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
    assert tokenizer.decode(encoded["input_ids"][0, start : end + 1]) == "paris"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_trainer_with_our_deepspeed_files_has_the_losses_and_rates_of_one_process(make, tmp_path, repository, stage):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs the extra [deepspeed]")
    changes = {"steps": 8, "optimizer": {"name": "adamw", "learning_rate": 0.001, "max_grad_norm": 1.0}}
    alone, split = finetune(make("classification", "alone", **changes)), make("classification", "split", **changes)
    (tmp_path / "recipe.json").write_text(json.dumps(split.to_dict()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", "--num_processes", "2"]
    command += ["--num_machines", "1", "--dynamo_backend", "no", "--main_process_port", port]
    command += ["--deepspeed_config_file", str(repository / "training" / "deepspeed" / f"zero{stage}.json")]
    command += [str(repository / "tests" / "finetune_by_zero.py"), str(tmp_path / "recipe.json")]
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    ours, theirs = (
        [
            (record["loss"], record["learning_rate"])
            for record in read_metrics(folder / "metrics.jsonl")
            if record["kind"] == "train"
        ]
        for folder in (Path(split.output), alone)
    )
    assert len(ours) == 8
    assert np.array(ours) == pytest.approx(np.array(theirs), abs=1e-4)
