"""The keys of a recipe's `data` section that say where documents are, the same for every model that reads them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..sections import unknown_name
from .document_sources import PlacedPieces, open_document_files, open_document_set, open_embedded_documents
from .documents import read_sentences
from .text_files import file_format

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class DataSetOptions:
    """A data set of the Hub beside the first one; its keys are those of DocumentOptions."""

    name: str
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    column: str = "text"

    def __post_init__(self) -> None:
        _check_splits("data.more: splits", self.splits)


@dataclass(frozen=True)
class DocumentOptions:
    """Where documents are. One of `name`, `files` and `embedded` says it.

    Args:
        name: a data set of the Hub, or a folder `datasets.load_dataset` reads; a row is a document.
        config: its configuration, "20231101.en".
        revision: its branch, tag or commit.
        splits: its split for train and validation, {train: "train[1%:]", validation: "train[:1%]"}; by default there is
            "train" and no validation.
        more: further data sets to read after the first, each with name, config, revision, splits and column of its own:
            BERT's corpus is an encyclopedia and books.
        files: {train: FILE, validation: FILE}, or lists of files. A .jsonl or .parquet file has a document a row, any
            other is text. Any may be .gz, .xz, .bz2 or .zst.
        embedded: a corpus that ships with the package: "austen", six novels, a chapter a document, a paragraph a line;
            every twentieth chapter is for validation.
        column: where the text stands in rows.
        on_bad_line: "stop" at a malformed line, or "skip" and count it.

    Raises:
        ValueError: no or two places to read from, a key of another place.
    """

    name: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    more: list[DataSetOptions] = field(default_factory=list)
    files: dict[str, Any] | None = None
    embedded: str | None = None
    column: str = "text"
    on_bad_line: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        given = [key for key in ("name", "files", "embedded") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"data needs exactly one of name, files and embedded; got {' and '.join(given) or 'none'}")
        for key in ("config", "revision", "splits", "more"):
            if getattr(self, key) and not self.name:
                raise ValueError(f"data.{key} goes with data.name only; got {key}={getattr(self, key)!r}")
        if self.on_bad_line not in ("stop", "skip"):
            raise ValueError(f"data.on_bad_line must be stop or skip; got on_bad_line={self.on_bad_line!r}")
        _check_splits("data.files", self.files)
        _check_splits("data.splits", self.splits)
        for split, paths in (self.files or {}).items():
            for path in paths if isinstance(paths, list) and paths else [paths]:
                if not isinstance(path, str | Path) or not str(path):
                    raise ValueError(f"data.files.{split} must be a path or a list of paths; got {paths!r}")
                if file_format(path) == ".tsv":
                    raise ValueError(f"data.files.{split} must be text, .jsonl or .parquet; got {str(path)!r}")


def _check_splits(key: str, values: Mapping[str, Any] | None) -> None:
    for split in values or ():
        if split not in SPLITS:
            raise ValueError(unknown_name(f"{key}.{split}", [f"{key}.{known}" for known in SPLITS], "key"))
    if values is not None and "train" not in values:
        raise ValueError(f"{key} must name train; got {', '.join(values)}")


def has_documents(options: DocumentOptions, split: str) -> bool:
    """Says whether the options name text for a split."""
    named = [options.files, options.splits, *(one.splits for one in options.more)]
    return split == "train" or options.embedded is not None or any(split in (splits or ()) for splits in named)


def open_documents(options: DocumentOptions, split: str, *, verbatim: bool = False) -> tuple[Any, PlacedPieces]:
    """Returns what tells an unchanged source from a changed one, and the lines of its documents.

    Args:
        options: the recipe's.
        split: "train" or "validation".
        verbatim: blank lines belong to the text, and a text file is one document. By default they are left out, and
            stand between the documents of a text file.
    """
    if options.name:
        sets = [one for one in (options, *options.more) if split == "train" or split in (one.splits or ())]
        opened = [_open_set(one, split, verbatim) for one in sets]
        origins = [origin for origin, _ in opened]
        return origins if options.more else origins[0], (piece for _, pieces in opened for piece in pieces)
    if options.embedded:
        return open_embedded_documents(options.embedded, split, verbatim=verbatim)
    paths = (options.files or {})[split]
    files = paths if isinstance(paths, list) else [paths]
    return open_document_files(files, column=options.column, verbatim=verbatim)


def _open_set(one: DocumentOptions | DataSetOptions, split: str, verbatim: bool) -> tuple[Any, PlacedPieces]:
    assert one.name is not None
    named = (one.splits or {}).get(split, split)
    return open_document_set(one.name, one.config, one.revision, named, column=one.column, verbatim=verbatim)


def texts_of(options: DocumentOptions, *, verbatim: bool = False) -> tuple[Any, Iterator[str]]:
    """Returns the origin of the training text and its lines, to learn a vocabulary from; see `open_documents`."""
    origin, pieces = open_documents(options, "train", verbatim=verbatim)
    lines = read_sentences(pieces, {}, split=None, skip_bad=options.on_bad_line == "skip")
    return [origin, options.column, options.on_bad_line], (line for line in lines if line is not None)
