"""How likely a masked language model, BERT for one, finds what follows a context: pseudo-log-likelihoods.

Each token of a choice is hidden in turn and foretold from all the others, Salazar et al. (2020), "Masked Language Model
Scoring". A word of several pieces gives its own pieces away, so that by default those behind the foretold one are
hidden too, Kauf & Ivanova (2023), "A Better Way to Do Masked Language Model Scoring" (PLL-word-l2r). The context is
never hidden: a score is of the choice behind it, as a causal model's.

A row is a text with its hidden tokens. Choices that hide the same place of the same text share one row: all labels of
one token are read off one [MASK], the cloze form of Schick & Schütze (2021), "Exploiting Cloze Questions for Few Shot
Text Classification and Natural Language Inference", here without their updates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.pretrained_bert import MaskedWordsModel
from .bounded_batches import BATCH_TOKENS, BoundedBatches, batches, most_logits, scores_alike
from .packed_scoring import logits_at
from .scoring import Likelihood, likelihood, read_logits
from .translation import evaluating, pad_right

PLL = ("word_l2r", "original")


@dataclass(frozen=True)
class MaskedText:
    """A context with what follows it, as a masked language model reads it.

    Args:
        ids: of the whole text, special tokens included, nothing hidden.
        hidden: for each token of the continuation the places that are hidden while it is foretold, its own first.
    """

    ids: tuple[int, ...]
    hidden: tuple[tuple[int, ...], ...]

    @property
    def read(self) -> int:
        """Returns how many tokens a model reads."""
        return len(self.ids)

    def masked(self, hidden: Sequence[int], mask: int) -> list[int]:
        """Returns the ids with the mask's at hidden places."""
        ids = list(self.ids)
        for place in hidden:
            ids[place] = mask
        return ids


class MaskedTokens:
    """Tokenises contexts with their continuations in one segment, special tokens around both.

    A token belongs to the continuation where it ends behind the context, spaces at the context's end not counted, and
    begins before the tail.

    Args:
        tokenizer: a fast one, which knows the words that tokens belong to.
        pll: "word_l2r" hides the rest of a token's word with it, "original" the token alone.

    Raises:
        ValueError: a slow tokenizer, or one without a mask; an unknown way to hide.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, pll: str = "word_l2r") -> None:
        if pll not in PLL:
            raise ValueError(f"pll must be one of {', '.join(PLL)}; got {pll=}")
        name = type(tokenizer).__name__
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            lacks = "no mask token" if tokenizer.is_fast else "a slow one"
            raise ValueError(f"a masked language model needs a fast tokenizer with a mask token; got {lacks}, {name}")
        self._tokenizer, self._pll = tokenizer, pll

    def __call__(self, context: str, continuation: str, tail: str = "") -> MaskedText:
        """Returns the tokens of a context, what follows it, and what stands behind both, which is read but not scored.

        Raises:
            ValueError: a continuation without a token.
        """
        found: Any = self._tokenizer(context + continuation + tail, return_offsets_mapping=True, verbose=False)
        ids, words = found["input_ids"], found.word_ids()
        begin, end = len(context.rstrip()), len(context + continuation)
        inside = [first < end and last > begin for first, last in found["offset_mapping"]]
        places = [place for place in range(len(ids)) if words[place] is not None and inside[place]]
        if not places:
            raise ValueError(f"a continuation must have a token; got {continuation!r} behind {context[-40:]!r}")
        if self._pll == "original":
            return MaskedText(tuple(ids), tuple((place,) for place in places))
        rest = [tuple(q for q in range(place, len(ids)) if words[q] == words[place]) for place in places]
        return MaskedText(tuple(ids), tuple(rest))


@torch.inference_mode()
def score_masked_plainly(model: PreTrainedModel, texts: Sequence[MaskedText], *, mask: int) -> list[Likelihood]:
    """Returns the likelihood of each continuation, a forward pass for each of its tokens, without padding.

    Args:
        model: any masked language model, in evaluation mode.
        texts: that fit its context.
        mask: the mask token.
    """
    found = []
    for text in texts:
        rows = []
        for hidden in text.hidden:
            ids_1S = torch.tensor([text.masked(hidden, mask)], device=model.device)
            place = hidden[0]
            wanted_1 = torch.tensor([text.ids[place]], device=model.device)
            rows.append(read_logits(model(input_ids=ids_1S).logits[0, place : place + 1], wanted_1))
        found.append(likelihood(*(torch.cat(part) for part in zip(*rows, strict=True))))
    return found


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One forward pass of a text.

    Args:
        text: the text.
        hidden: its hidden places, the one to foretell first.
        readers: who reads the logits there: (question, choice, token of the choice).
        wanted: the token that each looks for.
    """

    text: MaskedText
    hidden: tuple[int, ...]
    readers: list[tuple[int, int, int]] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)


