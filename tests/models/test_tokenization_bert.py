"""BERT's tokenizer: the ids of Google's code, of any bert folder, loaded by plain transformers."""

import json
import lzma
import os
import subprocess
import sys
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertTokenizer

from vaswani_transformer.data.text_files import read_lines
from vaswani_transformer.models.tokenization_bert import SPECIAL_TOKENS, VaswaniBertTokenizer, read_vocabulary

TEXTS = ["A man in an orange hat starring at something.", "Ein Mann läuft über saftig-grünes Gras.", "déjà vu ΟΔΟΣ"] * 3
EMBEDDED = Path(__file__).parents[2] / "vaswani_transformer" / "embedded" / "debian-en-de.valid.tsv.xz"

HARD = {
    "empty": "",
    "white space alone": " \t\n ",
    "nothing that stays": "\0\u200b\ufffd",
    "NUL inside a word": "a\0b",
    "replacement character": "a\ufffdb \ufffd",
    "control characters": "a\x01b\x7fc \x1b[0m",
    "vertical tab and form feed are dropped": "a\x0bb\x0cc",
    "tab and line ends are spaces": "a\tb\nc\rd\r\ne",
    "next line": "a\x85b",
    "zero-width joiner and soft hyphen": "a\u200db \u00adsoft",
    "byte order mark": "\ufeffa",
    "right-to-left mark": "a\u200fb",
    "no-break space": "a\u00a0b",
    "other spaces": "a\u2003b\u3000c\u202fd",
    "line and paragraph separator": "a\u2028b\u2029c",
    "private use": "a\ue000b \uf8ff",
    "ideographs": "ab中文cd",
    "ideographs beyond the first plane": "a\U00020000b",
    "an ideograph others leave out": "a\U0002b820b",
    "kana is no ideograph": "ひらがな カタカナ",
    "Hangul": "한국어 말",
    "Hangul in letters": "\u1112\u1161\u11ab",
    "combining marks": "e\u0301 a\u0308\u0323 \u0301",
    "accents": "Ünïcödé ÀÉÎÕÜ ñ ç ø",
    "sharp s and ligature": "Straße ẞ ﬁn",
    "Turkish dotted I": "İstanbul ısı",
    "sigma at the end of a word": "ΟΔΟΣ ΣΑΣ Σ ΟΔΟΣ.",
    "Cyrillic": "Йод ёлка",
    "Arabic marks": "مُحَمَّد",
    "Devanagari": "हिन्दी में",
    "Thai": "ภาษาไทย",
    "emoji": "a😀b 👩‍👩‍👧 ❤️",
    "punctuation runs": "wait...what?!--(no) $5.00 a_b ^~`|+=<>",
    "punctuation beyond ASCII": "«quoted» “so” – dash… ¿qué? 。、",
    "symbols that are no punctuation": "5€ 3×4 ©2018 a°",
    "a word of 200 characters": "a" * 200,
    "a word of 201 characters": "a" * 201,
    "a word of 101 characters": "b" * 101,
    "200 characters after marks are taken off": "e\u0301" * 200,
    "numbers": "1,234.5 3.14e-10 ½ ٣",
    "special tokens as text": "[CLS] a [MASK]b [SEP] [PAD]",
    "continuation as text": "##a a##b",
}


def google_words(text: str, *, lower: bool) -> list[str]:
    """The words of Google's BasicTokenizer, written again from its rules."""

    def category(character: str) -> str:
        return unicodedata.category(character)

    spaces = "".join(" " if c in "\t\n\r" or category(c) == "Zs" else c for c in text)
    kept = "".join(c for c in spaces if c not in "\0\ufffd" and category(c) not in ("Cc", "Cf"))
    ideographs = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)]
    ideographs += [(0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    apart = "".join(f" {c} " if any(low <= ord(c) <= high for low, high in ideographs) else c for c in kept)
    found = []
    for word in apart.split():
        if lower:
            word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if category(c) != "Mn")
        spaced = [f" {c} " if category(c)[0] == "P" or (c.isascii() and not c.isalnum()) else c for c in word]
        found += "".join(spaced).split()
    return found


def google_pieces(word: str, vocab: dict[str, int]) -> list[str]:
    """The pieces of Google's WordpieceTokenizer: the longest that is there, again and again, else one unknown."""
    pieces, start = [], 0
    while start < len(word) <= 200:
        ends = (end for end in range(len(word), start, -1) if "##" * bool(start) + word[start:end] in vocab)
        if (end := next(ends, None)) is None:
            return ["[UNK]"]
        pieces.append("##" * bool(start) + word[start:end])
        start = end
    return pieces if word and start == len(word) else ["[UNK]"]


def google_tokens(text: str, vocab: dict[str, int], *, lower: bool = True) -> list[str]:
    return [piece for word in google_words(text, lower=lower) for piece in google_pieces(word, vocab)]


def toy_vocabulary() -> dict[str, int]:
    """Every character of the hard cases, at the start of a word and inside it, and a few longer pieces."""
    letters = sorted({c for text in HARD.values() for form in (text, text.lower()) for c in form + nfd(form)})
    letters = [c for c in letters if not c.isspace() and c not in "\0\ue000"]
    longer = ["##aa", "aaa", "man", "wait", "##so", "οδο", "##οσ", "##ος", "soft", "stra", "##sse", "strasse"]
    return {token: n for n, token in enumerate([*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), *longer])}


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(scope="module")
def true_vocabulary(shared_data: Path) -> dict[str, int]:
    path = shared_data / "vocab" / "bert-base-uncased.vocab.txt.xz"
    if not path.is_file():
        pytest.skip("needs ../shared/data/vocab/bert-base-uncased.vocab.txt.xz, which may not ship and is not here")
    return {token: n for n, token in enumerate(lzma.decompress(path.read_bytes()).decode().split("\n")[:-1])}


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniBertTokenizer:
    return VaswaniBertTokenizer.train(TEXTS, vocab_size=100)


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("what", HARD)
def test_hard_text_has_the_tokens_of_googles_algorithm(what, lower):
    vocab = toy_vocabulary()
    ours = VaswaniBertTokenizer(vocab, do_lower_case=lower)
    ids = ours(HARD[what], split_special_tokens=True)["input_ids"]
    assert ours.convert_ids_to_tokens(ids[1:-1]) == google_tokens(HARD[what], vocab, lower=lower)


