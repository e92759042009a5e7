"""OpenNMT-py comes in: checkpoints of both versions, written here, compute what a forward pass written here does."""

import argparse
import collections
import functools
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from vaswani_transformer.convert import convert

from .of_translators import assert_same_probabilities, converted

SOURCE_TOKENS = ["<unk>", "<blank>", "the", "hat", "dog", "a", "▁x", "￭."]
TARGET_TOKENS = ["<unk>", "<blank>", "<s>", "</s>", "der", "hut", "hund", "a", "￭."]
EVERY = [*SOURCE_TOKENS, *(token for token in TARGET_TOKENS if token not in SOURCE_TOKENS)]
SOURCE = torch.tensor([[4, 5, 2, 7], [6, 2, 1, 1]])
TARGET = torch.tensor([[2, 6, 8, 4], [2, 5, 7, 4]])
OPT: dict[str, Any] = {"encoder_type": "transformer", "decoder_type": "transformer", "heads": 4, "hidden_size": 16}
OPT |= {"position_encoding": True, "dropout": [0.3], "attention_dropout": [0.1], "label_smoothing": 0.1}
OPT |= {"max_relative_positions": 0, "self_attn_type": "scaled-dot", "pos_ffn_activation_fn": "relu"}
Weights = dict[str, Tensor]


