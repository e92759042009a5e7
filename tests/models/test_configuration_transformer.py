import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from vaswani_transformer import VaswaniTransformerConfig as Config
from vaswani_transformer.models.configuration_transformer import PRESETS

# Table 3 and section 6.1 of the paper: N, d_model, d_ff, h, d_k, d_v, dropout, label smoothing.
PAPER = {
    "base": (6, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "big": (6, 1024, 4096, 16, 64, 64, 0.3, 0.1),
    "big-en-fr": (6, 1024, 4096, 16, 64, 64, 0.1, 0.1),
    "A-heads-1": (6, 512, 2048, 1, 512, 512, 0.1, 0.1),
    "A-heads-4": (6, 512, 2048, 4, 128, 128, 0.1, 0.1),
    "A-heads-16": (6, 512, 2048, 16, 32, 32, 0.1, 0.1),
    "A-heads-32": (6, 512, 2048, 32, 16, 16, 0.1, 0.1),
    "B-d_k-16": (6, 512, 2048, 8, 16, 64, 0.1, 0.1),
    "B-d_k-32": (6, 512, 2048, 8, 32, 64, 0.1, 0.1),
    "C-layers-2": (2, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C-layers-4": (4, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C-layers-8": (8, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C-d_model-256": (6, 256, 2048, 8, 32, 32, 0.1, 0.1),
    "C-d_model-1024": (6, 1024, 2048, 8, 128, 128, 0.1, 0.1),
    "C-d_ff-1024": (6, 512, 1024, 8, 64, 64, 0.1, 0.1),
    "C-d_ff-4096": (6, 512, 4096, 8, 64, 64, 0.1, 0.1),
    "D-dropout-0.0": (6, 512, 2048, 8, 64, 64, 0.0, 0.1),
    "D-dropout-0.2": (6, 512, 2048, 8, 64, 64, 0.2, 0.1),
    "D-smoothing-0.0": (6, 512, 2048, 8, 64, 64, 0.1, 0.0),
    "D-smoothing-0.2": (6, 512, 2048, 8, 64, 64, 0.1, 0.2),
    "E-learned-positions": (6, 512, 2048, 8, 64, 64, 0.1, 0.1),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_has_the_sizes_of_the_papers_table(name: str) -> None:
    config = Config.preset(name)
    assert (
        config.num_encoder_layers,
        config.d_model,
        config.d_ff,
        config.num_heads,
        config.d_k,
        config.d_v,
        config.dropout,
        config.label_smoothing,
    ) == PAPER[name]
    assert config.num_decoder_layers == config.num_encoder_layers
    assert config.position_embedding == ("learned" if name.startswith("E") else "sinusoidal")


def test_every_preset_is_in_the_papers_table() -> None:
    assert set(PRESETS) == set(PAPER)


def test_the_defaults_are_the_papers_base_model() -> None:
    assert Config().to_diff_dict() == Config.preset("base").to_diff_dict()
    expected = {
        "vocab_size": 37000,
        "activation": "relu",
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "norm_order": "post",
        "final_norm": False,
        "attention_bias": False,
        "lm_head_bias": False,
        "layer_norm_eps": 1e-6,
        "position_embedding": "sinusoidal",
        "position_layout": "interleaved",
        "position_frequency": "paper",
        "position_offset": 0,
        "scale_embedding": True,
        "tie_embeddings": "all",
        "decoder_start": "zero",
    }
    assert {name: getattr(Config(), name) for name in expected} == expected


def test_the_decoder_starts_with_the_pad_id_by_default() -> None:
    assert Config(pad_token_id=5).decoder_start_token_id == 5


def test_a_preset_takes_overrides() -> None:
    config = Config.preset("big", vocab_size=100, num_heads=8)
    assert (config.vocab_size, config.num_heads, config.d_k, config.d_ff) == (100, 8, 128, 4096)


def test_d_v_follows_a_given_d_k() -> None:
    assert Config(d_k=24).d_v == 24


@pytest.mark.parametrize(
    ("usual", "ours"),
    [
        ("hidden_size", "d_model"),
        ("intermediate_size", "d_ff"),
        ("encoder_ffn_dim", "d_ff"),
        ("decoder_ffn_dim", "d_ff"),
        ("num_attention_heads", "num_heads"),
        ("encoder_attention_heads", "num_heads"),
        ("decoder_attention_heads", "num_heads"),
        ("head_dim", "d_k"),
        ("num_hidden_layers", "num_encoder_layers"),
        ("encoder_layers", "num_encoder_layers"),
        ("decoder_layers", "num_decoder_layers"),
        ("activation_function", "activation"),
    ],
)
def test_transformers_usual_name_reads_and_writes_our_field(usual: str, ours: str) -> None:
    config = Config()
    assert getattr(config, usual) == getattr(config, ours)
    setattr(config, usual, "gelu" if ours == "activation" else 12)
    assert getattr(config, ours) == getattr(config, usual) != getattr(Config(), ours)


def test_a_usual_name_is_taken_by_the_constructor() -> None:
    usual: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4}
    assert Config(**usual).d_model == 64


def test_the_decoders_view_of_the_config_counts_the_decoders_layers() -> None:
    config = Config(num_encoder_layers=5, num_decoder_layers=2)
    assert config.get_text_config(decoder=True).num_hidden_layers == 2
    assert config.get_text_config().num_hidden_layers == 5


@pytest.mark.parametrize(
    ("given", "nearest"), [("d_modl", "d_model"), ("num_head", "num_heads"), ("label_smothing", "label_smoothing")]
)
def test_a_misspelt_field_is_told_with_the_nearest_right_name(given: str, nearest: str) -> None:
    fields: dict[str, Any] = {given: 3}
    with pytest.raises(ValueError, match=f"{given}.*did you mean '{nearest}'"):
        Config(**fields)


def test_a_misspelt_preset_is_told_with_the_nearest_right_name() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of .*'bas'; did you mean 'base'"):
        Config.preset("bas")


def test_a_saved_config_with_a_field_of_a_later_version_still_loads(tmp_path: Path) -> None:
    Config(d_model=64).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "position_layouts": "new"}))
    assert Config.from_pretrained(tmp_path).d_model == 64


