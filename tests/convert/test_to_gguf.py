"""GPT-2's shapes as GGUF: read back by gguf's own reader and by transformers', bit for bit and in logits."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

import vaswani_transformer
from vaswani_cli import main
from vaswani_transformer import VaswaniBertTokenizer, VaswaniGPT2Tokenizer, VaswaniGPTConfig
from vaswani_transformer.convert import export_to_gguf

gguf = pytest.importorskip("gguf", reason="GGUF files need gguf, of the extra `gguf`")

TEXTS = ["a hat, a dog", "a dog  and\nhats, hats: 42 hats — naïve"]
SIZES: dict[str, Any] = {"vocab_size": 270, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
SIZES |= {"max_position_embeddings": 12, "norm_order": "pre", "eos_token_id": 261}


def saved(folder: Path, head: str = "ForCausalLM", **fields: Any) -> tuple[Any, Any]:
    """A model whose every weight is random and a tokenizer of fewer tokens, in a folder."""
    torch.manual_seed(0)
    model = getattr(vaswani_transformer, f"VaswaniGPT{head}")(VaswaniGPTConfig(**{**SIZES, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    tokenizer = VaswaniGPT2Tokenizer.train(TEXTS, vocab_size=262)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the metadata of a file, by gguf's own reader."""
    reader = gguf.GGUFReader(folder / "model.gguf")
    tensors = {tensor.name: tensor.data.reshape(tuple(reversed(tensor.shape.tolist()))) for tensor in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def test_ggufs_own_reader_finds_every_weight_bit_for_bit(tmp_path):
    model, _ = saved(tmp_path / "ours")
    tensors, _ = read(export_to_gguf(tmp_path / "ours", tmp_path / "out"))
    block, first = model.transformer.h[1], "blk.1."
    expected = {
        "token_embd.weight": model.transformer.wte.weight,
        "position_embd.weight": model.transformer.wpe.weight,
        "output_norm.bias": model.transformer.ln_f.bias,
        f"{first}attn_norm.weight": block.ln_1.weight,
        f"{first}attn_output.weight": block.attn.out_proj.weight,
        f"{first}ffn_up.weight": block.mlp.up_proj.weight,
        f"{first}ffn_down.weight": block.mlp.down_proj.weight,
        f"{first}ffn_down.bias": block.mlp.down_proj.bias,
        f"{first}ffn_norm.bias": block.ln_2.bias,
        # All queries, then all keys, then all values.
        f"{first}attn_qkv.weight": block.attn.qkv_proj.weight.view(4, 3, 4, 16).transpose(0, 1).reshape(48, 16),
        f"{first}attn_qkv.bias": block.attn.qkv_proj.bias.view(4, 3, 4).transpose(0, 1).reshape(48),
    }
    for name, tensor in expected.items():
        assert np.array_equal(tensors[name], tensor.detach().numpy()), name
    assert "output.weight" not in tensors  # the embedding is the output matrix
    assert len(tensors) == 2 * 12 + 4


def test_the_metadata_are_those_that_llama_cpp_asks_for(tmp_path):
    _, tokenizer = saved(tmp_path / "ours")
    _, found = read(export_to_gguf(tmp_path / "ours", tmp_path / "out"))
    sizes = {"block_count": 2, "context_length": 12, "embedding_length": 16, "feed_forward_length": 64}
    for name, size in {**sizes, "attention.head_count": 4}.items():
        assert found[f"gpt2.{name}"] == size
    assert found["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert found["general.architecture"] == found["tokenizer.ggml.model"] == "gpt2"
    assert (found["tokenizer.ggml.pre"], found["tokenizer.ggml.eos_token_id"]) == ("gpt-2", 261)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert tokens[:262] == tokenizer.convert_ids_to_tokens(list(range(262)))
    assert (tokens[261], types[261]) == ("<|endoftext|>", gguf.TokenType.CONTROL)
    assert (len(tokens), set(types[262:])) == (270, {gguf.TokenType.UNUSED})  # a row of the weights for each


@pytest.mark.parametrize(
    "fields",
    [{}, {"tie_word_embeddings": False}, {"intermediate_size": 24}, {"layer_norm_eps": 1e-3}],
    ids=["tied", "untied", "narrow", "epsilon"],
)
def test_transformers_own_reader_computes_the_same_logits(tmp_path, fields):
    model, _ = saved(tmp_path / "ours", **fields)
    out = export_to_gguf(tmp_path / "ours", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf", config=AutoConfig.from_pretrained(out))
    assert type(theirs) is GPT2LMHeadModel
    ids = torch.randint(0, 270, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_transformers_needs_no_configuration_where_the_shape_is_gpt2s(tmp_path):
    model, _ = saved(tmp_path / "ours", max_position_embeddings=1024)
    out = export_to_gguf(tmp_path / "ours", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf")
    ids = torch.randint(0, 270, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_the_tokenizer_in_the_file_gives_the_same_tokens(tmp_path):
    _, tokenizer = saved(tmp_path / "ours")
    out = export_to_gguf(tmp_path / "ours", tmp_path / "out")
    found: Any = AutoTokenizer.from_pretrained(out, gguf_file="model.gguf")
    for text in (*TEXTS, "a hat<|endoftext|>a  dog"):
        assert found(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_half_precision_is_held_exactly(tmp_path):
    model, _ = saved(tmp_path / "ours")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "ours")
    tensors, _ = read(export_to_gguf(tmp_path / "ours", tmp_path / "out"))
    assert tensors["token_embd.weight"].dtype == np.float32
    assert np.array_equal(tensors["token_embd.weight"], model.transformer.wte.weight.detach().float().numpy())


def test_the_verb_writes_it_and_prints_the_folder(tmp_path, capsys):
    saved(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "gguf", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gpt2"


def test_every_setting_in_the_way_is_named_at_once(tmp_path):
    bands = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
    saved(tmp_path / "ours", "ForSequenceClassification", norm_order="post", hidden_act="relu", **bands)
    with pytest.raises(ValueError, match="GGUF's gpt2 must have") as error:
        export_to_gguf(tmp_path / "ours", tmp_path / "out")
    for told in (
        "the output head of a language model, got VaswaniGPTForSequenceClassification",
        r"norm_order='pre' (GPT-2, GPT-3), got 'post' (GPT-1)",
        "hidden_act='gelu_pytorch_tanh', got 'relu'",
        "no banded layers, got layer_types=['full_attention', 'sliding_attention'], sliding_window=3",
    ):
        assert told in str(error.value)


def test_a_tokenizer_of_word_pieces_is_refused(tmp_path):
    saved(tmp_path / "ours")
    VaswaniBertTokenizer.train(TEXTS, vocab_size=40).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"must be GPT-2's: byte pairs.*got \w+, WordPiece"):
        export_to_gguf(tmp_path / "ours", tmp_path / "out")


def test_more_tokens_than_the_weights_have_rows_are_refused(tmp_path):
    saved(tmp_path / "ours", vocab_size=260, eos_token_id=1)
    with pytest.raises(ValueError, match="at most the model's tokens; got 262, vocab_size=260"):
        export_to_gguf(tmp_path / "ours", tmp_path / "out")


def test_without_gguf_its_extra_is_named(tmp_path, monkeypatch):
    saved(tmp_path / "ours")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install 'vaswani-transformer\[gguf\]'"):
        export_to_gguf(tmp_path / "ours", tmp_path / "out")
