"""Documents from files and data sets to tokens on disk."""

import gzip
import json
import pickle
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from vaswani_transformer.data import bert_options
from vaswani_transformer.data.bert_options import BertPretrainingOptions, load_documents
from vaswani_transformer.data.document_options import has_documents, open_documents
from vaswani_transformer.data.documents import Documents

from .corpora import counting_documents, counting_text, counting_tokenizer

TEXT = [["w0 w1", "w2"], ["w3", "w4 w5 w6"], ["w7"]]


def load(folder: Path, *files: str | Path, tokenizer=None, **options) -> Documents:
    values: dict[str, Any] = {"files": {"train": [str(file) for file in files]}} if files else {}
    made = BertPretrainingOptions(**(values | options))
    return load_documents(made, "train", tokenizer or counting_tokenizer(TEXT), cache_dir=str(folder / "cache"))


def ids(documents: Documents) -> list[list[list[int]]]:
    """Document, sentence, token; the first token of the text is 0."""
    found = []
    for number in range(len(documents)):
        starts = documents.sentences(number).tolist()
        found.append([[int(n) - 5 for n in documents.tokens[start:end]] for start, end in pairwise(starts)])
    return found


IDS = [[[0, 1], [2]], [[3], [4, 5, 6]], [[7]]]


def as_text(text: list[list[str]] = TEXT) -> str:
    return "\n\n".join("\n".join(document) for document in text) + "\n"


def test_blank_lines_in_text_files_stand_between_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n \n" + as_text().replace("\n\n", "\n\n \n\n"))
    documents = load(tmp_path, path)
    assert ids(documents) == IDS
    assert documents.counts == {"documents": 3, "sentences": 5, "tokens": 8, "empty": 0, "malformed": 0}


def test_a_document_ends_with_its_file_and_files_may_be_compressed(tmp_path):
    for name, document in (("a.txt", TEXT[0]), ("b.txt", TEXT[1])):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress("\n".join(document).encode()))
    assert ids(load(tmp_path, tmp_path / "a.txt.gz", tmp_path / "b.txt.gz")) == IDS[:2]


def test_a_row_of_jsonl_or_parquet_is_a_document_of_a_sentence_a_line(tmp_path):
    rows = [{"title": "x", "text": "\n".join(document)} for document in TEXT]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert ids(load(tmp_path, tmp_path / "a.jsonl")) == IDS
    assert ids(load(tmp_path, tmp_path / "a.parquet")) == IDS


def test_a_data_set_is_read_by_name_split_and_column(tmp_path):
    (tmp_path / "set").mkdir()
    rows = [{"title": "w0", "body": "\n".join(document)} for document in TEXT]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = str(tmp_path / "set")
    assert ids(load(tmp_path, name=name, column="body")) == IDS
    assert ids(load(tmp_path, name=name, column="body", splits={"train": "train[1:]"})) == IDS[1:]
    with pytest.raises(ValueError, match=r"data\.column must be a column of .*one of title, body; got 'text'"):
        load(tmp_path, name=name)