def test_every_field_survives_saving(tmp_path: Path) -> None:
    config = Config(
        d_k=20, d_v=12, norm_order="pre", tie_embeddings="decoder", position_offset=2, decoder_start="token", dropout=0
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is Config
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"d_model": 100}, "d_model must be a multiple of num_heads.*d_model=100, num_heads=8"),
    ({"d_model": 0}, "d_model must be a positive integer; got d_model=0"),
    ({"d_model": -512}, "d_model must be a positive integer; got d_model=-512"),
    ({"d_model": 512.0}, "d_model must be a positive integer; got d_model=512.0"),
    ({"d_model": "512"}, "d_model must be a positive integer; got d_model='512'"),
    ({"d_model": 33, "num_heads": 3}, "d_model must be even for sinusoidal positions; got d_model=33"),
    ({"num_heads": 0}, "num_heads must be a positive integer; got num_heads=0"),
    ({"vocab_size": 0}, "vocab_size must be a positive integer; got vocab_size=0"),
    ({"d_ff": -1}, "d_ff must be a positive integer; got d_ff=-1"),
    ({"d_k": 0}, "d_k must be a positive integer; got d_k=0"),
    ({"d_v": True}, "d_v must be a positive integer; got d_v=True"),
    ({"num_encoder_layers": 0}, "num_encoder_layers must be a positive integer; got num_encoder_layers=0"),
    ({"num_decoder_layers": 1.5}, "num_decoder_layers must be a positive integer; got num_decoder_layers=1.5"),
    ({"max_position_embeddings": 0}, "max_position_embeddings must be a positive integer"),
    ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\); got dropout=1.0"),
    ({"dropout": -0.1}, r"dropout must be a number in \[0, 1\); got dropout=-0.1"),
    ({"dropout": float("nan")}, r"dropout must be a number in \[0, 1\); got dropout=nan"),
    ({"attention_dropout": "0.1"}, r"attention_dropout must be a number in \[0, 1\); got attention_dropout='0.1'"),
    ({"activation_dropout": True}, r"activation_dropout must be a number in \[0, 1\)"),
    ({"label_smoothing": 1}, r"label_smoothing must be a number in \[0, 1\); got label_smoothing=1"),
    ({"final_norm": 1}, "final_norm must be true or false; got final_norm=1"),
    ({"attention_bias": "no"}, "attention_bias must be true or false; got attention_bias='no'"),
    ({"norm_order": "Pre"}, "norm_order must be one of post, pre; got norm_order='Pre'; did you mean 'pre'"),
    ({"position_embedding": "rotary"}, "position_embedding must be one of sinusoidal, learned; got .*'rotary'"),
    ({"position_layout": "half_split"}, "position_layout must be one of .*; did you mean 'half-split'"),
    ({"position_frequency": "t2t"}, "position_frequency must be one of paper, tensor2tensor; got .*'t2t'"),
    ({"position_offset": -1}, "position_offset must be 0 or more; got position_offset=-1"),
    ({"tie_embeddings": True}, "tie_embeddings must be one of all, decoder, none; got tie_embeddings=True"),
    ({"decoder_start": "eos"}, "decoder_start must be one of zero, token; got decoder_start='eos'"),
    ({"activation": "rellu"}, "activation must be a name in transformers' ACT2FN; got .*'rellu'; did you mean 'relu'"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps must be above 0; got layer_norm_eps=0.0"),
    ({"layer_norm_eps": "1e-6"}, "layer_norm_eps must be a number; got layer_norm_eps='1e-6'"),
    ({"pad_token_id": -1}, r"pad_token_id must be in \[0, vocab_size=37000\); got pad_token_id=-1"),
    ({"vocab_size": 2}, r"unk_token_id must be in \[0, vocab_size=2\); got unk_token_id=2"),
    ({"decoder_start_token_id": 37000}, r"decoder_start_token_id must be in .*; got decoder_start_token_id=37000"),
    ({"tie_embeddings": "none", "tie_word_embeddings": True}, "tie_word_embeddings=True contradicts tie_embeddings"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=[str(fields) for fields, _ in BAD_FIELDS])
def test_a_bad_field_is_told_with_the_rule_and_the_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)


