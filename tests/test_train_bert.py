"""BERT's pre-training through the one loop, at toy size."""

import datasets.config
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from transformers import AutoModelForPreTraining, AutoTokenizer

from vaswani_transformer import VaswaniBertForPreTraining
from vaswani_transformer.recipe import Recipe
from vaswani_transformer.run_log import read_metrics
from vaswani_transformer.train import train

WORDS = ["the", "cat", "dog", "saw", "a", "tree", "and", "ran", "home", "again"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes the recipe of a toy run over documents in which one of ten words follows another always."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng, documents = np.random.default_rng(0), []
    for _ in range(40):
        begin, sentences = rng.integers(10), []
        for length in rng.integers(3, 8, 6):
            sentences.append(" ".join(WORDS[(begin + place) % 10] for place in range(length)))
            begin += length
        documents.append("\n".join(sentences))
    files = {"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "validation.txt")}
    (tmp_path / "train.txt").write_text("\n\n".join(documents[8:]) + "\n")
    (tmp_path / "validation.txt").write_text("\n\n".join(documents[:8]) + "\n")

    def make(output: str, **changes) -> Recipe:
        values = {
            "model": {"family": "bert", "hidden_act": "gelu_pytorch_tanh", **SIZES, **changes.pop("model", {})},
            "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
            "data": {"files": files, "max_seq_length": 24},
            "batch": {"sequences": 16, **changes.pop("batch", {})},
            "optimizer": {"name": "adamw", "learning_rate": 0.005},
            "schedule": {"name": "constant", "warmup_steps": 5},
            "log_every": 1,
            "output": str(tmp_path / output),
        }
        return Recipe.from_dict(values | changes)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(output, kind: str = "train") -> list[float]:
    return [record["loss"] for record in read_metrics(output / "metrics.jsonl") if record["kind"] == kind]


def test_bert_learns_in_the_loop_and_its_folder_is_a_model_with_its_tokenizer(toy) -> None:
    output = train(toy("run", steps=150, validate={"every_steps": 50}))
    found, validation = losses(output), losses(output, "validation")
    assert np.mean(found[-10:]) < np.mean(found[:5]) - 1.0
    assert validation[-1] < validation[0]
    model, tokenizer = AutoModelForPreTraining.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert isinstance(model, VaswaniBertForPreTraining)
    outputs = model.eval()(**tokenizer("the cat dog", "saw a tree", return_tensors="pt"))
    assert outputs.seq_relationship_logits.shape == (1, 2)


def test_accumulation_gives_bert_the_same_losses_of_both_tasks(toy) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain, split = (train(toy(f"by-{n}", steps=6, model=still, batch={"accumulation": n})) for n in (1, 3))
    assert losses(plain) == pytest.approx(losses(split), abs=1e-4)
