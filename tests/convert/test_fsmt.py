"""FSMT comes in: transformers' own folders, weights bit for bit, logits and translations the same, raw text to ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, FSMTConfig, FSMTForConditionalGeneration, FSMTTokenizer

from .of_translators import SPECIAL, assert_same_probabilities, converted, shaken

SIZES: dict[str, Any] = {"langs": ["en", "de"], "d_model": 16, "encoder_layers": 2, "decoder_layers": 1}
SIZES |= {f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")}
SIZES |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
SIZES |= {"max_position_embeddings": 30}
MERGES = ["h a", "ha t</w>", "d o", "do g</w>", "t h", "th e</w>"]
ENGLISH = [*SPECIAL, "the</w>", "hat</w>", "dog</w>", "a</w>", "th", "ha", ".</w>", "h", "t", "madeupword0000</w>"]
GERMAN = [*SPECIAL, "der</w>", "hut</w>", "hund</w>", "a</w>", ".</w>", "th", "&apos;s</w>"]
SOURCE = torch.tensor([[4, 5, 10, 2], [6, 2, 1, 1]])
TARGET = torch.tensor([[2, 6, 8, 4], [2, 5, 7, 9]])


def made(folder: Path, english: list[str] = ENGLISH, german: list[str] = GERMAN, **fields: Any) -> Any:
    """A folder of transformers' own model, its vocabularies and merges beside it."""
    torch.manual_seed(0)
    sizes = {"src_vocab_size": len(english), "tgt_vocab_size": len(german)}
    model = shaken(FSMTForConditionalGeneration(FSMTConfig(**{**SIZES, **sizes, **fields})))
    model.save_pretrained(folder)
    for name, tokens in (("vocab-src.json", english), ("vocab-tgt.json", german)):
        (folder / name).write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return model


def with_tokenizer(folder: Path) -> Any:
    pytest.importorskip("sacremoses", reason="FSMT's tokenizer needs sacremoses, of the extra `convert`")
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in MERGES))
    files = [str(folder / name) for name in ("vocab-src.json", "vocab-tgt.json", "merges.txt")]
    tokenizer = FSMTTokenizer(["en", "de"], files[0], files[1], files[2])
    tokenizer.save_pretrained(folder)
    return tokenizer


def theirs(model: Any) -> Any:
    return lambda source, mask, target: (
        model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target, use_cache=False).logits
    )


@pytest.mark.parametrize("fields", [{"tie_word_embeddings": True}, {}, {"activation_function": "gelu"}])
def test_one_vocabulary_gives_the_same_probabilities_and_bits(tmp_path, fields):
    model = made(tmp_path / "fsmt", german=ENGLISH, **fields)
    told, ours = converted(tmp_path / "fsmt", "fsmt")
    assert told.difference is not None
    assert not ours.config.lm_head_bias
    assert ours.config.tie_embeddings == ("all" if "tie_word_embeddings" in fields else "none")
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)
    own = ours.state_dict() | {"model.decoder.output_projection.weight": ours.state_dict()["lm_head.weight"]}
    for name, tensor in model.state_dict().items():
        if "embed_positions" not in name:
            assert torch.equal(own[name], tensor), name


def test_a_decoder_with_one_matrix_keeps_it_one(tmp_path):
    model = made(tmp_path / "fsmt", german=ENGLISH)
    decoder = model.model.decoder
    decoder.output_projection.weight.data = decoder.embed_tokens.weight.data.clone()
    model.save_pretrained(tmp_path / "fsmt")
    _, ours = converted(tmp_path / "fsmt", "fsmt")
    assert ours.config.tie_embeddings == "decoder"
    assert ours.lm_head.weight is ours.model.decoder.embed_tokens.weight
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET)


@pytest.mark.parametrize("tied", [False, True])
def test_two_vocabularies_become_one_with_the_same_probabilities(tmp_path, tied):
    model = made(tmp_path / "fsmt")
    if tied:
        decoder = model.model.decoder
        decoder.output_projection.weight.data = decoder.embed_tokens.weight.data.clone()
        model.save_pretrained(tmp_path / "fsmt")
    _, ours = converted(tmp_path / "fsmt", "fsmt")
    every = [*ENGLISH, *(token for token in GERMAN if token not in ENGLISH)]
    assert ours.config.vocab_size == len(every) == 18
    assert ours.config.tie_embeddings == ("decoder" if tied else "none")
    ids = [[every.index(token) for token in tokens] for tokens in (ENGLISH, GERMAN)]
    assert ids[0] == list(range(len(ENGLISH)))
    assert_same_probabilities(ours, theirs(model), source=SOURCE, target=TARGET, source_ids=ids[0], target_ids=ids[1])


