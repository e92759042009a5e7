"""GPT's pre-training through the one loop, at toy size."""

from itertools import chain
from pathlib import Path

import datasets.config
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM, AutoTokenizer

from vaswani_transformer import VaswaniGPTForCausalLM
from vaswani_transformer.recipe import Recipe
from vaswani_transformer.run_log import read_metrics
from vaswani_transformer.train import train

WORDS = ["the", "cat", "dog", "saw", "a", "tree", "and", "ran", "home", "again"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes the recipe of a toy run over documents in which one of ten words follows another always."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    files = {}
    for split in ("train", "validation"):
        files[split] = []
        for number in range(20):
            begin, length = rng.integers(10), rng.integers(5, 40)
            path = tmp_path / f"{split}-{number}.txt"
            path.write_text(" ".join(WORDS[(begin + place) % 10] for place in range(length)))
            files[split].append(str(path))

    def make(output: str, **changes) -> Recipe:
        values = {
            "model": {"family": "gpt", **SIZES, **changes.pop("model", {})},
            "tokenizer": {"kind": "byte-bpe", "vocab_size": 290},
            "data": {"files": files, "max_seq_length": 16},
            "batch": {"sequences": 6, **changes.pop("batch", {})},
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
            "schedule": {"name": "constant", "warmup_steps": 5},
            "log_every": 1,
            "output": str(tmp_path / output),
        }
        return Recipe.from_dict(values | changes)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(output, kind: str = "train") -> list[float]:
    return [record["loss"] for record in read_metrics(output / "metrics.jsonl") if record["kind"] == kind]


def test_gpt_learns_in_the_loop_and_its_folder_writes_text(toy) -> None:
    output = train(toy("run", steps=120, validate={"every_steps": 60}))
    found, validation = losses(output), losses(output, "validation")
    assert np.mean(found[-10:]) < np.mean(found[:5]) - 2.0
    assert validation[-1] < validation[0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert isinstance(model, VaswaniGPTForCausalLM)
    ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        **tokenizer("the cat dog", return_tensors="pt"), max_new_tokens=2, do_sample=False
    )
    assert tokenizer.decode(ids[0]).startswith("the cat dog saw")


def test_accumulation_gives_gpt_the_same_losses(toy) -> None:
    still = dict.fromkeys(("hidden_dropout", "attention_dropout", "embedding_dropout"), 0.0)
    plain, split = (train(toy(f"by-{n}", steps=6, model=still, batch={"accumulation": n})) for n in (1, 3))
    assert losses(plain) == pytest.approx(losses(split), abs=1e-4)


def test_validation_is_the_mean_over_all_tokens_but_the_first_each_from_its_own_document(toy) -> None:
    recipe = toy("run", steps=2)
    output = train(recipe)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output).eval(), AutoTokenizer.from_pretrained(output)
    texts = [Path(file).read_text(encoding="utf-8") for file in recipe.data["files"]["validation"]]
    documents = [[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
    stream = list(chain(*documents))
    starts = set(np.cumsum([0, *map(len, documents)]).tolist())
    nll = []
    for place in range(1, len(stream)):
        begin = max(start for start in {*starts, *range(0, len(stream), 16)} if start < place)
        logits = model(torch.tensor([stream[begin:place]])).logits[0, -1]
        nll.append(-float(logits.detach().log_softmax(-1)[stream[place]]))
    assert losses(output, "validation")[-1] == pytest.approx(np.mean(nll), abs=1e-4)
