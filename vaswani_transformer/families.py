"""What the training loop must know of each model family, and how a recipe's `model` section becomes a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from .data.bert_pretraining import BertPretrainingData
from .data.causal import CausalData
from .data.translation import TranslationData
from .evaluation.bert_pretraining import accuracy_metric
from .evaluation.translation import bleu_metric
from .models import (
    VaswaniBertConfig,
    VaswaniBertForPreTraining,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from .sections import unknown_name

ALIGNMENT = 64  # bytes, of what torch allocates on a CPU
OWN_KEYS = ("family", "preset", "from")  # of the `model` section; all others are fields of the configuration


@dataclass(frozen=True)
class Family:
    """What the loop must know of a model family; all else is in the data module and the model.

    Args:
        config: the configuration class, with `preset`.
        model: the class that is trained; its forward takes a micro batch and `num_items_in_batch`, and returns `loss`
            and `nll_loss`, both sums over the targets divided by it.
        data: the data module, used as `TranslationData` is.
        metrics: what `validate.metrics` may name beside "loss": functions of (model, data, limit).
    """

    config: Any
    model: type[PreTrainedModel]
    data: Any
    metrics: dict[str, Callable[..., dict[str, float]]]


FAMILIES = {
    "bert": Family(VaswaniBertConfig, VaswaniBertForPreTraining, BertPretrainingData, {"accuracy": accuracy_metric}),
    "gpt": Family(VaswaniGPTConfig, VaswaniGPTForCausalLM, CausalData, {}),
    "transformer": Family(
        VaswaniTransformerConfig, VaswaniTransformerForConditionalGeneration, TranslationData, {"bleu": bleu_metric}
    ),
}


def family_of(section: Mapping[str, Any], checkpoint: Path | None = None) -> Family:
    """The family a recipe's `model` section names, or that of the model it starts from.

    Args:
        section: the recipe's `model`.
        checkpoint: a checkpoint to go on from; `from` is not looked at then.

    Raises:
        ValueError: a family that is not trained here, a `from` that is no model or one of another family.
    """
    source = checkpoint or section.get("from")
    if source is None:
        if section["family"] not in FAMILIES:
            raise ValueError(f"model.family must be one of {', '.join(FAMILIES)}; got family={section['family']!r}")
        return FAMILIES[section["family"]]
    try:
        model_type = AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"model.from must name a model's folder or Hub repository; got {str(source)!r}") from error
    for name, family in FAMILIES.items():
        if family.config.model_type == model_type and section.get("family", name) == name:
            return family
    known = ", ".join(f"{family.config.model_type} ({name})" for name, family in FAMILIES.items())
    raise ValueError(
        f"model.from must be a model of the recipe's family, {known}; "
        f"got model_type {model_type!r} in {str(source)!r}, family={section.get('family')!r}"
    )


def build_model(
    family: Family,
    section: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    checkpoint: Path | None = None,
) -> PreTrainedModel:
    """The model of a recipe, in float32: loaded from `checkpoint` or `from`, else made from preset and fields.

    A new model takes vocabulary size and special tokens from the tokenizer where the recipe does not set them.

    Raises:
        ValueError: an unknown field, weights that do not fit the fields, a vocabulary that is not the tokenizer's.
    """
    fields = {key: value for key, value in section.items() if key not in OWN_KEYS}
    _check_fields(family, fields)
    source = checkpoint or section.get("from")
    if source is None:
        names = [f"{name}_token_id" for name in ("pad", "eos", "unk")]
        ids = {name: getattr(tokenizer, name) for name in names if name in family.config.__dataclass_fields__}
        config = _new_config(family, section, {"vocab_size": len(tokenizer), **ids, **fields})
        _check_vocabulary(config, tokenizer)
        return family.model(config)
    try:
        model = family.model.from_pretrained(source, dtype=torch.float32, **fields)
    except RuntimeError as error:
        raise ValueError(f"the model's fields must fit the weights in {source}; got {fields}") from error
    _check_vocabulary(model.config, tokenizer)
    _align(model)
    return model


def _align(model: PreTrainedModel) -> None:
    """Moves weights to where torch would have put new ones.

    safetensors leaves them where they lie in the file, and a CPU's library may round a product by where its matrices
    begin: a resumed run would not end with the weights of one that never stopped.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def planned_config(family: Family, section: Mapping[str, Any], vocab_size: int | None) -> Any:
    """The configuration of a recipe's model before there is a tokenizer; of a `from`, its configuration is all that is
    read.

    Args:
        family: of the recipe's model.
        section: the recipe's `model`.
        vocab_size: tokens of the tokenizer to come, where that is known; else the preset's.

    Raises:
        ValueError: an unknown field or preset.
    """
    fields = {key: value for key, value in section.items() if key not in OWN_KEYS}
    _check_fields(family, fields)
    if "from" in section:
        return family.config.from_pretrained(section["from"], **fields)
    return _new_config(family, section, ({} if vocab_size is None else {"vocab_size": vocab_size}) | fields)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Lets the backward pass compute each layer's activations anew, so that only what goes into layers is kept."""
    # transformers 5.23 has a new name for it and warns of the old one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _new_config(family: Family, section: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
    return family.config.preset(section["preset"], **fields) if "preset" in section else family.config(**fields)


def _check_fields(family: Family, fields: Mapping[str, Any]) -> None:
    """A configuration keeps any keyword it does not know; a recipe's would then change nothing, unnoticed."""
    own = [*family.config.__annotations__, *family.config.attribute_map]
    own = [name for name in own if name not in ("model_type", "attribute_map") and "tp_plan" not in name]
    for name in fields:
        if name not in own and name not in family.config.__dataclass_fields__:
            raise ValueError(unknown_name(f"model.{name}", [f"model.{known}" for known in own], "recipe key"))


def _check_vocabulary(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if config.vocab_size < len(tokenizer):
        raise ValueError(
            "the model's vocabulary must hold every token of the tokenizer; "
            f"got vocab_size={config.vocab_size}, {len(tokenizer)} tokens"
        )
    for name in ("pad_token_id", "eos_token_id"):
        ours, theirs = getattr(config, name), getattr(tokenizer, name)
        if ours != theirs and None not in (ours, theirs):
            raise ValueError(f"model and tokenizer must agree on {name}; got {ours} in the model, {theirs}")
