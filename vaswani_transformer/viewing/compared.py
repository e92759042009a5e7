"""An encoder and a decoder beside each other: what each may see of a text, and how each fills the same blank.

BERT (Devlin et al. 2018, section 3.1) reads what stands before and behind a masked word; GPT (Radford et al. 2018,
section 3.1) reads only what stands before the word that it foretells.
"""

# L layers   H heads   T length

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.translation import evaluating
from ..models import VaswaniBertForMaskedLM, VaswaniBertForPreTraining, VaswaniGPTForCausalLM
from .attention_maps import eager, encoded, room, words_of
from .explained import MOST_LETTERS, MOST_TOKENS
from .recorder import recording
from .stages import candidates, packed, taken_away

BLANK = re.compile(r"_{3,}|\[MASK\]")
MOST_UNREAD = 200  # letters of what GPT does not read


def compare_models(models: Sequence[tuple[str, PreTrainedModel, PreTrainedTokenizerBase]], text: str) -> dict[str, Any]:
    """Returns what each model sees of a text and what it puts into its blank, as data of a page.

    The mask, the attention and the logits are recorded while the model itself runs, with its eager attention.

    Args:
        models: name, model and tokenizer: masked-word models and language models of the families here.
        text: with one blank, ___ or [MASK].

    Returns:
        "before" and "behind" the blank, and for each of "models": its words, the "place" that foretells, its
        "masks" (each "seen", packed [T, T], 1 where a token may look, in "layers", numbered from 1), "weights" (packed
        [L, H, T], what the place looks at) and the likeliest words.

    Raises:
        ValueError: not one blank, nothing before it for a GPT, a blank behind the first `MOST_TOKENS` tokens, a model
            of another kind.
    """
    blanks = list(BLANK.finditer(text))
    if len(blanks) != 1:
        raise ValueError(f"a text must have one blank, ___ or [MASK]; got {len(blanks)} in {text[:60]!r}")
    before, behind = text[: blanks[0].start()], text[blanks[0].end() :]
    found = [_compared(name, model, tokenizer, before, behind) for name, model, tokenizer in models]
    return {"before": before[:MOST_LETTERS], "behind": behind[:MOST_LETTERS], "models": found}


@dataclass(frozen=True)
class Reading:
    """What a model reads of the text, and where in it are what it tells and what is recorded.

    Args:
        inputs: its tokens.
        notice: that the text was cut, or "".
        place: the token that tells what is in the blank; None where it was cut away.
        layers: modules that attend.
        head: that gives the logits.
        unread: what stands in the text and is not read.
        told: all that in a few words.
    """

    inputs: Mapping[str, Any]
    notice: str
    place: int | None
    layers: Sequence[Any]
    head: Any
    unread: str
    told: str


def _compared(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, before: str, behind: str) -> dict[str, Any]:
    if isinstance(model, VaswaniBertForMaskedLM | VaswaniBertForPreTraining):
        found = _both_sides(model, tokenizer, before, behind)
    elif isinstance(model, VaswaniGPTForCausalLM):
        found = _left_side(model, tokenizer, before, behind)
    else:
        raise ValueError(
            "models that fill a blank are VaswaniBertForPreTraining, VaswaniBertForMaskedLM and VaswaniGPTForCausalLM; "
            f"got {type(model).__name__} for {name}"
        )
    if found.place is None:
        raise ValueError(
            f"the blank must stand among the first {room(model, MOST_TOKENS)} tokens; {name} finds it behind them"
        )
    ids = found.inputs["input_ids"].to(model.device)
    with evaluating(model), eager(model), recording([found.head], attentions=found.layers) as record:
        model(input_ids=ids, output_attentions=True)  # asked for, BERT's attention is not packed and stays one call
    steps = [record.attended(layer) for layer in found.layers]
    weights = torch.stack([step.weights[:, found.place] for step in steps])
    logits, words = record.given(found.head)[found.place].unsqueeze(0), partial(words_of, tokenizer)
    return {
        "name": name,
        "told": found.told,
        "notice": found.notice,
        "words": words(ids[0].tolist()),
        "unread": found.unread[:MOST_UNREAD],
        "more_unread": len(found.unread[MOST_UNREAD:]),
        "place": found.place,
        "masks": _masks([~taken_away(step.masked[0]) for step in steps]),
        "weights": packed(weights),
        "shape": list(weights.shape),
        "filled": candidates("", logits, [""], words, chosen=[-1])["places"][0],
    }


def _masks(seen: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Each mask that there is, with the numbers of the layers that have it, from 1."""
    layers: dict[str, list[int]] = {}
    for number, found in enumerate(seen, 1):
        layers.setdefault(packed(found.float()), []).append(number)
    return [{"layers": numbers, "seen": found} for found, numbers in layers.items()]


def _both_sides(model: Any, tokenizer: PreTrainedTokenizerBase, before: str, behind: str) -> Reading:
    inputs, notice = encoded(tokenizer, f"{before}{tokenizer.mask_token}{behind}", most=room(model, MOST_TOKENS))
    masked = inputs["input_ids"][0] == tokenizer.mask_token_id
    place = int(masked.nonzero()[0]) if masked.any() else None
    layers = [layer.attention.self for layer in model.bert.encoder.layer]
    told = "encoder: reads what stands before and behind the blank"
    return Reading(inputs, notice, place, layers, model.cls.predictions.decoder, "", told)


def _left_side(model: Any, tokenizer: PreTrainedTokenizerBase, before: str, behind: str) -> Reading:
    if not before.strip():
        raise ValueError(f"a text for {type(model).__name__} must have something before its blank; got nothing there")
    inputs, notice = encoded(tokenizer, before.rstrip(), most=room(model, MOST_TOKENS))
    place = None if notice else len(inputs["input_ids"][0]) - 1
    layers = [block.attn for block in model.transformer.h]
    told = "decoder: reads only what stands before the blank"
    return Reading(inputs, notice, place, layers, model.lm_head, behind, told)
