"""Fine-tuning of GPT at toy size: the four kinds of inputs, both losses, what a run leaves."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    pipeline,
)

from vaswani_transformer import (
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniGPTForSequenceClassification,
    VaswaniGPTTokenizer,
)
from vaswani_transformer.finetune import build_trainer, finetune, head_model, load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.run_log import read_metrics

from .test_finetune import BAD, GOOD, TASKS, WORDS, gradients, sections, tsv

ROOT = Path(__file__).resolve().parent.parent
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
STILL = dict.fromkeys(("hidden_dropout", "embedding_dropout", "attention_dropout", "classifier_dropout"), 0.0)
KINDS = ["classification", "regression", "multi-label", "multiple-choice", "entailment", "similarity"]


def gpt_sections(folder: Path) -> dict[str, dict[str, Any]]:
    """The `data` sections of the tasks, pairs of words among them: the class is the second's, the value both ones'."""
    found = {name: section | {"max_length": 32} for name, section in sections(folder).items()}
    good, bad = [(word, "yes") for word in GOOD], [(word, "no") for word in BAD]
    pairs = [
        (one, other) for some in (good, bad) for more in (good, bad) for one, other in zip(some, more, strict=True)
    ]
    values = {("yes", "yes"): 5.0, ("no", "no"): 1.0}
    rows = {
        "entailment": [(one[0], other[0], other[1]) for one, other in pairs],
        "similarity": [(one[0], other[0], values.get((one[1], other[1]), 3.0)) for one, other in pairs],
    }
    for name, more in (
        ("entailment", {"task": "classification"}),
        ("similarity", {"task": "regression", "both_orders": True}),
    ):
        (folder / f"{name}.tsv").write_text(tsv(rows[name]))
        files = dict.fromkeys(("train", "validation"), str(folder / f"{name}.tsv"))
        found[name] = {"files": files, "max_length": 32, "columns": {"text": 0, "pair": 1, "label": 2}, **more}
    return found


def tokenizer_of_words() -> VaswaniGPT2Tokenizer:
    return VaswaniGPT2Tokenizer.train([f"{word} {word}" for word in WORDS], vocab_size=330)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> str:
    """The folder of an untrained decoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt")
    tokenizer = tokenizer_of_words()
    torch.manual_seed(0)
    config = VaswaniGPTConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **SIZES, **STILL)
    VaswaniGPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(pretrained, tmp_path):
    """Makes the recipe of a kind of inputs."""

    def recipe(kind: str, output: str = "run", **changes: Any) -> FinetuneRecipe:
        data = {"task": kind, **gpt_sections(tmp_path)[kind], **changes.pop("data", {})}
        values: dict[str, Any] = {
            "model": {"from": pretrained, "lm_loss_weight": 0.5},
            "data": data,
            "batch": {"sequences": 8},
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "betas": [0.9, 0.999]},
            "schedule": {"name": "linear", "warmup_steps": 5},
            "steps": 150,
            "log_every": 1,
            "validate": {"metrics": TASKS[data["task"]]},
            "output": str(tmp_path / output),
        }
        return FinetuneRecipe.from_dict(values | changes)

    yield recipe
    AcceleratorState._reset_state(reset_partial_state=True)


