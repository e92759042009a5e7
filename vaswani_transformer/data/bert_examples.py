"""Examples of BERT's pre-training (sections 3.1 and A.1 of Devlin et al. 2018), as Google's create_pretraining_data.py
makes them: which tokens make a sequence, and which of these are masked.

Every draw comes from a generator keyed by what it is drawn for, so an example is the same whoever makes it, and when.
An example is not kept as ids but as places in the text: two slices, since what a sequence holds of either text is one.
"""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np

from .documents import Documents

# a, b: where the two texts start among the tokens; without a second one, its length is 0.
EXAMPLE = np.dtype(
    [("a", "<i8"), ("b", "<i8"), ("a_length", "<i4"), ("b_length", "<i4"), ("masked", "<i4"), ("random", "?")]
)
DOCUMENTS_AT_ONCE = 64
TRIES = 10  # to draw another document than one's own
PLANNING, MASKING = 0, 1  # what a generator is for

Key = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ExampleRules:
    """What an example is made by.

    Args:
        max_seq_length: longest sequence, special tokens included.
        max_predictions: most tokens masked in one.
        masked_lm_prob: share of a sequence's tokens, special ones counted, that are masked.
        short_seq_prob: how often a pass over a document aims at shorter sequences.
        next_sentence: pairs of texts; else runs of sentences of one document.
        whole_word_mask: mask all pieces of a word or none.
        cls_id: the first token.
        sep_id: the token after each text.
        mask_id: what hides a token.
        vocab_size: tokens to draw a random one from.
        continues: for each token, whether it goes on inside a word.
    """

    max_seq_length: int
    max_predictions: int
    masked_lm_prob: float
    short_seq_prob: float
    next_sentence: bool
    whole_word_mask: bool
    cls_id: int
    sep_id: int
    mask_id: int
    vocab_size: int
    continues: np.ndarray

    def predictions(self, length: int) -> int:
        """Returns how many tokens of a sequence are masked; with whole words at most so many."""
        return min(self.max_predictions, max(1, round(length * self.masked_lm_prob)))


