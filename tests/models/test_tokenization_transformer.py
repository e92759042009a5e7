"""The source-and-target tokenizer: lossless, deterministic, and loaded by plain transformers."""

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vaswani_transformer.data.text_files import read_lines
from vaswani_transformer.models.tokenization_transformer import KINDS, VaswaniTransformerTokenizer, smallest_vocabulary

TEXTS = [
    "A man in an orange hat starring at something.",
    "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    "A Boston Terrier is running on lush green grass in front of a white fence.",
    "Ein Boston Terrier läuft über saftig-grünes Gras vor einem weißen Zaun.",
] * 3
HOSTILE = [
    "",
    " ",
    "  two before, two after  ",
    "a </s> b <pad> c <unk>",
    "</s>",
    "\u2028line\u2029paragraph\x85next",
    "\ufeffmark",
    "a\0b",
    "tab\there\r\nand there",
    "\u2581continuing \u2581 mark\u2581",
    "日本語 👩‍👩‍👧 e\u0301",
    "Ġ is a letter of the byte alphabet",
    "x" * 1000,
    " " * 1000,
]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> VaswaniTransformerTokenizer:
    size = smallest_vocabulary(request.param) + 80
    return VaswaniTransformerTokenizer.train(TEXTS, vocab_size=size, kind=request.param)


def decoded(tokenizer: VaswaniTransformerTokenizer, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True))


def embedded_lines() -> list[str]:
    path = Path(__file__).parents[2] / "vaswani_transformer" / "embedded" / "debian-en-de.train.tsv.xz"
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        return [cell for _, line in zip(range(3000), lines, strict=False) for cell in line.rstrip("\n").split("\t")[1:]]


