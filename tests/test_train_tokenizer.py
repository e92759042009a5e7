"""`vaswani train-tokenizer`: from files of any form to a folder AutoTokenizer loads."""

import gzip
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vaswani_cli import main


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"a man in a hat\nein Mann mit Hut\n" * 5))
    return path


def train(*words: object) -> int:
    return main(["train-tokenizer", *map(str, words)])


@pytest.mark.parametrize(("kind", "size"), [("bpe", 270), ("wordpiece", 520)])
def test_the_verb_writes_a_tokenizer_that_transformers_loads(text, tmp_path, capsys, kind, size):
    out = tmp_path / "out"
    assert train(text, "--kind", kind, "--vocab-size", size, "--out", out) == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == size
    assert tokenizer.decode(tokenizer("ein Hut")["input_ids"], skip_special_tokens=True) == "ein Hut"
    assert f"{size} tokens" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--kind", "wordpiece"], ["--cased"]])
def test_the_verb_writes_a_bert_tokenizer(text, tmp_path, words):
    out = tmp_path / "out"
    assert train(text, "--family", "bert", *words, "--vocab-size", 45, "--out", out) == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    first = "Hut" if "--cased" in words else "hut"
    assert tokenizer("a", "Hut")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.decode(tokenizer("ein Hut")["input_ids"]) == f"[CLS] ein {first} [SEP]"


@pytest.mark.parametrize("words", [["--kind", "byte-bpe"], ["--family", "gpt"]])
def test_the_verb_writes_gpt2s_tokenizer(text, tmp_path, words):
    out = tmp_path / "out"
    assert train(text, *words, "--vocab-size", 265, "--out", out) == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert type(tokenizer).__name__ == "GPT2Tokenizer"
    assert (len(tokenizer), tokenizer.eos_token, tokenizer.eos_token_id) == (265, "<|endoftext|>", 264)
    assert tokenizer.decode(tokenizer(" ein  Hut\n")["input_ids"]) == " ein  Hut\n"


def test_columns_choose_what_is_learnt(tmp_path):
    (tmp_path / "a.tsv").write_text("zzzz\tman man\tMann Mann\n" * 5)
    (tmp_path / "a.jsonl").write_text('{"id": "zzzz", "en": "hat hat"}\n' * 5)
    assert train(tmp_path / "a.tsv", "--columns", "1,2", "--vocab-size", 290, "--out", tmp_path / "tsv") == 0
    assert train(tmp_path / "a.jsonl", "--columns", "en", "--vocab-size", 290, "--out", tmp_path / "jsonl") == 0
    for name, word in (("tsv", "Mann"), ("jsonl", "hat")):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert len(tokenizer.tokenize(word)) == 1
        assert len(tokenizer.tokenize("zzzz")) > 1


def test_malformed_lines_stop_or_are_counted(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a man\n\xff\na man\n")
    assert train(path, "--vocab-size", 270, "--out", tmp_path / "out") == 2
    assert f"{path}:2: malformed line: no UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert train(path, "--vocab-size", 270, "--out", tmp_path / "out", "--on-bad-line", "skip") == 0
    assert "1 malformed lines skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.txt", "--vocab-size", 300, "--out", "new"], "nowhere.txt"),
        (["TEXT", "--vocab-size", 30, "--out", "new"], "at least 259"),
        (["TEXT", "--vocab-size", 300, "--out", "TEXT"], "must be a folder"),
        (["TEXT", "--cased", "--vocab-size", 300, "--out", "new"], "--cased goes with --family bert"),
        (
            ["TEXT", "--family", "bert", "--kind", "bpe", "--vocab-size", 300, "--out", "new"],
            "must be of --kind wordpi",
        ),
        (
            ["TEXT", "--family", "gpt", "--kind", "bpe", "--vocab-size", 300, "--out", "new"],
            "must be of --kind byte-bpe",
        ),
        (["TEXT", "--kind", "byte-bpe", "--vocab-size", 200, "--out", "new"], "at least 257"),
        (["TEXT", "--family", "bert", "--vocab-size", 20, "--out", "new"], "at least 21 for these texts"),
        (["TABLE", "--columns", "en", "--vocab-size", 300, "--out", "new"], "numbers from 0"),
        (["TABLE", "--columns", "4", "--vocab-size", 300, "--out", "new"], "columns must be there"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(text, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tsv").write_text("a\tb\n")
    words = [{"TEXT": text, "TABLE": "a.tsv"}.get(word, word) for word in words]
    assert train(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_tokenizer_is_not_overwritten_unasked(text, tmp_path, capsys):
    assert train(text, "--vocab-size", 265, "--out", tmp_path / "out") == 0
    assert train(text, "--vocab-size", 270, "--out", tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert train(text, "--vocab-size", 270, "--out", tmp_path / "out", "--overwrite") == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 270
