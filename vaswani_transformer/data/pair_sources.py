"""Where pairs of sentences come from: aligned line files, files of rows, the embedded corpora, data sets of the Hub.

Each opener returns an origin (plain values that change when the source does, the key of a cache) and an iterator over
(place, line, pair), which reads nothing before it is asked for the first pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import datasets

from .hub_rows import load_rows
from .text_files import BadLine, checked_path, file_format, pick, read_lines, read_rows

Pair = tuple[str, str] | BadLine
PlacedPairs = Iterator[tuple[str, int, Pair]]
Columns = tuple[int | str, int | str]
Languages = tuple[str | None, str | None]

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
EMBEDDED_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def open_files(specs: Sequence[Any], *, columns: Columns | None, languages: Languages) -> tuple[Any, PlacedPairs]:
    """Opens files of rows and pairs of aligned line files, one after the other.

    Args:
        specs: paths of files of rows, mappings with `source` and `target` for aligned lines.
        columns: where the two texts stand in files of rows; by default a tsv has two columns, and other files have
            columns called by the languages, else `source` and `target`.
        languages: codes of source and target, where they are known.

    Raises:
        FileNotFoundError: a file that is not there, before anything is read.
        ValueError: a folder or an unknown compression, at once; the readers' errors on reading.
    """
    specs = [dict(spec) if isinstance(spec, Mapping) else spec for spec in specs]
    paths = [
        path for spec in specs for path in ((spec["source"], spec["target"]) if isinstance(spec, dict) else [spec])
    ]
    found = [checked_path(path) for path in paths]
    origin = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    shape = ["aligned" if isinstance(spec, dict) else "rows" for spec in specs]
    pairs = chain.from_iterable(
        aligned_lines(spec["source"], spec["target"])
        if isinstance(spec, dict)
        else _file_pairs(spec, columns, languages)
        for spec in specs
    )
    return [origin, shape], pairs


def aligned_lines(source: str | Path, target: str | Path) -> PlacedPairs:
    """Yields line n of one file with line n of the other; a bad line takes its partner with it.

    Raises:
        ValueError: one file ends before the other; the message has both counts.
    """
    sides = (read_lines(source), read_lines(target))
    number = 0
    for number, (left, right) in enumerate(zip_longest(*sides), start=1):
        if left is None or right is None:
            longer = number + sum(1 for side in sides for _ in side)
            counts = (number - 1, longer) if left is None else (longer, number - 1)
            raise ValueError(
                f"aligned files must have as many lines as each other; got {counts[0]} in {source} and {counts[1]} in "
                f"{target}"
            )
        if isinstance(left, BadLine):
            yield str(source), number, left
        elif isinstance(right, BadLine):
            yield str(target), number, right
        else:
            yield str(source), number, (left, right)


def _file_pairs(path: str | Path, columns: Columns | None, languages: Languages) -> PlacedPairs:
    tsv = file_format(path) == ".tsv"
    if columns is None and not tsv:
        columns = (languages[0] or "source", languages[1] or "target")
    for number, row in enumerate(read_rows(path, columns), start=1):
        if isinstance(row, BadLine):
            yield str(path), number, row
        elif len(row) == 2:
            yield str(path), number, (row[0], row[1])
        elif row == [""]:  # an empty line
            yield str(path), number, ("", "")
        else:
            way_out = "say which with data.columns={source: 0, target: 1}"
            raise ValueError(
                f"a tsv without data.columns must have 2 columns; got {len(row)} in {path}:{number}: {way_out}"
            )


def open_embedded(name: str, split: str, *, languages: Languages) -> tuple[Any, PlacedPairs]:
    """Opens a corpus that ships with the package, in either direction of its two languages.

    Raises:
        ValueError: a corpus or a language that is not there.
    """
    ending = f".{EMBEDDED_SPLITS['train']}.tsv.xz"
    names = sorted(path.name.removesuffix(ending) for path in EMBEDDED.glob(f"*{ending}"))
    if name not in names:
        raise ValueError(f"data.embedded must be one of {', '.join(names)}; got {name!r}")
    pair = tuple(name.rsplit("-", 2)[1:])
    source = languages[0] or next((code for code in pair if code != languages[1]), pair[0])
    target = languages[1] or next(code for code in pair if code != source)
    if {source, target} != set(pair):
        raise ValueError(f"the languages of {name} are {' and '.join(pair)}; got source={source!r}, target={target!r}")
    columns = (1 + pair.index(source), 1 + pair.index(target))  # column 0 names the package a text describes
    path = EMBEDDED / f"{name}.{EMBEDDED_SPLITS[split]}.tsv.xz"
    return open_files([path], columns=columns, languages=(source, target))


def open_data_set(
    name: str,
    config: str | None,
    revision: str | None,
    split: str,
    *,
    columns: Columns | None,
    languages: Languages,
) -> tuple[Any, PlacedPairs]:
    """Opens a split of a data set through `datasets.load_dataset`; columns as `open_files` takes them.

    Raises:
        ValueError: neither columns nor languages, or columns the data set lacks.
    """
    if columns is None:
        if languages[0] is None or languages[1] is None:
            raise ValueError(f"data.name needs data.source and data.target (or data.columns); got {languages=}")
        columns = (languages[0], languages[1])
    rows = load_rows(name, config, split=split, revision=revision)
    if len(rows) and isinstance(missing := pick(rows[0], columns), BadLine) and missing.reason.startswith("nothing"):
        raise ValueError(f"data.name={name!r}, split {split!r} must hold columns {columns}; got {missing.reason}")
    stored = [[item["filename"], Path(item["filename"]).stat().st_mtime_ns] for item in rows.cache_files]
    origin = [name, config, revision, split, len(rows), stored]
    place = f"{name} ({config or 'default'}, {split})"
    return origin, _data_set_pairs(rows, place, columns)


def _data_set_pairs(rows: datasets.Dataset, place: str, columns: Columns) -> PlacedPairs:
    for number, row in enumerate(rows, start=1):
        texts = pick(row, columns)
        yield place, number, texts if isinstance(texts, BadLine) else (texts[0], texts[1])
