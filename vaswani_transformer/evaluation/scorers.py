"""Which way of scoring a model is asked in: from left to right, by masks, or as source and target."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .causal_lm import context_of, load_causal_lm
from .devices import device_named
from .encoder_decoder_scoring import EncoderDecoderScorer, PairTokens
from .masked_scoring import PLL, MaskedScorer, MaskedTokens
from .packed_scoring import PackedScorer
from .scoring import Likelihood, Tokens
from .tasks import Task
from .whole_weights import load_whole

KINDS = ("causal", "masked", "encoder_decoder")
Score = Callable[[Sequence[Sequence[Any]]], Iterator[tuple[int, list[Likelihood]]]]


@dataclass(frozen=True)
class Scorer:
    """How a model scores choices.

    Args:
        kind: one of `KINDS`.
        context: how many tokens the model can read, None where that has no end.
        tokens: tokenises a context, a choice and its tail, which others than masked models do not read; `read` of what
            it returns must not be above `context`.
        score: takes most tokens of a batch and returns the function that scores the choices of questions; a model is
            tried with a few of them then.
        pll: what is hidden with a masked token, see `MaskedTokens`; None of other kinds.
    """

    kind: str
    context: int | None
    tokens: Callable[[str, str, str], Any]
    score: Callable[[int], Score]
    pll: str | None = None


def scorer_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, pll: str = PLL[0]) -> Scorer:
    """Returns how a model scores choices: the packed rows, the pseudo-log-likelihood, or targets behind a source.

    Args:
        model: a causal or masked language model, or an encoder-decoder.
        tokenizer: its tokenizer.
        pll: of a masked one, "word_l2r" or "original", see `MaskedTokens`.

    Raises:
        ValueError: another model, a tokenizer that masked scoring cannot use; of a masked one an unknown `pll`.
    """
    kind, context = kind_of(model), context_of(model)
    if kind == "causal":
        ids, packed = Tokens(model, tokenizer), partial(PackedScorer, model)
        return Scorer(kind, context, lambda text, choice, _: ids(text, choice), lambda most: packed(batch_tokens=most))
    if kind == "encoder_decoder":
        pairs, make = PairTokens(tokenizer), partial(EncoderDecoderScorer, model, tokenizer)
        return Scorer(kind, context, lambda text, choice, _: pairs(text, choice), lambda most: make(batch_tokens=most))
    context = min(tokenizer.model_max_length, context or tokenizer.model_max_length)  # RoBERTa's has two rows more
    masked, hidden = partial(MaskedScorer, model, tokenizer), MaskedTokens(tokenizer, pll=pll)
    return Scorer(kind, context, hidden, lambda most: masked(batch_tokens=most), pll)


def kind_of(model: PreTrainedModel) -> str:
    """Returns which of `KINDS` a model is.

    Raises:
        ValueError: an encoder with another head than the masked-word one, which reads what it is to foretell.
    """
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "encoder_decoder"
    known = _known(AutoModelForMaskedLM, config)
    remote = (getattr(config, "auto_map", None) or {}).get("AutoModelForMaskedLM", "").rpartition(".")[2]
    if (known and isinstance(model, known)) or type(model).__name__ == remote:
        return "masked"
    if _reads_both_ways(config):
        raise ValueError(
            f"an encoder must have its masked-word head alone to score text; got {type(model).__name__}: load it with "
            "AutoModelForMaskedLM"
        )
    return "causal"


def check_tasks(kind: str, tasks: Sequence[Task]) -> None:
    """Raises ValueError where a masked language model is asked to write."""
    free = [task.name for task in tasks if task.kind == "completion"]
    if kind == "masked" and free:
        raise ValueError(
            f"a masked language model writes no text, and can be asked for choices and last words alone; got "
            f"{', '.join(free)}: name other tasks, austen_cloze for one"
        )


def load_scored_model(
    name: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a model of any of `KINDS`, in evaluation mode on its device, and its tokenizer.

    Args:
        name: a folder, or a name on the Hub.
        dtype: of the weights; as they were saved where left out.
        device: the GPU where there is one, where left out.

    Raises:
        ValueError: as `load_causal_lm`; a folder without the weights of its language model's head.
    """
    name = str(name)
    auto = _auto_class(name)
    if auto is None:
        return load_causal_lm(name, dtype=dtype, device=device)
    return load_as(auto, name, part="language model", dtype=dtype, device=device)


def load_as(
    auto: Any, name: str, *, part: str, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a model, in evaluation mode on its device, and its tokenizer.

    Args:
        auto: an Auto class.
        name: a folder, or a name on the Hub.
        part: what must have its weights there, for the message.
        dtype: as for `load_scored_model`.
        device: the same.

    Raises:
        ValueError: nothing to load, weights that are not there, a tokenizer larger than the model.
    """
    place = device_named(device)
    try:
        more: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        model = load_whole(auto, name, part=part, **more)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"MODEL must be a folder with a model and its tokenizer, or a Hub name; got {name}: {error}"
        ) from error
    if len(tokenizer) > model.config.vocab_size:
        size = model.config.vocab_size
        raise ValueError(f"the tokenizer must not have more tokens than the model; got {len(tokenizer)}, {size=}")
    return model.to(place), tokenizer


def _auto_class(name: str) -> Any:
    """Of what is no causal language model; None also where nothing can be read, which `load_causal_lm` tells."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError:
        return None
    if getattr(config, "is_encoder_decoder", False):
        return AutoModelForSeq2SeqLM
    return AutoModelForMaskedLM if _known(AutoModelForMaskedLM, config) and _reads_both_ways(config) else None


def _reads_both_ways(config: Any) -> bool:
    """Whether a configuration is an encoder's: some of these have a causal class too, for use as a decoder."""
    masked_only = _known(AutoModelForMaskedLM, config) and not _known(AutoModelForCausalLM, config)
    return bool(masked_only) or getattr(config, "is_decoder", True) is False


def _known(auto: Any, config: Any) -> Any:
    """The class that an Auto class has for a configuration; None for none."""
    return auto._model_mapping.get(type(config), None)
