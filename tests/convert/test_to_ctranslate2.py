"""Exports to CTranslate2: what its runtime computes of the files is what our models compute."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import vaswani_transformer
from vaswani_cli import main
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniTransformerConfig,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.convert import export_to_ctranslate2, to_ctranslate2
from vaswani_transformer.convert.to_ctranslate2 import token_names

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")

SIZES: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "num_heads": 2}
SIZES |= {"num_encoder_layers": 2, "num_decoder_layers": 1, "max_position_embeddings": 20}
SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
SMALL |= {"intermediate_size": 24, "max_position_embeddings": 12}
SWITCHES: dict[str, dict[str, Any]] = {
    "the paper": {},
    "norms before": {"norm_order": "pre"},
    "norms before and after the stack": {"norm_order": "pre", "final_norm": True},
    "norms behind and after the stack": {"final_norm": True},
    "biases": {"attention_bias": True, "lm_head_bias": True},
    "learned positions": {"position_embedding": "learned", "position_offset": 2},
    "fairseq's positions": {
        "position_layout": "half-split",
        "position_frequency": "tensor2tensor",
        "position_offset": 2,
    },
    "unscaled": {"scale_embedding": False},
    "source embedding of its own": {"tie_embeddings": "decoder"},
    "three matrices": {"tie_embeddings": "none"},
    "a start token": {"decoder_start": "token", "decoder_start_token_id": 3},
    "the end as start": {"decoder_start": "token", "decoder_start_token_id": 1},
    "wide heads": {"d_k": 12},
    "narrow keys": {"d_k": 4, "d_v": 8, "attention_bias": True},
    "narrow values": {"d_k": 8, "d_v": 4, "attention_bias": True},
    "another epsilon": {"layer_norm_eps": 0.1},
    "no unknown word": {"unk_token_id": None},
    **{name: {"activation": name} for name in ("gelu", "gelu_new", "silu", "quick_gelu", "tanh", "sigmoid")},
}
SOURCES = [[5, 9, 2, 1], [11, 12, 13, 30, 39, 7, 8, 1], [4, 1]]
TARGETS = [[8, 8, 31, 2, 9], [6], [20, 21, 22]]


def made(name: str, **fields: Any) -> Any:
    """A model of ours whose every weight is random."""
    torch.manual_seed(0)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "Transformer": (VaswaniTransformerConfig, SIZES),
        "Bert": (VaswaniBertConfig, SMALL),
        "GPT": (VaswaniGPTConfig, SMALL),
    }
    config, sizes = next(kinds[kind] for kind in kinds if name.startswith(kind))
    model = getattr(vaswani_transformer, f"Vaswani{name}")(config(**{**sizes, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def exported(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder / "ours")
    return export_to_ctranslate2(folder / "ours", folder / "theirs", **options)


def named(rows: list[list[int]]) -> list[list[str]]:
    return [[f"<{number}>" for number in row] for row in rows]


def scores_of(out: Path) -> list[list[float]]:
    translator = ctranslate2.Translator(str(out), compute_type="float32")
    return [result.log_probs for result in translator.score_batch(named(SOURCES), named(TARGETS))]


@torch.no_grad()
def our_scores(model: Any) -> list[list[float]]:
    """Log-probabilities of each target's tokens and its end, a sentence at a time."""
    found = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        labels = torch.tensor([[*target, model.config.eos_token_id]])
        start = torch.tensor([[model.config.decoder_start_token_id, *target]])
        logits = model(torch.tensor([source]), decoder_input_ids=start).logits
        found.append(logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).flatten().tolist())
    return found


