"""Pairs of sentences from anywhere: nothing shifts, what is wrong is told or counted, and nothing is read twice."""

import gzip
import json
import os
from pathlib import Path

import datasets
import pytest

from vaswani_transformer.data import pair_sources, parallel_text
from vaswani_transformer.data.parallel_text import TranslationOptions, load_pairs, read_pairs
from vaswani_transformer.recipe import load_recipe, recipe_names

ODD = "a\u2028b\x85c\x0bd\x0ce\rf\u2029g"


def write(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def aligned(folder: Path, source: bytes | str, target: bytes | str) -> dict[str, str]:
    return {"source": write(folder / "a.en", source), "target": write(folder / "a.de", target)}


def options(spec, **settings) -> TranslationOptions:
    return TranslationOptions.from_dict({"files": {"train": spec}, **settings})


def pairs(spec, tmp_path: Path, **settings) -> list[tuple[str, str]]:
    dataset = read_pairs(options(spec, **settings), "train", cache_dir=str(tmp_path / "cache"))
    return list(zip(dataset["source"], dataset["target"], strict=True))


def counts(spec, tmp_path: Path, **settings) -> dict[str, int]:
    found = load_pairs(options(spec, **settings), "train", cache_dir=str(tmp_path / "cache")).counts
    return {reason: count for reason, count in found.items() if count}


def test_separators_inside_a_line_do_not_shift_aligned_files(tmp_path):
    spec = aligned(tmp_path, f"one {ODD}\ntwo\n", "eins\nzwei\n")
    assert pairs(spec, tmp_path) == [(f"one {ODD}", "eins"), ("two", "zwei")]


def test_a_byte_order_mark_and_windows_line_ends_are_taken_off(tmp_path):
    spec = aligned(tmp_path, b"\xef\xbb\xbfone\r\ntwo\r\n", "eins\nzwei")
    assert pairs(spec, tmp_path) == [("one", "eins"), ("two", "zwei")]


@pytest.mark.parametrize("bad", [b"b\xffd", b"b\0d", "schön".encode("latin-1"), "a line".encode("utf-16")])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_malformed_line_is_skipped_with_its_partner_and_counted(tmp_path, bad, side):
    lines = {"source": b"one\ntwo\nthree\n", "target": b"eins\nzwei\ndrei\n"}
    lines[side] = lines[side].replace(lines[side].split(b"\n")[1], bad.replace(b"\n", b""))
    spec = aligned(tmp_path, lines["source"], lines["target"])
    assert pairs(spec, tmp_path, on_bad_line="skip") == [("one", "eins"), ("three", "drei")]
    assert counts(spec, tmp_path, on_bad_line="skip") == {"read": 3, "kept": 2, "malformed": 1}


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_malformed_line_stops_with_file_line_and_reason(tmp_path, side):
    lines = {"source": b"one\ntwo\n", "target": b"eins\nzwei\n"}
    lines[side] += b"\xff\n"
    lines["target" if side == "source" else "source"] += b"x\n"
    spec = aligned(tmp_path, lines["source"], lines["target"])
    with pytest.raises(ValueError, match=rf"{spec[side]}:3: malformed line: no UTF-8 at byte 0.*on_bad_line=skip"):
        pairs(spec, tmp_path)


@pytest.mark.parametrize(("source", "target"), [(3, 5), (5, 3), (1, 0)])
def test_aligned_files_of_different_length_are_told_with_both_counts(tmp_path, source, target):
    spec = aligned(tmp_path, "a\n" * source, "b\n" * target)
    with pytest.raises(ValueError, match=rf"got {source} in .*a\.en and {target} in .*a\.de"):
        pairs(spec, tmp_path, on_bad_line="skip")


def test_a_line_of_a_hundred_thousand_words_does_not_stop_the_reading(tmp_path):
    spec = aligned(tmp_path, "wort " * 100_000 + "\ntwo\n", "eins\nzwei\n")
    assert pairs(spec, tmp_path)[1] == ("two", "zwei")
    assert counts(spec, tmp_path, max_words=50) == {"read": 2, "kept": 1, "too_many_words": 1}


def test_pairs_with_an_empty_side_are_left_out_and_counted(tmp_path):
    spec = aligned(tmp_path, "one\n\n  \nfour\n", "eins\nzwei\ndrei\n\u2028\n")
    assert pairs(spec, tmp_path) == [("one", "eins")]
    assert counts(spec, tmp_path) == {"read": 4, "kept": 1, "empty": 3}


def test_word_limits_hold_for_the_source(tmp_path):
    spec = aligned(tmp_path, "a\na b\na b c\n", "x y z w\nx y z w\nx\n")
    assert pairs(spec, tmp_path, min_words=2, max_words=2) == [("a b", "x y z w")]
    assert counts(spec, tmp_path, min_words=2, max_words=2)["too_few_words"] == 1


@pytest.mark.parametrize("spec", ["empty.tsv", {"source": "empty.en", "target": "empty.de"}])
def test_empty_files_are_told(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    for name in ("empty.tsv", "empty.en", "empty.de"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="at least one usable pair; got 0 pairs"):
        pairs(spec, tmp_path)


def test_a_missing_file_is_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.en"):
        pairs({"source": str(tmp_path / "nowhere.en"), "target": "x"}, tmp_path)


def test_an_unknown_compression_is_told(tmp_path):
    spec = {"source": write(tmp_path / "a.en.lz4", "x"), "target": write(tmp_path / "a.de", "x")}
    with pytest.raises(ValueError, match="compressed files must end in one of"):
        pairs(spec, tmp_path)


def test_paths_start_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tsv", "one\teins\n")
    assert pairs("a.tsv", tmp_path) == [("one", "eins")]


def test_a_tsv_takes_its_columns_by_number(tmp_path):
    spec = write(tmp_path / "a.tsv.gz", gzip.compress(b"pkg\tone\teins\n"))
    assert pairs(spec, tmp_path, columns={"source": 2, "target": 1}) == [("eins", "one")]


def test_a_tsv_of_three_columns_wants_to_be_told_which(tmp_path):
    with pytest.raises(ValueError, match=r"must have 2 columns; got 3 in .*a\.tsv:1: say which"):
        pairs(write(tmp_path / "a.tsv", "pkg\tone\teins\n"), tmp_path)


@pytest.mark.parametrize(("line", "number"), [("only one", 2), ("one\ttwo\tthree", 2)])
def test_a_tsv_line_of_another_width_stops_with_its_number(tmp_path, line, number):
    spec = write(tmp_path / "a.tsv", f"one\teins\n{line}\n")
    with pytest.raises(ValueError, match=rf"a\.tsv:{number}: malformed line: \d columns where"):
        pairs(spec, tmp_path)
    assert counts(spec, tmp_path, on_bad_line="skip") == {"read": 2, "kept": 1, "malformed": 1}


def test_jsonl_columns_default_to_the_languages(tmp_path):
    rows = [{"en": "one", "de": "eins"}, {"translation": {"en": "two", "de": "zwei"}}]
    spec = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert pairs(spec, tmp_path, source="en", target="de") == [("one", "eins"), ("two", "zwei")]


def test_several_files_are_read_one_after_the_other(tmp_path):
    first = write(tmp_path / "a.tsv", "one\teins\n")
    assert pairs([first, aligned(tmp_path, "two\n", "zwei\n")], tmp_path) == [("one", "eins"), ("two", "zwei")]


@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en"), (None, None)])
def test_the_embedded_corpus_reads_in_both_directions(tmp_path, source, target):
    chosen = TranslationOptions(embedded="debian-en-de", source=source, target=target)
    first = read_pairs(chosen, "test", cache_dir=str(tmp_path))[0]
    german = first["source"] if source == "de" else first["target"]
    assert len(read_pairs(chosen, "test", cache_dir=str(tmp_path))) == 878
    english = read_pairs(TranslationOptions(embedded="debian-en-de"), "test", cache_dir=str(tmp_path))[0]
    assert german == english["target"]


def test_a_data_set_folder_reads_its_translation_column(tmp_path):
    rows = [{"translation": {"en": "one", "de": "eins"}}, {"translation": {"en": "two", "de": "zwei"}}]
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data/train-0.parquet")
    chosen = TranslationOptions(name=str(tmp_path / "data"), source="de", target="en")
    found = load_pairs(chosen, "train", cache_dir=str(tmp_path / "cache"))
    assert found.dataset[1] == {"source": "zwei", "target": "two"}
    assert found.counts["kept"] == 2


def test_a_data_set_folder_reads_plain_columns_and_split_names(tmp_path):
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list([{"en": "one", "deu": "eins"}]).to_parquet(tmp_path / "data/validation-0.parquet")
    chosen = TranslationOptions(
        name=str(tmp_path / "data"), columns={"source": "en", "target": "deu"}, splits={"test": "validation"}
    )
    assert read_pairs(chosen, "test", cache_dir=str(tmp_path / "cache"))[0] == {"source": "one", "target": "eins"}


def test_a_column_the_data_set_lacks_is_told_with_those_it_has(tmp_path):
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list([{"en": "one", "fr": "un"}]).to_parquet(tmp_path / "data/train-0.parquet")
    chosen = TranslationOptions(name=str(tmp_path / "data"), source="en", target="de", on_bad_line="skip")
    with pytest.raises(ValueError, match=r"column 'de' \(columns: en, fr\)"):
        read_pairs(chosen, "train", cache_dir=str(tmp_path / "cache"))


def test_unchanged_files_are_read_once(tmp_path, monkeypatch):
    spec = write(tmp_path / "a.tsv", "one\teins\n")
    first = load_pairs(options(spec), "train", cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(parallel_text, "_write_pairs", lambda *_: pytest.fail("read again"))
    second = load_pairs(options(spec), "train", cache_dir=str(tmp_path / "cache"))
    assert (first.counts, first.fingerprint) == (second.counts, second.fingerprint)
    assert first.dataset[:] == second.dataset[:]


def test_a_changed_file_is_read_again(tmp_path):
    spec = write(tmp_path / "a.tsv", "one\teins\n")
    assert pairs(spec, tmp_path) == [("one", "eins")]
    write(tmp_path / "a.tsv", "two\tzwei\n")
    os.utime(spec, ns=(1, 1))
    assert pairs(spec, tmp_path) == [("two", "zwei")]


def test_a_stopped_reading_leaves_nothing_that_passes_for_text(tmp_path):
    spec = write(tmp_path / "a.tsv", "one\teins\nbad\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="malformed"):
            pairs(spec, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_fingerprint_is_of_the_kept_text_not_of_its_place(tmp_path):
    plain = write(tmp_path / "a.tsv", "one\teins\n")
    packed = write(tmp_path / "b.tsv.gz", gzip.compress(b"one\teins\n"))
    other = write(tmp_path / "c.tsv", "one\tzwei\n")
    found = [load_pairs(options(spec), "train", cache_dir=str(tmp_path)).fingerprint for spec in (plain, packed, other)]
    assert found[0] == found[1] != found[2]


def test_a_split_that_is_not_named_is_told(tmp_path):
    with pytest.raises(ValueError, match="must name a test split; got train"):
        read_pairs(options(write(tmp_path / "a.tsv", "a\tb")), "test", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="one of train, validation, test"):
        read_pairs(options(write(tmp_path / "a.tsv", "a\tb")), "dev", cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of name, files and embedded; got none"),
        ({"name": "x", "embedded": "y"}, "got name, embedded"),
        ({"embeded": "debian-en-de"}, "data.embedded"),
        ({"embedded": "debian-en-de", "config": "de-en"}, "data.config goes with data.name"),
        ({"embedded": "debian-en-de", "max_tokens": 1}, "max_tokens must be at least 2"),
        ({"embedded": "debian-en-de", "max_tokens": "many"}, "max_tokens must be a whole number"),
        ({"embedded": "debian-en-de", "max_length_ratio": 0.5}, "max_length_ratio must be at least 1"),
        ({"embedded": "debian-en-de", "min_words": 9, "max_words": 3}, "min_words must not exceed"),
        ({"embedded": "debian-en-de", "on_bad_line": "ignore"}, "stop, skip"),
        ({"embedded": "debian-en-de", "length_groups": 0}, "length_groups must be at least 1"),
        ({"embedded": "debian-en-de", "source": "en", "target": "en"}, "must differ"),
        ({"embedded": "debian-en-de", "columns": {"source": 1}}, "needs each of source, target"),
        ({"files": {"train": "a.txt"}}, "aligned lines; got 'a.txt'"),
        ({"files": {"train": "a.csv"}}, r"\.tsv, \.jsonl, \.parquet"),
        ({"files": {"train": {"source": "a", "traget": "b"}}}, "did you mean target"),
        ({"files": {"train": {"source": "a"}}}, "needs each of source, target"),
        ({"files": {"train": {"source": "a", "target": None}}}, "must be a path; got None"),
        ({"files": {"valid": "a.tsv"}}, "did you mean validation"),
        ({"files": {"train": []}}, r"got \[\]"),
        ({"files": {"train": 3}}, "got 3"),
    ],
)
def test_wrong_options_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        TranslationOptions.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedded": "debian-en-fr"}, "must be one of debian-en-de; got 'debian-en-fr'"),
        ({"embedded": "../secret"}, "must be one of debian-en-de"),
        ({"embedded": "debian-en-de", "source": "en", "target": "fr"}, "languages of debian-en-de are en and de"),
        ({"name": "wmt/wmt14", "config": "de-en"}, "needs data.source and data.target"),
    ],
)
def test_options_that_name_what_is_not_there_are_told(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        read_pairs(TranslationOptions.from_dict(values), "train", cache_dir=str(tmp_path))


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("transformer")])
def test_the_data_section_of_a_shipped_recipe_is_understood(name):
    chosen = TranslationOptions.from_dict(load_recipe(name).data)
    assert (chosen.source, chosen.target) in (("en", "de"), ("en", "fr"))


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    spec = aligned(tmp_path, "one\n\n", b"eins\n\xff\n")
    _, rows = pair_sources.open_files([spec], columns=None, languages=(None, None))
    assert next(rows)[2] == ("one", "eins")
