"""Prompts of zero, one or a few examples: description, shots, question; section 2.4 of Brown et al. (2020).

The shots of a question are drawn from a hash of task, seed and question, so that they do not change with the number of
processes, the batch, the subset or the order, and those of K are the first of K + 1.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .tasks import Question, Task

DRAWS = ("per_example", "shared")


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers a question.

    Args:
        question: the question.
        before: description and shots, and what parts them from the question; the same text before every choice.
        shots: ids of the shots that are in it.
        dropped: shots that found no room.
    """

    question: Question
    before: str
    shots: tuple[str, ...] = ()
    dropped: int = 0

    def context_of(self, choice: int) -> str:
        """Returns all that stands before a choice."""
        return self.before + self.question.context_of(choice)


def draw_shots(
    task: Task, question: Question, *, shots: int, seed: int = 0, draw: str = "per_example", balanced: bool = False
) -> list[Question]:
    """Returns the shots of a question, never the question itself.

    Args:
        task: whose pool is drawn from.
        question: the question they are for.
        shots: how many, K.
        seed: of the draw.
        draw: "per_example", anew for each question as in GPT-3's paper; "shared", the same for all questions, which a
            model reads once; a question that is among them takes the next one instead.
        balanced: take turns over the right answers' texts, so that every label comes as often.

    Raises:
        ValueError: a negative number of shots, more than the pool has, an unknown way to draw.
    """
    if draw not in DRAWS:
        raise ValueError(f"shots must be drawn {' or '.join(DRAWS)}; got {draw!r}")
    pool = task.shots
    own = task.pool is None  # questions are their own pool
    most = len(pool) - (1 if own else 0)
    if not 0 <= shots <= most:
        raise ValueError(f"shots must be from 0 to the {most} that {task.name} has to draw from; got {shots=}")
    if not shots:
        return []
    key = (task.name, str(seed), *((question.id,) if draw == "per_example" else ()))
    order = _by_label(key, pool) if balanced else (pool[place] for place in _places(key, len(pool)))
    allowed = (found for found in order if not _same(found, question, own))
    found = list(islice(allowed, shots))
    if len(found) < shots:
        raise ValueError(f"shots must not be the question itself; got {shots=}, of which {len(found)} are others")
    return found


def _same(shot: Question, question: Question, own: bool) -> bool:
    """By the id where questions are their own pool, by the text in every case: files of both may overlap."""
    return (own and shot.id == question.id) or shot == question or shot.as_shot == question.as_shot


def _places(key: Sequence[str], count: int) -> Iterator[int]:
    """All places below a count, each once, in an order that a key settles whatever Python's version."""
    seen: set[int] = set()
    number = 0
    while len(seen) < count:
        if number >= 4 * count:  # the few that are left
            yield from sorted(set(range(count)) - seen, key=lambda place: _hash((*key, "rest", str(place))))
            return
        place = _hash((*key, str(number))) % count
        number += 1
        if place not in seen:
            seen.add(place)
            yield place


def _hash(key: Sequence[str]) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(key).encode()).digest()[:8])


def _by_label(key: Sequence[str], pool: Sequence[Question]) -> Iterator[Question]:
    """The pool, label by label in turn, the labels in an order drawn too."""
    labels: dict[str, list[Question]] = {}
    for question in pool:
        labels.setdefault(question.choices[question.gold], []).append(question)
    names = sorted(labels, key=lambda name: _hash((*key, "label", name)))
    turns = [map(labels[name].__getitem__, _places((*key, name), len(labels[name]))) for name in names]
    while turns:
        left = []
        for turn in turns:
            found = next(turn, None)
            if found is not None:
                left.append(turn)
                yield found
        turns = left


def make_prompt(
    task: Task, question: Question, shots: Sequence[Question], *, fits: Callable[[Prompt], bool] = lambda prompt: True
) -> Prompt:
    """Returns a question's prompt with as many of its shots as fit, whole ones, the last drawn left out first.

    Args:
        task: its description and delimiter.
        question: the question.
        shots: from `draw_shots`; they stand in the order they were drawn in.
        fits: whether a model can read a prompt and the answers.

    Raises:
        ValueError: the question does not fit without any shot.
    """
    for count in range(len(shots), -1, -1):
        prompt = _join(task, question, shots[:count], len(shots) - count)
        if fits(prompt):
            return prompt
    raise ValueError(
        f"the model's context must have room for a question and its answer; got question {question.id} of {task.name} "
        f"that does not fit even without shots: {question.contexts[0][:60]!r}"
    )


def _join(task: Task, question: Question, shots: Sequence[Question], dropped: int) -> Prompt:
    parts = [task.description] if task.description else []
    parts += [shot.as_shot.strip("\n") for shot in shots]
    before = "".join(part + task.delimiter for part in parts)
    return Prompt(question, before, tuple(shot.id for shot in shots), dropped)
