import json
import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2Config, OpenAIGPTConfig

from vaswani_transformer import VaswaniGPTConfig as Config
from vaswani_transformer import VaswaniGPTForCausalLM

# Parameters in millions: GPT-1 as OpenAI's file holds, GPT-2 as released, GPT-3 as its table rounds.
MILLIONS = {"gpt": 116.53, "gpt2": 124.44, "gpt2-medium": 354.82, "gpt2-large": 774.03, "gpt2-xl": 1557.61}
BILLIONS = {"125m": 0.125, "350m": 0.356, "760m": 0.76, "1.3b": 1.3, "2.7b": 2.65, "6.7b": 6.7, "13b": 13, "175b": 175}


def parameters(name: str) -> int:
    with torch.device("meta"):
        return VaswaniGPTForCausalLM(Config.preset(name)).num_parameters()


@pytest.mark.parametrize("name", MILLIONS)
def test_each_released_preset_has_the_number_of_parameters_of_its_release(name: str) -> None:
    assert parameters(name) / 1e6 == pytest.approx(MILLIONS[name], abs=0.01)


@pytest.mark.parametrize("name", BILLIONS)
def test_each_preset_of_gpt3_has_the_size_of_its_name_and_alternates_bands(name: str) -> None:
    config = Config.preset(f"gpt3-{name}")
    layers, size = config.num_hidden_layers, config.hidden_size
    inside = 12 * layers * size**2 + (config.vocab_size + config.max_position_embeddings) * size
    assert inside / 1e9 == pytest.approx(BILLIONS[name], rel=0.03)
    assert config.layer_types == ["full_attention", "sliding_attention"] * (layers // 2)
    assert (config.norm_order, config.max_position_embeddings, config.vocab_size) == ("pre", 2048, 50257)


def test_a_preset_takes_fields_of_ones_own_under_either_name() -> None:
    config = Config.preset("gpt3-125m", n_layer=3, n_embd=24, n_head=2, vocab_size=99)
    assert (config.layer_types[-1], config.intermediate_size, config.eos_token_id) == ("full_attention", 96, None)


def test_the_defaults_are_gpt_of_2018() -> None:
    assert Config().to_dict() == Config.preset("gpt").to_dict()
    config = Config()
    assert (config.norm_order, config.n_positions, config.vocab_size) == ("post", 512, 40478)


def test_gpt2s_names_of_fields_are_taken() -> None:
    theirs: dict[str, Any] = {"n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 7, "n_inner": 5}
    theirs |= {"resid_pdrop": 0.2, "embd_pdrop": 0.3, "attn_pdrop": 0.4, "layer_norm_epsilon": 1e-3}
    more: dict[str, Any] = {"activation_function": "relu"}
    config = Config(**theirs, **more)
    assert {name: getattr(config, name) for name in theirs} == theirs
    assert (config.hidden_size, config.hidden_act, config.hidden_dropout) == (24, "relu", 0.2)
    assert "n_embd" not in config.to_dict()


@pytest.mark.parametrize(
    ("theirs", "order"), [(GPT2Config(), "pre"), (OpenAIGPTConfig(), "post")], ids=["gpt2", "openai-gpt"]
)
def test_what_transformers_wrote_becomes_ours_without_a_warning(tmp_path, caplog, theirs, order) -> None:
    theirs.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        config = Config.from_pretrained(tmp_path)
    assert caplog.records == []
    assert (config.model_type, config.norm_order) == ("vaswani-gpt", order)
    assert config.hidden_act == "gelu_pytorch_tanh"
    for name in ("vocab_size", "n_positions", "n_layer", "bos_token_id", "eos_token_id"):
        assert getattr(config, name) == getattr(theirs, name), name
    config.save_pretrained(tmp_path / "again")
    again = AutoConfig.from_pretrained(tmp_path / "again")
    assert type(again) is Config
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "vaswani-gpt"
    assert again.norm_order == order


def test_a_dictionary_of_transformers_becomes_ours() -> None:
    theirs = OpenAIGPTConfig(n_embd=24, afn="swish").to_dict()
    for config in (Config.from_dict(theirs), Config(**theirs)):
        assert (config.hidden_size, config.hidden_act, config.norm_order) == (24, "silu", "post")
    assert theirs["model_type"] == "openai-gpt"


def test_saving_and_loading_keeps_every_field(tmp_path) -> None:
    config = Config.preset("gpt3-125m", num_hidden_layers=2, classifier_dropout=0.3, num_labels=7, hidden_act="relu")
    config.save_pretrained(tmp_path)
    again, ignored = Config.from_pretrained(tmp_path), {"transformers_version"}
    assert {k: v for k, v in again.to_dict().items() if k not in ignored} == {
        k: v for k, v in config.to_dict().items() if k not in ignored
    }


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("lm_loss_weight", -1, "lm_loss_weight must be"),
        ("norm_order", "sideways", "norm_order must be one of"),
        ("resid_pdrop", 7, "hidden_dropout must be"),
        ("hidden_act", "zelu", "hidden_act must be a name"),
        ("num_attention_heads", 3, "multiple of num_attention_heads"),
    ],
)
def test_a_callers_field_is_checked_when_a_saved_model_is_loaded(tmp_path, field, value, told) -> None:
    config = Config(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=told):
        Config.from_pretrained(tmp_path, **{field: value})


def test_a_callers_fields_replace_the_saved_ones_under_any_name(tmp_path) -> None:
    Config(hidden_size=8, num_hidden_layers=3, num_attention_heads=2).save_pretrained(tmp_path)
    given: Any = {"n_layer": 1, "resid_pdrop": 0.3, "hidden_act": "gelu_new", "num_labels": 5, "mine": 1}
    found: Any = Config.from_pretrained(tmp_path, return_unused_kwargs=True, **given)
    config, unused = found
    got = (config.layer_types, config.hidden_dropout, config.hidden_act, config.num_labels)
    assert got == (["full_attention"], 0.3, "gelu_pytorch_tanh", 5)
    assert unused == {"mine": 1}
