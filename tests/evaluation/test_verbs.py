import gzip
import io
import json
import sys
from types import SimpleNamespace

import pytest

from vaswani_cli import main
from vaswani_transformer.evaluation import translate

LINES = ["A woman reads.", "", "Two dogs run through the deep snow.", "\u2028odd\u0085", "Ja"]


@pytest.fixture
def english(tmp_path):
    path = tmp_path / "test.en"
    path.write_text("".join(line + "\n" for line in LINES), encoding="utf-8", newline="\n")
    return path


@pytest.fixture
def german(tmp_path):
    path = tmp_path / "test.de"
    path.write_text("Eine Frau liest.\n\nZwei Hunde.\nwas\nJa\n", encoding="utf-8", newline="\n")
    return path


@pytest.fixture
def expected(model, tokenizer):
    return translate(model, tokenizer, LINES)


def typed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def split(text):
    return text.removesuffix("\n").split("\n")


def test_a_file_is_translated_line_by_line(folder, english, expected, capsys):
    assert main(["translate", str(folder), str(english)]) == 0
    assert split(capsys.readouterr().out) == [line.replace("\n", " ").replace("\r", " ") for line in expected]


def test_standard_input_is_translated_window_by_window(folder, expected, capsys, monkeypatch):
    typed(monkeypatch, "\n".join(LINES).encode())  # no newline at the end
    assert main(["translate", str(folder), "--window", "2", "--batch-tokens", "30"]) == 0
    assert split(capsys.readouterr().out) == expected


def test_a_window_is_written_before_the_next_is_read(folder, tmp_path, monkeypatch):
    out, written = tmp_path / "out.txt", []

    def lines():
        for number in range(5):
            written.append(out.read_text(encoding="utf-8").count("\n"))
            yield f"{number}\n".encode()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=lines(), isatty=lambda: False))
    assert main(["translate", str(folder), "--window", "2", "--out", str(out)]) == 0
    assert written == [0, 0, 2, 2, 4]


def test_a_terminal_is_answered_line_by_line(folder, tmp_path, monkeypatch):
    out, written = tmp_path / "out.txt", []

    def lines():
        for number in range(3):
            written.append(out.read_text(encoding="utf-8").count("\n"))
            yield f"{number}\n".encode()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=lines(), isatty=lambda: True))
    assert main(["translate", str(folder), "--out", str(out)]) == 0
    assert written == [0, 1, 2]


def test_bytes_that_are_no_text_shift_nothing(folder, capsys, monkeypatch):
    typed(monkeypatch, b"\xef\xbb\xbfone\r\n\xff\xfe broken\n\0\n\n\xc2\x85\xe2\x80\xa8\nlast\n")
    assert main(["translate", str(folder)]) == 0
    lines = split(capsys.readouterr().out)
    assert len(lines) == 6
    assert [bool(line) for line in lines] == [True, True, True, False, False, True]


def test_a_byte_order_mark_and_crlf_change_no_translation(folder, capsys, monkeypatch):
    typed(monkeypatch, b"one\n")
    main(["translate", str(folder)])
    plain = capsys.readouterr().out
    typed(monkeypatch, b"\xef\xbb\xbfone\r\n")
    main(["translate", str(folder)])
    assert capsys.readouterr().out == plain


def test_out_takes_the_translations_and_a_packed_file_is_read(folder, english, expected, tmp_path, capsys):
    packed = tmp_path / "test.en.gz"
    packed.write_bytes(gzip.compress(english.read_bytes()))
    out = tmp_path / "out.txt"
    assert main(["translate", str(folder), str(packed), "--out", str(out)]) == 0
    assert split(out.read_text(encoding="utf-8")) == expected
    assert capsys.readouterr().out == ""


def test_n_best_and_scores_are_columns(folder, english, expected, capsys):
    assert main(["translate", str(folder), str(english), "--n-best", "2", "--scores"]) == 0
    rows = [line.split("\t") for line in split(capsys.readouterr().out)]
    assert [int(row[0]) for row in rows] == [1, 1, 2, 3, 3, 4, 4, 5, 5]
    assert rows[0][2] == expected[0].replace("\t", " ")
    assert all(float(row[1]) <= 0 for row in rows)
    assert all(len(row) == 3 for row in rows)


def test_search_options_reach_the_search(folder, model, tokenizer, capsys, monkeypatch):
    typed(monkeypatch, b"Two dogs\n")
    options = ["--beams", "2", "--length-penalty", "1.5", "--max-extra-tokens", "1", "--prefix", "Das"]
    assert main(["translate", str(folder), *options]) == 0
    found = translate(model, tokenizer, ["Two dogs"], num_beams=2, length_penalty=1.5, max_extra_tokens=1, prefix="Das")
    assert split(capsys.readouterr().out) == found
    assert found[0].startswith("Das")