EMPTY = torch.zeros((2, 0), dtype=torch.long)
IDS = torch.tensor([[3, 4, 1]])
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": EMPTY, "labels": IDS}, r"VaswaniTransformerEncoder needs at least one position.*\(2, 0\)"),
    ({"input_ids": IDS, "decoder_input_ids": EMPTY[:1]}, "VaswaniTransformerDecoder needs at least one position"),
    ({"input_ids": IDS + 26, "labels": IDS}, r"token ids must be in \[0, vocab_size=29\); got 29 at \(0, 0\)"),
    ({"input_ids": IDS - 4, "labels": IDS}, r"token ids must be in \[0, vocab_size=29\); got -1 at \(0, 0\)"),
    ({"input_ids": IDS, "decoder_input_ids": IDS + 25}, r"got 29 at \(0, 1\)"),
    ({"input_ids": IDS, "labels": torch.tensor([[3, 29, 1]])}, r"labels must be in .*; got 29 at \(0, 1\)"),
    ({"input_ids": IDS, "labels": torch.tensor([[3, -7, 1]])}, r"labels must be in .*; got -7 at \(0, 1\)"),
    ({"labels": IDS}, "VaswaniTransformerEncoder takes either token ids or embeddings"),
    ({"input_ids": IDS}, "VaswaniTransformerDecoder takes either token ids or embeddings"),
    (
        {"input_ids": IDS, "inputs_embeds": torch.zeros(1, 3, 16), "labels": IDS},
        "VaswaniTransformerEncoder takes either token ids or embeddings, one of the two",
    ),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("inputs", "message"), BAD_CALLS)
def test_a_bad_input_of_the_model_is_told_with_the_rule_and_the_value(
    make_model, inputs: dict[str, Any], message: str, training: bool
) -> None:
    with pytest.raises(ValueError, match=message):
        make_model().train(training)(**inputs)


def test_a_sentence_longer_than_the_learned_position_table_is_told(make_model) -> None:
    model = make_model(position_embedding="learned", max_position_embeddings=4)
    with pytest.raises(ValueError, match="max_position_embeddings=4"):
        model(input_ids=torch.full((1, 5), 3), labels=IDS)


def test_a_callers_field_is_checked_when_a_saved_model_is_loaded(tmp_path) -> None:
    Config().save_pretrained(tmp_path)
    assert Config.from_pretrained(tmp_path, activation_function="gelu").activation == "gelu"
    with pytest.raises(ValueError, match="norm_order must be one of"):
        Config.from_pretrained(tmp_path, norm_order="sideways")
