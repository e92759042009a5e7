"""Text files, compressed or not, read line by line or row by row, where a bad line never shifts the ones after it.

Rules, for every format: UTF-8; a line ends at "\\n" and nowhere else (U+2028, U+0085, a lone "\\r" and form feeds are
text), one "\\r" before it is dropped, so is a byte order mark at the start of the file. A line that is not UTF-8, or
holds a NUL (the mark of binary or UTF-16 data), is malformed: it comes out as a `BadLine` in its place, and the reader
of the file decides whether that stops the work. One line is in memory at a time, however long.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
# Endings that would be read as text line by line and give rubbish.
UNREADABLE = (".zip", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".lzma", ".lz", ".br", ".z", ".zstd", ".tbz", ".txz")
ROW_FORMATS = (".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class BadLine:
    """Stands for a line that could not be read; `reason` says why, in the words of an error message."""

    reason: str


def checked_path(path: str | Path) -> Path:
    """Returns the path of a file that is there and whose compression is known; `~` is the home folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, or an ending of an unknown compression.
    """
    found = Path(path).expanduser()
    if found.suffix.lower() in UNREADABLE:
        known = ", ".join(COMPRESSIONS)
        raise ValueError(f"compressed files must end in one of {known}; got {found}: unpack it or pack it anew")
    if found.is_dir():
        raise ValueError(f"a data file must be a file; got the folder {found}: name the file in it")
    if not found.exists():
        raise FileNotFoundError(f"no data file at {found} (relative paths start from {Path.cwd().name or '/'}/)")
    return found


def file_format(path: str | Path) -> str:
    """Returns the ending that names the format, without a compression: ".tsv" for a.tsv.gz; lower case."""
    found = Path(path)
    inner = found.with_suffix("") if found.suffix.lower() in COMPRESSIONS else found
    return inner.suffix.lower()


def open_bytes(path: Path) -> BinaryIO | io.BufferedReader | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File:
    """Opens a file for reading bytes, unpacked by its ending."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path, "rb")
    if ending == ".xz":
        return lzma.open(path, "rb")
    if ending == ".bz2":
        return bz2.open(path, "rb")
    if ending == ".zst":
        return io.BufferedReader(_zstandard(path).open(path, "rb"))  # zstandard's own stream has no lines
    return path.open("rb")


def _zstandard(path: Path) -> Any:
    """Returns a module with `open` and `ZstdError`."""
    try:
        from compression import zstd  # pyright: ignore[reportMissingImports]  # Python 3.14 and newer

        return zstd
    except ImportError:
        pass
    try:
        import zstandard  # pyright: ignore[reportMissingImports]

        return zstandard
    except ImportError as error:
        raise ValueError(f".zst files need Python 3.14 or `pip install zstandard`; got {path}") from error


def _damage(path: Path) -> tuple[type[Exception], ...]:
    """Returns the errors by which a damaged archive shows; none for a plain file."""
    ending = path.suffix.lower()
    if ending == ".zst":
        return (_zstandard(path).ZstdError, EOFError)
    return (EOFError, zlib.error, lzma.LZMAError, OSError) if ending in COMPRESSIONS else ()


def read_lines(path: str | Path) -> Iterator[str | BadLine]:
    """Yields the lines of a text file by the rules at the top of this module.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an unknown compression, or a damaged archive.
    """
    path = checked_path(path)
    damage = _damage(path)
    number = 0
    with open_bytes(path) as stream:
        try:
            for number, raw in enumerate(stream, start=1):  # a byte stream breaks lines at b"\n" alone
                yield _decoded(raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw)
        except damage as error:
            raise ValueError(
                f"{path} is damaged or no {path.suffix} file; got {error!r} after line {number}"
            ) from error


def _decoded(raw: bytes) -> str | BadLine:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if b"\0" in raw:
        return BadLine(f"a NUL byte at byte {raw.index(0)} (binary or UTF-16 data?)")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadLine(f"no UTF-8 at byte {error.start} (0x{raw[error.start]:02x}: Latin-1 or UTF-16 data?)")


