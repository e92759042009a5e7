"""fairseq comes in: checkpoints in its layouts, written here, compute what FSMT and torch do; ids are subword-nmt's."""

import argparse
import sys
import tarfile
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, FSMTConfig, FSMTForConditionalGeneration

from vaswani_transformer.convert import convert

from .of_translators import SPECIAL, assert_same_probabilities, converted, shaken

ENGLISH = ["the", "hat", "dog", "a", "th@@", "ha@@", ".", "h@@", "t", "o@@", "&apos;s", "s", "madeupword0000"]
GERMAN = ["der", "hut", "hund", "a", ".", "th@@", "madeupword0000", "madeupword0001"]
MERGES = ["t h", "h a", "th e</w>", "ha t</w>", "d o", "do g</w>"]
SETTINGS: dict[str, Any] = {"arch": "transformer_wmt_en_de", "source_lang": "en", "target_lang": "de", "dropout": 0.2}
SETTINGS |= {f"{side}_{name}": False for side in ("encoder", "decoder") for name in ("normalize_before", "learned_pos")}
SETTINGS |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
SETTINGS |= {
    "activation_fn": "relu",
    "label_smoothing": 0.1,
    "max_source_positions": 1024,
    "adaptive_softmax_cutoff": None,
}
SOURCE = torch.tensor([[4, 5, 10, 2], [6, 2, 1, 1]])
TARGET = torch.tensor([[2, 6, 8, 4], [2, 5, 7, 9]])
Weights = dict[str, Tensor]


def oracle(source: int, target: int, **fields: Any) -> Any:
    """FSMT, which is fairseq's Transformer in transformers."""
    torch.manual_seed(0)
    sizes = {
        f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("ffn_dim", 24), ("layers", 2))
    }
    sizes |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    sizes |= {"src_vocab_size": source, "tgt_vocab_size": target, "d_model": 16, "max_position_embeddings": 30}
    return shaken(FSMTForConditionalGeneration(FSMTConfig(**{**sizes, **fields})))


def theirs(model: Any) -> Any:
    return lambda source, mask, target: (
        model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target, use_cache=False).logits
    )


def newest(model: Any) -> Weights:
    """As fairseq writes since 2020."""
    weights = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in weights.items() if "embed_positions" not in name}
    return weights | {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}


def before_2020(model: Any) -> Weights:
    """A buffer that says nothing, and `embed_out` for a decoder with two matrices."""
    weights = newest(model)
    head = weights.pop("decoder.output_projection.weight")
    if not torch.equal(head, weights["decoder.embed_tokens.weight"]):
        weights["decoder.embed_out"] = head
    return weights | {f"{side}.embed_positions._float_tensor": torch.zeros(1) for side in ("encoder", "decoder")}


def of_2018(model: Any) -> Weights:
    """Projections packed, norms numbered, no version."""
    old = before_2020(model)
    weights = {name: tensor for name, tensor in old.items() if "version" not in name}
    for kind in ("weight", "bias"):
        for name in [name for name in weights if name.endswith(f"q_proj.{kind}")]:
            start = name.removesuffix(f"q_proj.{kind}")
            weights[f"{start}in_proj_{kind}"] = torch.cat([weights.pop(f"{start}{x}_proj.{kind}") for x in "qkv"])
    norms = {
        "encoder": ["self_attn_layer_norm", "final_layer_norm"],
        "decoder": ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
    }
    for name in list(weights):
        side, place = name.split(".")[0], name.split(".")[-2] if "." in name else ""
        if ".layers." in name and place in norms[side]:
            weights[name.replace(place, f"layer_norms.{norms[side].index(place)}")] = weights.pop(name)
    return weights


def in_args(settings: dict[str, Any]) -> dict[str, Any]:
    return {"args": argparse.Namespace(**settings)}


