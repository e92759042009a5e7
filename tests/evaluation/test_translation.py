import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaswani_transformer.evaluation import Hypothesis, translate, translate_nbest, translate_stream
from vaswani_transformer.evaluation.translation import pad_right, token_batches

# Lines that have shifted, split or crashed translators.
HOSTILE = [
    "next\u0085line, line\u2028separator, para\u2029graph",
    "a NUL \0 and a bell \a",
    "\ufeffa byte order mark",
    "carriage\rreturn, form\ffeed, tab\tulator",
    "</s> <pad> <unk> are words here",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧 \u202eright to left",
    "\u200b",
    "e\u0301 is not é",
]


def test_translations_come_back_in_the_order_of_their_sources(echo, tokenizer):
    texts = [f"sentence {i} " + "word " * (i * 7 % 13) + "end" for i in range(40)]
    assert translate(echo, tokenizer, texts, batch_tokens=200) == texts


def test_a_batch_holds_no_more_tokens_than_asked_padding_included(echo, tokenizer):
    translate(echo, tokenizer, ["word " * (i % 17) + "end" for i in range(50)], batch_tokens=100)
    assert len(echo.shapes) > 1
    assert all(rows * width <= 100 for rows, width in echo.shapes)


def test_a_sentence_longer_than_a_batch_is_a_batch_of_its_own(echo, tokenizer):
    translate(echo, tokenizer, ["short", "very " * 30 + "long", "short"], batch_tokens=10)
    assert [rows for rows, width in echo.shapes if width > 10] == [1]


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 200))
def test_every_index_is_in_one_batch_within_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u2028", " \u3000 "])
def test_a_blank_line_stays_empty_and_never_reaches_the_model(echo, tokenizer, blank):
    assert translate(echo, tokenizer, [blank, "word", blank]) == ["", "word", ""]
    assert sum(rows for rows, _ in echo.shapes) == 1
    assert translate(echo, tokenizer, [blank]) == [""]


def test_nothing_gives_nothing(echo, tokenizer):
    assert translate(echo, tokenizer, []) == []


def test_hostile_lines_neither_shift_nor_crash(echo, tokenizer):
    assert translate(echo, tokenizer, HOSTILE, batch_tokens=64) == HOSTILE


def test_what_looks_like_a_special_token_is_translated_as_text(echo, tokenizer):
    assert translate(echo, tokenizer, ["before </s> after"]) == ["before </s> after"]


def test_a_line_beyond_the_limit_is_cut_with_a_warning_that_names_it(echo, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        found = translate(echo, tokenizer, ["fine", "a " * 100_000], max_source_tokens=20, batch_tokens=64)
    assert found[0] == "fine"
    assert max(width for _, width in echo.shapes) == 20
    assert "line 2 has" in caplog.text
    assert "cut to 20" in caplog.text


def test_a_model_with_few_positions_lowers_the_limit(echo, tokenizer):
    echo.config.max_position_embeddings = 12
    translate(echo, tokenizer, ["a " * 100])
    assert echo.shapes == [(1, 12)]


def test_a_stream_reads_no_further_than_its_window(echo, tokenizer):
    read = []

    def lines():
        for number in range(9):
            read.append(number)
            yield f"line {number}"

    stream = translate_stream(echo, tokenizer, lines(), window=3)
    assert next(stream) == "line 0"
    assert read == [0, 1, 2]
    assert list(stream) == [f"line {number}" for number in range(1, 9)]


def test_line_numbers_go_on_across_windows(echo, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        list(translate_stream(echo, tokenizer, ["a", "b", "c", "long " * 20], window=2, max_source_tokens=5))
    assert "line 4 has" in caplog.text


def test_progress_counts_every_line_once(echo, tokenizer):
    counted = []
    translate(echo, tokenizer, ["a", "", "b c d", "e"], batch_tokens=8, progress=counted.append)
    assert sum(counted) == 4


def test_dropout_is_off_while_translating_and_back_on_after(echo, tokenizer):
    translate(echo, tokenizer, ["word"])
    assert echo.modes == [False]
    assert echo.training


def test_n_best_gives_n_of_each_line_and_one_empty_of_a_blank(echo, tokenizer):
    found = list(translate_nbest(echo, tokenizer, ["one", "", "two"], n=3))
    assert [[hypothesis.text for hypothesis in line] for line in found] == [["one"] * 3, [""], ["two"] * 3]
    assert [hypothesis.score for hypothesis in found[0]] == [0.0, 2.0, 1.0]
    assert found[1] == [Hypothesis("", 0.0)]


def test_options_of_generate_reach_generate(echo, tokenizer):
    translate(echo, tokenizer, ["word"], num_beams=2, length_penalty=0.3)
    assert echo.kwargs == [{"num_beams": 2, "length_penalty": 0.3}]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
        ({"max_source_tokens": 1}, "max_source_tokens must be at least 2"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 5}, "need at least n beams; got n=5, num_beams=4"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_impossible_options_are_told(echo, tokenizer, options, rule):
    with pytest.raises(ValueError, match=rule):
        list(translate_nbest(echo, tokenizer, ["word"], **options))


def test_a_tokenizer_larger_than_the_model_is_told(echo, tokenizer):
    echo.config.vocab_size = 10
    with pytest.raises(ValueError, match=rf"got {len(tokenizer)} tokens, vocab_size=10"):
        translate(echo, tokenizer, ["word"])


def test_padding_is_on_the_right_and_masked():
    ids, mask = pad_right([[5, 6, 1], [7, 1]], 0)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_batch_translates_as_its_sentences_do_alone(model, tokenizer):
    texts = ["A woman reads.", "", "Two dogs run through the deep snow on a long road.", "Ja"]
    together = translate(model, tokenizer, texts)
    assert together == [translate(model, tokenizer, [text])[0] for text in texts]
    assert len(set(together)) == len(texts)


def test_the_best_of_n_is_the_translation_and_scores_fall(model, tokenizer):
    texts = ["A woman reads.", "Two dogs"]
    found = list(translate_nbest(model, tokenizer, texts, n=4, scores=True))
    assert [line[0].text for line in found] == translate(model, tokenizer, texts)
    for line in found:
        scores = [float(hypothesis.score or 0) for hypothesis in line]
        assert len(set(scores)) > 1
        assert scores == sorted(scores, reverse=True)


def test_every_translation_starts_with_the_prefix(model, tokenizer):
    for line in translate_nbest(model, tokenizer, ["A woman reads.", "Two dogs"], n=2, prefix="Das Haus"):
        assert all(hypothesis.text.startswith("Das Haus") for hypothesis in line)


def test_an_ensemble_of_a_model_with_itself_translates_alike(model, tokenizer):
    texts = ["A woman reads.", "Two dogs"]
    assert translate(model, tokenizer, texts, ensemble=[model]) == translate(model, tokenizer, texts)


def test_a_model_of_transformers_translates_too(marian, tokenizer):
    options = {"scores": True, "num_beams": 2, "max_new_tokens": 8, "prefix": "Das"}
    found = list(translate_nbest(marian, tokenizer, ["a b", "", "c " * 90], n=2, **options))
    assert [len(line) for line in found] == [2, 1, 2]
    for hypothesis in found[0] + found[2]:
        assert hypothesis.text.startswith("Das")
        assert isinstance(hypothesis.score, float)
