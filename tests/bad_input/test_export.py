"""Bad input of exports: what another library cannot hold, compute or read."""

from typing import Any

import pytest

from vaswani_transformer.convert import export_to_ctranslate2, export_to_gguf, export_to_onnx, export_to_transformers
from vaswani_transformer.convert.to_ctranslate2 import token_names
from vaswani_transformer.convert.to_transformers import plain_model
from vaswani_transformer.evaluation.ctranslate2_model import CTranslate2Transformer

from .scene import Cases, Scene, assert_told


class Exports(Scene):
    """Exports of a model that is not yet saved."""

    def export(self, model: Any) -> Any:
        return export_to_transformers(self.folder_of(model), self.folder / "out")

    def to_ctranslate2(self, model: Any, **options: Any) -> Any:
        pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")
        return export_to_ctranslate2(self.folder_of(model), self.folder / "out", **options)

    def ctranslate2_model(self) -> Any:
        pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")
        return CTranslate2Transformer(self.saved())


CASES: Cases[Exports] = {
    "an unknown export format": (
        lambda s: s.verb("export", "x", "--to", "transformer", "--out", "y"),
        "unknown export format 'transformer'; did you mean 'transformers'",
    ),
    "banded layers to export": (
        lambda s: s.export(s.gpt(norm_order="pre", layer_types=["sliding_attention"], sliding_window=3)),
        r"gpt2 has no banded layers; got layer_types=\['sliding_attention'\], sliding_window=3",
    ),
    "a classifier of pairs in both orders to export": (
        lambda s: s.export(s.gpt("ForSequenceClassification", both_orders=True)),
        "openai-gpt reads no pair in both orders; got both_orders=True: the folder .*trust_remote_code=True",
    ),
    "an activation that transformers' GPT-1 has not": (
        lambda s: s.export(s.gpt(hidden_act="tanh")),
        "openai-gpt has the hidden_act gelu_pytorch_tanh.*got hidden_act='tanh'",
    ),
    "an inner width that transformers' GPT-1 has not": (
        lambda s: s.export(s.gpt(intermediate_size=20)),
        "openai-gpt has an intermediate_size of four times.*got intermediate_size=20, hidden_size=16",
    ),
    "a head that transformers has not": (
        lambda s: s.export(s.gpt("ForMultipleChoice", norm_order="pre")),
        "gpt2 must have the head; got ForMultipleChoice",
    ),
    "settings that transformers' Marian has not": (
        lambda s: s.export(s.model(norm_order="pre", position_offset=2)),
        "Marian.*norm_order='post', got 'pre'; position_offset=0, got 2: .*trust_remote_code=True",
    ),
    "heads wider than transformers' Marian has": (
        lambda s: s.export(s.model(d_k=16)),
        "d_k and d_v of at most d_model / num_heads.*got d_k=16, d_v=16, d_model=16, num_heads=2",
    ),
    "an epsilon far from transformers' Marian's": (
        lambda s: s.export(s.model(layer_norm_eps=0.01)),
        r"must have layer_norm_eps=1e-05, got 0\.01: .*moves logits by",
    ),
    "a Transformer without its output head to export": (
        lambda s: s.export(s.model().model),
        "marian must have an output head; got VaswaniTransformerModel",
    ),
    "a model that a GGUF file cannot hold": (
        lambda s: export_to_gguf(s.folder_of(s.gpt(hidden_act="relu")), s.folder / "out"),
        r"GGUF's gpt2 must have the output head .*got VaswaniGPTModel; norm_order='pre' .*'post'.*got 'relu'",
    ),
    "a GGUF file without a tokenizer": (
        lambda s: export_to_gguf(s.folder_of(s.gpt("ForCausalLM", norm_order="pre")), s.folder / "out"),
        "a GGUF file holds its tokenizer; got .* without one",
    ),
    "a translation model without its head as ONNX": (
        lambda s: export_to_onnx(s.folder_of(s.model().model), s.folder / "out"),
        "as ONNX must have its head; got VaswaniTransformerModel",
    ),
    "a model of transformers to export": (
        lambda s: s.export(plain_model(s.gpt())),
        "must be of this package.*got model_type",
    ),
    "banded layers to export to CTranslate2": (
        lambda s: s.to_ctranslate2(s.gpt("ForCausalLM", layer_types=["sliding_attention"], sliding_window=3)),
        r"no banded layers.*got layer_types=\['sliding_attention'\], sliding_window=3",
    ),
    "an activation that CTranslate2 has not": (
        lambda s: s.to_ctranslate2(s.bert(hidden_act="mish")),
        "CTranslate2 has the activations relu, .*got hidden_act='mish'",
    ),
    "a head that CTranslate2 has not": (
        lambda s: s.to_ctranslate2(s.gpt("ForSequenceClassification")),
        "writes with a VaswaniGPTForCausalLM; got VaswaniGPTForSequenceClassification",
    ),
    "a model of transformers to export to CTranslate2": (
        lambda s: s.to_ctranslate2(plain_model(s.gpt())),
        "must be of this package.*got model_type 'openai-gpt'",
    ),
    "an unknown quantization": (
        lambda s: s.to_ctranslate2(s.gpt("ForCausalLM"), quantization="int4"),
        "quantization must be one of float32, int8, float16; got 'int4'",
    ),
    "a vocabulary larger than the exported model": (
        lambda s: token_names(s.tokenizer, 4),
        "must not have more tokens than the model; got .* vocab_size=4",
    ),
    "a folder that CTranslate2 cannot translate with": (
        lambda s: s.ctranslate2_model(),
        "`vaswani export --to ctranslate2` wrote of a translation model; got .* without model.bin",
    ),
    "scores of a model that does not translate": (
        lambda s: s.verb("export", s.folder_of(s.bert()), "--to", "ctranslate2", "--out", "y", "--data", "z"),
        "--data scores translations; got model_type 'vaswani-bert'.*leave it out",
    ),
    "an export into a folder in use": (
        lambda s: export_to_transformers(s.saved(), s.folder),
        "must be new or empty; got",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Exports(tmp_path, tokenizer))
