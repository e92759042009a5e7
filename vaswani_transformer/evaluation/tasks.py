"""What a task of zero-, one- and few-shot evaluation is: questions, where they come from, how they are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .text_metrics import METRICS

if TYPE_CHECKING:
    from .task_rows import Row

KINDS = ("choice", "last_word", "completion")
CONTENT = "\ue000"  # stands in `Task.blank` where the content of a question does
SCORES = ("token", "char", "byte", "sum", "unconditional")


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Args:
        id: its name within the task; shots are drawn by it.
        contexts: what stands before a choice: one text for all choices, or one for each (partial scoring).
        choices: what may follow, with the space that parts it from its context; of a `completion` the accepted answers,
            the first being shown where the question is a shot.
        gold: number of the right choice; of a `completion` 0.
        tail: what stands behind a choice, the end of a cloze. A masked language model reads it with the choice; others,
            which read from left to right, see it in shots alone.
        row: what it was made of, for models with a task head; None of what is not made of rows.

    Raises:
        ValueError: no choice, an empty one, a gold number that is none of a choice, a wrong number of contexts.
    """

    id: str
    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int = 0
    tail: str = ""
    row: "Row | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.choices or not all(choice.strip() for choice in self.choices):
            raise ValueError(f"a question needs choices, none of them empty; got {list(self.choices)}")
        if not 0 <= self.gold < len(self.choices):
            raise ValueError(
                f"the right choice must be a number from 0 to {len(self.choices) - 1}; got gold={self.gold}"
            )
        if len(self.contexts) not in (1, len(self.choices)):
            raise ValueError(
                f"a question has one context, or one for each of its {len(self.choices)} choices; got "
                f"{len(self.contexts)}"
            )

    def context_of(self, choice: int) -> str:
        """Returns what stands before a choice."""
        return self.contexts[choice if len(self.contexts) > 1 else 0]

    @property
    def as_shot(self) -> str:
        """Returns the question with its right answer."""
        return self.context_of(self.gold) + self.choices[self.gold] + self.tail


@dataclass(frozen=True)
class Head:
    """What a model with a task head reads of a task, by the roles of the fine-tuning recipes.

    Args:
        columns: "text" and "pair" of a classifier, "text", "start" and "choices" of a multiple choice -> where each may
            stand in a row, a name ("a.b" a nested field) or a list of names for each published form of the rows.
        labels: of a classifier, what its classes may be called beside the choices' own texts.
    """

    columns: Mapping[str, tuple[Any, ...]]
    labels: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Task:
    """A set of questions and how they are asked; section 2.4 of Brown et al. (2020), GPT-3.

    Args:
        name: lm-eval's name where it has the task.
        kind: "choice", the likeliest choice; "last_word", whether the one choice is what a greedy search would write;
            "completion", text written freely up to a line's end.
        queries: returns the questions to ask; called once.
        pool: returns the questions that shots are drawn from; those of `queries` themselves where left out.
        version: rises when any prompt or score changes.
        description: stands before the shots, in every setting; GPT-3's zero-shot prompt is it and the question.
        delimiter: between description, shots and question.
        score: which of `SCORES` tells the likeliest choice; "token" is GPT-3's default.
        longest_answer: most tokens of an answer in free text; fewer are written where all accepted ones are shorter.
        metrics: which of `METRICS` are told of answers in free text, the table's first; where "em" is, it tells which
            answers are right, else an answer must equal an accepted one.
        unconditional: the context of GPT-3's P(c | context) / P(c | unconditional); None where that is not asked for.
        blank: a question whose content is `CONTENT`, of a task whose choices are the same in every question, for
            contextual calibration; None of others.
        head: what a model with a task head reads, where that is known.
        source: where the questions come from, for the results.
        benchmark: data set of the Hub that the questions are all of, and the task in it, for `.eval_results`; None of
            others.
        licence: of the data.
        citation: of the task.

    Raises:
        ValueError: an unknown kind, score or metric, a metric of choices.
    """

    name: str
    kind: str
    queries: Callable[[], Sequence[Question]]
    pool: Callable[[], Sequence[Question]] | None = None
    version: int = 1
    description: str = ""
    delimiter: str = "\n\n"
    score: str = "token"
    unconditional: str | None = None
    longest_answer: int = 32
    metrics: tuple[str, ...] = ()
    blank: Question | None = None
    head: Head | None = None
    source: str = ""
    benchmark: tuple[str, str] | None = None
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a task's kind must be one of {', '.join(KINDS)}; got {self.kind!r} of {self.name}")
        if self.score not in SCORES or (self.score == "unconditional" and self.unconditional is None):
            raise ValueError(
                f"a task's score must be one of {', '.join(SCORES)}, the last with the text `unconditional`; got "
                f"{self.score!r} of {self.name}, unconditional={self.unconditional!r}"
            )

        if set(self.metrics) - set(METRICS) or (self.metrics and self.kind != "completion"):
            raise ValueError(
                f"metrics are of tasks of the kind completion, and some of {', '.join(METRICS)}; got {self.metrics} of "
                f"{self.name}, of the kind {self.kind}"
            )

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """The questions to ask; read or made on first use."""
        found = tuple(self.queries())
        if not found:
            raise ValueError(f"a task must have at least one question; got none of {self.name} from {self.source}")
        return found

    @cached_property
    def shots(self) -> tuple[Question, ...]:
        """The questions that shots are drawn from."""
        return self.questions if self.pool is None else tuple(self.pool())

    @property
    def chance(self) -> float | None:
        """Returns the accuracy of guessing; None where there are no choices to guess from."""
        if self.kind != "choice":
            return None
        return sum(1 / len(question.choices) for question in self.questions) / len(self.questions)
