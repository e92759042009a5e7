"""Checkpoints of nanoGPT, laid out as its train.py does, and its forward pass written down anew."""

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTForCausalLM
from vaswani_transformer.convert import convert

D, LAYERS, HEADS, V, T = 16, 2, 4, 23, 10
CHARACTERS = sorted("\n !,.abcdefghijklmnopQ")


def weights(*, bias: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)

    def linear(name: str, outs: int, ins: int) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.randn(outs, ins) / 3} | ({f"{name}.bias": torch.randn(outs)} if bias else {})

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.randn(D)} | ({f"{name}.bias": torch.randn(D)} if bias else {})

    found = {"transformer.wte.weight": torch.randn(V, D), "transformer.wpe.weight": torch.randn(T, D)}
    for layer in range(LAYERS):
        name = f"transformer.h.{layer}"
        found |= norm(f"{name}.ln_1") | linear(f"{name}.attn.c_attn", 3 * D, D) | linear(f"{name}.attn.c_proj", D, D)
        found |= norm(f"{name}.ln_2") | linear(f"{name}.mlp.c_fc", 4 * D, D) | linear(f"{name}.mlp.c_proj", D, 4 * D)
    return found | norm("transformer.ln_f") | {"lm_head.weight": found["transformer.wte.weight"]}


def saved(folder: Path, found: dict[str, Tensor], *, bias: bool, prefix: str = "", **changes: Any) -> Path:
    """A ckpt.pt with all that nanoGPT puts there."""
    folder.mkdir(exist_ok=True)
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(D), "exp_avg_sq": torch.zeros(D)}}
    content = {
        "model": {prefix + name: tensor for name, tensor in found.items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0]}]},
        "model_args": {
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_embd": D,
            "block_size": T,
            "bias": bias,
            "vocab_size": V,
            "dropout": 0.2,
        },
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "compile": bool(prefix), "init_from": "scratch"},
    }
    torch.save({name: value for name, value in (content | changes).items() if value is not None}, folder / "ckpt.pt")
    return folder


