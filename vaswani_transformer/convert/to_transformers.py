"""Our models as folders of transformers' own classes, which load without this package and its code."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import OpenAIGPTTokenizer, PreTrainedModel

from ..data.gpt_inputs import template
from ..models import (
    VaswaniBertConfig,
    VaswaniGPTConfig,
    VaswaniGPTTokenizer,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from ..models.configuration_gpt import TANH_GELU
from ..models.pretrained_gpt import RENAMED, TRANSPOSED
from ..run_folder import new_folder
from .outgoing import TOLERANCE, difference, model_to_export, tokenizer_to_export
from .to_marian import marian_model

logger = logging.getLogger(__name__)

# Fields that both sides have under one name.
SHARED = ("vocab_size", "initializer_range", "tie_word_embeddings", "use_cache", "problem_type", "id2label", "label2id")
SHARED = (*SHARED, "pad_token_id", "bos_token_id", "eos_token_id")
GPT_SHARED = ("n_embd", "n_layer", "n_head", "n_positions", "resid_pdrop", "embd_pdrop", "attn_pdrop")
GPT_SHARED = (*SHARED, *GPT_SHARED, "layer_norm_epsilon")
# GPT-1's names for activations, in transformers, by ours.
GPT1_NAMES = {TANH_GELU: "gelu"} | {name: name for name in ("relu", "silu")}
HEADS = {  # of ours, and what transformers' class of the model type is called behind its prefix
    "gpt2": {
        "Model": "Model",
        "ForCausalLM": "LMHeadModel",
        "ForSequenceClassification": "ForSequenceClassification",
        "ForTokenClassification": "ForTokenClassification",
        "ForQuestionAnswering": "ForQuestionAnswering",
    },
    "openai-gpt": {
        "Model": "Model",
        "ForCausalLM": "LMHeadModel",
        "ForSequenceClassification": "ForSequenceClassification",
    },
}
PREFIXES = {"gpt2": "GPT2", "openai-gpt": "OpenAIGPT"}


def export_to_transformers(source: str | Path, out: str | Path) -> Path:
    """Writes a model as plain transformers' `bert`, `gpt2`, `openai-gpt` or `marian`, and compares what that computes.

    BERT's and GPT's weights are bit-identical, in the precision they had; tokenizer and generation settings come along.
    GPT with norms before the sub-layers is GPT-2, with norms after them GPT-1. `marian_model` says how the Transformer
    becomes a Marian.

    Departures that are not in the weights: transformers' classifiers of texts have no dropout before them and no
    language model's loss beside theirs, its spans may start in padding, and its plain `forward` counts padding on the
    left as positions (`generate` does not). `marian_model` names those of Marian.

    Args:
        source: a folder of ours, or a name on the Hub.
        out: a folder to make.

    Returns:
        `out`.

    Raises:
        ValueError: a setting that transformers' class cannot express, a head or a model that it has not, logits that
            differ by more than 1e-5 of the largest, a folder that is in use.
    """
    out = new_folder(out, use="export to")
    model = model_to_export(source)
    theirs = plain_model(model)
    if theirs.can_generate() and model.can_generate() and theirs.config.model_type != "marian":
        theirs.generation_config = model.generation_config
    theirs.save_pretrained(out)
    if (tokenizer := tokenizer_to_export(source)) is not None:
        _save_tokenizer(tokenizer, out)
    apart = difference(model.float(), type(theirs).from_pretrained(out, dtype=torch.float32).eval())
    assert apart <= TOLERANCE, f"{out} computes other logits than {source}: they differ by {apart}"
    logger.info("%s computes the same logits to %.1e", type(theirs).__name__, apart)
    return out


def plain_model(model: PreTrainedModel) -> Any:
    """Returns transformers' own model with the weights of one of ours, in the same precision (see `marian_model`).

    Raises:
        ValueError: a setting that transformers' class cannot express, a head that it has not.
    """
    config: Any = model.config
    if isinstance(config, VaswaniTransformerConfig):
        if not isinstance(model, VaswaniTransformerForConditionalGeneration):
            raise ValueError(f"transformers' marian must have an output head; got {type(model).__name__}")
        return marian_model(model)
    if isinstance(config, VaswaniBertConfig):
        name = type(model).__name__.removeprefix("Vaswani")
        fields = {field: getattr(config, field) for field in (*VaswaniBertConfig.__annotations__, *SHARED)}
        own = ("model_type", "keys_to_ignore_at_inference", "base_model_tp_plan")
        fields = {field: value for field, value in fields.items() if field not in own}
        return _filled(name, transformers.BertConfig(**fields), model.state_dict(), model.dtype)
    kind = "gpt2" if config.norm_order == "pre" else "openai-gpt"
    head = type(model).__name__.removeprefix("VaswaniGPT")
    if head not in HEADS[kind]:
        raise ValueError(f"transformers' {kind} must have the head; got {head}, it has {', '.join(HEADS[kind])}")
    if config.both_orders and head == "ForSequenceClassification":
        raise ValueError(
            f"transformers' {kind} reads no pair in both orders; got both_orders=True: the folder as it is loads "
            "anywhere with trust_remote_code=True"
        )
    state = model.state_dict()
    if head != "ForCausalLM":
        state.pop("lm_head.weight", None)  # of the loss beside a task's (lm_loss_weight), which theirs does not have
    weights = openai_state(state, heads=config.num_attention_heads, gpt1=kind == "openai-gpt")
    return _filled(PREFIXES[kind] + HEADS[kind][head], _openai_config(config, kind), weights, model.dtype)


def _filled(name: str, config: Any, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    theirs = getattr(transformers, name)(config).eval()
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    missing = [key for key in missing if key in dict(theirs.named_parameters(remove_duplicate=False))]
    assert not [*missing, *unexpected], f"{name}: {missing=}, {unexpected=}"
    return theirs.to(dtype)


def openai_state(weights: Mapping[str, Tensor], *, heads: int, gpt1: bool) -> dict[str, Tensor]:
    """Returns the weights of one of our GPTs under the names and in the layout of OpenAI's: the way back from
    `pretrained_gpt.openai_weights`.

    Args:
        weights: the state dict.
        heads: H; our fused projection holds each head's query, key and value together, theirs all queries first.
        gpt1: names of GPT-1 instead of GPT-2's.
    """
    names = {ours: theirs for theirs, ours in TRANSPOSED.items()} | {"attn.qkv_proj": "attn.c_attn"}
    found = {}
    for name, tensor in weights.items():
        for ours, theirs in names.items():
            if f".{ours}." in name:
                if ours == "attn.qkv_proj":
                    tensor = tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
                name = name.replace(ours, theirs)
                tensor = tensor.t().contiguous() if tensor.dim() == 2 else tensor
                break
        if gpt1:
            for theirs, ours in RENAMED.items():
                name = name.replace(ours, theirs) if name.endswith(ours) else name
        found[name] = tensor
    return found


def _openai_config(config: VaswaniGPTConfig, kind: str) -> Any:
    """The configuration of transformers' GPT of a kind.

    Raises:
        ValueError: a setting that it has not.
    """
    banded = "sliding_attention" in config.layer_types and config.sliding_window < config.max_position_embeddings  # type: ignore[operator]
    if banded:
        raise ValueError(
            f"transformers' {kind} has no banded layers; got layer_types={config.layer_types}, "
            f"sliding_window={config.sliding_window}: the folder as it is loads anywhere with trust_remote_code=True"
        )
    fields = {name: getattr(config, name) for name in GPT_SHARED}
    if kind == "gpt2":
        fields |= {"n_inner": config.intermediate_size, "classifier_dropout": config.classifier_dropout}
        fields["activation_function"] = "gelu_new" if config.hidden_act == TANH_GELU else config.hidden_act
        return transformers.GPT2Config(**fields)
    if config.intermediate_size != 4 * config.hidden_size:
        raise ValueError(
            "transformers' openai-gpt has an intermediate_size of four times hidden_size; "
            f"got intermediate_size={config.intermediate_size}, hidden_size={config.hidden_size}"
        )
    if config.hidden_act not in GPT1_NAMES:
        known = ", ".join(GPT1_NAMES)
        raise ValueError(f"transformers' openai-gpt has the hidden_act {known}; got hidden_act={config.hidden_act!r}")
    return transformers.OpenAIGPTConfig(**fields, afn=GPT1_NAMES[config.hidden_act])


def _save_tokenizer(tokenizer: Any, out: Path) -> None:
    if isinstance(tokenizer, VaswaniGPTTokenizer):
        logger.warning(
            "transformers has no tokenizer of 2018: OpenAIGPTTokenizer goes along, which gives other tokens for "
            "contractions, accents, curly quotes, ellipses and newlines than the model has learnt"
        )
        tokenizer = _stock_gpt1(tokenizer)
    tokenizer.save_pretrained(out)


def _stock_gpt1(tokenizer: VaswaniGPTTokenizer) -> OpenAIGPTTokenizer:
    """transformers' tokenizer of the same vocabulary, with the tokens that were added and the template of fine-tuning.

    Raises:
        ValueError: an added token that has another id there.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_vocabulary(folder)
        stock: Any = OpenAIGPTTokenizer.from_pretrained(folder)
    added = sorted(tokenizer.added_tokens_decoder.items())
    stock.add_tokens([token for _, token in added])
    stock.add_special_tokens(tokenizer.special_tokens_map)
    ids = {str(token): number for number, token in added}
    if wrong := {
        token: stock.convert_tokens_to_ids(token) for token in ids if stock.get_vocab().get(token) != ids[token]
    }:
        raise ValueError(
            f"added tokens must follow the vocabulary, which transformers' OpenAIGPTTokenizer numbers on; got {ids}, "
            f"there {wrong}: export from a folder without its tokenizer files"
        )
    if tokenizer.cls_token is not None:
        stock.backend_tokenizer.post_processor = template(stock)
    return stock