@pytest.mark.parametrize("what", HARD)
def test_hard_text_has_the_tokens_of_googles_algorithm_in_its_own_vocabulary(what, true_vocabulary):
    ours = VaswaniBertTokenizer(true_vocabulary)
    ids = ours(HARD[what], split_special_tokens=True)["input_ids"]
    assert ours.convert_ids_to_tokens(ids[1:-1]) == google_tokens(HARD[what], true_vocabulary)


def test_ten_thousand_real_lines_have_the_ids_of_transformers_and_of_googles_algorithm(true_vocabulary, shared_data):
    names = ["multi30k/train.en.gz", "multi30k/train.de.gz", "news/newstest2013.en-de.de.xz"]
    names += ["news/newstest2013.en-fr.fr.xz", "software/software.en-de.train.tsv.xz"]
    if missing := [name for name in names if not (shared_data / name).is_file()]:
        pytest.skip(f"needs ../shared/data/{missing[0]}, which may not ship and is not here")
    lines = [str(line) for name in names for line in islice(read_lines(shared_data / name), 500, 2500)]
    assert len(lines) == 10_000
    ours, theirs = VaswaniBertTokenizer(true_vocabulary), BertTokenizer(vocab=true_vocabulary)
    found = ours(lines, split_special_tokens=True)["input_ids"]
    assert found == theirs(lines, split_special_tokens=True)["input_ids"]
    assert [ours.convert_ids_to_tokens(ids[1:-1]) for ids in found[::10]] == [
        google_tokens(line, true_vocabulary) for line in lines[::10]
    ]


def test_a_pair_has_the_segments_and_special_tokens_of_bert(tokenizer):
    pair = tokenizer("a man", "hat")
    tokens = ["[CLS]", *tokenizer.tokenize("a man"), "[SEP]", *tokenizer.tokenize("hat"), "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == tokens
    end = tokens.index("[SEP]") + 1
    assert pair["token_type_ids"] == [0] * end + [1] * (len(tokens) - end)
    assert list(pair) == ["input_ids", "token_type_ids", "attention_mask"]


def test_a_mask_in_a_text_is_the_mask_unless_told_otherwise(tokenizer):
    assert tokenizer.mask_token_id in tokenizer("a [MASK] hat")["input_ids"]
    assert tokenizer.mask_token_id not in tokenizer("a [MASK] hat", split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, ["ete", "中", "中"]),
        ({"do_lower_case": False}, ["Été", "中", "中"]),
        ({"strip_accents": False}, ["été", "中", "中"]),
        ({"do_lower_case": False, "strip_accents": True}, ["Ete", "中", "中"]),
        ({"tokenize_chinese_chars": False}, ["ete", "中中"]),
    ],
)
def test_case_accents_and_ideographs_are_kept_as_asked(settings, tokens):
    words = ["ete", "Été", "été", "Ete", "中", "中中"]
    vocab = {token: n for n, token in enumerate([*SPECIAL_TOKENS, *words])}
    ours, theirs = VaswaniBertTokenizer(vocab, **settings), BertTokenizer(vocab=vocab, **settings)
    assert ours.tokenize("Été 中中") == tokens == theirs.tokenize("Été 中中")


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_a_bert_folder_of_either_form_is_read(form, lower, tmp_path):
    vocab = toy_vocabulary() | {"Man": 1000}
    if form == "vocab.txt":
        (tmp_path / form).write_bytes("".join(f"{token}\n" for token in list(vocab)[:-1]).encode())
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"do_lower_case": lower, "tokenizer_class": "BertTokenizer", "model_max_length": 77})
        )
    else:
        BertTokenizer(vocab=vocab, do_lower_case=lower, model_max_length=77).save_pretrained(tmp_path)
    ours, theirs = VaswaniBertTokenizer.from_pretrained(tmp_path), BertTokenizer.from_pretrained(tmp_path)
    assert type(ours) is VaswaniBertTokenizer
    assert len(ours) == len(theirs)
    assert ours.model_max_length == 77
    for what in ("accents", "ideographs", "emoji", "special tokens as text"):
        assert dict(ours(HARD[what], "Man")) == dict(theirs(HARD[what], "Man"))
    word = HARD["a word of 101 characters"]
    assert ours.unk_token_id not in ours(word)["input_ids"]
    assert theirs.unk_token_id in theirs(word)["input_ids"]