@pytest.mark.parametrize("name", SWITCHES)
def test_the_transformer_scores_the_same_in_every_switch(tmp_path, name):
    model = made("TransformerForConditionalGeneration", **SWITCHES[name])
    found = scores_of(exported(model, tmp_path))
    for theirs, ours in zip(found, our_scores(model), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_a_berts_encoder_and_pooler_compute_the_same_and_what_stands_on_them_is_told(tmp_path, caplog, head):
    model = made(f"Bert{head}")
    with caplog.at_level(logging.WARNING):
        out = exported(model, tmp_path)
    assert ("stay behind" in caplog.text) == (head != "Model")
    ids, segments = [[5, 6, 7, 8, 9, 30], [3, 2]], [[0, 0, 1, 1, 1, 0], [1, 0]]
    theirs = ctranslate2.Encoder(str(out)).forward_batch(ids, token_type_ids=segments)
    for row, (text, types) in enumerate(zip(ids, segments, strict=True)):
        with torch.no_grad():
            ours = model.base_model(torch.tensor([text]), token_type_ids=torch.tensor([types]))
        states = torch.from_numpy(np.array(theirs.last_hidden_state))[row, : len(text)]
        torch.testing.assert_close(states, ours.last_hidden_state[0], rtol=0, atol=1e-4)
        if ours.pooler_output is None:
            assert theirs.pooler_output is None
        else:
            pooled = torch.from_numpy(np.array(theirs.pooler_output))[row]
            torch.testing.assert_close(pooled, ours.pooler_output[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("fields", [{"hidden_act": "silu"}, {"tie_word_embeddings": False}], ids=str)
@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_gpts_logits_are_the_same_and_so_is_what_it_writes(tmp_path, order, fields):
    model = made("GPTForCausalLM", norm_order=order, eos_token_id=7, **fields)
    out = exported(model, tmp_path)
    ids = [[5, 6, 9, 10, 30], [3, 2]]
    generator = ctranslate2.Generator(str(out))
    logits = torch.from_numpy(np.array(generator.forward_batch(ids)))
    for row, text in enumerate(ids):
        with torch.no_grad():
            ours = model(torch.tensor([text])).logits[0]
        torch.testing.assert_close(logits[row, : len(text)], ours, rtol=0, atol=1e-4)
    (written,) = generator.generate_batch(named(ids[:1]), max_length=6, sampling_topk=1, include_prompt_in_result=False)
    ours = model.generate(torch.tensor(ids[:1]), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 5:].tolist()
    assert written.sequences_ids[0] == [number for number in ours if number != 7]


def test_the_folder_translates_where_neither_torch_nor_this_package_is(tmp_path):
    model = made("TransformerForConditionalGeneration", vocab_size=300)
    tokenizer = VaswaniTransformerTokenizer.train(["a hat, a dog"], vocab_size=270)
    tokenizer.save_pretrained(tmp_path / "ours")
    out = exported(model, tmp_path)
    code = """
import json, sys
for name in ("torch", "transformers", "vaswani_transformer"):
    sys.modules[name] = None
import ctranslate2, tokenizers
tokens = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json").encode("a hat").tokens
result = ctranslate2.Translator(sys.argv[1]).score_batch([tokens], [tokens[:-1]])[0]
print(json.dumps([tokens, result.log_probs]))
"""
    words = [sys.executable, "-c", code, str(out)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    tokens, scores = json.loads(result.stdout)
    ids = tokenizer("a hat", return_tensors="pt")["input_ids"]
    assert tokens == tokenizer.convert_ids_to_tokens(ids[0].tolist())
    assert sum(scores) == pytest.approx(float(model.score(ids, ids)), abs=1e-4)


@pytest.mark.parametrize(("quantization", "share", "apart"), [("int8", 0.5, 0.5), ("float16", 0.6, 0.01)])
def test_a_quantised_folder_is_smaller_and_scores_nearly_the_same(tmp_path, quantization, share, apart):
    model = made("TransformerForConditionalGeneration", vocab_size=400, d_model=32, max_position_embeddings=2)
    model.save_pretrained(tmp_path / "ours")
    whole = export_to_ctranslate2(tmp_path / "ours", tmp_path / "whole")
    small = export_to_ctranslate2(tmp_path / "ours", tmp_path / "small", quantization=quantization)
    rows = 1026 * 32 * 4  # of the table of positions, which int8 leaves as they are
    sizes = [
        (folder / "model.bin").stat().st_size - (rows if quantization == "int8" else 0) for folder in (whole, small)
    ]
    assert sizes[1] < share * sizes[0]
    differences = np.concatenate(scores_of(whole)) - np.concatenate(scores_of(small))
    assert 0 < np.abs(differences).max() < apart


def test_tokenizer_vocabulary_and_search_settings_travel(tmp_path):
    model = made("TransformerForConditionalGeneration", vocab_size=300)
    model.generation_config.update(length_penalty=0.9)
    tokenizer = VaswaniTransformerTokenizer.train(["a hat, a dog"], vocab_size=270)
    tokenizer.save_pretrained(tmp_path / "ours")
    out = exported(model, tmp_path)
    assert AutoTokenizer.from_pretrained(out)("a hat")["input_ids"] == tokenizer("a hat")["input_ids"]
    names = json.loads((out / "shared_vocabulary.json").read_text(encoding="utf-8"))
    assert names[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert names[-1] == "<299>"
    settings = json.loads((out / "config.json").read_text())
    assert (settings["decoder_start_token"], settings["eos_token"], settings["unk_token"]) == ("<pad>", "</s>", "<unk>")
    assert json.loads((out / "generation_config.json").read_text())["length_penalty"] == 0.9


def test_the_verb_exports_in_int8(tmp_path, capsys):
    tokenizer = VaswaniGPT2Tokenizer.train(["a hat, a dog"], vocab_size=258)
    tokenizer.save_pretrained(tmp_path / "ours")
    made("GPTForCausalLM", vocab_size=258).save_pretrained(tmp_path / "ours")
    words = ["--to", "ctranslate2", "--quantization", "int8", "--out", str(tmp_path / "theirs")]
    assert main(["export", str(tmp_path / "ours"), *words]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'theirs'}\n"
    text = tokenizer.convert_ids_to_tokens(tokenizer("a hat")["input_ids"])
    (found,) = ctranslate2.Generator(str(tmp_path / "theirs")).generate_batch([text], max_length=9)
    assert len(found.sequences_ids[0]) > len(text)
    assert found.sequences[0][: len(text)] == text
    assert AutoTokenizer.from_pretrained(tmp_path / "theirs")("a hat")["input_ids"] == tokenizer("a hat")["input_ids"]


def test_a_folder_without_a_tokenizer_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        exported(made("GPTForCausalLM"), tmp_path)
    assert "has no tokenizer" in caplog.text


def test_other_scores_than_ours_end_the_export(tmp_path, monkeypatch):
    real = to_ctranslate2.transformer_spec

    def wrong(model: Any) -> Any:
        spec = real(model)
        spec.decoder.start_from_zero_embedding = False
        return spec

    monkeypatch.setattr(to_ctranslate2, "transformer_spec", wrong)
    with pytest.raises(AssertionError, match="computes other scores"):
        exported(made("TransformerForConditionalGeneration"), tmp_path)


CANNOT = {
    "an activation": (
        "TransformerForConditionalGeneration",
        {"activation": "mish"},
        "CTranslate2 has the activations relu, .*got activation='mish'",
    ),
    "banded layers": (
        "GPTForCausalLM",
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3},
        r"no banded layers.*got layer_types=\['full_attention', 'sliding_attention'\], sliding_window=3",
    ),
    "a head of GPT": (
        "GPTForSequenceClassification",
        {},
        "writes with a VaswaniGPTForCausalLM; got VaswaniGPTForSequenceClassification",
    ),
    "a Transformer without its output": ("TransformerModel", {}, "translates with a .*got VaswaniTransformerModel"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_ctranslate2_cannot_express_is_named_before_anything_is_written(tmp_path, name):
    model, fields, told = CANNOT[name]
    with pytest.raises(ValueError, match=told):
        exported(made(model, **fields), tmp_path)
    assert not (tmp_path / "theirs").exists()


def test_a_larger_tokenizer_and_tokens_of_one_name_are_refused():
    vocabulary = {"a": 0, "<1>": 2}
    tokenizer: Any = type("Tokenizer", (), {"get_vocab": lambda self: vocabulary, "__len__": lambda self: 3})()
    with pytest.raises(ValueError, match="must not have more tokens than the model; got 3 tokens, vocab_size=2"):
        token_names(tokenizer, 2)
    with pytest.raises(ValueError, match=r"no two may share one; got \['<1>'\]"):
        token_names(tokenizer, 3)


def test_without_ctranslate2_its_extra_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ImportError, match=r"pip install 'vaswani-transformer\[ctranslate2\]'"):
        export_to_ctranslate2(tmp_path, tmp_path / "out")
