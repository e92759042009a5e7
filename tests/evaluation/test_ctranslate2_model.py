"""The exported Transformer as a model that translates: the paper's penalty, every sentence's own limit, the verbs."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_cli import main
from vaswani_transformer import VaswaniTransformerConfig, VaswaniTransformerForConditionalGeneration
from vaswani_transformer.convert import export_to_ctranslate2
from vaswani_transformer.evaluation import translate, translate_nbest
from vaswani_transformer.evaluation.ctranslate2_model import CTranslate2Transformer, Found, _reranked

from .conftest import toy_model

pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")

LINES = ["A woman reads.", "", "Two dogs run through the deep snow.", "Ja", "a house " * 4, "\u2028odd\u0085"]


@pytest.fixture(scope="module")
def ours(tokenizer) -> Any:
    """A model whose weights say something else for each source, with translations that end."""
    torch.manual_seed(3)
    model = small_model(tokenizer, lm_head_bias=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.lm_head.bias[1] = 2.5  # </s>
    model.generation_config.update(max_extra_tokens=4)
    return model


@pytest.fixture(scope="module")
def own_folder(ours, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    ours.save_pretrained(folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    return folder / "ours"


@pytest.fixture(scope="module")
def exported(own_folder) -> Path:
    return export_to_ctranslate2(own_folder, own_folder.parent / "exported")


@pytest.fixture(scope="module")
def theirs(exported) -> CTranslate2Transformer:
    return CTranslate2Transformer(exported, device="cpu")


def small_model(tokenizer, **fields: Any) -> Any:
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "d_model": 16, "d_ff": 16, "num_heads": 2}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(**sizes, **fields)).eval()


def engine_of(model: Any, tokenizer, folder: Path) -> Any:
    model.save_pretrained(folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    return CTranslate2Transformer(export_to_ctranslate2(folder / "ours", folder / "theirs"), device="cpu")


def batch_of(tokenizer) -> dict[str, torch.Tensor]:
    return dict(tokenizer([line for line in LINES if line.strip()], return_tensors="pt", padding=True))


def lengths(sequences: torch.Tensor) -> list[int]:
    return (sequences[:, 1:] != 0).sum(-1).tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_scores_are_log_probabilities_of_our_model_by_the_papers_penalty_best_first(ours, theirs, tokenizer, alpha):
    batch = batch_of(tokenizer)
    options: Any = {"num_return_sequences": 4, "length_penalty": alpha, "max_extra_tokens": 30}
    output = theirs.generate(**batch, **options, return_dict_in_generate=True)
    scores = output.sequences_scores.view(-1, 4)
    compared = 0
    for number, (ids, score) in enumerate(zip(output.sequences[:, 1:], scores.flatten().tolist(), strict=True)):
        ids = ids[ids != 0]
        if ids[-1] == 1:  # ours scores targets that end
            source = batch["input_ids"][number // 4][batch["attention_mask"][number // 4].bool()]
            expected = float(ours.score(source[None], ids[None])) / ((5 + len(ids)) / 6) ** alpha
            assert score == pytest.approx(expected, rel=1e-4)
            compared += 1
            before = scores[number // 4, : number % 4]
            assert bool((before >= score - 1e-5).all())
    assert compared >= 8


def test_a_source_beyond_ctranslate2s_own_limit_is_read_to_its_end(ours, theirs):
    ids = torch.randint(3, 320, (1, 1500))
    output = theirs.generate(ids, max_new_tokens=3, length_penalty=0.0, return_dict_in_generate=True)
    labels = output.sequences[:, 1:]
    with torch.no_grad():
        logits = ours(ids, labels=labels).logits.log_softmax(-1)
    expected = float(logits.gather(-1, labels.unsqueeze(-1)).sum())
    assert float(output.sequences_scores) == pytest.approx(expected, rel=1e-4)


def test_greedy_translations_are_those_of_our_model(ours, theirs, tokenizer):
    for line in LINES[:1] + LINES[2:]:
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        assert torch.equal(theirs.generate(ids, num_beams=1), ours.generate(ids, num_beams=1))


def test_a_translation_is_the_same_alone_and_among_longer_ones(theirs, tokenizer):
    found = theirs.generate(**batch_of(tokenizer), max_extra_tokens=2)
    for row, line in enumerate(line for line in LINES if line.strip()):
        alone = theirs.generate(tokenizer(line, return_tensors="pt")["input_ids"], max_extra_tokens=2)
        assert found[row, : alone.shape[1]].tolist() == alone[0].tolist()
        assert not found[row, alone.shape[1] :].any()


def test_each_translation_keeps_its_own_limit(theirs, tokenizer):
    batch = batch_of(tokenizer)
    limits = (batch["attention_mask"].sum(-1) + 2).tolist()
    found = lengths(theirs.generate(**batch, max_extra_tokens=2, num_return_sequences=4))
    assert all(length <= limits[row // 4] for row, length in enumerate(found))
    assert any(length == limits[row // 4] for row, length in enumerate(found))
    assert max(lengths(theirs.generate(**batch, max_new_tokens=3))) == 3


def test_padding_is_never_written(tokenizer, tmp_path):
    model = small_model(tokenizer, lm_head_bias=True)
    with torch.no_grad():
        model.lm_head.bias[0] = 5.0
    engine = engine_of(model, tokenizer, tmp_path)
    batch = batch_of(tokenizer)
    with_padding = engine._translate([ids.tolist() for ids in batch["input_ids"]], 8, 4, [])
    assert any(0 in each.ids for found in with_padding for each in found)
    found = engine._search([ids.tolist() for ids in batch["input_ids"]], [8] * len(batch["input_ids"]), 4, 0.6, [])
    assert not any(0 in each.ids for hypotheses in found for each in hypotheses)


def test_translations_begin_with_a_prefix_which_counts_in_their_scores(ours, theirs, tokenizer):
    batch, prefix = batch_of(tokenizer), tokenizer("Das Haus", add_special_tokens=False)["input_ids"]
    start = torch.tensor([[0, *prefix]] * len(batch["input_ids"]))
    options: Any = {"num_return_sequences": 4, "max_extra_tokens": 30, "return_dict_in_generate": True}
    output = theirs.generate(**batch, **options, decoder_input_ids=start)
    assert output.sequences[:, : len(prefix) + 1].tolist() == [[0, *prefix]] * (4 * len(start))
    ended = [row for row, ids in enumerate(output.sequences) if 1 in ids]
    assert len(ended) >= 4
    for row in ended:
        ids = output.sequences[row, 1:][output.sequences[row, 1:] != 0]
        source = batch["input_ids"][row // 4][batch["attention_mask"][row // 4].bool()]
        expected = float(ours.score(source[None], ids[None])) / ((5 + len(ids)) / 6) ** 0.6
        assert float(output.sequences_scores[row]) == pytest.approx(expected, rel=1e-4)
    (found,) = translate(theirs, tokenizer, ["a house"], prefix="Das Haus")
    assert found.startswith("Das Haus")


def test_what_met_the_limit_without_an_end_comes_last(theirs):
    found = [Found([5, 6, 7], -0.1, False), Found([5], -9.0, True), Found([5, 6], -6.0, True)]
    order = _reranked(found, 1.0)
    assert [each.ids for each in order] == [[5, 6], [5], [5, 6, 7]]
    assert [each.score for each in order] == pytest.approx([-6.0 * 6 / 8, -9.0 * 6 / 7, -0.1 * 6 / 8])


def test_lines_keep_their_order_and_blank_ones_stay_blank(theirs, tokenizer):
    found = translate(theirs, tokenizer, LINES, batch_tokens=20)
    assert found == [translate(theirs, tokenizer, [line])[0] for line in LINES]
    assert found[1] == ""
    assert len(set(found)) > 2


def test_n_best_lists_are_sorted_and_scored(theirs, tokenizer):
    for line, found in zip(LINES, translate_nbest(theirs, tokenizer, LINES, n=3, scores=True), strict=True):
        assert len(found) == (3 if line.strip() else 1)
        assert all(isinstance(each.score, float) for each in found)


def test_a_source_longer_than_the_table_of_positions_is_cut_and_told(tokenizer, tmp_path, caplog):
    model = small_model(tokenizer, position_embedding="learned", max_position_embeddings=12)
    engine = engine_of(model, tokenizer, tmp_path)
    with caplog.at_level(logging.WARNING):
        translate(engine, tokenizer, ["a " * 100])
    assert "cut to 12" in caplog.text


def test_what_it_cannot_do_is_told(theirs, own_folder, tokenizer):
    ids = tokenizer("a", return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="num_return_sequences must be at most num_beams=2; got 3"):
        theirs.generate(ids, num_beams=2, num_return_sequences=3)
    with pytest.raises(ValueError, match="does not train"):
        theirs.train(True)
    with pytest.raises(ValueError, match=r"wrote of a translation model; got .* without model.bin, shared_vocab"):
        CTranslate2Transformer(own_folder)


@pytest.fixture
def english(tmp_path) -> Path:
    path = tmp_path / "test.en"
    path.write_text("".join(line + "\n" for line in LINES), encoding="utf-8", newline="\n")
    return path


def test_the_verb_translates_with_our_folder_and_with_the_exported_one_alike(
    own_folder, exported, theirs, tokenizer, english, capsys
):
    written = []
    for folder in (own_folder, exported):
        assert main(["translate", str(folder), str(english), "--engine", "ctranslate2", "--beams", "3"]) == 0
        written.append(capsys.readouterr().out)
    expected = [line.replace("\n", " ").replace("\r", " ") for line in translate(theirs, tokenizer, LINES, num_beams=3)]
    assert written == ["\n".join([*expected, ""])] * 2


def test_an_export_prints_bleu_before_and_after(own_folder, english, tmp_path, capsys):
    (tmp_path / "test.de").write_bytes(english.read_bytes())
    files = f"{{source: {english}, target: {tmp_path / 'test.de'}}}"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"model: {{family: transformer}}\ntokenizer: {{kind: bpe, vocab_size: 300}}\nsteps: 1\noutput: {tmp_path}/run\n"
        "batch: {source_tokens: 10, target_tokens: 10}\n"
        f"data: {{source: en, target: de, files: {{train: {files}, test: {files}}}}}\n",
        encoding="utf-8",
    )
    out = tmp_path / "int8"
    words = ["--to", "ctranslate2", "--quantization", "int8", "--out", str(out), "--data", str(recipe)]
    assert main(["export", str(own_folder), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(out)
    assert [line.partition(":")[0] for line in lines[1:]] == ["before", "after"]
    for line, folder, engine in zip(lines[1:], (own_folder, out), ("torch", "ctranslate2"), strict=True):
        verb = ["evaluate-translation", str(folder), "--data", str(recipe), "--engine", engine, "--json"]
        assert main(verb) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["engine"] == engine
        assert f"sacreBLEU {report['scores']['bleu']:.2f}, " in line
        assert f"by {engine} on mine test, {report['scores']['sentences']} lines" in line


def test_what_the_verbs_cannot_do_with_it_is_told_in_one_line(own_folder, exported, english, tmp_path, capsys):
    engine = ["--engine", "ctranslate2"]
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "--ensemble must be left out with --engine ctranslate2": [
            *("translate", str(exported), str(english), *engine, "--ensemble", str(exported)),
        ],
        "a folder of CTranslate2 needs --engine ctranslate2": ["translate", str(exported), str(english)],
        "--quantization and --data belong to --to ctranslate2; got --to transformers": [
            *("export", str(own_folder), "--to", "transformers", "--quantization", "int8", *out),
        ],
        "MODEL must be a folder with a model and its tokenizer; got": [
            *("translate", str(tmp_path / "wordless"), str(english), *engine),
        ],
        "CTranslate2 translates with a": ["translate", str(tmp_path / "bare"), str(english), *engine],
    }
    toy_model(300).model.save_pretrained(tmp_path / "bare")
    toy_model(300).save_pretrained(tmp_path / "wordless")
    for rule, words in cases.items():
        assert main(words) == 2
        error = capsys.readouterr().err
        assert rule in error.splitlines()[-1]
        assert "Traceback" not in error