def records(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_inputs_learns_its_toy_rows_with_both_losses(make, kind) -> None:
    recipe = make(kind)
    folder = finetune(recipe)
    results = json.loads((folder / "run.json").read_text())["results"]["validation"]
    for name in TASKS[recipe.data["task"]]:
        assert results[name] > (0.95 if name != "spearmanr" else 0.8)
    found = records(folder)
    assert found[-1]["lm_loss"] < found[0]["lm_loss"] - 2.0


def test_the_log_tells_both_parts_of_updates_and_validations(make) -> None:
    folder = finetune(make("similarity", steps=4, log_every=2, validate={"every_steps": 3}))
    found = records(folder)
    assert [record["step"] for record in found] == [2, 4]
    for record in [*found, *records(folder, "validation")]:
        assert record["loss"] == pytest.approx(record["task_loss"] + 0.5 * record["lm_loss"], abs=2e-4)
    results = json.loads((folder / "run.json").read_text())["results"]["validation"]
    assert results["lm_loss"] == records(folder, "validation")[-1]["lm_loss"]


def test_a_weight_of_zero_leaves_the_language_model_out(make, pretrained) -> None:
    folder = finetune(make("classification", steps=2, model={"from": pretrained, "lm_loss_weight": 0}))
    assert not any("lm_loss" in record or "task_loss" in record for record in records(folder))
    assert json.loads((folder / "config.json").read_text())["lm_loss_weight"] == 0


@pytest.mark.parametrize("kind", ["multiple-choice", "similarity", "multi-label"])
def test_accumulation_takes_the_same_step_as_one_big_batch(make, kind) -> None:
    whole = gradients(make(kind, "whole", batch={"sequences": 16}), "gpt")
    parts = gradients(make(kind, "parts", batch={"sequences": 16, "accumulation": 4}), "gpt")
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_accumulation_in_a_recipe_logs_the_same_losses(make) -> None:
    plain = finetune(make("multiple-choice", "plain", steps=4))
    split = finetune(make("multiple-choice", "split", steps=4, batch={"sequences": 8, "accumulation": 4}))
    for name in ("loss", "task_loss", "lm_loss"):
        losses = [[record[name] for record in records(folder)] for folder in (plain, split)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
def test_two_processes_log_and_learn_as_one(make, tmp_path) -> None:
    alone, pair = (make("similarity", name, steps=4, validate={"every_steps": 2}) for name in ("one", "two"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(pair.to_dict()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    command += ["--module", "vaswani_cli", "finetune", str(tmp_path / "recipe.yaml")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = finetune(alone)
    for kind in ("train", "validation"):
        one, two = (records(Path(where), kind) for where in (folder, pair.output))
        for name in ("loss", "task_loss", "lm_loss"):
            assert [record[name] for record in two] == pytest.approx([record[name] for record in one], abs=1e-3)


def logits_of(model: Any, rows: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**row).logits for row in rows])


@pytest.mark.parametrize("kind", ["classification", "similarity", "multiple-choice"])
def test_a_folder_predicts_what_its_run_did_by_the_auto_classes_alone(make, kind) -> None:
    recipe = make(kind, steps=20)
    data = load_data(recipe.data, "gpt")
    tokenizer = AutoTokenizer.from_pretrained(recipe.model["from"])
    model = head_model(recipe.model, data.module, tokenizer)
    trainer = build_trainer(recipe, data, model, tokenizer)
    trainer.train()
    trainer.save_model(recipe.output)
    inputs = [{**row, "labels": 0} for row in data.module.features(data.validation, tokenizer)]
    batches = [data.module.collator(tokenizer)([row]) for row in inputs]
    expected = logits_of(model, [{"input_ids": batch["input_ids"]} for batch in batches])
    auto = AutoModelForMultipleChoice if kind == "multiple-choice" else AutoModelForSequenceClassification
    again, words = auto.from_pretrained(recipe.output), AutoTokenizer.from_pretrained(recipe.output)
    texts = [words(*text, return_tensors="pt", padding=True) for text in texts_of(kind, data.validation)]
    shaped = [{name: x if kind == "classification" else x.unsqueeze(0) for name, x in row.items()} for row in texts]
    torch.testing.assert_close(logits_of(again, shaped), expected, rtol=1e-5, atol=1e-5)


def texts_of(kind: str, rows: list[dict[str, Any]]) -> list[Any]:
    """What a user hands to the saved tokenizer."""
    if kind == "classification":
        return [([row["text"]],) for row in rows]
    if kind == "similarity":
        return [([row["text"], row["pair"]], [row["pair"], row["text"]]) for row in rows]
    return [([row["text"]] * len(row["choices"]), row["choices"]) for row in rows]


def test_a_folder_serves_the_pipeline_of_transformers(make) -> None:
    folder = finetune(make("classification"))
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    assert [found["label"] for found in classify(["great music", "awful music"], batch_size=2)] == ["yes", "no"]


def test_a_folder_that_was_trained_on_both_orders_says_so_and_one_tuned_on_without_them_does_not(make) -> None:
    both = finetune(make("similarity", steps=2))
    with pytest.raises(ValueError, match="both_orders=True reads each pair in both orders"):
        pipeline("text-classification", model=str(both), device="cpu")({"text": "good", "text_pair": "bad"})
    further = {"model": {"from": str(both), "lm_loss_weight": 0.5}, "data": {"both_orders": False}}
    single = finetune(make("similarity", "single", steps=2, **further))
    assert [json.loads((folder / "config.json").read_text())["both_orders"] for folder in (both, single)] == [
        True,
        False,
    ]


def test_a_fine_tuned_folder_is_fine_tuned_on(make) -> None:
    first = finetune(make("classification", steps=2))
    again = finetune(make("classification", "again", steps=2, model={"from": str(first), "lm_loss_weight": 0.5}))
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (first, again)]
    assert sizes[0] == sizes[1]


def test_random_weights_of_a_shape_are_trained_with_another_models_tokenizer(make, pretrained) -> None:
    shape = {"family": "gpt", **SIZES, "max_position_embeddings": 32, "lm_loss_weight": 0.5}
    folder = finetune(make("multiple-choice", steps=2, model=shape, tokenizer={"from": pretrained}))
    assert AutoModelForMultipleChoice.from_pretrained(folder).config.hidden_size == 32


def test_a_gpt2_of_transformers_is_fine_tuned(make, tmp_path) -> None:
    tokenizer = tokenizer_of_words()
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    folder = finetune(make("entailment", steps=2, model={"from": str(tmp_path / "gpt2"), "lm_loss_weight": 0.5}))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(model, VaswaniGPTForSequenceClassification)
    assert (model.config.norm_order, model.config.vocab_size) == ("pre", len(tokenizer) + 3)


def test_openais_gpt_is_fine_tuned_with_its_own_words(make, tmp_path) -> None:
    pytest.importorskip("ftfy", reason="needs ftfy, of the extra gpt1")
    pytest.importorskip("spacy", reason="needs spaCy, of the extra gpt1")
    letters = sorted(set("".join(WORDS)))
    tokens = ["<unk>", *letters, *(letter + "</w>" for letter in letters)]
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=len(tokens), **sizes)).save_pretrained(tmp_path / "gpt1")
    (tmp_path / "gpt1" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "gpt1" / "merges.txt").write_text("#version: 0.2\n")
    folder = finetune(make("classification", steps=2, model={"from": str(tmp_path / "gpt1"), "lm_loss_weight": 0.5}))
    assert isinstance(AutoTokenizer.from_pretrained(folder), VaswaniGPTTokenizer)
    assert json.loads((folder / "config.json").read_text())["norm_order"] == "post"
