"""Rows that are held out: how many, always the same ones, and none of their phrases left in training."""

import pytest

from vaswani_transformer.data.classification import ClassificationOptions
from vaswani_transformer.data.hold_out import split_rows, whole_texts
from vaswani_transformer.finetune import load_data

TEXTS = ["a b c d e", "b c d", "e", "x y z w", "c e", "y z", "a b c d e f g", "b c d e f"]
ROWS = [{"text": text, "label": "0"} for text in TEXTS]


def options(**changes) -> ClassificationOptions:
    values = {"task": "classification", "files": {"train": "x.tsv"}, "columns": {"text": 0, "label": 1}}
    return ClassificationOptions(**{**values, **changes})


def texts(rows) -> list[str]:
    return [row["text"] for row in rows]


def test_a_text_inside_another_is_no_whole_sentence():
    assert [TEXTS[i] for i in whole_texts([text.split() for text in TEXTS], 2)] == ["x y z w", "c e", "a b c d e f g"]


def test_short_texts_are_not_held_out():
    assert [TEXTS[i] for i in whole_texts([text.split() for text in TEXTS], 5)] == ["a b c d e f g"]


def test_phrases_of_a_held_out_sentence_leave_training():
    train, held = split_rows(ROWS, options(hold_out=1), whole_sentences=5)
    assert texts(held) == ["a b c d e f g"]
    assert texts(train) == ["x y z w", "c e", "y z"]


def test_without_whole_sentences_the_other_rows_all_stay():
    train, held = split_rows(ROWS, options(hold_out=3))
    assert len(held) == 3
    assert sorted(texts(train) + texts(held)) == sorted(TEXTS)


def test_the_draw_depends_on_its_own_seed_alone():
    draws = [texts(split_rows(ROWS, options(hold_out=3, split_seed=seed))[1]) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_smaller_training_set_keeps_the_same_held_out_rows():
    whole, small = (split_rows(ROWS, options(hold_out=3, train_rows=count)) for count in (None, 2))
    assert whole[1] == small[1]
    assert len(small[0]) == 2
    assert all(row in whole[0] for row in small[0])


@pytest.mark.parametrize("changes", [{"hold_out": 8}, {"hold_out": 3, "train_rows": 6}])
def test_more_rows_than_there_are_is_refused(changes):
    with pytest.raises(ValueError, match="must leave rows to draw from"):
        split_rows(ROWS, options(**changes))


def test_no_phrase_of_what_sst2_holds_out_is_left_in_training(shared_data):
    """Nine in ten random phrases stand verbatim in the rest; none of these may."""
    section = {
        "task": "classification",
        "files": {"train": str(shared_data / "glue" / "SST-2" / "train.tsv.xz")},
        "columns": {"text": "sentence", "label": "label"},
        "hold_out": 200,
        "whole_sentences": 8,
    }
    data = load_data(section)
    held = [f" {' '.join(row['text'].split())} " for row in data.validation]
    train = {f" {' '.join(row['text'].split())} " for row in data.train}
    assert all(len(text.split()) >= 8 for text in held)
    assert not train & set(held)
    assert [text for text in sorted(train)[::200] if any(text in sentence for sentence in held)] == []
    assert len(train) > 60_000
