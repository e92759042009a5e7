"""Rows of a task's data: from a local file or a data set of the Hub, every error naming where it is and which field."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.text_files import BadLine, checked_path, file_format, read_lines
from .tasks import Question

ENDINGS = (".jsonl", ".json", ".tsv", ".csv", ".txt", ".parquet")


@dataclass(frozen=True)
class Row:
    """A row of a data file.

    Args:
        place: "FILE:LINE", for errors.
        values: field -> value.
    """

    place: str
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Returns a field, "a.b" the field b inside a.

        Raises:
            ValueError: the field is not there.
        """
        found: Any = self.values
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                known = ", ".join(map(str, self.values))
                raise ValueError(f"a row must have the field {name!r}; got the fields {known} at {self.place}")
            found = found[part]
        return found

    def text(self, name: str) -> str:
        """Returns a field that must be text and not blank."""
        found = self[name]
        if not isinstance(found, str) or not found.strip():
            raise ValueError(f"the field {name!r} must be a text that is not empty; got {found!r} at {self.place}")
        return found

    def texts(self, name: str) -> list[str]:
        """Returns a field that must be a list of texts, none blank."""
        found = self[name]
        if not isinstance(found, list) or not found or not all(isinstance(x, str) and x.strip() for x in found):
            raise ValueError(f"the field {name!r} must be a list of texts, none empty; got {found!r} at {self.place}")
        return found

    def number(self, name: str, *, below: int, first: int = 0) -> int:
        """Returns a field that counts choices from `first`, as a number from 0.

        Raises:
            ValueError: no whole number, or one beyond the choices.
        """
        found = self[name]
        try:
            number = int(found) - first
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < below:
            raise ValueError(
                f"the field {name!r} must be a whole number from {first} to {below - 1 + first}; got {found!r} at "
                f"{self.place}"
            )
        return number

    def letter(self, name: str, known: Sequence[Any]) -> int:
        """Returns which of the known labels a field is."""
        found = self[name]
        if found not in known:
            labels = ", ".join(map(str, known))
            raise ValueError(f"the field {name!r} must be one of {labels}; got {found!r} at {self.place}")
        return list(known).index(found)


def questions_of(rows: Iterator[Row], convert: Callable[[Row, str], Question]) -> list[Question]:
    """Returns a question for each row, named by its number from 0.

    Raises:
        ValueError: a row that is no question, with its place.
    """
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(replace(convert(row, str(number)), row=row))
        except ValueError as error:
            if row.place in str(error):
                raise
            raise ValueError(f"{error}, at {row.place}") from error
    return found


def file_rows(path: str | Path) -> Iterator[Row]:
    """Yields the rows of a .jsonl, .json (a list), .tsv or .csv with a header, .parquet or HellaSwag's .txt file.

    Any may be compressed. In a .txt file a row is a context, the right ending's number, and the endings; four endings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown ending, a broken line with its number.
    """
    place = checked_path(path)
    readers = {".jsonl": _jsonl, ".json": _json, ".tsv": _tsv, ".csv": _csv, ".txt": _blocks, ".parquet": _parquet}
    if file_format(place) not in readers:
        raise ValueError(f"a task's file must end in one of {', '.join(ENDINGS)} (.gz, .xz after it); got {path}")
    return readers[file_format(place)](place)


def hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    """Yields the rows of a split of a data set of the Hub."""
    import datasets

    rows = datasets.load_dataset(name, config, split=split)
    for number, values in enumerate(rows):
        yield Row(f"{name} ({config or 'default'}, {split}), row {number}", dict(values))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if isinstance(line, BadLine):
            raise ValueError(f"every line must be text; got {line.reason} at {path}:{number}")
        yield f"{path}:{number}", line


def _jsonl(path: Path) -> Iterator[Row]:
    for place, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"every line must be a JSON object; got {error} at {place}") from error
        yield _checked(values, place)


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads("\n".join(line for _, line in _lines(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"a .json file must be a list of objects; got {error} in {path}") from error
    if not isinstance(rows, list):
        raise ValueError(f"a .json file must be a list of objects; got {type(rows).__name__} in {path}")
    return (_checked(values, f"{path}, row {number}") for number, values in enumerate(rows))


def _checked(values: Any, place: str) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"every row must be a JSON object; got {type(values).__name__} at {place}")
    return Row(place, values)


def _tsv(path: Path) -> Iterator[Row]:
    return _table(path, lambda line: line.split("\t"))


def _csv(path: Path) -> Iterator[Row]:
    """A row a line: no cell has a line's end."""
    return _table(path, lambda line: next(csv.reader([line]), []))


def _table(path: Path, cells_of: Callable[[str], list[str]]) -> Iterator[Row]:
    header: list[str] = []
    for place, line in _lines(path):
        cells = cells_of(line)
        if not header:
            header = cells
        elif len(cells) != len(header):
            raise ValueError(f"a row must have the header's {len(header)} columns; got {len(cells)} at {place}")
        else:
            yield Row(place, dict(zip(header, cells, strict=True)))


def _blocks(path: Path) -> Iterator[Row]:
    block: list[str] = []
    place = str(path)
    for here, line in _lines(path):
        place = place if block else here
        block.append(line)
        if len(block) == 6:
            yield Row(place, {"ctx": block[0], "label": block[1], "endings": block[2:]})
            block = []
    if any(line.strip() for line in block):
        raise ValueError(f"a row of a .txt file has six lines; got {len(block)} from {place}")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged or no parquet file; got {error}") from error
    return (Row(f"{path}, row {number}", values) for number, values in enumerate(rows))
