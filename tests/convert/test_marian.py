"""MarianMT comes in: transformers' own folders, weights bit for bit, logits and translations the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MarianConfig, MarianMTModel

from vaswani_cli import main
from vaswani_transformer import (
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.convert import convert, export_to_transformers

from .of_translators import assert_same_probabilities, converted, shaken

SIZES: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1}
SIZES |= {f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")}
SIZES |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
SIZES |= {"pad_token_id": 39, "decoder_start_token_id": 39, "eos_token_id": 0, "forced_eos_token_id": 0}
TWO: dict[str, Any] = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 30, "tie_word_embeddings": True}
SOURCE = torch.tensor([[5, 6, 7, 0], [8, 0, 39, 39]])
TARGET = torch.tensor([[39, 9, 3, 4], [39, 11, 2, 1]])


def made(folder: Path, *, bias: bool = True, **fields: Any) -> Any:
    """A folder of transformers' own model."""
    torch.manual_seed(0)
    model = shaken(MarianMTModel(MarianConfig(**{**SIZES, **fields})))
    if bias:
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape))
    model.save_pretrained(folder)
    return model


def theirs(model: Any) -> Any:
    return lambda source, mask, target: (
        model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale_embedding": True, "activation_function": "swish"},
        {"activation_function": "relu", "bias": False},
        {"tie_word_embeddings": False},
    ],
    ids=["gelu", "scaled", "no bias", "untied"],
)
def test_the_same_probabilities_and_bits(tmp_path, fields):
    model = made(tmp_path / "marian", **fields)
    told, ours = converted(tmp_path / "marian", "marian")
    assert told.difference is not None
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)
    weights, own = model.state_dict(), ours.state_dict()
    for name, tensor in weights.items():
        if name == "final_logits_bias":
            if fields.get("bias", True):
                assert torch.equal(own["lm_head.bias"], tensor[0])
        elif "embed_positions" not in name and name not in told.dropped:
            assert torch.equal(own[name], tensor), name
    assert ours.config.lm_head_bias == fields.get("bias", True)
    assert ours.config.tie_embeddings == ("all" if fields.get("tie_word_embeddings", True) else "none")


def test_a_file_of_before_safetensors_is_read_and_its_tables_told_as_dropped(tmp_path):
    model = made(tmp_path / "marian")
    (tmp_path / "marian" / "model.safetensors").unlink()
    tables = {f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}
    assert tables <= model.state_dict().keys()
    torch.save(model.state_dict(), tmp_path / "marian" / "pytorch_model.bin")
    told, ours = converted(tmp_path / "marian", "marian")
    assert told.dropped == ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)


def test_half_precision_stays(tmp_path):
    made(tmp_path / "marian").to(torch.float16).save_pretrained(tmp_path / "marian")
    assert converted(tmp_path / "marian", "marian")[1].dtype == torch.float16


def test_greedy_translations_and_the_settings_of_generate_are_the_sources(tmp_path):
    model = made(tmp_path / "marian", scale_embedding=True)
    model.generation_config.update(num_beams=6, max_length=20, bad_words_ids=[[39]], length_penalty=1.2)
    model.save_pretrained(tmp_path / "marian")
    _, ours = converted(tmp_path / "marian", "marian")
    settings = ours.generation_config
    assert (settings.num_beams, settings.max_length, settings.length_penalty) == (6, 20, 1.2)
    assert (settings.bad_words_ids, settings.forced_eos_token_id) == ([[39]], 0)
    assert (settings.eos_token_id, settings.decoder_start_token_id, settings.pad_token_id) == (0, 39, 39)
    for search in ({"num_beams": 1}, {"custom_generate": None}):
        options = {"input_ids": SOURCE, "attention_mask": SOURCE.ne(39).long()}
        expected = model.generate(**options, **{name: value for name, value in search.items() if value})
        assert torch.equal(ours.generate(**options, **search), expected)


def vocabularies(folder: Path) -> tuple[list[int], list[int]]:
    """Two vocabularies of 40 and 30 tokens, 10 of them in both; our id of each."""
    source = ["</s>", "<unk>", *(f"s{number}" for number in range(29)), *(f"b{number}" for number in range(8)), "<pad>"]
    target = ["</s>", "<unk>", *(f"t{number}" for number in range(18)), *(f"b{number}" for number in range(8)), "x"]
    target = [*target, "<pad>"]
    for name, tokens in (("vocab.json", source), ("target_vocab.json", target)):
        (folder / name).write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    every = [*source, *(token for token in target if token not in source)]
    return [every.index(token) for token in source], [every.index(token) for token in target]


