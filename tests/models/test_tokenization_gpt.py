"""GPT's tokenizer of 2018 against OpenAI's rules, worked out anew here; GPT-2's against transformers' and the bytes."""

import itertools
import json
import lzma
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Tokenizer

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTTokenizer

HARD = [
    "don't stop, Mr. Smith's café!",
    "“Curly” quotes — and ‘single’ ones…",
    "one\n\n  two \t three\r\nfour",
    "a --- b ~~ c!!! d?? e_f (g) [h] {i} | j * k + l \\ m / n; o: p",
    "C:\\temp\\new and\\or \\\\x",
    "I'd've gone; they're gonna can't",
    "Ünïcödé naïve 日本 ☃ 100,000.50 3.14% U.S.A. e.g. x@y.org http://a.b/c?d=e",
    "´acute´ & &amp; sch√∂n",
    "   \n ",
    "",
    "<unk> </w>",
]


@pytest.fixture(scope="module")
def openai(shared_data, tmp_path_factory) -> tuple[dict[str, int], list[tuple[str, ...]], Path]:
    """The true vocabulary, its merges, and a folder that holds both under the names of the Hub."""
    pytest.importorskip("ftfy", reason="needs ftfy, of the extra gpt1")
    pytest.importorskip("spacy", reason="needs spaCy, of the extra gpt1")
    folder = tmp_path_factory.mktemp("openai")
    for name, source in (("vocab.json", "encoder_bpe_40000.json"), ("merges.txt", "vocab_40000.bpe")):
        (folder / name).write_bytes(lzma.decompress((shared_data / "vocab" / f"openai-gpt.{source}.xz").read_bytes()))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    return json.loads((folder / "vocab.json").read_text()), [tuple(line.split()) for line in lines], folder


