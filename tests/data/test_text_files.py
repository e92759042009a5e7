"""Readers of text: lines break at newlines alone, and what is malformed stays in its place."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest

from vaswani_transformer.data.text_files import BadLine, read_lines, read_rows

ODD = "a\u2028b\x85c\x0bd\x0ce\rf\u2029g\x1ch"


def write(path, content: bytes | str):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_break_at_newlines_and_nowhere_else(tmp_path):
    assert list(read_lines(write(tmp_path / "a.txt", f"{ODD}\nlast"))) == [ODD, "last"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\r\n", ["a\r"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
    ],
)
def test_line_endings_and_byte_order_marks(tmp_path, content, lines):
    assert list(read_lines(write(tmp_path / "a.txt", content))) == lines


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a\xffb", "no UTF-8 at byte 1"), (b"a\0b", "NUL byte at byte 1"), ("é".encode("latin-1"), "0xe9")],
)
def test_a_malformed_line_stays_in_its_place(tmp_path, content, reason):
    first, bad, last = read_lines(write(tmp_path / "a.txt", b"first\n" + content + b"\nlast\n"))
    assert (first, last) == ("first", "last")
    assert isinstance(bad, BadLine)
    assert reason in bad.reason


def test_a_line_of_a_hundred_thousand_words_is_one_line(tmp_path):
    lines = list(read_lines(write(tmp_path / "a.txt", "wort " * 100_000 + "\nb\n")))
    assert lines == ["wort " * 100_000, "b"]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)])
def test_compressed_text_reads_like_plain_text(tmp_path, ending, pack):
    assert list(read_lines(write(tmp_path / f"a.txt{ending}", pack(f"{ODD}\nb\n".encode())))) == [ODD, "b"]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("content", [b"this is no archive", None])
def test_a_damaged_archive_is_told_by_name(tmp_path, ending, content):
    if content is None:  # one cut short
        whole = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[ending](b"a line\n" * 10_000)
        content = whole[: len(whole) // 2]
    with pytest.raises(ValueError, match=f"a.txt{ending} is damaged"):
        list(read_lines(write(tmp_path / f"a.txt{ending}", content)))


def test_zstandard_lines_are_read(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the extra zstd is not installed")
    path = write(tmp_path / "a.txt.zst", zstandard.compress(b"one\ntwo\r\n\nfour"))
    assert list(read_lines(path)) == ["one", "two", "", "four"]


def test_a_file_that_is_no_zstandard_says_so_or_what_to_install(tmp_path):
    path = write(tmp_path / "a.txt.zst", b"no archive")
    with pytest.raises(ValueError, match=r"is damaged|pip install zstandard"):
        list(read_lines(path))


@pytest.mark.parametrize("ending", [".zip", ".lz4", ".7z", ".tgz"])
def test_an_unknown_compression_is_told_with_the_known_ones(tmp_path, ending):
    with pytest.raises(ValueError, match=r"\.gz, \.xz, \.bz2, \.zst; got"):
        list(read_lines(write(tmp_path / f"a.txt{ending}", b"x")))


def test_a_missing_file_and_a_folder_are_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        list(read_lines(tmp_path / "nowhere.txt"))
    with pytest.raises(ValueError, match="got the folder"):
        list(read_lines(tmp_path))


def test_reading_starts_before_the_whole_file_is_seen(tmp_path):
    rows = read_lines(write(tmp_path / "a.gz", gzip.compress(b"a line\n" * 100_000)[:-20]))
    assert next(iter(rows)) == "a line"


def test_a_tsv_has_no_quoting(tmp_path):
    assert list(read_rows(write(tmp_path / "a.tsv", '"a\tb"\n'), [0, 1])) == [['"a', 'b"']]


def test_a_tsv_line_of_another_width_is_malformed_and_an_empty_one_empty(tmp_path):
    rows = list(read_rows(write(tmp_path / "a.tsv", "a\tb\nc\n\nd\te\tf\ng\th\n"), [1, 0]))
    assert rows[0] == ["b", "a"]
    assert isinstance(rows[1], BadLine)
    assert rows[1].reason == "1 columns where the file's first line has 2"
    assert rows[2] == ["", ""]
    assert isinstance(rows[3], BadLine)
    assert rows[4] == ["h", "g"]


@pytest.mark.parametrize("columns", [[0, 2], ["source", "target"], [-1, 0]])
def test_tsv_columns_that_are_not_there_are_told(tmp_path, columns):
    with pytest.raises(ValueError, match="columns"):
        list(read_rows(write(tmp_path / "a.tsv", "a\tb\n"), columns))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object but list"),
        ('{"de": "a"}', "nothing where text is due in column 'en'"),
        ('{"en": 3}', "int where text is due"),
        ('{"en": null}', "nothing where text is due"),
        ('{"en": "\\ud800"}', "half of a surrogate pair"),
        ('{"en": "a\\u0000"}', "a NUL character"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_malformed_json_line_says_why(tmp_path, line, reason):
    rows = list(read_rows(write(tmp_path / "a.jsonl", f'{line}\n{{"en": "x"}}\n'), ["en"]))
    assert isinstance(rows[0], BadLine)
    assert reason in rows[0].reason
    assert rows[1] == ["x"]


def test_json_fields_are_found_nested_and_inside_translation(tmp_path):
    line = json.dumps({"translation": {"en": ODD, "de": "b"}, "deep": {"er": "c"}})
    assert list(read_rows(write(tmp_path / "a.jsonl", line), ["en", "translation.de", "deep.er"])) == [[ODD, "b", "c"]]


def test_parquet_rows_are_read_and_nulls_malformed(tmp_path):
    table = pa.table({"en": ["a", None], "de": [ODD, "d"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet", ["de", "en"]))
    assert rows[0] == [ODD, "a"]
    assert isinstance(rows[1], BadLine)


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    with pytest.raises(ValueError, match="damaged or no parquet"):
        list(read_rows(write(tmp_path / "a.parquet", b"no"), None))


def test_rows_of_an_unknown_format_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"\.tsv, \.jsonl, \.parquet"):
        read_rows(write(tmp_path / "a.csv", b"a,b"), None)