def weights_of(source: int, target: int, *, bias: bool) -> tuple[Weights, Weights]:
    """Random numbers under OpenNMT-py's names: a model of two and one layers, and its generator."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.4

    model: Weights = {}

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        model[f"{name}.weight"] = random(rows, columns)
        if bias:
            model[f"{name}.bias"] = random(rows)

    def norm(name: str) -> None:
        model[f"{name}.weight"], model[f"{name}.bias"] = 1 + random(16), random(16)

    def layer(name: str, attentions: list[str], norms: list[str]) -> None:
        for attention in attentions:
            for part in ("linear_keys", "linear_values", "linear_query", "final_linear"):
                linear(f"{name}.{attention}.{part}", 16, 16, bias)
        linear(f"{name}.feed_forward.w_1", 24, 16)
        linear(f"{name}.feed_forward.w_2", 16, 24)
        for each in (*norms, "feed_forward.layer_norm"):
            norm(f"{name}.{each}")

    for side, rows in (("encoder", source), ("decoder", target)):
        model[f"{side}.embeddings.make_embedding.emb_luts.0.weight"] = random(rows, 16)
        model[f"{side}.embeddings.make_embedding.pe.pe"] = torch.zeros(5000, 1, 16)
        norm(f"{side}.layer_norm")
    for number in range(2):
        layer(f"encoder.transformer.{number}", ["self_attn"], ["layer_norm"])
    layer("decoder.transformer_layers.0", ["self_attn", "context_attn"], ["layer_norm_1", "layer_norm_2"])
    return model, {"weight": random(target, 16), "bias": random(target)}


def forward(model: Weights, generator: Weights, *, concat: bool = False, activation: Any = functional.relu) -> Any:
    """OpenNMT-py's arithmetic: norms before, one behind, attention of four heads, sinusoids one by one."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, model[f"{name}.weight"], model.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (16,), model[f"{name}.weight"], model[f"{name}.bias"], 1e-6)

    def attention(x: Tensor, memory: Tensor, seen: Tensor, name: str) -> Tensor:
        heads = [
            linear(states, f"{name}.linear_{part}").unflatten(-1, (4, 4)).transpose(1, 2)
            for part, states in (("query", x), ("keys", memory), ("values", memory))
        ]
        scores = (heads[0] / 2.0) @ heads[1].transpose(2, 3)
        context = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ heads[2]
        return linear(context.transpose(1, 2).flatten(2), f"{name}.final_linear")

    def feed(x: Tensor, name: str) -> Tensor:
        inner = activation(linear(norm(x, f"{name}.layer_norm"), f"{name}.w_1"))
        return x + linear(inner, f"{name}.w_2")

    def embedded(ids: Tensor, side: str) -> Tensor:
        table = torch.zeros(ids.shape[1], 16)
        for position in range(ids.shape[1]):
            for i in range(8):
                angle = position * 10000 ** (-i / 7 if concat else -2 * i / 16)
                places = (i, 8 + i) if concat else (2 * i, 2 * i + 1)
                table[position, places[0]], table[position, places[1]] = math.sin(angle), math.cos(angle)
        return model[f"{side}.embeddings.make_embedding.emb_luts.0.weight"][ids] * 4.0 + table

    def logits(source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        memory, seen = embedded(source, "encoder"), mask[:, None, None, :]
        for number in range(2):
            name = f"encoder.transformer.{number}"
            x = norm(memory, f"{name}.layer_norm")
            memory = feed(memory + attention(x, x, seen, f"{name}.self_attn"), f"{name}.feed_forward")
        memory = norm(memory, "encoder.layer_norm")
        name, state = "decoder.transformer_layers.0", embedded(target, "decoder")
        x = norm(state, f"{name}.layer_norm_1")
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril()
        state = state + attention(x, x, causal, f"{name}.self_attn")
        state = state + attention(norm(state, f"{name}.layer_norm_2"), memory, seen, f"{name}.context_attn")
        state = norm(feed(state, f"{name}.feed_forward"), "decoder.layer_norm")
        return functional.linear(state, generator["weight"], generator["bias"])

    return logits


def write(path: Path, model: Weights, generator: Weights, vocab: Any = None, **changes: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    vocab = {"src": SOURCE_TOKENS, "tgt": TARGET_TOKENS, "data_task": "seq2seq"} if vocab is None else vocab
    opt = argparse.Namespace(**OPT | changes)
    torch.save({"model": model, "generator": generator, "vocab": vocab, "opt": opt, "optim": {"step": 3}}, path)
    return path


def our_ids(tokens: list[str]) -> list[int]:
    return [EVERY.index(token) for token in tokens]


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_version_3_computes_the_same_bit_for_bit(tmp_path, bias, concat):
    model, generator = weights_of(8, 9, bias=bias)
    kind = {"position_encoding_type": "SinusoidalConcat" if concat else "SinusoidalInterleaved"}
    activation = {"pos_ffn_activation_fn": "gelu"} if concat else {}
    path = write(tmp_path / "onmt" / "model.pt", model, generator, **kind, **activation)
    found, ours = converted(path, "opennmt-py")
    assert set(found.dropped) == {name for name in model if name.endswith("pe.pe")}
    assert (ours.config.attention_bias, ours.config.norm_order, ours.config.final_norm) == (bias, "pre", True)
    assert (ours.config.dropout, ours.config.attention_dropout) == (0.3, 0.1)
    theirs = forward(model, generator, concat=concat, activation=functional.gelu if concat else functional.relu)
    ids = {"source_ids": our_ids(SOURCE_TOKENS), "target_ids": our_ids(TARGET_TOKENS)}
    assert_same_probabilities(ours, theirs, source=SOURCE, target=TARGET, **ids)
    own = ours.state_dict()
    for theirs_name, name in (
        ("encoder.transformer.1.self_attn.linear_query", "encoder.layers.1.self_attn.q_proj"),
        ("encoder.transformer.1.layer_norm", "encoder.layers.1.self_attn_layer_norm"),
        ("decoder.transformer_layers.0.context_attn.final_linear", "decoder.layers.0.encoder_attn.out_proj"),
        ("decoder.transformer_layers.0.feed_forward.w_2", "decoder.layers.0.fc2"),
    ):
        assert torch.equal(own[f"model.{name}.weight"], model[f"{theirs_name}.weight"]), name


def fields_of_torchtext(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Version 2's vocabularies: classes of torchtext and of its own, which are not installed where they are read."""
    classes: dict[str, Any] = {}
    for name in ("torchtext.data.field.Field", "torchtext.vocab.Vocab", "onmt.inputters.text_dataset.TextMultiField"):
        module = name.rpartition(".")[0]
        for stem in (module.rpartition(".")[0].partition(".")[0], module.rpartition(".")[0], module):
            monkeypatch.setitem(sys.modules, stem, sys.modules.get(stem) or types.ModuleType(stem))
        made = type(name.rpartition(".")[2], (), {"__module__": module})
        setattr(sys.modules[module], made.__name__, made)
        classes[made.__name__] = made

    def tokenize(text: str) -> list[str]:
        return text.split()

    tokenize.__module__, tokenize.__qualname__ = "onmt.inputters.text_dataset", "_feature_tokenize"
    sys.modules["onmt.inputters.text_dataset"]._feature_tokenize = tokenize  # type: ignore[attr-defined]

    def field(tokens: list[str]) -> Any:
        vocab = classes["Vocab"]()
        vocab.itos, vocab.freqs = tokens, collections.Counter(tokens)
        vocab.stoi = collections.defaultdict(int, {token: number for number, token in enumerate(tokens)})
        made = classes["Field"]()
        made.vocab, made.dtype, made.tokenize = vocab, torch.int64, functools.partial(tokenize)
        return made

    both = {}
    for side, tokens in (("src", SOURCE_TOKENS), ("tgt", TARGET_TOKENS)):
        both[side] = classes["TextMultiField"]()
        both[side].fields = [(side, field(tokens))]
    return both


def test_version_2_computes_the_same_its_fields_read_without_torchtext(tmp_path, monkeypatch):
    model, generator = weights_of(8, 9, bias=True)
    model = {name.replace("layer_norm.weight", "layer_norm.a_2"): tensor for name, tensor in model.items()}
    model["decoder.transformer_layers.0.mask"] = torch.ones(1, 5, 5, dtype=torch.uint8).triu(1)
    with monkeypatch.context() as installed:
        vocab = fields_of_torchtext(installed)
        sequential = {f"0.{name}": tensor for name, tensor in generator.items()}
        path = write(tmp_path / "onmt" / "model.pt", model, sequential, vocab)
    assert "torchtext" not in sys.modules
    found, ours = converted(path, "opennmt-py")
    assert "decoder.transformer_layers.0.mask" in found.dropped
    model = {name.replace("a_2", "weight"): tensor for name, tensor in model.items()}
    ids = {"source_ids": our_ids(SOURCE_TOKENS), "target_ids": our_ids(TARGET_TOKENS)}
    assert_same_probabilities(ours, forward(model, generator), source=SOURCE, target=TARGET, **ids)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("function", [os.mkdir, functools.partial(os.mkdir)])
def test_a_vocabulary_that_would_run_something_is_refused(tmp_path, function):
    mark = tmp_path / "ran"
    vocab = {"src": SOURCE_TOKENS, "tgt": TARGET_TOKENS, "more": Calls(function, str(mark))}
    path = write(tmp_path / "onmt" / "model.pt", *weights_of(8, 9, bias=False), vocab)
    with pytest.raises(ValueError, match=r"which could be run|a whole file of torch"):
        convert(path, format="opennmt-py", out=tmp_path / "out")
    assert not mark.exists()


def test_what_stands_for_functions_of_torchtext_calls_nothing(tmp_path):
    vocab = {"src": SOURCE_TOKENS, "tgt": TARGET_TOKENS, "more": Calls(getattr, "text", "nothing of this name")}
    path = write(tmp_path / "onmt" / "model.pt", *weights_of(8, 9, bias=False), vocab)
    with pytest.raises(AttributeError):
        torch.load(path, weights_only=False)
    assert converted(path, "opennmt-py")[1].config.vocab_size == len(EVERY)


def test_one_vocabulary_and_shared_matrices_are_one(tmp_path):
    model, generator = weights_of(9, 9, bias=False)
    names = [f"{side}.embeddings.make_embedding.emb_luts.0.weight" for side in ("encoder", "decoder")]
    model[names[0]] = generator["weight"] = model[names[1]]
    generator["bias"] = torch.zeros(9)
    vocab = {"src": TARGET_TOKENS, "tgt": TARGET_TOKENS}
    found, ours = converted(write(tmp_path / "onmt" / "model.pt", model, generator, vocab), "opennmt-py")
    assert ours.config.tie_embeddings == "all"
    assert ours.config.label_smoothing == 0.1
    assert "generator.bias" in found.dropped
    source = torch.tensor([[4, 5, 8, 6]])
    assert_same_probabilities(ours, forward(model, generator), source=source, target=TARGET[:1])


def test_the_tokenizer_gives_the_vocabularys_ids_and_ends_no_source(tmp_path):
    path = write(tmp_path / "onmt" / "model.pt", *weights_of(8, 9, bias=False))
    converted(path.parent, "opennmt-py")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onmt-converted")
    assert tokenizer("the ▁x dog ￭. zebra")["input_ids"] == [2, 6, 4, 7, 0]
    german = our_ids(["der", "hund", "￭.", "</s>"])
    assert tokenizer.decode(german, skip_special_tokens=True) == "der hund ￭."
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1, EVERY.index("</s>"))


def test_generation_starts_and_ends_as_the_target_side_does(tmp_path):
    model, generator = weights_of(8, 9, bias=False)
    _, ours = converted(write(tmp_path / "onmt" / "model.pt", model, generator), "opennmt-py")
    ids = our_ids(TARGET_TOKENS)
    never = [[1], [EVERY.index("<s>")]]
    got = ours.generate(torch.tensor([[4, 5, 2]]), num_beams=1, max_new_tokens=6, bad_words_ids=never)[0].tolist()
    expected, source = [2], torch.tensor([[4, 5, 2]])
    while len(expected) < 7 and expected[-1] != 3:
        logits = forward(model, generator)(source, torch.ones_like(source).bool(), torch.tensor([expected]))[0, -1]
        logits[[1, 2]] = -torch.inf  # neither padding nor a second start
        expected.append(int(logits.argmax()))
    assert got == [ids[number] for number in expected]


def test_another_start_token_is_read(tmp_path):
    vocab = {"src": SOURCE_TOKENS, "tgt": TARGET_TOKENS, "decoder_start_token": "</s>"}
    path = write(tmp_path / "onmt" / "model.pt", *weights_of(8, 9, bias=False), vocab)
    assert converted(path, "opennmt-py")[1].config.decoder_start_token_id == EVERY.index("</s>")


def test_a_folder_of_several_checkpoints_asks_for_one(tmp_path):
    for number in (1, 2):
        write(tmp_path / "onmt" / f"step_{number}.pt", *weights_of(8, 9, bias=False))
    with pytest.raises(ValueError, match=r"a folder with one; got 2 of them"):
        convert(tmp_path / "onmt", format="opennmt-py", out=tmp_path / "out")