def read_rows(path: str | Path, columns: Sequence[int | str] | None) -> Iterator[list[str] | BadLine]:
    """Yields the texts of some columns of a tsv, jsonl or parquet file, row by row.

    Args:
        path: the file; its ending (before a compression's) names the format.
        columns: numbers from 0 (tsv) or names (jsonl, parquet; "a.b" reads a nested field). None for every column of a
            tsv, every text field of the others.

    Yields:
        One text per column; an empty line of a tsv or jsonl is a row of empty texts. Tsv has no quoting and as many
        columns in every line as in the first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown format, a column that is not there, a damaged file.
    """
    kind = file_format(path)
    if kind == ".tsv":
        return _tsv_rows(checked_path(path), columns)
    if kind == ".jsonl":
        return _json_rows(checked_path(path), columns)
    if kind == ".parquet":
        return _parquet_rows(checked_path(path), columns)
    raise ValueError(f"a file of rows must end in one of {', '.join(ROW_FORMATS)} (.gz and so on after it); got {path}")


def _tsv_rows(path: Path, columns: Sequence[int | str] | None) -> Iterator[list[str] | BadLine]:
    wanted = None if columns is None else [column for column in columns if isinstance(column, int)]
    if columns is not None and (len(wanted or ()) < len(columns) or min(wanted or (0,)) < 0):
        raise ValueError(f"columns of a tsv must be numbers from 0; got columns={list(columns)} for {path}")
    width = 0
    for number, line in enumerate(read_lines(path), start=1):
        if isinstance(line, BadLine):
            yield line
            continue
        cells = line.split("\t")
        if not line:
            yield [""] * len(wanted or cells)
            continue
        if width == 0:
            width = len(cells)
            if wanted is not None and max(wanted) >= width:
                raise ValueError(f"columns must be there; got columns={wanted} for {path}:{number} of {width} columns")
        if len(cells) != width:
            yield BadLine(f"{len(cells)} columns where the file's first line has {width}")
        else:
            yield cells if wanted is None else [cells[column] for column in wanted]


def _json_rows(path: Path, columns: Sequence[int | str] | None) -> Iterator[list[str] | BadLine]:
    for line in read_lines(path):
        if isinstance(line, BadLine):
            yield line
        elif not line.strip():
            yield [""] * len(columns or ())
        else:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BadLine(f"no JSON ({error})")
                continue
            yield pick(row, columns)


def _parquet_rows(path: Path, columns: Sequence[int | str] | None) -> Iterator[list[str] | BadLine]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() in COMPRESSIONS:
        raise ValueError(f"parquet is compressed inside; got {path}: unpack it first")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield pick(row, columns)
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no parquet file; got {error}") from error


def pick(row: Any, columns: Sequence[int | str] | None) -> list[str] | BadLine:
    """Returns the texts of some fields of a mapping, or why they are not to be had.

    A field that is not there is looked for inside `translation`, which is how WMT data sets nest their languages.
    """
    if not isinstance(row, dict):
        return BadLine(f"no JSON object but {type(row).__name__}")
    if columns is None:
        texts = [value for value in row.values() if isinstance(value, str)]
    else:
        texts = []
        for column in columns:
            value = _field(row, str(column))
            if not isinstance(value, str):
                found = "nothing" if value is None else type(value).__name__
                return BadLine(f"{found} where text is due in column {column!r} (columns: {', '.join(map(str, row))})")
            texts.append(value)
    return next((BadLine(reason) for reason in map(unusable, texts) if reason), texts)


def _field(row: dict[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    inner, _, rest = name.partition(".") if "." in name else ("translation", "", name)
    value = row.get(inner)
    return _field(value, rest) if isinstance(value, dict) else None


def unusable(text: str) -> str | None:
    """Returns why a text that came from elsewhere than a text file breaks the rules, None where it does not."""
    if "\0" in text:
        return "a NUL character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"half of a surrogate pair at character {error.start}"
    return None
