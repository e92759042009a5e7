"""GPT's input transformations: each one's ids by hand, what is cut, the tokens that are added."""

import json
import lzma
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from vaswani_transformer import (
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForSequenceClassification,
    VaswaniGPTTokenizer,
)
from vaswani_transformer.data.gpt_inputs import (
    GPTClassificationData,
    GPTClassificationOptions,
    GPTMultipleChoiceData,
    SequenceCollator,
    add_special_tokens,
    special_ids,
    transformed,
)
from vaswani_transformer.data.multiple_choice import MultipleChoiceOptions

SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
S, D, E = 257, 258, 259  # start, delimiter and extract behind 256 bytes and the end of text


def bare() -> VaswaniGPT2Tokenizer:
    """Every byte a token; the alphabet starts with '!'."""
    return VaswaniGPT2Tokenizer.train(["abc"], vocab_size=257)


def model_for(tokenizer: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return VaswaniGPTForSequenceClassification(VaswaniGPTConfig(**{"vocab_size": len(tokenizer), **SIZES, **fields}))


@pytest.fixture
def tokenizer() -> Any:
    tokenizer = bare()
    assert add_special_tokens(tokenizer, model_for(tokenizer)) == [S, D, E]
    return tokenizer


def byte_ids(text: str) -> list[int]:
    return [ord(character) - ord("!") for character in text]


A, B, C, X, Y = byte_ids("abcxy")


def options(**columns: Any) -> dict[str, Any]:
    return {"files": {"train": "rows.tsv"}, "max_length": 12, "columns": columns}


def features_of(module: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[Any]:
    return [feature["input_ids"] for feature in module.features(rows, tokenizer)]


def test_a_text_stands_between_start_and_extract(tokenizer) -> None:
    rows = [{"text": "abc", "label": "1"}, {"text": "", "label": "0"}]
    chosen = GPTClassificationOptions(task="classification", **options(text=0, label=1))
    module = GPTClassificationData(chosen, rows, None)
    assert features_of(module, tokenizer, rows) == [[S, A, B, C, E], [S, E]]
    assert [feature["labels"] for feature in module.features(rows, tokenizer)] == [1, 0]


def test_a_hypothesis_stands_behind_the_delimiter(tokenizer) -> None:
    rows = [{"text": "ab", "pair": "xy", "label": "1"}, {"text": "c", "pair": "x", "label": "0"}]
    chosen = GPTClassificationOptions(task="classification", **options(text=0, pair=1, label=2))
    module = GPTClassificationData(chosen, rows, None)
    assert features_of(module, tokenizer, rows) == [[S, A, B, D, X, Y, E], [S, C, D, X, E]]


def test_similar_texts_stand_in_both_orders(tokenizer) -> None:
    rows = [{"text": "ab", "pair": "x", "label": "3.5"}]
    chosen = GPTClassificationOptions(task="regression", both_orders=True, **options(text=0, pair=1, label=2))
    module = GPTClassificationData(chosen, rows, None)
    assert features_of(module, tokenizer, rows) == [[[S, A, B, D, X, E], [S, X, D, A, B, E]]]


def test_every_answer_stands_behind_the_context(tokenizer) -> None:
    rows = [{"text": "a", "choices": ["x", "xy", "c"], "label": 1}]
    chosen = MultipleChoiceOptions(task="multiple-choice", **options(text=0, choices=1, label=2))
    module = GPTMultipleChoiceData(chosen, rows, None)
    assert features_of(module, tokenizer, rows) == [[[S, A, D, X, E], [S, A, D, X, Y, E], [S, A, D, C, E]]]


def test_each_text_is_cut_so_that_the_three_tokens_fit(tokenizer) -> None:
    assert transformed(tokenizer, ["abcabc"], None, max_length=5) == [[S, A, B, C, E]]
    # OpenAI's code: n_ctx // 2 - 2 of each, however short the other is.
    assert transformed(tokenizer, ["abcabc"], ["xyx"], max_length=8) == [[S, A, B, D, X, Y, E]]
    assert transformed(tokenizer, ["abcabc"], ["x"], max_length=9) == [[S, A, B, D, X, E]]
    assert transformed(tokenizer, ["abc"], ["xyx"], max_length=6) == [[S, A, D, X, E]]


def test_what_spells_a_special_token_in_a_text_is_text(tokenizer) -> None:
    (ids,) = transformed(tokenizer, ["<extract>"], None, max_length=20)
    assert ids == [S, *byte_ids("<extract>"), E]


def test_a_saved_tokenizer_makes_the_same_inputs(tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert again("ab")["input_ids"] == transformed(tokenizer, ["ab"], None, max_length=12)[0]
    assert again("ab", "xy")["input_ids"] == transformed(tokenizer, ["ab"], ["xy"], max_length=12)[0]
    assert special_ids(again) == (S, D, E)
    assert (again.eos_token, again.pad_token) == ("<|endoftext|>", "<start>")


def test_gpt1s_saved_tokenizer_makes_the_same_inputs(shared_data, tmp_path) -> None:
    pytest.importorskip("ftfy", reason="needs ftfy, of the extra gpt1")
    pytest.importorskip("spacy", reason="needs spaCy, of the extra gpt1")
    for name, source in (("vocab.json", "encoder_bpe_40000.json"), ("merges.txt", "vocab_40000.bpe")):
        (tmp_path / name).write_bytes(lzma.decompress((shared_data / "vocab" / f"openai-gpt.{source}.xz").read_bytes()))
    tokenizer = VaswaniGPTTokenizer.from_pretrained(tmp_path)
    assert add_special_tokens(tokenizer, model_for(tokenizer, hidden_size=8)) == [40478, 40479, 40480]
    words = json.loads((tmp_path / "vocab.json").read_text())
    known = [words[word + "</w>"] for word in ("do", "n't", "go")]
    assert transformed(tokenizer, ["Don't go"], ["go"], max_length=20) == [[40478, *known, 40479, known[-1], 40480]]
    tokenizer.save_pretrained(tmp_path / "again")
    again: Any = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("Don't go", "go")["input_ids"] == [40478, *known, 40479, known[-1], 40480]
    assert again("go")["input_ids"] == [40478, known[-1], 40480]


def test_new_tokens_get_rows_of_the_initial_width_and_the_others_stay() -> None:
    tokenizer = bare()
    model = model_for(tokenizer, hidden_size=512, initializer_range=0.3)
    before = model.transformer.wte.weight.detach().clone()
    add_special_tokens(tokenizer, model)
    after = model.transformer.wte.weight.detach()
    assert after.shape == (260, 512)
    assert torch.equal(after[:257], before)
    assert after[257:].std().item() == pytest.approx(0.3, rel=0.1)
    assert model.config.vocab_size == 260
    assert (model.config.bos_token_id, model.config.pad_token_id) == (S, S)


def test_rows_to_spare_are_used_and_drawn_anew() -> None:
    tokenizer = bare()
    model = model_for(tokenizer, vocab_size=300)
    with torch.no_grad():
        model.transformer.wte.weight.fill_(7.0)
    add_special_tokens(tokenizer, model)
    weight = model.transformer.wte.weight
    assert weight.shape[0] == 300
    assert weight[257:260].abs().max() < 1
    assert bool((weight[260:] == 7).all())


def test_tokens_that_are_there_are_not_added_again(tokenizer) -> None:
    model = model_for(tokenizer)
    before = model.transformer.wte.weight.detach().clone()
    assert add_special_tokens(tokenizer, model) == []
    assert len(tokenizer) == 260
    assert torch.equal(model.transformer.wte.weight, before)


def test_rows_are_padded_to_the_longest_with_a_mask() -> None:
    single = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}]
    batch = SequenceCollator(9)(single)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].dtype == torch.int64
    pairs = [{"input_ids": [[5, 6], [7]], "labels": 2.5}, {"input_ids": [[1], [2]], "labels": 0.0}]
    batch = SequenceCollator(9)(pairs)
    assert batch["input_ids"].tolist() == [[[5, 6], [7, 9]], [[1, 9], [2, 9]]]
    assert batch["attention_mask"].tolist() == [[[1, 1], [1, 0]], [[1, 0], [1, 0]]]
    assert batch["labels"].tolist() == [2.5, 0.0]