def test_two_vocabularies_become_one_with_the_same_probabilities(tmp_path):
    tokens: dict[str, Any] = {"vocab_size": 40, "pad_token_id": 29, "decoder_start_token_id": 29}
    model = made(tmp_path / "marian", **TWO | tokens)
    source_ids, target_ids = vocabularies(tmp_path / "marian")
    # transformers has one pad id for both sides: here the target's, a word of the source.
    vocabulary = json.loads((tmp_path / "marian" / "vocab.json").read_text())
    source = torch.tensor([[5, 6, 35, 0], [8, 33, 31, 0]])
    target = torch.tensor([[29, 9, 20, 4], [29, 27, 2, 1]])
    _, ours = converted(tmp_path / "marian", "marian")
    assert len(vocabulary) == 40
    assert ours.config.vocab_size == 40 + 19
    assert ours.config.label_smoothing == 0.0
    assert_same_probabilities(
        ours, theirs(model), source=source, target=target, source_ids=source_ids, target_ids=target_ids
    )


def test_a_source_without_its_tokenizer_is_told(tmp_path, caplog):
    made(tmp_path / "marian")
    converted(tmp_path / "marian", "marian")
    assert "has no source.spm, target.spm, vocab.json" in caplog.text


def test_the_tokenizer_comes_along(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="Marian's tokenizer needs it, of the extra `convert`")
    text = tmp_path / "text"
    text.write_text("a hat and a dog\nthe dog has a hat\n" * 20)
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(tmp_path / side), vocab_size=25, hard_vocab_limit=False
        )
    made(tmp_path / "marian")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "source.model"))
    words = [pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())]
    words = ["</s>", "<unk>", *(word for word in words if word not in ("<unk>", "<s>", "</s>"))]
    ids = {word: number for number, word in enumerate([*words, *(f"x{n}" for n in range(39 - len(words))), "<pad>"])}
    (tmp_path / "marian" / "vocab.json").write_text(json.dumps(ids))
    for side in ("source", "target"):
        (tmp_path / f"{side}.model").rename(tmp_path / "marian" / f"{side}.spm")
    _, ours = converted(tmp_path / "marian", "marian")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "marian-converted")
    expected = [*(ids[piece] for piece in pieces.encode("the dog", out_type=str)), 0]
    assert tokenizer("the dog")["input_ids"] == expected
    assert tokenizer(text_target="the dog")["input_ids"] == expected
    assert tokenizer.decode(expected, skip_special_tokens=True) == "the dog"
    assert ours.config.unk_token_id == 1


def test_the_verb_tells_what_was_mapped_and_how_near_the_logits_are(tmp_path, capsys):
    made(tmp_path / "marian", bias=False)
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "marian"), "--from", "marian", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "59 weights mapped, none missing, none unused"
    assert lines[1] == "no weights of the model, left out: final_logits_bias"
    assert lines[2].startswith("logits equal to the source's own code to ")
    assert float(lines[2].rpartition(" ")[2]) < 1e-5
    assert lines[3] == str(out)


def test_a_setting_that_changes_what_is_computed_stops_the_conversion(tmp_path, monkeypatch):
    made(tmp_path / "marian", scale_embedding=True)
    monkeypatch.setattr("vaswani_transformer.convert.marian.FIXED", {"attention_bias": True, "decoder_start": "token"})
    with pytest.raises(ValueError, match=r"must compute what the source's own code does.*apart"):
        convert(tmp_path / "marian", format="marian", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Settings of ours that Marian has itself, or computes with other weights.
EXPORTED: dict[str, dict[str, Any]] = {
    "Marian's": {"attention_bias": True, "decoder_start": "token", "position_layout": "half-split"},
    "the paper's": {},
    "one matrix for the target": {"tie_embeddings": "decoder", "lm_head_bias": True},
    "three matrices": {"tie_embeddings": "none", "activation": "gelu"},
}
OURS: dict[str, Any] = {"vocab_size": 260, "d_model": 16, "d_ff": 24, "num_heads": 4, "num_encoder_layers": 2}


@pytest.mark.parametrize("fields", EXPORTED.values(), ids=list(EXPORTED))
def test_what_was_exported_comes_in_again_with_its_tokenizer(tmp_path, fields):
    torch.manual_seed(0)
    config = VaswaniTransformerConfig(**OURS, num_decoder_layers=1, layer_norm_eps=1e-5, **fields)
    model = shaken(VaswaniTransformerForConditionalGeneration(config))
    model.save_pretrained(tmp_path / "ours")
    tokenizer = VaswaniTransformerTokenizer.train(["a hat"], vocab_size=259)
    tokenizer.save_pretrained(tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "marian")
    _, again = converted(tmp_path / "marian", "marian")
    source, target = torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]]), torch.tensor([[0, 9, 3, 4], [0, 11, 2, 1]])
    assert_same_probabilities(again, theirs(model), source=source, target=target)
    assert AutoTokenizer.from_pretrained(tmp_path / "marian-converted")("a hat") == tokenizer("a hat")
    assert again.config.unk_token_id == 2
    if config.attention_bias:
        own = again.state_dict()
        assert own.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(own[name], tensor), name


def test_what_came_in_goes_out_again_bit_for_bit(tmp_path):
    model = made(tmp_path / "marian", scale_embedding=True)
    converted(tmp_path / "marian", "marian")
    export_to_transformers(tmp_path / "marian-converted", tmp_path / "again")
    again = MarianMTModel.from_pretrained(tmp_path / "again")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
