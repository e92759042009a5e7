"""The three models that ship: small, loadable by name without a network, and better than chance."""

import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForPreTraining, AutoModelForSeq2SeqLM, AutoTokenizer

from vaswani_cli import main
from vaswani_transformer.embedded_models import EMBEDDED, FOLDER, model_folder

CLASSES = {
    "demo-transformer": AutoModelForSeq2SeqLM,
    "demo-bert": AutoModelForPreTraining,
    "demo-gpt": AutoModelForCausalLM,
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_weights_are_in_half_precision_and_at_most_4_mb(name):
    path = FOLDER / name / "model.safetensors"
    assert path.stat().st_size <= 4_000_000
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_model_computes_in_single_precision(name):
    assert CLASSES[name].from_pretrained(model_folder(name)).dtype == torch.float32


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_card_stands_beside_each_and_names_no_repository(name):
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert f'model_folder("{name}")' in card
    assert "trust_remote_code" not in card
    assert "license: apache-2.0" in card


def test_a_folder_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo-gpt").mkdir()
    assert model_folder("demo-gpt") == "demo-gpt"
    assert model_folder("demo-bert") == str(FOLDER / "demo-bert")


def test_other_names_stay_as_they_are():
    assert model_folder("gpt2") == "gpt2"
    assert model_folder("demo-other") == "demo-other"


def test_translate_takes_the_embedded_model_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a library for the terminal\n")))
    assert main(["translate"]) == 0
    assert "Terminal" in capsys.readouterr().out


def test_generate_goes_on_by_the_models_name(capsys):
    assert main(["generate", "demo-gpt", "She was", "--max-new-tokens", "8", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("She was")


def test_bert_fills_a_word_that_stands_there_in_english():
    name = model_folder("demo-bert")
    model, tokenizer = AutoModelForPreTraining.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    inputs = tokenizer("she was in [MASK] room .", return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    best = model(**inputs).prediction_logits[0, place].topk(10).indices.tolist()
    assert {"the", "her", "his", "a"} & set(tokenizer.convert_ids_to_tokens(best))
