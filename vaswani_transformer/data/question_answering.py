"""Questions to windows over their text, as run_squad.py of Google's code makes them; section 4.2 of Devlin et al."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from ..sections import at_least
from .classification import text_of
from .labelled_rows import LabelledOptions, Row

SPECIAL_TOKENS = 3  # [CLS] question [SEP] window [SEP]
NOWHERE = (0, 0)  # the answer of a window without one: [CLS]


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions(LabelledOptions):
    """The `data` section of the task question-answering; defaults as in Google's code.

    Args:
        max_length: of question and window together.
        stride: tokens from one window's start to the next one's.
        question_length: tokens of a question; the rest is cut off.
        answer_length: tokens of the longest answer that is looked for.
        candidates: best starts, and best ends, that are paired; answers in the n-best list.
        null_threshold: SQuAD 2.0: there is no answer where that scores better than the best answer by more than this
            (Google: 0, or what is best on the validation rows). Null for SQuAD 1.1: there is always one.
    """

    ROLES: ClassVar[dict[str, bool]] = {"id": True, "question": True, "context": True, "answers": True}
    DEFAULT_COLUMNS: ClassVar[dict[str, Any]] = {name: name for name in ROLES}

    max_length: int = 384
    stride: int = 128
    question_length: int = 64
    answer_length: int = 30
    candidates: int = 20
    null_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("stride", "question_length", "answer_length", "candidates"):
            at_least(1, **{f"data.{key}": getattr(self, key)})
        if self.max_length <= self.question_length + SPECIAL_TOKENS:
            raise ValueError(
                "data.max_length must leave room for text beside the question and 3 special tokens; "
                f"got max_length={self.max_length}, question_length={self.question_length}"
            )


@dataclass(frozen=True)
class Window:
    """One sequence over a part of a question's text.

    Args:
        row: which question.
        inputs: what the tokenizer gives for the sequence.
        offset: position of the window's first token in the sequence.
        characters: for each token of the window, where it starts and ends in the text.
        max_context: for each, whether no other window has more text on both its sides.
        answer: positions of the answer's first and last token, [CLS] where the window does not hold it.
    """

    row: int
    inputs: dict[str, list[int]]
    offset: int
    characters: list[tuple[int, int]]
    max_context: list[bool]
    answer: tuple[int, int]


class QuestionAnsweringData:
    """Rows to what the model reads; arguments as for `ClassificationData`."""

    Options = QuestionAnsweringOptions
    model = "VaswaniBertForQuestionAnswering"
    labels: ClassVar[list[str]] = []
    fields: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: QuestionAnsweringOptions, train: Sequence[Row], declared: list[str] | None) -> None:
        self.options = options

    def windows(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Window]:
        """Every window of every question, in their order.

        Raises:
            ValueError: a text that is none, an answer that does not stand where the row says.
        """
        found: list[Window] = []
        for index, row in enumerate(rows):
            found += self._windows_of(index, row, tokenizer)
        return found

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Token ids of each window, `labels` [start, end]; see `finetune.span_labels_loss`."""
        return [window.inputs | {"labels": list(window.answer)} for window in self.windows(rows, tokenizer)]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Pads to the longest window of a batch."""
        return DataCollatorWithPadding(tokenizer)

    def _windows_of(self, index: int, row: Row, tokenizer: PreTrainedTokenizerBase) -> list[Window]:
        options = self.options
        question = tokenizer(text_of(row, "question").lstrip(), add_special_tokens=False, verbose=False)["input_ids"]
        question = list(question)[: options.question_length]
        text = text_of(row, "context")
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, characters = encoded["input_ids"], encoded["offset_mapping"]
        span = answer_tokens(row, characters)
        bounds = window_bounds(len(ids), options.max_length - len(question) - SPECIAL_TOKENS, options.stride)
        best = max_context_windows(bounds, len(ids))
        found = []
        offset = len(question) + 2
        for number, (start, end) in enumerate(bounds):
            answer = NOWHERE
            if span is not None and start <= span[0] and span[1] < end:
                answer = (span[0] - start + offset, span[1] - start + offset)
            found.append(
                Window(
                    row=index,
                    inputs=joined(question, ids[start:end], tokenizer),
                    offset=offset,
                    characters=characters[start:end],
                    max_context=[best[token] == number for token in range(start, end)],
                    answer=answer,
                )
            )
        return found


def joined(question: list[int], window: list[int], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """[CLS] question [SEP] window [SEP], segment 0 up to the first [SEP] and 1 behind it."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = [cls, *question, sep, *window, sep]
    segments = [0] * (len(question) + 2) + [1] * (len(window) + 1)
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": [1] * len(ids)}


def window_bounds(tokens: int, length: int, stride: int) -> list[tuple[int, int]]:
    """First token of each window, and the one behind its last: windows of `length`, the last one what is left."""
    bounds, start = [], 0
    while True:
        end = min(start + length, tokens)
        bounds.append((start, end))
        if end == tokens:
            return bounds
        start += min(end - start, stride)


def max_context_windows(bounds: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    """For each token, the window in which it has most text on its poorer side; ties go to the first."""
    best = [0] * tokens
    scores = [-1.0] * tokens
    for number, (start, end) in enumerate(bounds):
        for token in range(start, end):
            score = min(token - start, end - 1 - token) + 0.01 * (end - start)
            if score > scores[token]:
                best[token], scores[token] = number, score
    return best


def answers_of(row: Row) -> list[tuple[str, int]]:
    """A row's answers and the characters they start at; none for a question without an answer.

    Raises:
        ValueError: answers of an unknown form, or that do not stand in the text where they say.
    """
    given, text = row["answers"], row["context"]
    if isinstance(given, Mapping) and {"text", "answer_start"} <= given.keys():
        given = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
    keys = {"text", "answer_start"}
    if not isinstance(given, list) or not all(isinstance(x, Mapping) and keys <= x.keys() for x in given):
        raise ValueError(f"answers must have a text and an answer_start each; got {given!r} for id={row['id']!r}")
    found = [(str(answer["text"]), int(answer["answer_start"])) for answer in given]
    for answer, start in found:
        if not answer or start < 0 or start + len(answer) > len(text):
            raise ValueError(
                f"an answer must lie inside its text of {len(text)} characters; "
                f"got {answer!r} at {start} for id={row['id']!r}"
            )
        if text[start : start + len(answer)] != answer:
            raise ValueError(
                f"an answer must stand at its answer_start; got {answer!r} where the text has "
                f"{text[start : start + len(answer)]!r}, id={row['id']!r}"
            )
    return found


def answer_tokens(row: Row, characters: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and last token that hold the row's first answer; None where it has no answer, or one of no token."""
    answers = answers_of(row)
    if not answers:
        return None
    begin, finish = answers[0][1], answers[0][1] + len(answers[0][0])
    inside = [token for token, (start, end) in enumerate(characters) if start < finish and end > begin]
    return (inside[0], inside[-1]) if inside else None
