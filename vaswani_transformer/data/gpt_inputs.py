"""Labelled rows as GPT reads them: the input transformations of section 3.3, figure 1, of Radford et al. (2018).

    classification   <start> text <extract>
    entailment       <start> premise <delimiter> hypothesis <extract>
    similarity       <start> one <delimiter> other <extract>, and the other way round: [B, 2, T]
    multiple choice  <start> context <delimiter> answer <extract> for each answer: [B, C, T]

The three tokens are the tokenizer's `bos_token`, `sep_token` and `cls_token`: a saved tokenizer that has them makes the
same of `tokenizer(text)` and `tokenizer(text, pair)`, so that a fine-tuned folder is used as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .classification import ClassificationData, ClassificationOptions
from .multiple_choice import MultipleChoiceData

START, DELIMITER, EXTRACT = "<start>", "<delimiter>", "<extract>"
ROLES = {"bos_token": START, "sep_token": DELIMITER, "cls_token": EXTRACT}


def add_special_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[int]:
    """Gives tokenizer and model the tokens of the transformations, where they do not have them yet.

    A token that starts a text, if it is not the one that ends it, is the start token already, and so are a separator
    and a classification token; what is added gets a row of the embedding, drawn from N(0, initializer_range) as in
    OpenAI's code. Without a pad token the start token stands for it: nothing reads padding, and without a mask the last
    token that is none is still found.

    Args:
        tokenizer: changed in place.
        model: a GPT, changed in place: rows of its embedding, `bos_token_id` and `pad_token_id` of its config.

    Returns:
        The ids that are new.
    """
    known = len(tokenizer)
    missing: dict[str, Any] = {
        role: t for role, t in ROLES.items() if getattr(tokenizer, role) in (None, tokenizer.eos_token)
    }
    tokenizer.add_special_tokens(missing)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.bos_token
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.post_processor = template(tokenizer)
    new = list(range(known, len(tokenizer)))
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table: Any = model.get_input_embeddings()
    with torch.no_grad():  # also where the table had rows to spare
        table.weight[new] = torch.empty_like(table.weight[new]).normal_(std=model.config.initializer_range)
    model.config.bos_token_id, model.config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    return new


def template(tokenizer: PreTrainedTokenizerBase) -> TemplateProcessing:
    """What `tokenizers` makes of a text and of a pair: both with the three tokens.

    Raises:
        ValueError: a tokenizer that does not have all three, or has one for two.
    """
    start, delimiter, extract = (f"{getattr(tokenizer, role)}:0" for role in ROLES)
    ids = dict(zip((getattr(tokenizer, role) for role in ROLES), special_ids(tokenizer), strict=True))
    return TemplateProcessing(
        single=[start, "$A:0", extract],
        pair=[start, "$A:0", delimiter, "$B:0", extract],
        special_tokens=list(ids.items()),
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """The ids of start, delimiter and extract.

    Raises:
        ValueError: a tokenizer that does not have all three, or has one for two.
    """
    ids = [getattr(tokenizer, f"{role}_id") for role in ROLES]
    if None in ids or len(set(ids)) < len(ids):
        got = ", ".join(f"{role}={getattr(tokenizer, role)!r}" for role in ROLES)
        raise ValueError(
            f"GPT's inputs need three different tokens, start, delimiter and extract; got {got}: add_special_tokens "
            "gives them to tokenizer and model"
        )
    return ids[0], ids[1], ids[2]


def transformed(
    tokenizer: PreTrainedTokenizerBase, firsts: Sequence[str], seconds: Sequence[str] | None, *, max_length: int
) -> list[list[int]]:
    """Token ids of texts, or of pairs, with the three tokens.

    Too long a text loses its end: of a single one `max_length` - 2 tokens stay, of each of a pair `max_length` / 2 - 2,
    as in OpenAI's code. What spells a special token in a text is text.

    Args:
        tokenizer: which has the three tokens.
        firsts: texts.
        seconds: what follows the delimiter, or None.
        max_length: tokens at most, the three included.

    Raises:
        ValueError: a tokenizer without the three tokens, no room for a token of each text.
    """
    start, delimiter, extract = special_ids(tokenizer)
    room = max_length - 2 if seconds is None else max_length // 2 - 2
    if room < 1:
        raise ValueError(
            "data.max_length must leave a token of each text beside start, delimiter and extract, "
            f"{3 if seconds is None else 6} in all; got max_length={max_length}"
        )

    def pieces(texts: Sequence[str]) -> list[list[int]]:
        told: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return [ids[:room] for ids in tokenizer(list(texts), **told)["input_ids"]]

    if seconds is None:
        return [[start, *first, extract] for first in pieces(firsts)]
    pairs = zip(pieces(firsts), pieces(seconds), strict=True)
    return [[start, *first, delimiter, *second, extract] for first, second in pairs]


@dataclass(frozen=True)
class SequenceCollator:
    """Pads to the longest sequence of a batch: rows of one sequence, or of as many as the first.

    Args:
        pad_token_id: which nothing reads.
    """

    pad_token_id: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, [B, T] or [B, N, T], and `labels`."""
        rows = [feature["input_ids"] for feature in features]
        nested = isinstance(rows[0][0], list)
        texts = [torch.tensor(ids) for row in rows for ids in (row if nested else [row])]
        ids = pad_sequence(texts, batch_first=True, padding_value=self.pad_token_id)
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        shape = (len(rows), -1, ids.shape[1]) if nested else ids.shape
        labels = torch.tensor([feature["labels"] for feature in features])
        return {"input_ids": ids.view(shape), "attention_mask": mask.view(shape), "labels": labels}


class Transformed:
    """What the tasks of GPT have for those of BERT."""

    options: Any

    def encode(
        self, firsts: Sequence[str], seconds: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """The inputs of each text or pair."""
        found = transformed(tokenizer, firsts, seconds, max_length=self.options.max_length)
        return [{"input_ids": ids} for ids in found]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> SequenceCollator:
        """Pads to the longest sequence of a batch."""
        pad: Any = tokenizer.pad_token_id
        return SequenceCollator(pad)


@dataclass(frozen=True, kw_only=True)
class GPTClassificationOptions(ClassificationOptions):
    """As `ClassificationOptions`, and:

    Args:
        both_orders: read a pair in both orders, as the paper does where the order says nothing (MRPC, QQP, STS-B). The
            model's configuration says so too: what it computes of one order is worth nothing.
    """

    both_orders: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.both_orders and "pair" not in self.columns:
            raise ValueError(f"data.both_orders goes with pairs of texts; got columns={self.columns} without pair")


class GPTClassificationData(Transformed, ClassificationData):
    """Rows of texts or pairs to what GPT reads; arguments as for `ClassificationData`."""

    Options = GPTClassificationOptions
    model = "VaswaniGPTForSequenceClassification"

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the configuration."""
        return {**super().fields, "both_orders": self.options.both_orders}

    def encode(
        self, firsts: Sequence[str], seconds: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """The inputs of each text or pair; both orders where the options say so."""
        found = super().encode(firsts, seconds, tokenizer)
        if seconds is None or not self.options.both_orders:
            return found
        turned = super().encode(seconds, firsts, tokenizer)
        pairs = zip(found, turned, strict=True)
        return [{"input_ids": [one["input_ids"], other["input_ids"]]} for one, other in pairs]


class GPTMultipleChoiceData(Transformed, MultipleChoiceData):
    """Rows of choices to what GPT reads; arguments as for `ClassificationData`."""

    model = "VaswaniGPTForMultipleChoice"
