"""Pairs of sentences from files, the embedded corpus or a data set of the Hub: read, cleaned, counted, kept on disk.

What is malformed stops the work with file, line and reason, or is left out and counted (`on_bad_line: skip`); in two
aligned files the partner of a bad line goes with it, so nothing after it shifts.
"""

import difflib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import datasets.config
import pyarrow as pa

from ..sections import read_section
from .pair_sources import Pair, open_data_set, open_embedded, open_files
from .text_files import ROW_FORMATS, BadLine, file_format

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([("source", pa.string()), ("target", pa.string())])
ROWS_AT_ONCE = 10_000
CACHE_FORMAT = 1  # raise it when cleaning changes, so that no older cache is taken for today's


@dataclass(frozen=True)
class TranslationOptions:
    """The recipe's `data` section for translation. One of `name`, `files` and `embedded` says where the text is.

    Args:
        name: a data set of the Hub, or a folder `datasets.load_dataset` reads; with a `translation` column of
            {code: text} as wmt/wmt14 has it, or a column of text for each language.
        config: its configuration, "de-en".
        revision: its branch, tag or commit.
        splits: its split for each of train, validation and test where the names differ: {validation: dev}.
        source: language code to translate from; names the field of a data set, jsonl or parquet file.
        target: language code to translate to.
        files: {train: SPEC, validation: SPEC, test: SPEC}, where SPEC is one file of rows (.tsv, .jsonl, .parquet), or
            {source: FILE, target: FILE} of aligned lines, or a list of these. Any of them may be .gz, .xz, .bz2, .zst;
            relative paths start from the current folder.
        columns: {source: C, target: C}, numbers from 0 for a tsv, names (nested ones as a.b) for the others.
        embedded: a corpus that ships with the package: "debian-en-de".
        max_tokens: longer training and validation pairs, by either side with its `</s>`, are left out.
        max_length_ratio: training pairs whose longer side has more than this many times the tokens are left out.
        min_words: keep pairs of at least so many source words (split at spaces), in every split.
        max_words: keep pairs of at most so many source words, in every split.
        length_groups: lengths mixed in one update. 1 fills it with sentences of about one length, as the paper; n draws
            it from n lengths, which costs no padding where processes times `accumulation` is a multiple of n.
        on_bad_line: "stop" at a malformed line, or "skip" and count it.

    Raises:
        ValueError: no or several places to read from, a key of another place, a number out of range.
    """

    name: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    source: str | None = None
    target: str | None = None
    files: dict[str, Any] | None = None
    columns: dict[str, int | str] | None = None
    embedded: str | None = None
    max_tokens: int = 256
    max_length_ratio: float | None = None
    min_words: int | None = None
    max_words: int | None = None
    length_groups: int = 1
    on_bad_line: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        given = [key for key in ("name", "files", "embedded") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"data needs exactly one of name, files and embedded; got {', '.join(given) or 'none'}")
        for key, owner in (("config", "name"), ("revision", "name"), ("splits", "name")):
            if getattr(self, key) is not None and given[0] != owner:
                raise ValueError(f"data.{key} goes with data.{owner} only; got {key}={getattr(self, key)!r}")
        for key, least in (("max_tokens", 2), ("max_length_ratio", 1), ("min_words", 0), ("max_words", 1)):
            value = getattr(self, key)
            if value is not None and not value >= least:
                raise ValueError(f"data.{key} must be at least {least}; got {key}={value}")
        if self.length_groups < 1:
            raise ValueError(f"data.length_groups must be at least 1; got length_groups={self.length_groups}")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words must not exceed max_words; got {self.min_words=}, {self.max_words=}")
        if self.on_bad_line not in ("stop", "skip"):
            raise ValueError(f"data.on_bad_line must be stop or skip; got on_bad_line={self.on_bad_line!r}")
        if self.source is not None and self.source == self.target:
            raise ValueError(f"data.source and data.target must differ; got {self.source!r} twice")
        _check_keys("data.columns", self.columns, ("source", "target"), complete=True)
        _check_keys("data.splits", self.splits, SPLITS)
        _check_keys("data.files", self.files, SPLITS)
        for split, spec in (self.files or {}).items():
            _check_spec(f"data.files.{split}", spec)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TranslationOptions":
        """Returns the options of a recipe's `data` section; an unknown key is told with the nearest right one."""
        return read_section(cls, values, "data")


