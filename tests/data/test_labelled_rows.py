"""Rows of labelled files: every format gives the same rows, and says where it is wrong."""

import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from vaswani_transformer.data.classification import ClassificationOptions, label_id
from vaswani_transformer.data.labelled_rows import read_labelled_rows
from vaswani_transformer.data.multiple_choice import MultipleChoiceOptions, choices_of
from vaswani_transformer.data.token_labels import TokenLabelsData, TokenLabelsOptions

ROWS = [{"text": 'a "b', "label": "1"}, {"text": "c", "label": "0"}]


def rows_of(path, columns, **more):
    return read_labelled_rows(
        ClassificationOptions(task="classification", files={"train": str(path)}, columns=columns, **more), "train"
    )[0]


def test_a_tsv_with_names_in_its_first_line_and_one_without_give_the_same_rows(tmp_path):
    (tmp_path / "named.tsv").write_text('label\tsentence\n1\ta "b\n0\tc\n')
    (tmp_path / "bare.tsv").write_text('1\ta "b\n\n0\tc\n')
    assert rows_of(tmp_path / "named.tsv", {"text": "sentence", "label": "label"}) == ROWS
    assert rows_of(tmp_path / "bare.tsv", {"text": -1, "label": 0}) == ROWS


def test_the_format_may_be_told_whatever_the_name_ends_in(tmp_path):
    (tmp_path / "rows.csv.xz").write_bytes(lzma.compress(b'a "b\t1\nc\t0\n'))
    assert rows_of(tmp_path / "rows.csv.xz", {"text": 0, "label": 1}, format="tsv") == ROWS


def test_a_dot_reads_a_nested_field_of_jsonl_and_parquet(tmp_path):
    nested = [{"x": {"text": row["text"]}, "label": row["label"]} for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, nested)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested), tmp_path / "rows.parquet")
    columns = {"text": "x.text", "label": "label"}
    assert rows_of(tmp_path / "rows.jsonl", columns) == rows_of(tmp_path / "rows.parquet", columns) == ROWS


def test_the_names_of_a_data_sets_labels_are_its_own(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"t": datasets.Value("string"), "l": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"t": ["a", "b"], "l": [1, 0]}, features=features)
    made.to_parquet(tmp_path / "train.parquet")
    options = ClassificationOptions(
        task="classification", name=str(tmp_path), columns={"text": "t", "label": "l"}, splits={"train": "train"}
    )
    assert read_labelled_rows(options, "train") == (
        [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
        ["no", "yes"],
    )


def test_conll_gives_sentences_without_the_prefix_of_their_tokens(tmp_path):
    (tmp_path / "a.conll").write_text("-DOCSTART- O\n\nen:Karl\tB-PER\nen:born\tO\n\n\nen:(\tO\n")
    options = TokenLabelsOptions(
        task="token-labels",
        files={"train": str(tmp_path / "a.conll")},
        token_prefix="en:",
        columns={"tokens": 0, "labels": 1},
    )
    rows, _ = read_labelled_rows(options, "train")
    data = TokenLabelsData(options, rows, None)
    assert data.labels == ["B-PER", "O"]
    assert [data.words(row) for row in rows] == [(["Karl", "born"], [0, 1]), (["("], [1])]


@pytest.mark.parametrize(
    "choices",
    [
        [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}],
        {"label": ["A", "B"], "text": ["x", "y"]},
    ],
)
def test_choices_are_read_as_files_and_as_the_hub_have_them(choices):
    assert choices_of({"choices": choices}) == (["x", "y"], ["A", "B"])


def test_a_list_of_columns_gives_the_choices(tmp_path):
    (tmp_path / "a.tsv").write_text("q\tx\ty\t1\n")
    columns = {"text": 0, "choices": [1, 2], "label": 3}
    options = MultipleChoiceOptions(task="multiple-choice", files={"train": str(tmp_path / "a.tsv")}, columns=columns)
    assert read_labelled_rows(options, "train")[0] == [{"text": "q", "choices": ["x", "y"], "label": "1"}]


def test_a_name_wins_over_an_id_where_names_are_numbers():
    assert label_id("1", ["1", "0"]) == 0
    assert label_id(1, ["no", "yes"]) == 1