def test_pad_end_and_unknown_are_the_first_three_ids_and_there_is_no_start_token(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.bos_token is None


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    kind = "wordpiece" if len(tokenizer) > 515 else "bpe"
    assert len(tokenizer) == smallest_vocabulary(kind) + 80


def test_source_and_target_end_with_the_same_end_token(tokenizer):
    assert tokenizer("Ein Mann")["input_ids"][-1] == 1
    assert tokenizer("Ein Mann")["input_ids"] == tokenizer(text_target="Ein Mann")["input_ids"]


def test_a_pair_of_texts_ends_each_with_the_end_token(tokenizer):
    left, right = tokenizer("A man")["input_ids"], tokenizer("Ein Mann")["input_ids"]
    assert tokenizer("A man", "Ein Mann")["input_ids"] == left + right


def test_the_first_word_of_a_sentence_is_the_token_it_is_elsewhere(tokenizer):
    assert tokenizer.tokenize("Mann")[0] == tokenizer.tokenize("Ein Mann")[-len(tokenizer.tokenize("Mann"))]


def test_a_tokenized_batch_holds_ids_and_mask_only_and_pads_on_the_right(tokenizer):
    batch = tokenizer(["A man", "A man in a hat"], padding=True)
    assert sorted(batch) == ["attention_mask", "input_ids"]
    assert batch["input_ids"][0][-1] == 0
    assert batch["attention_mask"][0][-1] == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_exactly(tokenizer, text):
    assert decoded(tokenizer, text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_makes_a_special_id_but_the_end(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == 1
    assert min(ids[:-1], default=3) >= 3


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.text())
@example(text="\u2581")
def test_any_text_comes_back_exactly(kind, text):
    assert decoded(shared_tokenizer(kind), text) == text


def shared_tokenizer(kind: str, _made: dict[str, VaswaniTransformerTokenizer] = {}) -> VaswaniTransformerTokenizer:  # noqa: B006
    if kind not in _made:
        size = smallest_vocabulary(kind) + 80
        _made[kind] = VaswaniTransformerTokenizer.train(TEXTS, vocab_size=size, kind=kind)
    return _made[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_corpus_comes_back_exactly(kind):
    lines = embedded_lines()
    tokenizer = VaswaniTransformerTokenizer.train(lines[:2000], vocab_size=1500, kind=kind)
    ids = tokenizer(lines)["input_ids"]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == lines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["multi30k/train.de.gz", "news/newstest2013.en-fr.fr.xz"])
def test_real_corpora_come_back_exactly(kind, name, shared_data):
    lines = [
        line for _, line in zip(range(3000), read_lines(shared_data / name), strict=False) if isinstance(line, str)
    ]
    assert len(lines) == 3000
    tokenizer = VaswaniTransformerTokenizer.train(TEXTS, vocab_size=smallest_vocabulary(kind) + 80, kind=kind)
    assert tokenizer.batch_decode(tokenizer(lines)["input_ids"], skip_special_tokens=True) == lines


def test_a_word_of_a_hundred_thousand_letters_is_encoded(tokenizer):
    assert decoded(tokenizer, "x" * 100_000) == "x" * 100_000


def test_another_process_trains_the_same_tokenizer_from_the_same_text(tmp_path):
    corpus = Path(__file__).parents[2] / "vaswani_transformer" / "embedded" / "debian-en-de.valid.tsv.xz"
    script = (
        "import sys, lzma\n"
        "from vaswani_transformer.models.tokenization_transformer import VaswaniTransformerTokenizer as T\n"
        "lines = lzma.open(sys.argv[1], 'rt', encoding='utf-8').readlines()\n"
        "for kind in ('bpe', 'wordpiece'):\n"
        "    T.train(lines, vocab_size=1200, kind=kind).save_pretrained(f'{sys.argv[2]}/{kind}')\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", script, str(corpus), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2], capture_output=True)
    with lzma.open(corpus, "rt", encoding="utf-8") as stream:
        lines = stream.readlines()
    for kind in KINDS:
        ours = VaswaniTransformerTokenizer.train(lines, vocab_size=1200, kind=kind)
        ours.save_pretrained(tmp_path / "ours")
        assert (tmp_path / "ours/tokenizer.json").read_bytes() == (tmp_path / kind / "tokenizer.json").read_bytes()


def test_a_saved_folder_names_transformers_own_class_and_no_code(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] in ("TokenizersBackend", "PreTrainedTokenizerFast")
    assert "auto_map" not in settings
    assert not list(tmp_path.glob("*.py"))
    assert type(tokenizer) is VaswaniTransformerTokenizer


def test_saved_folders_load_where_the_package_is_hidden(tmp_path):
    script = (
        "import sys, json\n"
        "sys.modules['vaswani_transformer'] = None\n"
        "from transformers import AutoTokenizer\n"
        "texts = json.load(open(sys.argv[1]))\n"
        "for folder in sys.argv[2:]:\n"
        "    t = AutoTokenizer.from_pretrained(folder)\n"
        "    ids = t(texts)['input_ids']\n"
        "    back = t.batch_decode(ids, skip_special_tokens=True)\n"
        "    print(json.dumps([ids, back, t.pad_token_id, t.eos_token_id, t.padding_side, t.model_input_names]))\n"
    )
    (tmp_path / "texts.json").write_text(json.dumps(HOSTILE))
    for kind in KINDS:
        shared_tokenizer(kind).save_pretrained(tmp_path / kind)
    command = [sys.executable, "-c", script, "texts.json", *KINDS]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    for kind, line in zip(KINDS, answer.stdout.splitlines(), strict=True):
        ids, back, *rest = json.loads(line)
        assert ids == shared_tokenizer(kind)(HOSTILE)["input_ids"]
        assert back == HOSTILE
        assert rest == [0, 1, "right", ["input_ids", "attention_mask"]]


def test_our_class_and_the_stock_one_read_a_saved_folder_alike(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    ours, stock = VaswaniTransformerTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours(HOSTILE)["input_ids"] == stock(HOSTILE)["input_ids"] == tokenizer(HOSTILE)["input_ids"]


def test_saving_twice_gives_the_same_files(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "a")
    VaswaniTransformerTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        (TEXTS, {"vocab_size": 258}, "at least 259"),
        (TEXTS, {"vocab_size": 400, "kind": "wordpiece"}, "at least 515"),
        (TEXTS, {"vocab_size": "4000"}, "whole number"),
        (TEXTS, {"vocab_size": True}, "whole number"),
        (TEXTS, {"vocab_size": 400, "kind": "unigram"}, "one of bpe, wordpiece"),
        (TEXTS, {"vocab_size": 400, "min_frequency": -1}, "min_frequency"),
        ("one string", {"vocab_size": 400}, "not one string"),
        ([], {"vocab_size": 400}, "not empty"),
        (["", ""], {"vocab_size": 400}, "not empty"),
        (["a", None], {"vocab_size": 400}, "NoneType as text number 1"),
    ],
)
def test_bad_training_arguments_are_told(texts, arguments, message):
    with pytest.raises(ValueError, match=message):
        VaswaniTransformerTokenizer.train(texts, **arguments)


def test_too_little_text_for_the_vocabulary_is_logged(caplog):
    with caplog.at_level("WARNING", logger="vaswani_transformer"):
        made = VaswaniTransformerTokenizer.train(["a b", "a b"], vocab_size=5000)
    assert len(made) < 5000
    assert "too little text" in caplog.text