def spaced(text: str) -> str:
    """OpenAI's standardisation, character by character instead of by regular expressions."""
    for old, new in (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'")):
        text = text.replace(old, new)
    out: list[str] = []
    for place, character in enumerate(text):
        mark = character in '-~!";?+,)(/*[]}{|_'
        if mark and (place == 0 or text[place - 1] != character):
            out.append(" ")
        out.append(character)
        if mark and text[place + 1 : place + 2] != character:
            out.append(" ")
    lines = ["".join(out)] if "\n" not in out else "".join(out).split("\n")
    kept = [" ".join(line.split()) for line in lines]
    return " \n ".join(line for line in kept if line)


def expected_ids(text: str, vocab: dict[str, int], merges: list[tuple[str, ...]]) -> list[int]:
    import ftfy
    from spacy.lang.en import English

    rank = {pair: number for number, pair in enumerate(merges)}
    ids = []
    for token in English()(spaced(ftfy.fix_text(text))):
        word = "\n" if "\n" in token.text else token.text.lower()
        pieces = [*word[:-1], word[-1] + "</w>"]
        while True:
            ranked = [(rank[pair], n) for n, pair in enumerate(itertools.pairwise(pieces)) if pair in rank]
            if not ranked:
                break
            n = min(ranked)[1]
            pieces[n : n + 2] = [pieces[n] + pieces[n + 1]]
        ids += [vocab.get(piece, 0) for piece in pieces]
    return ids


def test_hard_texts_have_the_ids_of_openais_rules(openai) -> None:
    vocab, merges, folder = openai
    tokenizer = VaswaniGPTTokenizer.from_pretrained(folder)
    for text in HARD:
        assert tokenizer(text)["input_ids"] == expected_ids(text, vocab, merges), text


def test_real_lines_have_the_ids_of_openais_rules(openai, shared_data) -> None:
    vocab, merges, folder = openai
    tokenizer = VaswaniGPTTokenizer.from_pretrained(folder)
    with lzma.open(shared_data / "books" / "books.jsonl.xz", "rt", encoding="utf-8") as lines:
        text = json.loads(next(lines))
    words = next(value for value in text.values() if isinstance(value, str) and len(value) > 2000)
    part = words[:6000]
    assert tokenizer(part)["input_ids"] == expected_ids(part, vocab, merges)


def test_the_tokens_are_those_that_openais_model_was_trained_on(openai) -> None:
    tokenizer = VaswaniGPTTokenizer.from_pretrained(openai[2])
    for text, tokens in {
        "don't": ["do</w>", "n't</w>"],
        "café": ["café</w>"],
        "“yes”": ['"</w>', "yes</w>", '"</w>'],
        "wait…": ["wait</w>", "...</w>"],
        "a\nb": ["a</w>", "\n</w>", "b</w>"],
        "Mr. Smith": ["mr.</w>", "smith</w>"],
        "a\\b": ["a", "\\", "b</w>"],
    }.items():
        assert tokenizer.tokenize(text) == tokens, text
    assert tokenizer.decode(tokenizer("Don't go.\nNow")["input_ids"]) == "do n't go . \n now"


def test_gpts_tokenizer_is_saved_and_loaded_with_the_same_ids(openai, tmp_path) -> None:
    tokenizer = VaswaniGPTTokenizer.from_pretrained(openai[2])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenization_gpt.py").is_file()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is VaswaniGPTTokenizer
    for other in (again, pickle.loads(pickle.dumps(tokenizer))):
        assert other(HARD)["input_ids"] == tokenizer(HARD)["input_ids"]
        assert (len(other), other.pad_token_id, other.unk_token_id) == (40479, 40478, 0)


def test_without_spacy_the_error_names_the_extra_and_a_stock_tokenizer(tmp_path, repository) -> None:
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    code = f"""
import sys
sys.modules["spacy"] = None
from vaswani_transformer import VaswaniGPTTokenizer
try:
    VaswaniGPTTokenizer.from_pretrained({str(tmp_path)!r})
except ImportError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "vaswani-transformer[gpt1]" in result.stdout, result.stderr
    assert "OpenAIGPTTokenizer" in result.stdout


# --- GPT-2's ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(shared_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes(lzma.decompress((shared_data / "vocab" / f"gpt2.{name}.xz").read_bytes()))
    return folder


def test_ten_thousand_lines_and_random_bytes_have_the_ids_of_transformers(gpt2, shared_data) -> None:
    ours, theirs = VaswaniGPT2Tokenizer.from_pretrained(gpt2), GPT2Tokenizer.from_pretrained(gpt2)
    with lzma.open(shared_data / "books" / "books.jsonl.xz", "rt", encoding="utf-8") as lines:
        text = "".join(str(next(lines)) for _ in range(3))
    drawn = random.Random(0)
    pieces = [text[start : start + 100] for start in range(0, 1_000_000, 100)]
    noise = [drawn.randbytes(60).decode("latin-1") for _ in range(300)]
    noise += [drawn.randbytes(60).decode("utf-8", errors="replace") for _ in range(300)]
    assert len(pieces) == 10_000
    for part in (pieces, noise):
        ids = ours(part)["input_ids"]
        assert ids == theirs(part)["input_ids"]
        assert ours.batch_decode(ids, clean_up_tokenization_spaces=False) == part
    assert ours("Hello world")["input_ids"] == [15496, 995]


def test_a_trained_tokenizer_gives_back_any_text_and_loads_as_transformers_own(tmp_path) -> None:
    texts = ["a small house", "a smaller house", "the houses"] * 5
    tokenizer = VaswaniGPT2Tokenizer.train(texts, vocab_size=268)
    assert (len(tokenizer), tokenizer.eos_token_id) == (268, 267)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is GPT2Tokenizer
    for text in [*texts, "  Ünï\n\t日本 ", "\x00\x7f"]:
        ids = tokenizer(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert VaswaniGPT2Tokenizer.train(iter(texts), vocab_size=268).get_vocab() == tokenizer.get_vocab()