def test_a_word_that_one_side_does_not_have_is_its_unknown_word(tmp_path):
    model = made(tmp_path / "fsmt")
    _, ours = converted(tmp_path / "fsmt", "fsmt")
    every = [*ENGLISH, *(token for token in GERMAN if token not in ENGLISH)]
    with torch.no_grad():
        got = ours(
            input_ids=torch.tensor([[4, every.index("hund</w>"), 2]]),
            decoder_input_ids=torch.tensor([[2, every.index("dog</w>")]]),
        ).logits[..., [every.index(token) for token in GERMAN]]
        expected = theirs(model)(torch.tensor([[4, 3, 2]]), torch.ones(1, 3), torch.tensor([[2, 3]]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_greedy_translations_and_the_settings_of_generate_are_the_sources(tmp_path):
    model = made(tmp_path / "fsmt", max_length=12, num_beams=3, length_penalty=0.8)
    _, ours = converted(tmp_path / "fsmt", "fsmt")
    assert (ours.generation_config.num_beams, ours.generation_config.length_penalty) == (3, 0.8)
    assert ours.generation_config.max_length == 12
    every = [*ENGLISH, *(token for token in GERMAN if token not in ENGLISH)]
    source, expected = SOURCE[:1], [2]
    with torch.no_grad():
        while len(expected) < 8 and expected[1:][-1:] != [2]:  # not FSMT's own loop, whose cache some versions misplace
            logits = theirs(model)(source, source.ne(1), torch.tensor([expected]))[0, -1]
            logits[1] = -torch.inf  # padding
            expected.append(int(logits.argmax()))
    options = {"max_length": None, "forced_eos_token_id": None, "bad_words_ids": [[1]]}
    got = ours.generate(source, num_beams=1, max_new_tokens=7, **options)[0].tolist()
    assert got == [every.index(GERMAN[number]) for number in expected]
    assert len(expected) > 3


def test_the_tokenizer_gives_the_sources_ids_of_raw_text_and_reads_the_targets(tmp_path):
    made(tmp_path / "fsmt")
    stock = with_tokenizer(tmp_path / "fsmt")
    converted(tmp_path / "fsmt", "fsmt")
    ours = AutoTokenizer.from_pretrained(tmp_path / "fsmt-converted")
    for text in ("the hat.", "The dog's hat", "th hund", "", "</s> <unk>", "thhat a"):
        expected = stock(text, split_special_tokens=True)["input_ids"]
        got = ours(text)["input_ids"]
        tokens = ours.convert_ids_to_tokens(got)
        assert [number if token in ENGLISH else 3 for number, token in zip(got, tokens, strict=True)] == expected, text
    every = [*ENGLISH, *(token for token in GERMAN if token not in ENGLISH)]
    german = ["der</w>", "hund</w>", "&apos;s</w>", ".</w>", "</s>"]
    assert ours.decode([every.index(token) for token in german], skip_special_tokens=True) == "der hund 's."
    assert stock.decode([GERMAN.index(token) for token in german], skip_special_tokens=True) == "der hund 's."
    assert (ours.pad_token_id, ours.eos_token_id, ours.unk_token_id, len(ours)) == (1, 2, 3, 18)


def test_rows_that_fairseq_added_up_to_a_multiple_of_eight_are_kept(tmp_path):
    made(tmp_path / "fsmt", german=ENGLISH, src_vocab_size=16, tgt_vocab_size=16)
    _, ours = converted(tmp_path / "fsmt", "fsmt")
    assert ours.config.vocab_size == 16


def test_a_source_without_merges_is_told(tmp_path, caplog):
    made(tmp_path / "fsmt")
    converted(tmp_path / "fsmt", "fsmt")
    assert "has no merges.txt" in caplog.text
