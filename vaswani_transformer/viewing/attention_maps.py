"""The attention of any model to a text, as numbers: of each layer and head what each token looks at.

The rows are softmax(Q K^T / sqrt(d_k)), equation 1 and section 3.2.2 of Vaswani et al. (2017).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..evaluation.translation import evaluating
from ..evaluation.whole_weights import load_whole

MOST_TOKENS = 128  # of a text; the rest is cut, with a notice
MOST_WEIGHTS = 12 * 12 * 128 * 128  # that are not 0, of all kinds; with more a page would pass 6 MB
KINDS = ("encoder", "decoder", "cross")
SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})  # as a person sees them
START = "‹start›"  # the decoder's first input, whatever a model has for it


@dataclass(frozen=True)
class AttentionMap:
    """One kind of attention.

    Args:
        looking: tokens that look, T.
        seen: tokens that are looked at, S.
        weights: [L, H, T, S] of L layers with H heads, rows that sum to 1.
    """

    looking: tuple[str, ...]
    seen: tuple[str, ...]
    weights: np.ndarray


def attention_maps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    target: str | None = None,
    most_weights: int | None = MOST_WEIGHTS,
) -> tuple[dict[str, AttentionMap], str]:
    """Returns what each token of a text looks at, by kind of attention, and what a reader must know of it.

    The numbers are those of the model's eager attention, whatever it was loaded with, in evaluation mode.

    Args:
        model: a Transformer, BERT or GPT, or another model that returns its attention weights.
        tokenizer: its tokenizer.
        text: what it reads.
        target: of an encoder-decoder the translation that it is shown, which gives "decoder" and "cross" too; of an
            encoder a second text behind the first.
        most_weights: that are not 0, of all kinds together; a text of about so many is left. None for no end.

    Returns:
        Of an encoder-decoder "encoder", with a target "decoder" and "cross"; of an encoder "encoder"; of a decoder
        "decoder". The notice tells that a text was cut: to `MOST_TOKENS` tokens, to what the model has positions for,
        or so far that about `most_weights` are left; else it is "".

    Raises:
        ValueError: a text without a token, a target for a decoder alone, a model without attention weights or
            with some that are no numbers.
    """
    maps, notice = _maps(model, tokenizer, text, target, most=room(model, MOST_TOKENS))
    numbers = sum(np.count_nonzero(found.weights) for found in maps.values())
    if (
        most_weights is not None and numbers > most_weights
    ):  # asked again, as tokens that have fewer to look at look otherwise
        longest = max(len(words) for found in maps.values() for words in (found.looking, found.seen))
        most = int(longest * (most_weights / numbers) ** 0.5)
        maps, notice = _maps(model, tokenizer, text, target, most=most)
    return maps, notice


def _maps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, target: str | None, *, most: int
) -> tuple[dict[str, AttentionMap], str]:
    if model.config.is_encoder_decoder:
        return _of_both(model, tokenizer, text, target, most=most)
    kind = "decoder" if _causal(model) else "encoder"
    if target is not None and kind == "decoder":
        raise ValueError(
            f"a target is of an encoder-decoder, or the second text of an encoder; got {type(model).__name__}, which "
            "reads one text from left to right: put the target behind the text"
        )
    inputs, notice = encoded(tokenizer, text, target, most=most)
    words = words_of(tokenizer, inputs["input_ids"][0].tolist())
    found = _weights(model, "attentions", **_given(model, inputs))
    return {kind: AttentionMap(words, words, found["attentions"])}, notice


def _of_both(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, target: str | None, *, most: int
) -> tuple[dict[str, AttentionMap], str]:
    inputs, notice = encoded(tokenizer, text, most=most)
    source = words_of(tokenizer, inputs["input_ids"][0].tolist())
    if target is None:
        states = _weights(model.get_encoder(), "attentions", **_given(model, inputs))
        return {"encoder": AttentionMap(source, source, states["attentions"])}, notice
    shown, more = encoded(tokenizer, target, side="text_target", most=most)
    labels = shown["input_ids"]
    names = ("encoder_attentions", "decoder_attentions", "cross_attentions")
    found = _weights(model, *names, **_given(model, inputs), labels=labels.to(model.device))
    read = (START, *words_of(tokenizer, labels[0, :-1].tolist()))
    maps = {
        "encoder": AttentionMap(source, source, found["encoder_attentions"]),
        "decoder": AttentionMap(read, read, found["decoder_attentions"]),
        "cross": AttentionMap(read, source, found["cross_attentions"]),
    }
    return maps, " ".join(part for part in (notice, more) if part)


def choose(maps: Mapping[str, AttentionMap], *, kind: str | None, layer: int | None, head: int | None) -> str:
    """Returns the kind of attention to show: the one that is asked for, else the first.

    Args:
        maps: what there is.
        kind: "encoder", "decoder" or "cross".
        layer: that must be there, from 1.
        head: the same.

    Raises:
        ValueError: a kind, a layer or a head that is not there.
    """
    found = kind or next(iter(maps))
    if found not in maps:
        raise ValueError(
            f"the attention must be one that there is, {', '.join(maps)}; got kind={found!r}: an encoder-decoder has "
            "decoder and cross where --target gives the text of its decoder"
        )
    layers, heads = maps[found].weights.shape[:2]
    for name, number, most in (("layer", layer, layers), ("head", head, heads)):
        if number is not None and not 1 <= number <= most:
            raise ValueError(f"the {found} has the {name}s 1 to {most}; got {name}={number}")
    return found


def load_viewed_model(name: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a model and its tokenizer: an encoder-decoder, a causal model, or an encoder without its head.

    Args:
        name: a folder, or a name on the Hub.

    Raises:
        ValueError: nothing to load, or weights that are not there.
    """
    name = str(name)
    try:
        config = AutoConfig.from_pretrained(name)
        auto: Any = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModel
        how = {"part": "attention", "unneeded": "pooler", "attn_implementation": "eager"}
        return load_whole(auto, name, **how), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"MODEL must be a folder with a model and its tokenizer, or a Hub name; got {name}: {reason}"
        ) from error


