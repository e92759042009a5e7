"""Classes, values and sets of labels of one text or a pair, to batches; section 4.1 of Devlin et al. (2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from ..sections import at_least
from .labelled_rows import LabelledOptions, Row

PROBLEMS = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi-label": "multi_label_classification",
}


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions(LabelledOptions):
    """The `data` section of the tasks classification, regression and multi-label.

    Args:
        labels: names of the classes in the order of their ids, as they stand in the label column; by default those the
            data set declares, else those of the training rows, sorted. F1 is of the second. None for regression.
        whole_sentences: see `hold_out.split_rows`.
    """

    ROLES: ClassVar[dict[str, bool]] = {"text": True, "pair": False, "label": True}

    labels: list[Any] | None = None
    whole_sentences: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, **{"data.whole_sentences": self.whole_sentences})
        if self.whole_sentences is not None and (self.hold_out is None or "pair" in self.columns):
            raise ValueError(
                "data.whole_sentences goes with data.hold_out and single texts; "
                f"got whole_sentences={self.whole_sentences}, hold_out={self.hold_out}, columns={self.columns}"
            )
        if self.labels is not None:
            if self.task == "regression":
                raise ValueError(f"a regression has no data.labels; got labels={self.labels}")
            check_label_names(self.labels)


class ClassificationData:
    """Rows to what the model reads.

    Args:
        options: the recipe's `data`.
        train: training rows; they settle the labels that the options leave open.
        declared: the names of the labels that the data set declares.

    Raises:
        ValueError: fewer than two classes.
    """

    Options = ClassificationOptions
    model = "VaswaniBertForSequenceClassification"

    def __init__(self, options: ClassificationOptions, train: Sequence[Row], declared: list[str] | None) -> None:
        self.options = options
        self.labels: list[str] = []
        if options.task != "regression":
            named = [str(label) for label in options.labels] if options.labels else declared
            self.labels = named or sorted({name for row in train for name in self._names(row)})
            check_label_names(self.labels)

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the configuration."""
        names = self.labels or ["value"]
        return {"problem_type": PROBLEMS[self.options.task], **label_fields(names)}

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Token ids and the label of each row.

        Raises:
            ValueError: a text that is none, a label that is not among the names, a value that is no number.
        """
        texts = [text_of(row, "text") for row in rows]
        pairs = [text_of(row, "pair") for row in rows] if "pair" in self.options.columns else None
        inputs = self.encode(texts, pairs, tokenizer)
        return [{**given, "labels": self._label(row)} for given, row in zip(inputs, rows, strict=True)]

    def encode(
        self, firsts: Sequence[str], seconds: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """The inputs of each text or pair, with [CLS] and [SEP]; the longer text of a pair is cut first."""
        return encoded(firsts, seconds, tokenizer, max_length=self.options.max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Pads to the longest row of a batch."""
        return DataCollatorWithPadding(tokenizer)

    def _names(self, row: Row) -> list[str]:
        label = row["label"]
        if self.options.task != "multi-label":
            return [str(label)]
        return [name.strip() for name in label.split(",") if name.strip()] if isinstance(label, str) else label

    def _label(self, row: Row) -> Any:
        if self.options.task == "regression":
            try:
                return float(row["label"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"the label of a regression must be a number; got {row['label']!r}") from error
        if self.options.task == "classification":
            return label_id(row["label"], self.labels)
        chosen = {label_id(name, self.labels) for name in self._names(row)}
        return [float(index in chosen) for index in range(len(self.labels))]


def encoded(
    firsts: Sequence[str], seconds: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[dict[str, Any]]:
    """What a tokenizer makes of each text or pair, with its own special tokens."""
    others = None if seconds is None else list(seconds)
    columns = tokenizer(list(firsts), others, truncation=True, max_length=max_length)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(firsts))]


def check_label_names(labels: Sequence[Any]) -> None:
    """Raises ValueError for fewer than two labels, or one that stands twice."""
    if len(labels) < 2 or len({str(label) for label in labels}) < len(labels):
        raise ValueError(f"data.labels must be two or more different names; got {list(labels)}")


def label_fields(names: Sequence[str]) -> dict[str, Any]:
    """The configuration's fields that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def label_id(label: Any, names: Sequence[str]) -> int:
    """The id of a label: its place among the names, or itself where it is a whole number and the names are words.

    Raises:
        ValueError: a label that is neither.
    """
    if str(label) in names:
        return names.index(str(label))
    if type(label) is int and 0 <= label < len(names):
        return label
    raise ValueError(f"a label must be one of {', '.join(names)}, or an id below {len(names)}; got {label!r}")


def text_of(row: Row, role: str) -> str:
    """The text of a role.

    Raises:
        ValueError: none there, or no text.
    """
    if not isinstance(row[role], str):
        raise ValueError(f"{role} must be text; got {row[role]!r} ({type(row[role]).__name__})")
    return row[role]
