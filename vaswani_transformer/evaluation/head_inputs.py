"""From the questions of a task to what a fine-tuned head reads, and from its classes to the task's labels.

A head reads the fields that its fine-tuning recipe names, not a prompt; a recipe's column is found under the other
names that the same set's published forms have for it. A head without a recipe reads the task's own, see `head_columns`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.labelled_rows import Row
from ..data.multiple_choice import choices_of
from .task_rows import Row as TaskRow
from .tasks import Question, Task

CLASSES, CHOICES = "SequenceClassification", "MultipleChoice"
ROLES = {CLASSES: ("text", "pair"), CHOICES: ("text", "start", "choices")}


@dataclass(frozen=True)
class Reading:
    """What a head reads of a task.

    Args:
        columns: role -> where it may stand in a row; the first that is there.
        choices: of each class the number of the choice it stands for; empty where the choices are read themselves.
    """

    columns: Mapping[str, tuple[Any, ...]]
    choices: tuple[int, ...] = ()

    def inputs(self, question: Question) -> Row:
        """Returns the texts of a question by their roles.

        Raises:
            ValueError: a field that its row does not have.
        """
        assert question.row is not None  # `head_of` has seen it
        return {role: _value(question.row, places) for role, places in self.columns.items()}


def head_of(task: Task) -> str | None:
    """Returns the kind of head that a task can be asked of; None for language models alone."""
    if task.kind != "choice" or any(question.row is None for question in task.questions):
        return None
    if task.head is not None and task.head.columns:
        return CHOICES if "choices" in task.head.columns else CLASSES
    return CLASSES if len({question.choices for question in task.questions}) == 1 else CHOICES


def reading_of(
    task: Task,
    kind: str,
    *,
    names: Sequence[str] = (),
    columns: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Reading:
    """Returns what a head reads of a task.

    Args:
        task: the task.
        kind: of the head.
        names: its classes, by their ids.
        columns: those of the recipe that it was fine-tuned with; None for none.
        limit: first questions that are asked; all where left out.

    Raises:
        ValueError: a task for another head or none, classes that are not the task's labels, no columns, a recipe that
            calls another answer right than the task.
    """
    wanted = head_of(task)
    if wanted != kind:
        can = "a language model alone" if wanted is None else f"a head For{wanted}, or a language model"
        raise ValueError(f"{task.name} can be asked of {can}; got a head For{kind}: name other tasks or another model")
    known: Mapping[str, tuple[Any, ...]] = {} if task.head is None else task.head.columns
    if columns is None:
        found = dict(known)
    else:
        found = {role: _places(columns[role], known.get(role, ())) for role in ROLES[kind] if role in columns}
    if not found:
        raise ValueError(
            f"what a head reads of {task.name} must stand in the recipe it was fine-tuned with, data.columns of its "
            "folder's run.json; got a model without one"
        )
    reading = Reading(found, _choices(task, names) if kind == CLASSES else ())
    label = (columns or {}).get("label")
    for question in task.questions[:limit]:
        _check(task, question, reading, names, label)
    return reading


def _places(column: Any, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """A recipe's column, or all its names where the task knows it in several published forms."""
    return known if column in known else (column,)


def _choices(task: Task, names: Sequence[str]) -> tuple[int, ...]:
    """The choice of each class: by its text or label; by its number where classes are called by their numbers.

    Raises:
        ValueError: no such order.
    """
    choices = [choice.strip() for choice in task.questions[0].choices]
    more = task.head.labels if task.head is not None and task.head.labels else [()] * len(choices)
    words = [(choice, *others) for choice, others in zip(choices, more, strict=True)]
    for known in (words, [(str(number),) for number in range(len(choices))]):
        lower = [{name.casefold() for name in of} for of in known]
        found = [[number for number, of in enumerate(lower) if name.casefold() in of] for name in names]
        if sorted(found) == [[number] for number in range(len(choices))]:
            return tuple(number for (number,) in found)
    told = ", ".join(" or ".join(dict.fromkeys(of)) for of in words)
    raise ValueError(
        f"the classes of a head must be called as the labels of its task; got the classes {', '.join(names)}, and "
        f"{task.name} has {told}: name them in id2label of the model's config.json"
    )


def _check(task: Task, question: Question, reading: Reading, names: Sequence[str], label: Any) -> None:
    """Refuses a row of which recipe and task do not mean the same.

    Raises:
        ValueError: another number of choices, another right answer, by the recipe's label where the row has it.
    """
    row, inputs = question.row, reading.inputs(question)
    assert row is not None
    known = choices_of(inputs)[1] if "choices" in inputs else []
    if "choices" in inputs and len(known) != len(question.choices):
        raise ValueError(
            f"a head must read the {len(question.choices)} choices of a question of {task.name}; got {len(known)} at "
            f"{row.place}"
        )
    if label is None or not _has(row, label):
        return
    given = row[str(label)]
    labels = known or list(names)
    if str(given) not in labels:  # a number where the recipe has words, in another published form: nothing to compare
        return
    right = labels.index(str(given)) if known else reading.choices[labels.index(str(given))]
    if right != question.gold:
        raise ValueError(
            f"recipe and task must call the same answer right; got {label}={given!r}, by the recipe choice {right} and "
            f"by {task.name} choice {question.gold}, at {row.place}"
        )


def _value(row: TaskRow, places: tuple[Any, ...]) -> Any:
    place = next((column for column in places if _has(row, column)), places[0])
    return [row[str(name)] for name in place] if isinstance(place, list) else row[str(place)]


def _has(row: TaskRow, column: Any) -> bool:
    """Whether a row has a column, or each of a list of them."""
    if isinstance(column, list):
        return all(_has(row, name) for name in column)
    values: Any = row.values
    for part in str(column).split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
