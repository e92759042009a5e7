import json
import logging
from typing import Any

import pytest
from transformers import AutoConfig, BertConfig

from vaswani_transformer import VaswaniBertConfig as Config
from vaswani_transformer import VaswaniBertModel

SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "small": (4, 512, 8, 2048),
    "medium": (8, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


def written_by_transformers(folder, **fields: Any) -> dict[str, Any]:
    BertConfig(**fields).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_the_fields_and_their_defaults_are_those_of_transformers() -> None:
    theirs = BertConfig().to_dict()
    ours = Config().to_dict()
    assert {name: ours.get(name, "missing") for name in theirs} == theirs | {"model_type": "vaswani-bert"}


@pytest.mark.parametrize("name", SIZES)
def test_each_preset_has_googles_sizes_and_activation(name: str) -> None:
    config = Config.preset(name)
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert sizes == SIZES[name]
    assert config.hidden_act == "gelu_pytorch_tanh"
    assert (config.layer_norm_eps, config.initializer_range, config.max_position_embeddings) == (1e-12, 0.02, 512)


def test_a_preset_takes_fields_of_ones_own() -> None:
    assert Config.preset("tiny", vocab_size=99, hidden_act="relu").hidden_act == "relu"


def test_base_has_110_million_parameters() -> None:
    import torch

    with torch.device("meta"):
        assert VaswaniBertModel(Config.preset("base")).num_parameters() == 109_482_240


def test_what_transformers_wrote_becomes_ours_without_a_warning(tmp_path, caplog) -> None:
    written_by_transformers(tmp_path, hidden_size=24, num_labels=5)
    with caplog.at_level(logging.WARNING):
        config = Config.from_pretrained(tmp_path)
    assert (config.model_type, config.hidden_size, config.num_labels) == ("vaswani-bert", 24, 5)
    assert "model_type" not in vars(config)
    assert caplog.records == []
    config.save_pretrained(tmp_path / "again")
    assert type(AutoConfig.from_pretrained(tmp_path / "again")) is Config


def test_a_dictionary_of_transformers_becomes_ours() -> None:
    theirs = BertConfig(hidden_size=24).to_dict()
    for config in (Config.from_dict(theirs), Config(**theirs)):
        assert (config.model_type, config.hidden_size) == ("vaswani-bert", 24)
    assert theirs["model_type"] == "bert"


def test_old_fields_of_hub_files_are_read_as_they_are(tmp_path) -> None:
    # bert-base-chinese has these, and no transformers_version.
    old = {"directionality": "bidi", "pooler_num_attention_heads": 12, "pooler_fc_size": 768, "model_type": "bert"}
    old |= {"position_embedding_type": "absolute", "gradient_checkpointing": False, "hidden_size": 24}
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = Config.from_pretrained(tmp_path)
    assert config.hidden_size == 24
    assert config.pooler_num_attention_heads == 12


def test_the_place_of_another_models_code_is_not_kept(tmp_path) -> None:
    fields = written_by_transformers(tmp_path) | {"auto_map": {"AutoModel": "theirs.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert Config.from_pretrained(tmp_path).auto_map["AutoModel"] == "modeling_bert.VaswaniBertModel"


def test_saving_and_loading_keeps_every_field(tmp_path) -> None:
    fields: dict[str, Any] = {"hidden_act": "relu", "classifier_dropout": 0.3, "num_labels": 7}
    config = Config(hidden_size=24, num_attention_heads=3, **fields)
    config.save_pretrained(tmp_path)
    again = Config.from_pretrained(tmp_path)
    ignored = {"transformers_version"}
    assert {k: v for k, v in again.to_dict().items() if k not in ignored} == {
        k: v for k, v in config.to_dict().items() if k not in ignored
    }


def test_the_ids_of_other_special_tokens_are_no_misspellings() -> None:
    fields: dict[str, Any] = {"mask_token_id": 4, "sep_token_id": 3, "cls_token_id": 2}
    assert Config(**fields).mask_token_id == 4


def test_a_callers_field_is_checked_when_a_saved_model_is_loaded(tmp_path) -> None:
    Config.preset("tiny").save_pretrained(tmp_path)
    assert Config.from_pretrained(tmp_path, hidden_dropout_prob=0.3).hidden_dropout_prob == 0.3
    with pytest.raises(ValueError, match="hidden_dropout_prob must be"):
        Config.from_pretrained(tmp_path, hidden_dropout_prob=1.5)