def _check_keys(
    where: str, values: Mapping[str, Any] | None, known: tuple[str, ...], *, complete: bool = False
) -> None:
    for key in values or ():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"{where} takes {', '.join(known)}; got {key!r}{hint}")
    if complete and values is not None and len(values) < len(known):
        raise ValueError(f"{where} needs each of {', '.join(known)}; got {sorted(values)}")


def _check_spec(where: str, spec: Any) -> None:
    """Checks the form of what names a split's files; whether they are there is seen on reading."""
    if isinstance(spec, list) and spec:
        for number, item in enumerate(spec):
            _check_spec(f"{where}[{number}]", item)
    elif isinstance(spec, Mapping):
        _check_keys(where, spec, ("source", "target"), complete=True)
        for key, path in spec.items():
            if not isinstance(path, str | Path) or not str(path):
                raise ValueError(f"{where}.{key} must be a path; got {path!r}")
    elif isinstance(spec, str | Path) and str(spec):
        if file_format(spec) not in ROW_FORMATS:
            raise ValueError(
                f"{where} must be a file of pairs ({', '.join(ROW_FORMATS)}) or {{source: FILE, target: FILE}} of "
                f"aligned lines; got {str(spec)!r}"
            )
    else:
        raise ValueError(f"{where} must be a path, {{source: FILE, target: FILE}} or a list of these; got {spec!r}")


class Pairs(NamedTuple):
    """A split's cleaned text.

    Fields:
        dataset: columns `source` and `target`, on disk.
        counts: pairs `read` and `kept`, and those left out by reason.
        fingerprint: of the kept text, the same on every machine.
    """

    dataset: datasets.Dataset
    counts: dict[str, int]
    fingerprint: str


def read_pairs(options: TranslationOptions, split: str, *, cache_dir: str | None = None) -> datasets.Dataset:
    """Returns the cleaned pairs of a split, columns `source` and `target`; see `load_pairs`."""
    return load_pairs(options, split, cache_dir=cache_dir).dataset


def has_split(options: TranslationOptions, split: str) -> bool:
    """Says whether the options name text for a split; a data set of the Hub is taken to have every split."""
    return split in options.files if options.files else True