class MaskedScorer(BoundedBatches):
    """Scores the choices of questions with a masked language model.

    Args:
        model: a masked language model; it is in evaluation mode while it scores.
        tokenizer: its tokenizer, whose mask and padding are used.
        batch_tokens: most tokens of a batch with padding; a longer text is alone. Halved, for good, where memory does
            not hold a batch.

    Attributes:
        fast: whether texts are read many at a time and logits computed where they are read alone, found by a trial.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        super().__init__(batch_tokens)
        self.model = model
        self.mask: Any = tokenizer.mask_token_id
        self.pad: Any = tokenizer.pad_token_id or 0
        self.fast = self._trial()

    def __call__(self, groups: Sequence[Sequence[MaskedText]]) -> Iterator[tuple[int, list[Likelihood]]]:
        """Yields the number of each question and its choices' likelihoods, batch by batch, the longest first."""
        if not self.fast:
            for number, group in enumerate(groups):
                with evaluating(self.model):
                    scores = score_masked_plainly(self.model, group, mask=self.mask)
                yield number, scores
            return
        longest = [max(text.read for text in group) for group in groups]
        order = sorted(range(len(groups)), key=lambda number: -longest[number])
        rows = [row for number in order for row in self._rows(number, groups[number])]
        found = {number: [[(0.0, False)] * len(text.hidden) for text in group] for number, group in enumerate(groups)}
        left = [sum(len(text.hidden) for text in group) for group in groups]
        most = most_logits(self.model)

        def fits(batch: Sequence[int]) -> bool:
            padded = max(rows[row].text.read for row in batch) * len(batch)
            return padded <= self.batch_tokens and len(batch) <= most

        for batch in batches(range(len(rows)), fits):
            part = [rows[row] for row in batch]
            with evaluating(self.model):
                scored = self.in_halves(self._forward, part)
            for row, values in zip(part, scored, strict=True):
                for (number, choice, token), value in zip(row.readers, values, strict=True):
                    found[number][choice][token] = value
                    left[number] -= 1
            for number in dict.fromkeys(number for row in part for number, _, _ in row.readers):
                if not left[number]:
                    yield number, [_likelihood(values) for values in found.pop(number)]

    def _rows(self, number: int, group: Sequence[MaskedText]) -> list[MaskedRow]:
        """The rows of a question, each once."""
        rows: dict[tuple[int, tuple[int, ...]], MaskedRow] = {}
        for choice, text in enumerate(group):
            for token, hidden in enumerate(text.hidden):
                key = hidden[0], tuple(text.masked(hidden, self.mask))
                row = rows.setdefault(key, MaskedRow(text, hidden))
                row.readers.append((number, choice, token))
                row.wanted.append(text.ids[hidden[0]])
        return list(rows.values())

    @torch.inference_mode()
    def _forward(self, rows: Sequence[MaskedRow]) -> list[list[tuple[float, bool]]]:
        """For each row the log-probability of each wanted token, and whether it is the likeliest."""
        device = self.model.device
        ids_BS, mask_BS = pad_right([row.text.masked(row.hidden, self.mask) for row in rows], self.pad)
        width = ids_BS.shape[1]
        places_B = torch.tensor([number * width + row.hidden[0] for number, row in enumerate(rows)], device=device)
        logits_BV = self._logits(ids_BS.to(device), mask_BS.to(device), places_B).float()
        which = torch.tensor([number for number, row in enumerate(rows) for _ in row.wanted], device=device)
        wanted = torch.tensor([token for row in rows for token in row.wanted], device=device)
        logits_N = logits_BV[which, wanted]
        likeliest = iter((logits_N == logits_BV.amax(1)[which]).tolist())
        logprobs = iter((logits_N - logits_BV.logsumexp(1)[which]).tolist())
        return [[(next(logprobs), next(likeliest)) for _ in row.wanted] for row in rows]

    def _logits(self, ids_BS: Tensor, mask_BS: Tensor, places_B: Tensor) -> Tensor:
        """Logits [B, V] at places of the flattened batch, computed nowhere else."""
        model = self.model
        if isinstance(model, MaskedWordsModel):  # its head reads tokens without padding
            encoder: Any = model.bert
            x_BSD = encoder(ids_BS, mask_BS).last_hidden_state
            return model.cls.predictions(x_BSD.flatten(0, 1)[places_B])
        with logits_at(model, places_B):
            return model(input_ids=ids_BS, attention_mask=mask_BS).logits[0]

    def _trial(self) -> bool:
        """Whether two texts of unlike lengths are scored together as they are alone."""
        size = self.model.config.get_text_config().vocab_size
        tokens = tuple(t for t in ((7 * n + 3) % size for n in range(20)) if t not in (self.pad, self.mask))[:9]
        texts = [MaskedText(tokens, ((4, 5), (5,))), MaskedText(tokens[:6], ((2,),))]
        with evaluating(self.model):
            expected = score_masked_plainly(self.model, texts, mask=self.mask)
            rows = [row for number, text in enumerate(texts) for row in self._rows(number, [text])]

            def fast() -> list[Likelihood]:
                (first,), (second,), (third,) = self._forward(rows)
                return [_likelihood([first, second]), _likelihood([third])]

            return scores_alike(self.model, expected, fast)


def _likelihood(values: Sequence[tuple[float, bool]]) -> Likelihood:
    """Of a continuation, from each token's log-probability and whether it is the likeliest."""
    return Likelihood(sum(value for value, _ in values), len(values), all(best for _, best in values))
