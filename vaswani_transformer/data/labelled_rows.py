"""Labelled examples for fine-tuning as rows of plain values: from files of rows, CoNLL, SQuAD's JSON, or the Hub.

A row maps roles ("text", "label") to what stands in the columns that the recipe names for them. The sets that one
fine-tunes on are small: rows are lists in memory.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..sections import at_least, unknown_name
from .hub_rows import load_rows
from .text_files import BadLine, checked_path, file_format, read_lines

SPLITS = ("train", "validation")
FORMATS = ("tsv", "jsonl", "parquet", "conll", "squad")
ENDINGS = {".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".conll": "conll", ".json": "squad"}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """What every fine-tuning task's `data` section has. One of `name` and `files` says where the rows are.

    Args:
        task: the kind of task; the rest of the keys depend on it.
        name: a data set of the Hub, or a folder `datasets.load_dataset` reads.
        config: its configuration, "sst2" of "nyu-mll/glue".
        revision: its branch, tag or commit.
        splits: its split for train and validation, {train: train, validation: validation}; by default train alone.
        files: {train: FILE, validation: FILE}, or lists of files; any may be .gz, .xz, .bz2 or .zst.
        format: tsv (no quoting), jsonl, parquet, conll (a token a line, blank lines between sentences) or squad (the
            JSON of SQuAD 1.1 and 2.0); by default what the file's name ends in.
        columns: where each role stands: a name ("a.b" reads a nested field; a tsv has its names in its first line), or
            a number from 0, from -1 backwards (a tsv without such a line, conll).
        max_length: longest sequence in tokens, special ones included; more is cut off.
        hold_out: so many rows of train become the validation rows.
        train_rows: train on so many rows, drawn after `hold_out`; null for all.
        split_seed: of both draws, apart from the run's seed, so that runs differ in nothing else.

    Raises:
        ValueError: no or two places to read from, a key of another place, a role that is missing or unknown, a number
            out of range, two sources of validation rows.
    """

    ROLES: ClassVar[dict[str, bool]] = {}  # role -> whether it must be there
    DEFAULT_COLUMNS: ClassVar[dict[str, Any]] = {}

    task: str
    name: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    files: dict[str, Any] | None = None
    format: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    max_length: int = 128
    hold_out: int | None = None
    train_rows: int | None = None
    split_seed: int = 1

    def __post_init__(self) -> None:
        self._check_source()
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"data.format must be one of {', '.join(FORMATS)}; got format={self.format!r}")
        if not self.columns:
            object.__setattr__(self, "columns", dict(self.DEFAULT_COLUMNS))
        for role in self.columns:
            if role not in self.ROLES:
                known = [f"data.columns.{name}" for name in self.ROLES]
                raise ValueError(unknown_name(f"data.columns.{role}", known, "recipe key"))
        for role, needed in self.ROLES.items():
            if needed and role not in self.columns:
                raise ValueError(f"data.columns must say where {role} stands; got columns={self.columns}")
        at_least(3, **{"data.max_length": self.max_length})
        at_least(1, **{"data.hold_out": self.hold_out, "data.train_rows": self.train_rows})
        at_least(0, **{"data.split_seed": self.split_seed})
        if self.hold_out is not None and "validation" in (self.files or self.splits or {}):
            raise ValueError(
                "validation rows come from a split or from data.hold_out, not both; "
                f"got hold_out={self.hold_out} and a validation split"
            )

    def _check_source(self) -> None:
        given = [key for key in ("name", "files") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"data needs exactly one of name and files; got {' and '.join(given) or 'neither'}")
        for key in ("config", "revision", "splits"):
            if getattr(self, key) is not None and not self.name:
                raise ValueError(f"data.{key} goes with data.name only; got {key}={getattr(self, key)!r}")
        if self.format is not None and self.name:
            raise ValueError(f"data.format goes with data.files only; got format={self.format!r}")
        for key, values in (("files", self.files), ("splits", self.splits)):
            for split in values or ():
                if split not in SPLITS:
                    raise ValueError(unknown_name(f"data.{key}.{split}", [f"data.{key}.{s}" for s in SPLITS], "key"))
            if values and "train" not in values:
                raise ValueError(f"data.{key} must name train; got {', '.join(values)}")
        for split, paths in (self.files or {}).items():
            for path in paths if isinstance(paths, list) and paths else [paths]:
                if not isinstance(path, str | Path) or not str(path):
                    raise ValueError(f"data.files.{split} must be a path or a list of paths; got {paths!r}")


def read_labelled_rows(options: LabelledOptions, split: str) -> tuple[list[Row], list[str] | None]:
    """The rows of a split, and the names of its labels where a data set of the Hub declares them.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: an unknown format, a column that is not there, a malformed line with its file and number, no rows.
    """
    names: list[str] | None = None
    if options.name:
        rows, names = _hub_rows(options, split)
    else:
        paths = (options.files or {})[split]
        rows = [row for path in (paths if isinstance(paths, list) else [paths]) for row in _file_rows(path, options)]
    if not rows:
        raise ValueError(f"data must hold at least one row; got none for {split}")
    return rows, names


def _hub_rows(options: LabelledOptions, split: str) -> tuple[list[Row], list[str] | None]:
    name = (options.splits or {}).get(split, split)
    rows = load_rows(str(options.name), options.config, split=name, revision=options.revision)
    found = [_picked(row, options.columns, f"{options.name}, {name}, row {i}") for i, row in enumerate(rows)]
    label = rows.features.get(str(options.columns.get("label", options.columns.get("labels"))))
    label = getattr(label, "feature", label)  # of a list of labels
    return found, list(label.names) if isinstance(label, datasets.ClassLabel) else None


def _file_rows(path: str | Path, options: LabelledOptions) -> Iterator[Row]:
    kind = options.format or ENDINGS.get(file_format(path))
    if kind is None:
        raise ValueError(
            f"a data file must end in one of {', '.join(ENDINGS)} (.gz and so on after it); got {path}: or set "
            "data.format"
        )
    readers = {"tsv": _tsv_rows, "jsonl": _json_rows, "parquet": _parquet_rows, "conll": _conll_rows}
    return squad_rows(path) if kind == "squad" else readers[kind](checked_path(path), options.columns)


def _good_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if isinstance(line, BadLine):
            raise ValueError(f"every line must be text; got {line.reason} at {path}:{number}")
        yield number, line


def _tsv_rows(path: Path, columns: Mapping[str, Any]) -> Iterator[Row]:
    named = any(isinstance(column, str) for value in columns.values() for column in _listed(value))
    names: list[str] | None = None
    for number, line in _good_lines(path):
        cells = line.split("\t")
        if named and names is None:
            names = cells
        elif line.strip():
            row = dict(zip(names, cells, strict=False)) if names else dict(enumerate(cells))
            row |= {} if names else {place - len(cells): cell for place, cell in enumerate(cells)}
            yield _picked(row, columns, f"{path}:{number}")


def _json_rows(path: Path, columns: Mapping[str, Any]) -> Iterator[Row]:
    for number, line in _good_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"every line must be a JSON object; got {error} at {path}:{number}") from error
        yield _picked(row, columns, f"{path}:{number}")


def _parquet_rows(path: Path, columns: Mapping[str, Any]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged or no parquet file; got {error}") from error
    for number, row in enumerate(rows):
        yield _picked(row, columns, f"{path}, row {number}")


def _conll_rows(path: Path, columns: Mapping[str, Any]) -> Iterator[Row]:
    """A sentence a row: `tokens` and `labels`, each a list. Cells are parted by tabs, or by blanks where no tab is."""
    sentence: dict[str, list[str]] = {role: [] for role in columns}
    for number, line in _good_lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence["tokens"]:
                yield sentence
                sentence = {role: [] for role in columns}
            continue
        cells: list[str] = line.split("\t") if "\t" in line else line.split()
        places = dict(enumerate(cells)) | {place - len(cells): cell for place, cell in enumerate(cells)}
        for role, cell in _picked(places, columns, f"{path}:{number}").items():
            sentence[role].append(cell)
    if sentence["tokens"]:
        yield sentence


def squad_rows(path: str | Path) -> Iterator[Row]:
    """The questions of a SQuAD 1.1 or 2.0 file: id, question, context, answers [{text, answer_start}].

    Raises:
        ValueError: JSON of another form, told by what is missing.
    """
    text = "\n".join(line for _, line in _good_lines(checked_path(path)))
    try:
        for article in json.loads(text)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    row = {name: question[name] for name in ("id", "question", "answers")}
                    yield row | {"context": paragraph["context"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be SQuAD's JSON, data > paragraphs > qas; got {error!r}") from error


def _listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else [column]


def _picked(row: Any, columns: Mapping[str, Any], place: str) -> Row:
    """The columns of a row by role; a list of columns gives a list of values."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must map columns to values; got {type(row).__name__} at {place}")
    found = {role: [_field(row, name, place) for name in _listed(column)] for role, column in columns.items()}
    return {role: values if isinstance(columns[role], list) else values[0] for role, values in found.items()}


def _field(row: Mapping[Any, Any], name: Any, place: str) -> Any:
    if name in row:
        return row[name]
    if isinstance(name, str) and "." in name:
        first, _, rest = name.partition(".")
        if isinstance(inner := row.get(first), Mapping):
            return _field(inner, rest, place)
    known = ", ".join(str(key) for key in row if not isinstance(key, int) or key >= 0)
    raise ValueError(f"a row must have the column {name!r}; got columns {known} at {place}")