def load_pairs(options: TranslationOptions, split: str, *, cache_dir: str | None = None) -> Pairs:
    """Reads, cleans and counts the pairs of a split, or takes them from the cache where the files are unchanged.

    Cleaning strips spaces at both ends and leaves out pairs with an empty side, those outside `min_words` to
    `max_words`, and malformed ones where `on_bad_line` is "skip". Repeated pairs stay.

    Args:
        options: where the text is and what to keep.
        split: "train", "validation" or "test".
        cache_dir: where cleaned text is kept; a folder in datasets' own cache by default.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a split the options do not name, a malformed line, aligned files of different length, no pair left.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split=}")
    if not has_split(options, split):
        raise ValueError(f"data.files must name a {split} split; got {', '.join(options.files or ())}")
    origin, pairs = _open_split(options, split)
    key = {"format": CACHE_FORMAT, "origin": origin, "split": split} | {
        name: getattr(options, name)
        for name in ("source", "target", "columns", "min_words", "max_words", "on_bad_line")
    }
    folder = cache_folder(cache_dir)
    stem = folder / f"pairs-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]}"
    if not stem.with_suffix(".json").exists():  # written last: where it is, the text is whole
        _write_pairs(_cleaned(pairs, options), stem)
    notes = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    _tell(split, notes["counts"])
    return Pairs(datasets.Dataset.from_file(str(stem.with_suffix(".arrow"))), notes["counts"], notes["fingerprint"])


def cache_folder(cache_dir: str | None) -> Path:
    """Returns the folder of cached text and tokens, made where it is not there."""
    folder = Path(cache_dir) if cache_dir else Path(datasets.config.HF_DATASETS_CACHE) / "vaswani_transformer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tell(split: str, counts: dict[str, int]) -> None:
    left_out = {reason: count for reason, count in counts.items() if reason not in ("read", "kept") and count}
    logger.info("%s: %d of %d pairs kept; left out: %s", split, counts["kept"], counts["read"], left_out or "none")
    if not counts["kept"]:
        raise ValueError(f"{split} text must hold at least one usable pair; got {counts['read']} pairs, {left_out=}")


class _Cleaned(NamedTuple):
    pairs: Iterator[tuple[str, str]]
    counts: dict[str, int]


def _cleaned(pairs: Iterator[tuple[str, int, Pair]], options: TranslationOptions) -> _Cleaned:
    """Yields the pairs to keep; the counts are complete once they are all taken."""
    counts: dict[str, int] = dict.fromkeys(("read", "kept", "malformed", "empty", "too_few_words", "too_many_words"), 0)
    least, most = options.min_words or 0, options.max_words or float("inf")
    by_words = options.min_words is not None or options.max_words is not None

    def keep() -> Iterator[tuple[str, str]]:
        for where, number, pair in pairs:
            counts["read"] += 1
            if isinstance(pair, BadLine):
                if options.on_bad_line == "stop":
                    way_out = "set data.on_bad_line=skip to leave such lines out and count them"
                    raise ValueError(f"{where}:{number}: malformed line: {pair.reason}; {way_out}")
                counts["malformed"] += 1
                continue
            source, target = pair[0].strip(), pair[1].strip()
            words = len(source.split()) if by_words else 0
            if not source or not target:
                counts["empty"] += 1
            elif words < least:
                counts["too_few_words"] += 1
            elif words > most:
                counts["too_many_words"] += 1
            else:
                counts["kept"] += 1
                yield source, target

    return _Cleaned(keep(), counts)


def _write_pairs(cleaned: _Cleaned, stem: Path) -> None:
    """Writes stem.arrow, then stem.json; other processes that write the same are harmless."""
    content = hashlib.sha256()
    handle, staged = tempfile.mkstemp(dir=stem.parent, suffix=".partial")
    os.close(handle)
    try:
        with pa.OSFile(staged, "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            block: list[tuple[str, str]] = []
            for pair in chain(cleaned.pairs, (None,)):
                if pair is not None:
                    block.append(pair)
                    content.update(f"{pair[0]}\0{pair[1]}\0".encode())  # no text holds a NUL
                if block and (pair is None or len(block) == ROWS_AT_ONCE):
                    sources, targets = zip(*block, strict=True)
                    writer.write_batch(pa.record_batch([pa.array(sources), pa.array(targets)], schema=SCHEMA))
                    block = []
        os.replace(staged, stem.with_suffix(".arrow"))
        Path(staged).write_text(
            json.dumps({"counts": cleaned.counts, "fingerprint": content.hexdigest()}), encoding="utf-8"
        )
        os.replace(staged, stem.with_suffix(".json"))
    finally:
        Path(staged).unlink(missing_ok=True)


def _open_split(options: TranslationOptions, split: str) -> tuple[Any, Iterator[tuple[str, int, Pair]]]:
    """Returns what tells an unchanged source from a changed one, and its pairs with file and line."""
    columns = None if options.columns is None else (options.columns["source"], options.columns["target"])
    languages = (options.source, options.target)
    if options.name:
        name = (options.splits or {}).get(split, split)
        return open_data_set(options.name, options.config, options.revision, name, columns=columns, languages=languages)
    if options.embedded:
        return open_embedded(options.embedded, split, languages=languages)
    spec = (options.files or {})[split]
    return open_files(spec if isinstance(spec, list) else [spec], columns=columns, languages=languages)