def test_tokens_added_to_a_bert_folder_stay(tmp_path):
    stock = BertTokenizer(vocab=toy_vocabulary())
    stock.add_tokens(["zebra"])
    stock.save_pretrained(tmp_path)
    ours = VaswaniBertTokenizer.from_pretrained(tmp_path)
    assert ours.tokenize("a zebra") == stock.tokenize("a zebra") == ["a", "zebra"]


def test_saved_folders_load_where_the_package_is_hidden_with_the_same_ids(tmp_path):
    texts = [text for what, text in HARD.items() if what != "nothing that stays"]
    ours = VaswaniBertTokenizer(toy_vocabulary(), do_lower_case=False)
    ours.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.py"))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = (
        "import sys, json\n"
        "sys.modules['vaswani_transformer'] = None\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained('saved')\n"
        "print(json.dumps([dict(t(json.load(open('texts.json')))), dict(t('a', 'b')), t.mask_token]))\n"
    )
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(answer.stdout) == [dict(ours(texts)), dict(ours("a", "b")), "[MASK]"]


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
def test_our_class_reads_its_own_folder_and_saves_the_same_files(lower, tmp_path):
    VaswaniBertTokenizer(toy_vocabulary(), do_lower_case=lower).save_pretrained(tmp_path / "a")
    again = VaswaniBertTokenizer.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    stock = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert dict(again("Été", "a")) == dict(stock("Été", "a"))


def test_a_trained_vocabulary_has_the_size_asked_for_and_its_special_tokens_first(tokenizer):
    assert len(tokenizer) == 100
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_a_trained_tokenizer_can_spell_its_own_text(tokenizer):
    assert tokenizer.unk_token_id not in tokenizer(" ".join(TEXTS))["input_ids"]
    assert tokenizer.decode(tokenizer("A man läuft")["input_ids"], skip_special_tokens=True) == "a man lauft"


def test_another_process_trains_the_same_vocabulary_from_the_same_text(tmp_path):
    script = (
        "import sys, lzma\n"
        "from vaswani_transformer.models.tokenization_bert import VaswaniBertTokenizer as T\n"
        "lines = lzma.open(sys.argv[1], 'rt', encoding='utf-8').readlines()\n"
        "T.train(lines, vocab_size=1200).save_pretrained(sys.argv[2])\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", script, str(EMBEDDED), str(tmp_path / "theirs")]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2], capture_output=True)
    with lzma.open(EMBEDDED, "rt", encoding="utf-8") as stream:
        VaswaniBertTokenizer.train(stream, vocab_size=1200).save_pretrained(tmp_path / "ours")
    ours, theirs = (json.loads((tmp_path / side / "tokenizer.json").read_text()) for side in ("ours", "theirs"))
    assert ours == theirs
    assert len(ours["model"]["vocab"]) == 1200


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        (TEXTS, {"vocab_size": 6}, "vocab_size must be a whole number of at least 7; got vocab_size=6"),
        (TEXTS, {"vocab_size": "4000"}, "whole number"),
        (TEXTS, {"vocab_size": True}, "whole number"),
        (["ab"], {"vocab_size": 8}, "at least 9 for these texts: 5 special tokens and twice their 2 characters"),
        (TEXTS, {"vocab_size": 400, "min_frequency": -1}, "min_frequency"),
        ("one string", {"vocab_size": 400}, "not one string"),
        ([], {"vocab_size": 400}, "not empty"),
        ([" ", ""], {"vocab_size": 400}, "not empty"),
        (["a", None], {"vocab_size": 400}, "NoneType as text number 1"),
    ],
)
def test_bad_training_arguments_are_told(texts, arguments, message):
    with pytest.raises(ValueError, match=message):
        VaswaniBertTokenizer.train(texts, **arguments)


def test_a_vocabulary_without_special_tokens_or_with_one_twice_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"every special token; got 1 tokens without \['\[CLS\]', '\[MASK\]'"):
        VaswaniBertTokenizer({"a": 0})
    with pytest.raises(ValueError, match=r"needs vocab.*got vocab=None"):
        VaswaniBertTokenizer()
    (tmp_path / "vocab.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"each token once; got 'a' in .*vocab\.txt:1 and 3"):
        read_vocabulary(tmp_path / "vocab.txt")


def test_too_little_text_for_the_vocabulary_is_logged(caplog):
    with caplog.at_level("WARNING", logger="vaswani_transformer"):
        made = VaswaniBertTokenizer.train(["a b", "a b"], vocab_size=5000)
    assert len(made) < 5000
    assert "too little text" in caplog.text