def _generator(key: Key, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng([*key, purpose, number])


def _integer(rng: np.random.Generator, low: int, high: int) -> int:
    """Draws from low to high, both included; numpy promises the stream of `random` for later versions."""
    return low + int(rng.random() * (high - low + 1))


# ---------------------------------------------------------------------------------------------------- the two texts


def plan_document(documents: Documents, number: int, rules: ExampleRules, key: Key) -> list[tuple]:
    """Returns the examples of one pass over a document, in the order and with the fields of EXAMPLE.

    Args:
        documents: all of them, to draw another one from.
        number: of the document.
        rules: what an example is.
        key: seed and number of the pass.
    """
    rng = _generator(key, PLANNING, number)
    texts = (_pairs if rules.next_sentence else _runs)(documents, number, rules, rng)
    planned = []
    for a, a_length, b, b_length, random in texts:
        length = a_length + b_length + (3 if b_length else 2)
        masked = rules.predictions(length)
        if rules.whole_word_mask:
            ids = sequence(documents, rules, (a, a_length), (b, b_length))
            masked = len(_masked_positions(ids, a_length, rules, _generator(key, MASKING, a)))
        planned.append((a, b, a_length, b_length, masked, random))
    return planned


def _pairs(
    documents: Documents, number: int, rules: ExampleRules, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Yields start and length of two texts, and whether the second is a random one.

    Half of the pairs, and all whose chunk is one sentence, get their second text from another document; what they leave
    of the chunk starts the next one.
    """
    starts = documents.sentences(number).tolist()
    most, count, first = rules.max_seq_length - 3, len(starts) - 1, 0
    target = most
    if rng.random() < rules.short_seq_prob:
        target = _integer(rng, 2, most)
    while first < count:
        end = first + 1
        while end < count and starts[end] - starts[first] < target:
            end += 1
        middle = first + (_integer(rng, 1, end - first - 1) if end - first > 1 else 1)
        a, a_length = starts[first], starts[middle] - starts[first]
        random = end - first == 1 or rng.random() < 0.5
        if random:
            b, b_length = _random_text(documents, number, target - a_length, rng)
            first = middle
        else:
            b, b_length = starts[middle], starts[end] - starts[middle]
            first = end
        yield *_truncated(a, a_length, b, b_length, most, rng), random


def _random_text(documents: Documents, number: int, wanted: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draws sentences of another document, from a random one on, until there are as many tokens as wanted."""
    other = number
    for _ in range(TRIES):
        other = _integer(rng, 0, len(documents) - 1)
        if other != number:
            break
    starts = documents.sentences(other)
    start = _integer(rng, 0, len(starts) - 2)
    b = int(starts[start])
    end = max(start + 1, int(np.searchsorted(starts, b + wanted)))
    return b, int(starts[min(end, len(starts) - 1)]) - b


def _truncated(
    a: int, a_length: int, b: int, b_length: int, most: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Takes tokens off the longer text, each from the front or the back, until both have `most` tokens together."""
    over = max(0, a_length + b_length - most)
    uneven = min(over, abs(a_length - b_length))
    # Of two texts of one length the second gives first.
    from_a = (uneven if a_length > b_length else 0) + (over - uneven) // 2
    from_b = over - from_a
    a_front, b_front = (int((rng.random(off) < 0.5).sum()) for off in (from_a, from_b))
    return a + a_front, a_length - from_a, b + b_front, b_length - from_b


def _runs(
    documents: Documents, number: int, rules: ExampleRules, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Yields whole sentences of one document, as many as fit; a longer sentence alone, cut where the sequence ends."""
    starts = documents.sentences(number).tolist()
    most, count, first = rules.max_seq_length - 2, len(starts) - 1, 0
    while first < count:
        end = first + 1
        while end < count and starts[end + 1] - starts[first] <= most:
            end += 1
        for a in range(starts[first], starts[end], most):
            yield a, min(most, starts[end] - a), 0, 0, False
        first = end


def sequence(documents: Documents, rules: ExampleRules, a: tuple[int, int], b: tuple[int, int]) -> np.ndarray:
    """Returns [CLS] A [SEP] B [SEP] of two slices of the text given by start and length, or [CLS] A [SEP], int64."""
    texts = [documents.tokens[start : start + length] for start, length in (a, b) if length]
    ids = np.full(1 + sum(len(text) + 1 for text in texts), rules.sep_id, dtype=np.int64)
    ids[0] = rules.cls_id
    ids[1 : 1 + len(texts[0])] = texts[0]
    if len(texts) == 2:
        ids[2 + len(texts[0]) : -1] = texts[1]
    return ids


# ---------------------------------------------------------------------------------------------------- the masks


def mask(ids: np.ndarray, a: int, a_length: int, rules: ExampleRules, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Masks one sequence: an exact count of positions, of which 80% are hidden, 10% random tokens and 10% left.

    Args:
        ids: from `sequence`; not changed.
        a: where the first text starts among all tokens: no other example of a pass has the same, so it is the key.
        a_length: length of the first text.
        rules: what is masked.
        key: seed and number of the pass.

    Returns:
        The masked sequence and the masked positions, in order.
    """
    rng = _generator(key, MASKING, a)
    positions = _masked_positions(ids, a_length, rules, rng)
    fate, words = rng.random(len(positions)), (rng.random(len(positions)) * rules.vocab_size).astype(np.int64)
    hidden = ids.copy()
    hidden[positions] = np.where(fate < 0.8, rules.mask_id, np.where(fate < 0.9, ids[positions], words))
    return hidden, positions


def _masked_positions(ids: np.ndarray, a_length: int, rules: ExampleRules, rng: np.random.Generator) -> np.ndarray:
    text = np.ones(len(ids), dtype=bool)
    text[[0, a_length + 1, -1]] = False
    places, count = np.flatnonzero(text), rules.predictions(len(ids))
    if not rules.whole_word_mask:
        return np.sort(places[np.argsort(rng.random(len(places)), kind="stable")[:count]])
    # As in Google's code, a piece that continues belongs to the token before it, [SEP] left out.
    words = np.split(places, np.flatnonzero(~rules.continues[ids[places]][1:]) + 1)
    chosen: list[int] = []
    for word in np.argsort(rng.random(len(words)), kind="stable"):
        if len(chosen) >= count:
            break
        if len(chosen) + len(words[word]) <= count:  # else a shorter one may fit
            chosen.extend(words[word])
    return np.sort(np.array(chosen, dtype=np.int64))


# ---------------------------------------------------------------------------------------------------- one pass


def write_plan(documents: Documents, rules: ExampleRules, key: Key, path: Path, *, num_proc: int) -> None:
    """Writes the examples of one pass over all documents, in their order, as rows of EXAMPLE.

    Args:
        documents: the text.
        rules: what an example is.
        key: seed and number of the pass.
        path: a file, there once it is whole; another process may be writing the same.
        num_proc: processes that plan; they make no difference to the result.
    """
    starts = range(0, len(documents), DOCUMENTS_AT_ONCE)
    plan = partial(_plan_block, documents, rules, key)
    handle, staged = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            if num_proc == 1 or len(starts) == 1:
                file.writelines(map(plan, starts))
            else:
                with ProcessPoolExecutor(min(num_proc, len(starts)), mp_context=_start_method()) as pool:
                    file.writelines(pool.map(plan, starts))
        os.replace(staged, path)
    finally:
        Path(staged).unlink(missing_ok=True)


def _start_method() -> BaseContext:
    """Forks of one process that has imported this package and done nothing else, where the system can.

    A fork of this process, with the tokenizer's threads or a GPU, may hang; one spawned afresh imports for longer than
    a small plan takes, each time. The process stays for the plans of later epochs.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _plan_block(documents: Documents, rules: ExampleRules, key: Key, start: int) -> bytes:
    numbers = range(start, min(start + DOCUMENTS_AT_ONCE, len(documents)))
    rows = [row for number in numbers for row in plan_document(documents, number, rules, key)]
    return np.array(rows, dtype=EXAMPLE).tobytes()


def read_plan(path: Path) -> np.ndarray:
    """Returns the examples that `write_plan` wrote, memory-mapped."""
    return np.memmap(path, dtype=EXAMPLE, mode="r").view(np.ndarray)
