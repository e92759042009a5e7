"""Validation rows taken from the training rows, and smaller training sets, drawn the same way in every run."""

from collections.abc import Sequence

import numpy as np

from .labelled_rows import LabelledOptions, Row


def split_rows(
    rows: list[Row], options: LabelledOptions, *, whole_sentences: int | None = None
) -> tuple[list[Row], list[Row]]:
    """Draws `data.hold_out` validation rows and then `data.train_rows` training rows.

    Args:
        rows: every labelled row.
        options: hold_out, train_rows, split_seed.
        whole_sentences: hold out only texts of at least so many words that stand in no other row, and drop from
            training every text that stands, word for word, in one that is held out. SST-2's training rows are phrases
            of its sentences: nine in ten random ones would be found verbatim in what the model was trained on.

    Returns:
        Training rows in their order, and validation rows (none without `hold_out`).

    Raises:
        ValueError: fewer rows than are asked for.
    """
    rng = np.random.default_rng(options.split_seed)
    held: list[int] = []
    kept = list(range(len(rows)))
    if options.hold_out is not None:
        texts = [str(row["text"]).split() for row in rows] if whole_sentences else []
        pool = whole_texts(texts, whole_sentences) if whole_sentences else kept
        _check_enough("data.hold_out", options.hold_out, len(pool) - (0 if whole_sentences else 1))
        held = sorted(rng.choice(pool, options.hold_out, replace=False).tolist())
        spans = set().union(*(spans_of(texts[index]) for index in held)) if whole_sentences else set()
        out = set(held)
        kept = [i for i in kept if i not in out and not (spans and " ".join(texts[i]) in spans)]
    if options.train_rows is not None:
        _check_enough("data.train_rows", options.train_rows, len(kept))
        kept = sorted(rng.choice(kept, options.train_rows, replace=False).tolist())
    return [rows[index] for index in kept], [rows[index] for index in held]


def whole_texts(texts: Sequence[Sequence[str]], words: int) -> list[int]:
    """The indices of the texts of at least so many words that stand, word for word, in no other text.

    Time and memory are of the order of the spans of these texts: a million for SST-2.
    """
    inside: set[int] = set()  # hashes: a tenth of the memory of the words themselves
    found = []
    for index in sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index)):
        if len(texts[index]) < words:
            break
        if hash(" ".join(texts[index])) not in inside:
            found.append(index)
            inside.update(hash(span) for span in spans_of(texts[index]))
    return sorted(found)


def spans_of(words: Sequence[str]) -> set[str]:
    """Every run of words of a text, itself included."""
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def _check_enough(name: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise ValueError(f"{name} must leave rows to draw from; got {name}={wanted} of {there} rows it may take")