def test_further_data_sets_follow_the_first_each_with_keys_of_its_own(tmp_path):
    for name, column, documents in (("one", "text", TEXT[:1]), ("two", "body", TEXT[1:])):
        (tmp_path / name).mkdir()
        rows = [{column: "\n".join(document)} for document in documents]
        (tmp_path / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    more = [{"name": two, "column": "body", "splits": {"train": "train[:1]", "validation": "train[1:]"}}]
    options = BertPretrainingOptions.from_dict({"name": one, "more": more, "next_sentence": False})
    tokenizer = counting_tokenizer(TEXT)

    def read(split: str) -> list[list[list[int]]]:
        return ids(load_documents(options, split, tokenizer, cache_dir=str(tmp_path / "cache")))

    assert has_documents(options, "validation")
    assert (read("train"), read("validation")) == (IDS[:2], IDS[2:])
    with pytest.raises(ValueError, match=r"did you mean 'data\.more: splits\.validation'"):
        BertPretrainingOptions.from_dict({"name": one, "more": [{"name": two, "splits": {"valid": "train"}}]})
    with pytest.raises(ValueError, match=r"data\.more goes with data\.name only"):
        BertPretrainingOptions.from_dict({"files": {"train": "a.txt"}, "more": more})


def test_the_embedded_novels_are_parted_by_chapter(tmp_path):
    options = BertPretrainingOptions(embedded="austen")
    chapters = {}
    for split in ("train", "validation"):
        pieces = list(open_documents(options, split)[1])
        chapters[split] = {number for _, number, _ in pieces}
        assert sum(piece is None for _, _, piece in pieces) == len(chapters[split])
    assert {split: len(numbers) for split, numbers in chapters.items()} == {"train": 256, "validation": 13}
    assert not chapters["train"] & chapters["validation"]
    with pytest.raises(ValueError, match=r"data\.embedded must be one of austen; got 'dickens'"):
        open_documents(BertPretrainingOptions(embedded="dickens"), "train")


def test_documents_and_sentences_without_a_token_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ["w0 w1\n\u200b\nw2", " \n ", "", "\u200b", "w3\n\nw4 w5 w6", "w7"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    documents = load(tmp_path, path)
    assert ids(documents) == IDS
    assert documents.counts["empty"] == 3


def test_special_tokens_in_the_text_are_text(tmp_path):
    (tmp_path / "a.txt").write_text("w0 [SEP] w1\n\nw2\n")
    first = ids(load(tmp_path, tmp_path / "a.txt"))[0][0]
    assert 3 - 5 not in first
    assert first.count(1 - 5) == 3  # "[", "sep" and "]" are unknown here


def test_malformed_lines_stop_or_are_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(as_text().encode().replace(b"w4", b"\xff"))
    with pytest.raises(ValueError, match=r"a\.txt:5: malformed line: no UTF-8.*data\.on_bad_line=skip"):
        load(tmp_path, path)
    documents = load(tmp_path, path, on_bad_line="skip")
    assert ids(documents) == [IDS[0], IDS[1][:1], IDS[2]]
    assert documents.counts["malformed"] == 1


def test_a_paragraph_is_split_by_the_library(tmp_path, monkeypatch):
    library = SimpleNamespace(segment=lambda language, text: (f"{part} " for part in text.split(language)))
    monkeypatch.setitem(sys.modules, "sentencex", library)
    (tmp_path / "a.txt").write_text("w0 w1.w2\n\nw3.w4 w5 w6\n\nw7\n")
    assert ids(load(tmp_path, tmp_path / "a.txt", sentences="split", language=".")) == IDS


def test_real_sentences_are_split_where_they_end(tmp_path):
    pytest.importorskip("sentencex", reason="splits sentences: needs sentencex, of the extra `sentences`")
    words = ["mr", ".", "bennet", "replied", "she", "laughed"]
    (tmp_path / "a.txt").write_text("Mr. Bennet replied. She laughed.\n\nShe replied.\n")
    found = ids(load(tmp_path, tmp_path / "a.txt", sentences="split", tokenizer=counting_tokenizer([words])))
    assert found == [[[0, 1, 2, 3, 1], [4, 5, 1]], [[4, 3, 1]]]


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    (tmp_path / "a.txt").write_text(as_text())
    with pytest.raises(ValueError, match=r"pip install 'vaswani-transformer\[sentences\]'; got sentences=split"):
        load(tmp_path, tmp_path / "a.txt", sentences="split")


def test_text_is_tokenised_once(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(as_text())
    first = load(tmp_path, path)
    with monkeypatch.context() as patch:
        patch.setattr(bert_options, "write_documents", lambda *_, **__: pytest.fail("tokenised again"))
        assert load(tmp_path, path).fingerprint == first.fingerprint
    path.write_text(as_text([*TEXT, ["w1"]]))
    again = load(tmp_path, path)
    assert len(again) == 4
    assert again.fingerprint != first.fingerprint


def test_the_fingerprint_is_of_documents_sentences_and_tokens(tmp_path):
    forms = [TEXT, [["w0 w1 w2"], *TEXT[1:]], [[*TEXT[0], *TEXT[1]], TEXT[2]]]
    found = set()
    for number, form in enumerate(forms):
        (tmp_path / f"{number}.txt").write_text(as_text(form))
        found.add(load(tmp_path, tmp_path / f"{number}.txt").fingerprint)
    (tmp_path / "copy.txt").write_text(as_text())
    found.add(load(tmp_path, tmp_path / "copy.txt").fingerprint)
    assert len(found) == 3


def test_tokens_are_mapped_and_pickle_as_their_place(tmp_path):
    documents = counting_documents(tmp_path, counting_text(300))
    assert not documents.tokens.flags.owndata
    assert documents.tokens.dtype.itemsize == 2
    content = pickle.dumps(documents)
    assert len(content) < 500
    copy = pickle.loads(content)
    assert ids(copy) == ids(documents)
    assert copy.counts == documents.counts