def test_an_ensemble_may_be_named(folder, english, expected, capsys):
    assert main(["translate", str(folder), str(english), "--ensemble", str(folder)]) == 0
    assert split(capsys.readouterr().out) == expected


def test_what_translate_cannot_do_is_told_in_one_line(folder, english, tmp_path, capsys):
    cases = {
        "no data file at": [str(folder), str(tmp_path / "absent.txt")],
        "--out must not be the file that is read": [str(folder), str(english), "--out", str(english)],
        "the folder of --out must exist": [str(folder), str(english), "--out", str(tmp_path / "no" / "out.txt")],
        "a model's folder has a config.json": [str(tmp_path), str(english)],
        "MODEL must be a folder": [str(tmp_path / "absent"), str(english)],
        "need at least n beams": [str(folder), str(english), "--n-best", "9"],
        "max_source_tokens must be at least 2": [str(folder), str(english), "--max-source-tokens", "1"],
    }
    for rule, arguments in cases.items():
        assert main(["translate", *arguments]) == 2
        error = capsys.readouterr().err
        assert rule in error
        assert "Traceback" not in error
    assert english.read_text(encoding="utf-8").startswith("A woman")


def evaluate(folder, *arguments):
    return main(["evaluate-translation", str(folder), *map(str, arguments)])


def test_evaluation_prints_three_scores_their_signatures_and_the_table(folder, english, german, capsys):
    assert evaluate(folder, "--source", english, "--target", german) == 0
    text = capsys.readouterr().out
    assert "5 lines, en-de" in text
    for label, mark in {"sacreBLEU": "tok:13a", "chrF": "nc:6", "paper's BLEU": "tok:moses-de+compound-split"}.items():
        assert any(line.startswith(label) and mark in line for line in text.splitlines())
    assert "Transformer (big)" in text
    assert "not comparable: the test set is test.en" in text


def test_evaluation_as_json_holds_what_it_prints(folder, english, german, tmp_path, capsys):
    out, translations = tmp_path / "scores.json", tmp_path / "out.de"
    arguments = ["--source", english, "--target", german, "--baselines", "--json"]
    assert evaluate(folder, *arguments, "--out", out, "--translations", translations) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert report["language_pair"] == "en-de"
    assert report["scores"]["sentences"] == 5
    assert set(report["baselines"]) == {"untrained", "copied source"}
    assert report["baselines"]["copied source"]["bleu"] > 0
    assert report["table2"]["this_model"]["comparable"] is False
    assert len(split(translations.read_text(encoding="utf-8"))) == 5


def test_a_part_of_newstest2014_is_not_called_comparable(folder, english, german, capsys):
    assert evaluate(folder, "--source", english, "--target", german, "--test-set", "newstest2014") == 0
    assert "not comparable: 5 lines were translated, newstest2014 has 2,737 or 3,003" in capsys.readouterr().out


def test_the_embedded_corpus_is_a_test_set(folder, capsys):
    assert evaluate(folder, "--embedded", "--max-words", "5", "--limit", "3", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["language_pair"], report["scores"]["sentences"]) == ("en-de", 3)
    assert report["test_set"] == "debian-en-de test, at most 5 words"


def test_a_recipes_data_is_a_test_set(folder, english, german, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"model: {{family: transformer}}\ntokenizer: {{kind: bpe, vocab_size: 300}}\nsteps: 1\noutput: {tmp_path}/run\n"
        "batch: {source_tokens: 10, target_tokens: 10}\n"
        f"data: {{source: en, target: de, files: {{train: {{source: {english}, target: {german}}}, "
        f"validation: {{source: {english}, target: {german}}}}}}}\n",
        encoding="utf-8",
    )
    assert evaluate(folder, "--data", f"{recipe}:validation", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["language_pair"], report["test_set"]) == ("en-de", "mine validation")
    assert report["scores"]["sentences"] == 4  # a pair with an empty side is no pair


def test_what_evaluation_cannot_do_is_told_in_one_line(folder, english, german, tmp_path, capsys):
    shorter, plain, one = tmp_path / "short.de", tmp_path / "references.txt", tmp_path / "one.de"
    shorter.write_text("eins\n")
    one.write_text("eins zwei\n")
    plain.write_bytes(german.read_bytes())
    cases = {
        "give the test set as": [],
        "or --embedded": ["--embedded", "--source", english, "--target", german],
        "got 5 in": ["--source", english, "--target", shorter],
        "add --target-language CODE": ["--source", english, "--target", plain],
        "must have a line; got none of 1": ["--source", one, "--target", one, "--max-words", "1"],
    }
    for rule, arguments in cases.items():
        assert evaluate(folder, *arguments) == 2
        error = capsys.readouterr().err
        assert rule in error
        assert "Traceback" not in error


@pytest.mark.parametrize("verb", ["translate", "evaluate-translation"])
def test_help_shows_examples(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert f"vaswani {verb} runs/demo" in capsys.readouterr().out
