"""Where documents come from: text files, files of rows, data sets of the Hub, line by line.

Each opener returns an origin (plain values that change when the source does, the key of a cache) and an iterator over
(place, line or row number, piece), where a piece is a line of a document, a line that could not be read, or END.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .text_files import ROW_FORMATS, BadLine, checked_path, file_format, pick, read_lines, read_rows

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
VALIDATION_SHARE = 20  # of an embedded corpus one document in so many
END = None  # stands for the end of a document
Piece = str | BadLine | None
PlacedPieces = Iterator[tuple[str, int, Piece]]


def open_document_files(
    paths: Sequence[str | Path], *, column: str, verbatim: bool = False
) -> tuple[Any, PlacedPieces]:
    """Opens text files, whose documents have blank lines between them, and files of rows, a document a row.

    Args:
        paths: the files, one after the other; a document ends with its file.
        column: where the text stands in files of rows.
        verbatim: blank lines belong to the text, and a text file is one document.

    Raises:
        FileNotFoundError: a file that is not there, before anything is read.
        ValueError: a folder or an unknown compression, at once; the readers' errors on reading.
    """
    found = [checked_path(path) for path in paths]
    origin = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    return origin, (piece for path in found for piece in _file_pieces(path, column, verbatim))


def _file_pieces(path: Path, column: str, verbatim: bool) -> PlacedPieces:
    if file_format(path) in ROW_FORMATS:
        for number, row in enumerate(read_rows(path, [column]), start=1):
            yield from _row_pieces(str(path), number, row, verbatim)
        return
    inside, number = False, 0
    for number, line in enumerate(read_lines(path), start=1):
        if verbatim or isinstance(line, BadLine) or line.strip():
            inside = True
            yield str(path), number, line
        elif inside:
            inside = False
            yield str(path), number, END
    if inside:
        yield str(path), number, END


def open_embedded_documents(name: str, split: str, *, verbatim: bool = False) -> tuple[Any, PlacedPieces]:
    """Opens a corpus that ships with the package: every twentieth document is for validation, the others to train on.

    Raises:
        ValueError: no such corpus.
    """
    files = {path.name.partition(".")[0]: path for path in EMBEDDED.glob("*.jsonl.xz")}
    if name not in files:
        raise ValueError(f"data.embedded must be one of {', '.join(sorted(files))}; got {name!r}")
    path = files[name]
    rows = enumerate(read_rows(path, ["text"]), start=1)
    wanted = ((number, row) for number, row in rows if (number % VALIDATION_SHARE == 0) == (split == "validation"))
    pieces = (piece for number, row in wanted for piece in _row_pieces(path.name, number, row, verbatim))
    return [path.name, path.stat().st_size, split], pieces


def open_document_set(
    name: str, config: str | None, revision: str | None, split: str, *, column: str, verbatim: bool = False
) -> tuple[Any, PlacedPieces]:
    """Opens a split of a data set through `datasets.load_dataset`, a document a row.

    Raises:
        ValueError: a column the data set lacks.
    """
    import datasets  # takes a second, and files do without

    rows = datasets.load_dataset(name, config, split=split, revision=revision)
    assert isinstance(rows, datasets.Dataset)
    if column not in rows.column_names:
        known = ", ".join(rows.column_names)
        raise ValueError(f"data.column must be a column of data.name={name!r}, one of {known}; got {column!r}")
    stored = [[item["filename"], Path(item["filename"]).stat().st_mtime_ns] for item in rows.cache_files]
    origin = [name, config, revision, split, len(rows), stored]
    place = f"{name} ({config or 'default'}, {split})"
    texts = rows.select_columns([column])  # the others are not decoded
    picked = ((number, pick(row, [column])) for number, row in enumerate(texts, start=1))
    pieces = (piece for number, row in picked for piece in _row_pieces(place, number, row, verbatim))
    return origin, pieces


def _row_pieces(place: str, number: int, row: list[str] | BadLine, verbatim: bool) -> PlacedPieces:
    if isinstance(row, BadLine):
        yield place, number, row
        return
    for line in row[0].split("\n"):
        if verbatim or line.strip():
            yield place, number, line
    yield place, number, END