def encoded(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    second: str | None = None,
    *,
    side: str = "text",
    most: int,
) -> tuple[Mapping[str, Any], str]:
    """Returns the tokens of a text [1, T], and a notice where it has too many and is cut.

    Args:
        tokenizer: of the model.
        text: what it reads.
        second: a second text behind it.
        side: "text", or "text_target" for what the decoder reads.
        most: tokens that are kept.

    Raises:
        ValueError: a text without a token of its own.
    """
    given: dict[str, Any] = {side: _whole(text)} | ({} if second is None else {"text_pair": _whole(second)})
    count = len(tokenizer(**given, verbose=False)["input_ids"])  # type: ignore[arg-type]
    for part in given.values():
        if not tokenizer(**{side: part}, add_special_tokens=False, verbose=False)["input_ids"]:  # type: ignore[arg-type]
            raise ValueError(f"a text must have a token; got {part[:40]!r}")
    found: Any = tokenizer(**given, truncation=True, max_length=most, return_tensors="pt")
    notice = f"The first {most} of {count} tokens are shown." if count > most else ""
    return found, notice


def room(model: PreTrainedModel, most: int) -> int:
    """Returns how many tokens of a text are shown: the most, or those that the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    return min(most, positions) if positions > 0 else most


def _whole(text: str) -> str:
    """A text without the halves of characters that a terminal may hand on."""
    return text.encode("utf-8", "replace").decode("utf-8")


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Returns each token as a person reads it: its text, or its name where it has none or is a part of a letter.

    Spaces alone and the ends of lines are signs: ␣, ⏎, ␍, ⇥. A vocabulary that was padded has ids without a token:
    these are "token" and the id.
    """
    words = []
    for number in ids:
        if number >= len(tokenizer):
            words.append(f"token {number}")
            continue
        word = str(tokenizer.decode([number], clean_up_tokenization_spaces=False))
        if "\ufffd" in word or not word:
            word = str(tokenizer.convert_ids_to_tokens(number))
        words.append(word if word.strip() else word.translate(SPACES))
    return tuple(words)


def _given(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.to(model.device) for name, tensor in inputs.items() if name in ("input_ids", "token_type_ids")}


@torch.no_grad()
def _weights(model: Any, *names: str, **inputs: Any) -> dict[str, np.ndarray]:
    """Attention weights [L, H, T, S] by the names that a model's output has for them."""
    with evaluating(model), eager(model):
        output = model(**inputs, output_attentions=True)
    found = {}
    for name in names:
        layers = getattr(output, name, None)
        shapes = {tuple(layer.shape[1:]) for layer in layers or () if layer is not None}
        if not layers or len(shapes) != 1 or any(layer is None for layer in layers):
            raise ValueError(
                f"a model must return the attention weights of each layer, all of one shape; got "
                f"{type(model).__name__} with {name} of {', '.join(map(str, sorted(shapes))) or 'none'}"
            )
        found[name] = torch.cat([layer.float().cpu() for layer in layers]).numpy()
        if np.isnan(found[name]).any():
            raise ValueError(
                f"a model must compute numbers; got NaN among {name} of {type(model).__name__}: did its training "
                "diverge?"
            )
    return found


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Has a model compute its attention weights where others never write them down, and as it was afterwards."""
    before = str(model.config._attn_implementation)
    if before != "eager":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before != "eager":
            model.set_attn_implementation(before)


def _causal(model: PreTrainedModel) -> bool:
    """Whether a model reads from left to right, found by asking: the first token's states with another second one."""
    ids = torch.tensor([[0, 1], [0, 2]], device=model.device) % model.config.get_text_config().vocab_size
    with torch.no_grad(), evaluating(model):
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, 0]
    return bool(torch.allclose(states[0], states[1], atol=1e-6))
