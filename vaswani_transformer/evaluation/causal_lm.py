"""Causal language models to evaluate and to write with: GPT-1 and GPT-2 read as ours, any other as its own class."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    OpenAIGPTTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from ..models import VaswaniGPTConfig, VaswaniGPTForCausalLM, VaswaniGPTTokenizer
from ..models.configuration_gpt import FIXED, FOREIGN
from .devices import device_named
from .whole_weights import load_whole

logger = logging.getLogger(__name__)


def load_causal_lm(
    name: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a causal language model, in evaluation mode on its device, and its tokenizer.

    A folder of transformers' GPT-2 or OpenAI-GPT is read as ours, whose logits are theirs, unless one of GPT-2's
    switches asks for a model that ours is not. GPT-1's vocabulary is read by OpenAI's rules, which the weights have
    learnt, where the extra `gpt1` is installed, else by transformers' with a warning.

    Args:
        name: a folder, or a name on the Hub.
        dtype: of the weights; as they were saved where left out.
        device: the GPU where there is one, where left out.

    Raises:
        ValueError: nothing to load, weights that are not there, a folder without a tokenizer, a model that is no
            causal language model, or a device that is not here.
    """
    name, place = str(name), device_named(device)
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"a model's folder has a config.json; got {name} without one")
    try:
        config = AutoConfig.from_pretrained(name)
        _check_kind(name, config)
        foreign = config.model_type in FOREIGN
        ours = foreign and all(getattr(config, switch, value) == value for switch, value in FIXED.items())
        model_class: Any = VaswaniGPTForCausalLM if ours else AutoModelForCausalLM
        more: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        model = load_whole(model_class, name, part="language model", **more)
        tokenizer = _tokenizer(name)
    except OSError as error:
        raise ValueError(
            f"MODEL must be a folder with a model and its tokenizer, or a Hub name; got {name}: {error}"
        ) from error
    if len(tokenizer) > model.config.vocab_size:
        size = model.config.vocab_size
        raise ValueError(f"the tokenizer must not have more tokens than the model; got {len(tokenizer)}, {size=}")
    return model.to(place), tokenizer


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(name)
    files = VaswaniGPTTokenizer.vocab_files_names.values()
    found = [cached_file(name, file, _raise_exceptions_for_missing_entries=False) for file in files]
    if isinstance(tokenizer, OpenAIGPTTokenizer) and all(found):
        try:
            return VaswaniGPTTokenizer.from_pretrained(name)
        except ImportError as error:
            logger.warning("%s", error)
    return tokenizer


def _check_kind(name: str, config: Any) -> None:
    """Refuses what writes no text from left to right; transformers would read an encoder as if it did."""
    known = type(config) in AutoModelForCausalLM._model_mapping  # pyright: ignore[reportAttributeAccessIssue]
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not (known or remote) or config.is_encoder_decoder or getattr(config, "is_decoder", True) is False:
        raise ValueError(
            f"MODEL must be a causal language model, {VaswaniGPTConfig.model_type} or gpt2 for one; "
            f"got model_type {config.model_type!r} in {name}"
        )


def context_of(model: PreTrainedModel) -> int | None:
    """Returns how many tokens a model can read, None where its positions have no end."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def start_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the token that a text starts after: the tokenizer's or the model's bos, else eos; None without any."""
    for token in (tokenizer.bos_token_id, model.config.bos_token_id, tokenizer.eos_token_id, model.config.eos_token_id):
        found = token[0] if isinstance(token, list) and token else token
        if isinstance(found, int):
            return found
    return None
