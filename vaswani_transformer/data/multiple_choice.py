"""Multiple-choice rows to batches: one sequence for each choice, section 4.4 of Devlin et al. (2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import DataCollatorForMultipleChoice, PreTrainedTokenizerBase

from .classification import encoded, text_of
from .labelled_rows import LabelledOptions, Row


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceOptions(LabelledOptions):
    """The `data` section of the task multiple-choice.

    Its roles: `text`, the first text of every choice; `start`, what each choice begins with (SWAG's second sentence);
    `choices`, the texts (a list, a list of {label, text}, or {label: [...], text: [...]}); `label`, the label, or the
    number from 0, of the right one.
    """

    ROLES: ClassVar[dict[str, bool]] = {"text": True, "start": False, "choices": True, "label": True}


class MultipleChoiceData:
    """Rows to what the model reads; arguments as for `ClassificationData`."""

    Options = MultipleChoiceOptions
    model = "VaswaniBertForMultipleChoice"
    labels: ClassVar[list[str]] = []
    fields: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: MultipleChoiceOptions, train: Sequence[Row], declared: list[str] | None) -> None:
        self.options = options
        self.choices = len(choices_of(train[0])[0])

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Token ids of each choice, and the number of the right one.

        Raises:
            ValueError: a row of another number of choices than the first, or whose label is none of them.
        """
        firsts: list[str] = []
        seconds: list[str] = []
        labels = []
        for row in rows:
            texts, names = choices_of(row)
            if len(texts) != self.choices:
                raise ValueError(f"every row must have as many choices as the first, {self.choices}; got {texts}")
            one, other = sequences_of(row)
            firsts += one
            seconds += other
            labels.append(chosen(row["label"], names))
        inputs, many = self.encode(firsts, seconds, tokenizer), self.choices
        groups = [inputs[i * many : (i + 1) * many] for i in range(len(labels))]
        return [
            {**{name: [given[name] for given in group] for name in group[0]}, "labels": label}
            for group, label in zip(groups, labels, strict=True)
        ]

    def encode(
        self, firsts: Sequence[str], seconds: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """The inputs of each choice, with [CLS] and [SEP]; the longer text is cut first."""
        return encoded(firsts, seconds, tokenizer, max_length=self.options.max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Pads every choice of every row of a batch to the longest."""
        return DataCollatorForMultipleChoice(tokenizer)


def sequences_of(row: Row) -> tuple[list[str], list[str]]:
    """The first and the second text of each choice of a row."""
    start = f"{text_of(row, 'start')} " if "start" in row else ""
    texts, _ = choices_of(row)
    return [text_of(row, "text")] * len(texts), [start + text for text in texts]


def choices_of(row: Row) -> tuple[list[str], list[str]]:
    """The texts of a row's choices and their labels, the numbers from 0 where they have none.

    Raises:
        ValueError: fewer than two, or of an unknown form.
    """
    given: Any = row["choices"]
    if isinstance(given, Mapping) and {"label", "text"} <= given.keys():
        given = [{"label": label, "text": text} for label, text in zip(given["label"], given["text"], strict=True)]
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError(f"choices must be a list of two or more; got {given!r}")
    if all(isinstance(choice, Mapping) and {"label", "text"} <= choice.keys() for choice in given):
        return [str(choice["text"]) for choice in given], [str(choice["label"]) for choice in given]
    if not all(isinstance(choice, str) for choice in given):
        raise ValueError(f"choices must be texts, or have a label and a text each; got {given!r}")
    return given, [str(number) for number in range(len(given))]


def chosen(label: Any, names: Sequence[str]) -> int:
    """The number of the right choice, from 0.

    Raises:
        ValueError: a label that is none of the choices'.
    """
    if str(label) in names:
        return names.index(str(label))
    raise ValueError(f"label must be one of the choices' {', '.join(names)}; got {label!r}")
