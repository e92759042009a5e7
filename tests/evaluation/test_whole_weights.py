"""A model is loaded with all its weights or not at all, and without talk of weights that it has no place for."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.utils import logging as hf_logging

from vaswani_transformer import VaswaniBertConfig, VaswaniBertForPreTraining
from vaswani_transformer.evaluation.whole_weights import load_whole

SIZES: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    VaswaniBertForPreTraining(VaswaniBertConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def without(folder: Path, key: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if key not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_weights_of_another_head_are_passed_over_in_silence(auto, folder):
    told: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = told.append  # type: ignore[method-assign]
    hf_logging.add_handler(handler)
    try:
        load_whole(auto, folder, part="model")
        assert [record.getMessage() for record in told] == []
        auto.from_pretrained(folder)
        assert "UNEXPECTED" in told[-1].getMessage()  # what would have been told
    finally:
        hf_logging.remove_handler(handler)


def test_weights_that_are_not_there_are_told_with_the_first_name(folder):
    without(folder, "attention.self.query")
    with pytest.raises(ValueError, match=r"weights of its attention; got .* without .*query\.bias"):
        load_whole(AutoModel, folder, part="attention")


def test_weights_that_are_not_needed_may_be_missing(folder):
    without(folder, "pooler")
    load_whole(AutoModel, folder, part="attention", unneeded="pooler")
    with pytest.raises(ValueError, match=r"got .* without pooler\.dense\.bias"):
        load_whole(AutoModel, folder, part="attention")


def test_weights_of_another_shape_than_the_configuration_says_are_told(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"intermediate\.dense\.bias \(16,\); got \(8,\)"):
        load_whole(AutoModel, folder, part="model")


def test_transformers_tells_as_much_as_before_afterwards(folder):
    before = hf_logging.get_verbosity()
    load_whole(AutoModel, folder, part="model")
    assert hf_logging.get_verbosity() == before
