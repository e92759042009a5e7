"""A Hub on this machine with the real client turned to it, and small models to publish."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers.utils.hub
from huggingface_hub.utils import _http

from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForSequenceClassification,
    VaswaniBertTokenizer,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniGPTTokenizer,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.publishing import publish as publishing

from .. import local_hub
from ..local_hub import TOKEN, USER, LocalHub

TEXTS = ["a good film", "a bad film", "the quick brown fox jumps over the lazy dog", "good music and a film"] * 4
NAME = f"{USER}/model"
CODE = {
    "attention",
    "blocks_gpt",
    "caches",
    "configuration_gpt",
    "fields",
    "heads_gpt",
    "layers",
    "losses",
    "masks_gpt",
}
CODE |= {"modeling_gpt", "packing", "pretrained_gpt"}
TRAVELS = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
TRAVELS |= {"tokenizer_config.json"} | {f"{name}.py" for name in CODE}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[LocalHub]:
    """A Hub of this machine, and the client of this process turned to it, with a token."""
    with local_hub.serve() as served:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH"):
            monkeypatch.setattr(constants, name, str(tmp_path / name))
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # made anew, for this Hub
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()  # a client of this Hub, with no connection to another test's
        yield served
        huggingface_hub.close_session()


def gpt_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64, "norm_order": "pre"}
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=260, **sizes))
    return model, VaswaniGPT2Tokenizer.train(TEXTS, vocab_size=260)


def bert_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = VaswaniBertForSequenceClassification(VaswaniBertConfig(vocab_size=60, **sizes))
    return model, VaswaniBertTokenizer.train(TEXTS, vocab_size=60)


def gpt_of_2018_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    """A GPT whose tokenizer is no stock one, so that its code must travel."""
    pytest.importorskip("ftfy", reason="needs ftfy, of the extra gpt1")
    pytest.importorskip("spacy", reason="needs spaCy, of the extra gpt1")
    letters = "abcdefghijklmnopqrstuvwxyz.,0123456789"
    words = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    sizes: Any = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64}
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=len(words), **sizes))
    return model, VaswaniGPTTokenizer(folder / "vocab.json", folder / "merges.txt")


def transformer_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(vocab_size=270, **sizes))
    return model, VaswaniTransformerTokenizer.train(TEXTS, vocab_size=270)


def saved(made: tuple[Any, Any], folder: Path, **options: Any) -> Path:
    made[0].save_pretrained(folder, **options)
    made[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return saved(gpt_and_tokenizer(), tmp_path_factory.mktemp("pristine") / "gpt")


@pytest.fixture
def gpt(pristine, tmp_path) -> Path:
    """The folder of a small GPT and its tokenizer, to change at will."""
    return Path(shutil.copytree(pristine, tmp_path / "gpt"))


@pytest.fixture
def sharded(tmp_path) -> Path:
    return saved(gpt_and_tokenizer(), tmp_path / "sharded", max_shard_size="20KB")


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Leaves the clean process out, of tests that look at what comes before it."""
    monkeypatch.setattr(publishing, "difference_elsewhere", lambda folder, expected: 0.0)


@pytest.fixture
def no_waiting(monkeypatch) -> None:
    """The client waits between its own attempts; here there is nothing to wait for."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def uploads(hub: LocalHub) -> int:
    return hub.asked("PUT", "/lfs/")
