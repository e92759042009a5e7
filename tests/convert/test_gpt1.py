"""OpenAI's release of GPT-1, made here of a model of transformers' OpenAI-GPT, whose logits the result has."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from vaswani_transformer import VaswaniGPTForCausalLM
from vaswani_transformer.convert import convert, export_to_transformers

SIZES: dict[str, Any] = {"vocab_size": 11, "n_embd": 128, "n_head": 2, "n_layer": 2, "n_positions": 12}
TOKENS = ["<unk>", "a", "a</w>", "h", "t</w>", "at</w>", "hat</w>", "\n</w>", "n", "'", "n'"]


def stock() -> Any:
    torch.manual_seed(0)
    model: Any = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def released(model: Any, folder: Path, *, files: int = 10, tokenizer: bool = False) -> Path:
    """The model as OpenAI's files: one row of numbers cut into equal files, and where the shapes are to be cut."""
    arrays, body = [model.transformer.positions_embed.weight, model.transformer.tokens_embed.weight], model.transformer
    shapes = [list(array.shape) for array in arrays]
    for layer in body.h:
        for part in (layer.attn.c_attn, layer.attn.c_proj, layer.ln_1, layer.mlp.c_fc, layer.mlp.c_proj, layer.ln_2):
            arrays += [part.weight, part.bias]
            shapes += [[1, *part.weight.shape] if part.weight.dim() == 2 else list(part.weight.shape)]
            shapes += [list(part.bias.shape)]
    row = np.concatenate([array.detach().numpy().ravel() for array in arrays])
    folder.mkdir()
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    for number, part in enumerate(np.array_split(row, files)):
        np.save(folder / f"params_{number}.npy", part)
    if tokenizer:
        (folder / "encoder_bpe_40000.json").write_text(json.dumps({token: n for n, token in enumerate(TOKENS)}))
        (folder / "vocab_40000.bpe").write_text("#version: 0.2\na t</w>\nh at</w>\nn '\n")
    return folder


@pytest.mark.parametrize("files", [1, 10, 12])  # 12: number 10 comes after number 9, not after number 1
def test_openais_release_becomes_ours_bit_for_bit_with_the_logits_of_transformers(tmp_path, files):
    theirs = stock()
    found = convert(released(theirs, tmp_path / "in", files=files), format="gpt1", out=tmp_path / "ours")
    assert (found.dropped, found.difference) == ((), None)
    assert found.absent == "OpenAI's code runs on TensorFlow 1 alone"
    model: Any = VaswaniGPTForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(0, 11, (2, 12))
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    again = load_file(export_to_transformers(tmp_path / "ours", tmp_path / "theirs") / "model.safetensors")
    assert again
    for name, tensor in again.items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_the_tokenizer_of_2018_comes_along(tmp_path):
    pytest.importorskip("spacy", reason="GPT's tokenizer of 2018 needs spaCy, of the extra `gpt1`")
    pytest.importorskip("ftfy", reason="GPT's tokenizer of 2018 needs ftfy, of the extra `gpt1`")
    convert(released(stock(), tmp_path / "in", tokenizer=True), format="gpt1", out=tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer("A\nhat")["input_ids"] == [2, 7, 6]
    (tmp_path / "in" / "vocab_40000.bpe").write_text("a\n")
    with pytest.raises(ValueError, match="tokenizer's files must be whole"):
        convert(tmp_path / "in", format="gpt1", out=tmp_path / "again")


def test_a_release_without_a_vocabulary_has_no_tokenizer_and_it_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        convert(released(stock(), tmp_path / "in"), format="gpt1", out=tmp_path / "ours")
    assert "neither encoder_bpe_40000.json nor vocab_40000.bpe" in caplog.text


def test_a_file_that_is_missing_is_named(tmp_path):
    folder = released(stock(), tmp_path / "in")
    (folder / "params_3.npy").unlink()
    with pytest.raises(ValueError, match=r"params_0\.npy and those that follow; got .* without \[3\]"):
        convert(folder, format="gpt1", out=tmp_path / "ours")
    for number in range(3, 10):
        (folder / f"params_{number}.npy").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"hold the \d+ numbers that params_shapes\.json asks for; got \d+ in 3 files"):
        convert(folder, format="gpt1", out=tmp_path / "ours")
    (folder / "params_shapes.json").unlink()
    with pytest.raises(ValueError, match=r"must have a file params_shapes\.json"):
        convert(folder, format="gpt1", out=tmp_path / "ours")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([[12, 128], [11, 128]], "2 tables and 12 shapes a layer; got 2"),
        ([[12, 128], [11, 128], *[[3]] * 11], "2 tables and 12 shapes a layer; got 13"),
        ([[12], [11, 128], *[[3]] * 12], "2 tables and 12 shapes a layer; got 14"),
        ([[12, 128], [11, -128], *[[3]] * 12], "whole numbers above 0"),
        ([[12, 128], "11", *[[3]] * 12], "whole numbers above 0"),
        ([[2**62, 4], [11, 128], *[[3]] * 12], "the arrays must hold the 18446744073709553060 numbers"),
        ({"a": 1}, "must hold a list; got dict"),
    ],
)
def test_shapes_that_are_not_those_of_a_gpt_are_refused(tmp_path, shapes, told):
    folder = released(stock(), tmp_path / "in", files=2)
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    with pytest.raises(ValueError, match=told):
        convert(folder, format="gpt1", out=tmp_path / "ours")


def test_shapes_of_another_model_with_as_many_numbers_are_refused(tmp_path):
    folder = released(stock(), tmp_path / "in", files=2)
    shapes = json.loads((folder / "params_shapes.json").read_text())
    shapes[0], shapes[2] = [math.prod(shapes[0]) // 64, 64], [3, 128, 128]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    with pytest.raises(ValueError, match="weights must be laid out as transformers has them"):
        convert(folder, format="gpt1", out=tmp_path / "ours")


def test_arrays_of_objects_are_refused_and_not_run(tmp_path):
    class Calls:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (tmp_path / "ran",))

    folder = released(stock(), tmp_path / "in")
    np.save(folder / "params_4.npy", np.array([Calls()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"whole \.npy file of numbers; got .*params_4"):
        convert(folder, format="gpt1", out=tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
