"""Labelled words to batches (named entities): the label goes to a word's first piece, section 5.3 of Devlin et al."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from .classification import check_label_names, label_fields, label_id
from .labelled_rows import LabelledOptions, Row

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class TokenLabelsOptions(LabelledOptions):
    """The `data` section of the task token-labels.

    Args:
        labels: names of the labels in the order of their ids; by default those the data set declares, else those of
            the training rows, sorted.
        token_prefix: what stands before each token in the files and is no part of it, "en:" in WikiANN's.
    """

    ROLES: ClassVar[dict[str, bool]] = {"tokens": True, "labels": True}
    DEFAULT_COLUMNS: ClassVar[dict[str, Any]] = {"tokens": 0, "labels": -1}

    labels: list[Any] | None = None
    token_prefix: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None:
            check_label_names(self.labels)


class TokenLabelsData:
    """Rows to what the model reads; arguments as for `ClassificationData`.

    Departure from the paper, which reads as much of the document around a sentence as fits: the sentence alone.
    """

    Options = TokenLabelsOptions
    model = "VaswaniBertForTokenClassification"

    def __init__(self, options: TokenLabelsOptions, train: Sequence[Row], declared: list[str] | None) -> None:
        self.options = options
        named = [str(label) for label in options.labels] if options.labels else declared
        self.labels = named or sorted({str(label) for row in train for label in row["labels"]})
        check_label_names(self.labels)

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the configuration."""
        return label_fields(self.labels)

    def words(self, row: Row) -> tuple[list[str], list[int]]:
        """A row's words and the ids of their labels.

        Raises:
            ValueError: another number of labels than of tokens, a label that is not among the names, no token.
        """
        tokens, labels = row["tokens"], row["labels"]
        if not isinstance(tokens, list) or not isinstance(labels, list) or len(tokens) != len(labels) or not tokens:
            raise ValueError(
                f"tokens and labels must be two lists of one length, 1 or more; got {tokens!r}, {labels!r}"
            )
        words = [str(token).removeprefix(self.options.token_prefix) for token in tokens]
        return words, [label_id(label, self.labels) for label in labels]

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Token ids, and labels at first pieces, -100 elsewhere."""
        encoded, firsts = self.encode(rows, tokenizer)
        found = []
        for index, (row, first) in enumerate(zip(rows, firsts, strict=True)):
            ids = self.words(row)[1]
            labels = [IGNORED if word is None else ids[word] for word in first]
            found.append({**{name: values[index] for name, values in encoded.items()}, "labels": labels})
        return found

    def encode(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> tuple[Any, list[list[int | None]]]:
        """Token ids of every row; and for each of its tokens, the word whose first piece it is, if any."""
        words = [self.words(row)[0] for row in rows]
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.options.max_length)
        firsts = []
        for index in range(len(rows)):
            of_piece = encoded.word_ids(index)
            pairs = zip([None, *of_piece], of_piece, strict=False)
            firsts.append([word if word != before else None for before, word in pairs])
        return encoded, firsts

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorForTokenClassification:
        """Pads tokens and labels to the longest row of a batch."""
        return DataCollatorForTokenClassification(tokenizer)