def in_cfg(settings: dict[str, Any]) -> dict[str, Any]:
    """As hydra has it: apart, each side's in a section of its own."""
    task = {"_name": "translation", "source_lang": settings["source_lang"], "target_lang": settings["target_lang"]}
    model: dict[str, Any] = {"encoder": {}, "decoder": {}, "_name": "transformer"}
    for name, value in settings.items():
        side, _, rest = name.partition("_")
        (model[side] if side in ("encoder", "decoder") else model)[rest if side in ("encoder", "decoder") else name] = (
            value
        )
    del model["arch"]
    criterion = {"_name": "label_smoothed_cross_entropy", "label_smoothing": model.pop("label_smoothing")}
    return {"args": None, "cfg": {"model": model, "task": task, "criterion": criterion, "common": {"seed": 1}}}


def in_both(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe's architecture by name in a file of 2021: `cfg`, with the model's Namespace in it."""
    return {"args": None, "cfg": {"model": argparse.Namespace(**settings), "task": {}, "generation": {"beam": 4}}}


def write(
    folder: Path,
    weights: Weights,
    *,
    english: list[str] = ENGLISH,
    german: list[str] = GERMAN,
    told: Any = in_args,
    name: str = "model.pt",
    codes: str | None = None,
    legacy: bool = False,
    **changes: Any,
) -> Path:
    """A folder as fairseq publishes one."""
    folder.mkdir(exist_ok=True)
    extra = {"optimizer_history": [{"num_updates": 3}], "extra_state": {"epoch": 2}, "criterion": None}
    content = extra | told(SETTINGS | changes) | {"model": weights}
    torch.save(content, folder / name, _use_new_zipfile_serialization=not legacy)
    for language, tokens in (("en", english), ("de", german)):
        text = "".join(f"{token} {100 - number}\n" for number, token in enumerate(tokens))
        (folder / f"dict.{language}.txt").write_text(text, encoding="utf-8")
    if codes is not None:
        (folder / "bpecodes").write_text(codes + "".join(f"{line}\n" for line in MERGES))
    return folder


def ours_by_number(english: list[str], german: list[str]) -> tuple[list[int], list[int]]:
    """Our id of each of the source's and the target's."""
    sides = [[*SPECIAL, *tokens] for tokens in (english, german)]
    every = [*sides[0], *(token for token in sides[1] if token not in sides[0])]
    return [every.index(token) for token in sides[0]], [every.index(token) for token in sides[1]]


LAYOUTS = [newest, before_2020, of_2018]


@pytest.mark.parametrize("told", [in_args, in_cfg, in_both])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tie", ["all", "decoder", "none"])
def test_every_layout_computes_what_the_oracle_does_bit_for_bit(tmp_path, tie, layout, told):
    model = oracle(17, 17, tie_word_embeddings=tie == "all")
    if tie == "decoder":
        decoder = model.model.decoder
        decoder.output_projection.weight.data = decoder.embed_tokens.weight.data.clone()
    folder = write(tmp_path / "fairseq", layout(model), german=ENGLISH, told=told)
    found, ours = converted(folder, "fairseq")
    assert ours.config.tie_embeddings == tie
    assert (ours.config.dropout, ours.config.num_heads, ours.config.position_offset) == (0.2, 4, 2)
    assert ours.config.label_smoothing == 0.1
    assert set(found.dropped) == {name for name in layout(model) if "version" in name or "_float_tensor" in name}
    assert "fairseq" in found.absent
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)
    own = ours.state_dict()
    for name, tensor in newest(model).items():
        name = "lm_head.weight" if "output_projection" in name else f"model.{name}"
        assert "version" in name or torch.equal(own[name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_dictionaries_become_one_with_the_same_probabilities(tmp_path, layout):
    model = oracle(17, 12)
    _, ours = converted(write(tmp_path / "fairseq", layout(model)), "fairseq")
    source_ids, target_ids = ours_by_number(ENGLISH, GERMAN)
    assert source_ids == list(range(17))
    assert_same_probabilities(
        ours, theirs(model), source=SOURCE, target=TARGET, source_ids=source_ids, target_ids=target_ids
    )


def of_torch(model: nn.Transformer, embedding: Tensor, learned: dict[str, Tensor], *, final: bool) -> Weights:
    """torch.nn.Transformer's weights under fairseq's names of 2018."""
    weights = {f"{side}.embed_tokens.weight": embedding for side in ("encoder", "decoder")} | learned
    numbers = {"encoder": ["norm1", "norm2"], "decoder": ["norm1", "norm2", "norm3"]}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[1] == "norm":
            weights |= {f"{parts[0]}.layer_norm.{parts[-1]}": tensor} if final else {}
            continue
        if parts[3] in numbers[parts[0]]:
            parts[3] = f"layer_norms.{numbers[parts[0]].index(parts[3])}"
        names = {"multihead_attn": "encoder_attn", "linear1": "fc1", "linear2": "fc2"}
        weights[".".join(names.get(part, part) for part in parts)] = tensor
    return weights


@pytest.mark.parametrize("final", [True, False])
def test_norms_before_the_sub_layers_and_learned_positions_compute_what_torch_does(tmp_path, final):
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 2, 1, 24, 0.0, norm_first=True, batch_first=True)
    if not final:
        model.encoder.norm = model.decoder.norm = None
    model, embedding = shaken(model), torch.randn(17, 16)
    tables = {f"{side}.embed_positions.weight": torch.randn(12, 16) for side in ("encoder", "decoder")}
    before: dict[str, Any] = {f"{side}_normalize_before": True for side in ("encoder", "decoder")}
    before |= {f"{side}_learned_pos": True for side in ("encoder", "decoder")}
    weights = of_torch(model, embedding, tables, final=final)
    if final:
        weights |= {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    _, ours = converted(write(tmp_path / "fairseq", weights, german=ENGLISH, **before), "fairseq")
    assert (ours.config.norm_order, ours.config.final_norm) == ("pre", final)
    assert ours.config.max_position_embeddings == 10

    def expected(source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        states = [
            embedding[ids] * 4.0 + tables[f"{side}.embed_positions.weight"][2 : 2 + ids.shape[1]]
            for side, ids in (("encoder", source), ("decoder", target))
        ]
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        options = {"src_key_padding_mask": ~mask, "memory_key_padding_mask": ~mask, "tgt_mask": causal}
        return model(*states, **options) @ embedding.T

    assert_same_probabilities(ours, expected, source=SOURCE, target=TARGET)


def test_norms_that_the_first_version_kept_without_using_are_dropped(tmp_path):
    model = oracle(17, 17)
    norms = {
        f"{side}.layer_norm.{kind}": torch.ones(16) for side in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    weights = newest(model) | norms | {f"{side}.version": torch.tensor([1.0]) for side in ("encoder", "decoder")}
    found, ours = converted(write(tmp_path / "fairseq", weights, german=ENGLISH), "fairseq")
    assert set(norms) <= set(found.dropped)
    assert not ours.config.final_norm
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)


def test_an_archive_and_a_named_file_of_before_2020_are_read_and_figures_of_the_training_ignored(tmp_path, monkeypatch):
    model = oracle(17, 17)
    meters: Any = types.ModuleType("fairseq.meters")
    meters.AverageMeter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.meters", meters)
    meter: Any = meters.AverageMeter()
    meter.sum = 3.0

    def told(settings: dict[str, Any]) -> dict[str, Any]:
        return in_args(settings) | {"extra_state": {"train_meters": {"loss": meter}}}

    folder = write(tmp_path / "wmt", before_2020(model), german=ENGLISH, told=told, name="checkpoint7.pt", legacy=True)
    with pytest.raises(ValueError, match=r"must have model\.pt.*got checkpoint7\.pt.*name one of several"):
        convert(folder, format="fairseq", out=tmp_path / "out")
    assert_same_probabilities(
        converted(folder / "checkpoint7.pt", "fairseq")[1], theirs(model), source=SOURCE, target=TARGET
    )
    (folder / "checkpoint7.pt").rename(folder / "checkpoint_best.pt")
    with tarfile.open(tmp_path / "wmt.tar.bz2", "w:bz2") as archive:
        archive.add(folder, "wmt14.en-de")
    ours = converted(tmp_path / "wmt.tar.bz2", "fairseq")[1]
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)


def test_half_precision_stays(tmp_path):
    weights = {name: tensor if "version" in name else tensor.half() for name, tensor in newest(oracle(17, 17)).items()}
    folder = write(tmp_path / "fairseq", weights, german=ENGLISH)
    assert converted(folder, "fairseq")[1].dtype == torch.float16


def test_the_settings_of_generate_are_fairseqs(tmp_path):
    folder = write(tmp_path / "fairseq", newest(oracle(17, 17)), german=ENGLISH)
    settings = converted(folder, "fairseq")[1].generation_config
    assert (settings.num_beams, settings.length_penalty, settings.max_length) == (5, 1.0, 202)
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (2, 2, 1)
    told = {"beam": 4, "lenpen": 0.6, "max_len_a": 1.2, "max_len_b": 10, "no_repeat_ngram_size": 3}
    folder = write(tmp_path / "told", newest(oracle(17, 17)), german=ENGLISH, **told)
    settings = converted(folder, "fairseq")[1].generation_config
    assert (settings.num_beams, settings.length_penalty, settings.no_repeat_ngram_size) == (4, 0.6, 3)
    assert settings.max_length is None


def subword_nmt(word: str) -> list[str]:
    """Byte-pair encoding as its authors describe it: the earliest merge learnt, everywhere in the word, until none."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(MERGES)}
    while True:
        pairs = [(ranks[pair], pair) for pair in pairwise(symbols) if pair in ranks]
        if not pairs:
            break
        (first, second), merged = min(pairs)[1], []
        for symbol in symbols:
            if merged and merged[-1] == first and symbol == second:
                merged[-1] = first + second + "\0"  # may not merge again in this pass
            else:
                merged.append(symbol)
        symbols = [symbol.replace("\0", "") for symbol in merged]
    return [*(f"{symbol}@@" for symbol in symbols[:-1]), symbols[-1].removesuffix("</w>")]


@pytest.mark.parametrize("codes", ["#version: 0.2\n", "fastBPE"])
def test_the_tokenizer_gives_subword_nmts_ids_of_moses_tokens(tmp_path, codes):
    sacremoses = pytest.importorskip("sacremoses", reason="fairseq's text needs sacremoses, of the extra `convert`")
    model = oracle(17, 12)
    folder = write(tmp_path / "fairseq", newest(model), codes="" if codes == "fastBPE" else codes)
    if codes == "fastBPE":
        (folder / "bpecodes").write_text("".join(f"{line} {90 - n}\n" for n, line in enumerate(MERGES)))
    converted(folder, "fairseq")
    ours = AutoTokenizer.from_pretrained(tmp_path / "fairseq-converted")
    moses = sacremoses.MosesTokenizer("en")
    tokens = [*SPECIAL, *ENGLISH]
    for text in ("the hat.", "The dog's hat", "thhat that hathat", "a dogs a", "zebra", "t", "hund der"):
        words = moses.tokenize(text, aggressive_dash_splits=True)
        pieces = [piece for word in words for piece in subword_nmt(word)]
        expected = [tokens.index(piece) if piece in tokens else 3 for piece in pieces] + [2]
        got = ours(text)["input_ids"]
        # What only the other side has is the unknown word in all but its number.
        assert [number if number < len(tokens) else 3 for number in got] == expected, text
    _, target_ids = ours_by_number(ENGLISH, GERMAN)
    german = [target_ids[[*SPECIAL, *GERMAN].index(token)] for token in ("der", "hund", ".")]
    assert ours.decode(german) == "der hund."


def test_codes_of_the_first_version_are_told_and_not_guessed(tmp_path, caplog):
    converted(write(tmp_path / "fairseq", newest(oracle(17, 12)), codes=""), "fairseq")
    assert "subword-nmt before 0.2" in caplog.text
    assert not (tmp_path / "fairseq-converted" / "tokenizer_config.json").exists()