def logits(of: dict[str, Tensor], ids: Tensor) -> Tensor:
    """nanoGPT's forward pass: norms before the sub-layers, all queries first, the error function's GELU."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, of[f"{name}.weight"], of.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (D,), of[f"{name}.weight"], of.get(f"{name}.bias"), 1e-5)

    x = of["transformer.wte.weight"][ids] + of["transformer.wpe.weight"][: len(ids)]
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in range(LAYERS):
        name = f"transformer.h.{layer}"
        query, key, value = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").split(D, dim=-1)
        heads = []
        for part in range(HEADS):
            own = slice(part * D // HEADS, (part + 1) * D // HEADS)
            scores = query[:, own] @ key[:, own].T / (D / HEADS) ** 0.5
            heads.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ value[:, own])
        x = x + linear(torch.cat(heads, dim=-1), f"{name}.attn.c_proj")
        inner = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + linear(inner, f"{name}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ of["lm_head.weight"].T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_checkpoint_becomes_ours_with_nanogpts_logits(tmp_path, bias, prefix):
    found = weights(bias=bias)
    told = convert(saved(tmp_path / "in", found, bias=bias, prefix=prefix), format="nanogpt", out=tmp_path / "out")
    assert (told.weights, told.dropped, told.difference) == (29, ("optimizer",), None)
    assert told.absent == "nanoGPT is a script that cannot be imported"
    model: Any = VaswaniGPTForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(0, V, (T,))
    with torch.no_grad():
        torch.testing.assert_close(model(ids[None]).logits[0], logits(found, ids), rtol=0, atol=1e-5)
    assert (model.config.hidden_dropout, model.config.attention_dropout, model.config.embedding_dropout) == (0.2,) * 3


@pytest.mark.parametrize("bias", [True, False])
def test_every_number_stays_and_biases_that_are_not_there_are_zero(tmp_path, bias):
    found = weights(bias=bias)
    convert(saved(tmp_path / "in", found, bias=bias) / "ckpt.pt", format="nanogpt", out=tmp_path / "out")
    ours = VaswaniGPTForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    names = {"attn.c_proj": "attn.out_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
    left = set(ours)
    for name, tensor in found.items():
        own = name
        for old, new in names.items():
            own = own.replace(old, new)
        if "c_attn" in name:
            own = name.replace("c_attn", "qkv_proj")
            tensor = torch.cat(
                [part[head] for head in range(HEADS) for part in (p.chunk(HEADS) for p in tensor.chunk(3))]
            )
        assert torch.equal(ours[own], tensor), name
        left.discard(own)
    assert all(not ours[name].any() for name in left)
    assert left == (set() if bias else {name for name in ours if name.endswith("bias")})


def test_the_mask_that_old_versions_saved_is_left_out(tmp_path):
    found = weights(bias=True) | {"transformer.h.0.attn.bias": torch.ones(1, 1, T, T)}
    told = convert(saved(tmp_path / "in", found, bias=True, optimizer=None), format="nanogpt", out=tmp_path / "out")
    assert told.dropped == ("transformer.h.0.attn.bias",)


def test_the_characters_of_meta_pkl_become_a_tokenizer(tmp_path):
    folder = saved(tmp_path / "in", weights(bias=False), bias=False)
    ids = {character: number for number, character in enumerate(CHARACTERS)}
    assert len(ids) <= V
    meta = {"vocab_size": len(ids), "itos": {number: key for key, number in ids.items()}, "stoi": ids}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    convert(folder, format="nanogpt", out=tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "ab  a\n\nQ, !."
    assert tokenizer(text)["input_ids"] == [ids[character] for character in text]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    with pytest.raises(Exception, match="UNK"):
        tokenizer("é")


def test_gpt2s_files_beside_the_checkpoint_become_its_tokenizer(tmp_path):
    tokenizer = VaswaniGPT2Tokenizer.train(["a hat, a dog"], vocab_size=260)
    found = weights(bias=False)
    found["transformer.wte.weight"] = found["lm_head.weight"] = torch.randn(320, D)
    arguments = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": D, "block_size": T, "bias": False, "vocab_size": 320}
    folder = saved(tmp_path / "in", found, bias=False, model_args=arguments)
    tokenizer.save_pretrained(folder)
    convert(folder, format="nanogpt", out=tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a hat")["input_ids"] == tokenizer("a hat")["input_ids"]
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["eos_token_id"] == settings["bos_token_id"] == tokenizer.eos_token_id


def test_a_checkpoint_alone_has_no_tokenizer_and_it_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        convert(saved(tmp_path / "in", weights(bias=False), bias=False), format="nanogpt", out=tmp_path / "out")
    assert "no tokenizer beside" in caplog.text
    assert "meta.pkl" in caplog.text


class Calls:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def test_calls_in_either_pickle_are_refused_and_not_made(tmp_path):
    folder = saved(tmp_path / "in", weights(bias=False), bias=False)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": Calls(tmp_path / "ran")}))
    with pytest.raises(ValueError, match="containers, strings and numbers alone"):
        convert(folder, format="nanogpt", out=tmp_path / "out")
    (folder / "meta.pkl").unlink()
    saved(folder, weights(bias=False), bias=False, config=Calls(tmp_path / "ran"))
    with pytest.raises(ValueError, match=r"tensors and plain values alone; .* it names \S*mkdir"):
        convert(folder, format="nanogpt", out=tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stoi", "told"),
    [
        ({"a": 0, "bc": 1}, "number the characters"),
        ({"a": 0, "b": 2}, "number the characters"),
        ({"a": 0, "b": "1"}, "number the characters"),
        ({"a": 0, "b": -1}, "number the characters"),
        (["a"], "number the characters"),
        ({chr(200 + number): number for number in range(V + 1)}, "a row for every token; got vocab_size=23, 24 tokens"),
    ],
)
def test_a_meta_pkl_that_does_not_number_the_models_characters_is_refused(tmp_path, stoi, told):
    folder = saved(tmp_path / "in", weights(bias=False), bias=False)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": stoi}))
    with pytest.raises(ValueError, match=told):
        convert(folder, format="nanogpt", out=tmp_path / "out")


def changed(**values: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": D, "block_size": T, "bias": True}
    return {name: value for name, value in ({**arguments, "vocab_size": V} | values).items() if value is not None}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (changed(bias=None), r"model_args must say n_layer.*; got none of bias in .*ckpt\.pt"),
        (changed(bias="no"), "whether there is a bias, True or False; got 'no'"),
        (changed(n_layer=10**9), "every layer must have its weights; got 1000000000 layers"),
        (changed(n_layer="2"), "every layer must have its weights; got 2 layers"),
        (changed(vocab_size=10**12), "weights must be those of the configuration"),
        (changed(vocab_size=V + 1), r"of another shape \(.*wte\.weight \[23, 16\], ours \[24, 16\]"),
        (changed(n_layer=1), r"12 unknown \(.*h\.1\."),
        (changed(n_head=5), "hidden_size must be a multiple of num_attention_heads"),
        ([], "has model and model_args"),
    ],
)
def test_settings_that_are_missing_or_not_those_of_the_weights_are_told(tmp_path, arguments, told):
    folder = saved(tmp_path / "in", weights(bias=True), bias=True, model_args=arguments)
    with pytest.raises(ValueError, match=told):
        convert(folder, format="nanogpt", out=tmp_path / "out")


def test_a_weight_that_is_there_twice_is_refused(tmp_path):
    found = weights(bias=True) | {"_orig_mod.lm_head.weight": torch.randn(V, D)}
    with pytest.raises(ValueError, match=r"must have each weight once; got some with '_orig_mod\.' before them"):
        convert(saved(tmp_path / "in", found, bias=True), format="nanogpt", out=tmp_path / "out")


def test_another_output_matrix_than_the_embeddings_is_refused(tmp_path):
    found = weights(bias=True) | {"lm_head.weight": torch.randn(V, D)}
    with pytest.raises(ValueError, match="tied weights must be equal; got other numbers for"):
        convert(saved(tmp_path / "in", found, bias=True), format="nanogpt", out=tmp_path / "out")
