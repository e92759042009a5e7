"""The original Transformer as transformers' MarianMTModel, which has its names of weights but not its switches."""

# D d_model   H heads   K head size of queries and keys   W of values   V vocabulary

import copy
import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from ..models import VaswaniTransformerConfig
from .outgoing import TOLERANCE, difference, example_inputs

logger = logging.getLogger(__name__)

MARIAN_EPS = 1e-5  # of torch.nn.LayerNorm, which Marian leaves at its default
TYPICAL_LENGTH = 25  # tokens at which the two length penalties have one slope
SAME = ("vocab_size", "d_model", "dropout", "attention_dropout", "activation_dropout", "scale_embedding", "use_cache")
SAME = (*SAME, "max_position_embeddings", "pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")


def marian_model(model: Any) -> Any:
    """Returns transformers' MarianMTModel that computes what one of our translation models computes.

    What makes one out of the other, all of it in the weights:

    - attention without biases has biases of 0, the output's bias is `final_logits_bias`;
    - interleaved sinusoids become Marian's half-split ones by reordering the D axis of every weight;
    - heads narrower than D / H are padded with zeros, and queries scaled by what the root of the width then differs;
    - a decoder that starts from a zero vector has an embedding of its own, whose row of padding is zero. The output
      matrix keeps that row, so that both are in the file; only where the row is zero already do they stay one matrix;
    - another epsilon than Marian's 1e-5: LayerNorm(x; eps) = LayerNorm(c x; c^2 eps), so that what flows from norm to
      norm is c = sqrt(1e-5 / eps) times as large. Not before the first norm of each stack, where Marian adds its own
      positions: that norm's output is smaller by a share of (1e-5 - eps) / (2 variance), some 1e-6, made up for in its
      weight for the middle of the variances met.

    Where nothing is scaled weights stay in their precision; else they are float32.

    Departures that are not in the weights: no label smoothing in the loss; positions count padding, which must stand on
    the right, and end at `max_position_embeddings`; their table is rounded once, ours in each step (3e-6 apart at
    position 64, 6e-5 at 1,024); source padding is told by `attention_mask` alone; a beam search whose length penalty is
    |Y|^a, with a chosen so that it has the paper's slope at 25 tokens, and one limit on the length for all sentences.

    Args:
        model: VaswaniTransformerForConditionalGeneration.

    Raises:
        ValueError: settings that Marian cannot express, all of them at once; an epsilon that moves logits by more than
            1e-5 of the largest.
    """
    config: VaswaniTransformerConfig = model.config
    if obstacles := list(_obstacles(config)):
        raise ValueError(
            f"transformers' Marian, the nearest it has to a Transformer of 2017, must have {'; '.join(obstacles)}: the "
            "folder as it is loads anywhere with trust_remote_code=True"
        )
    weights, zero_start = _weights(model), _needs_zero_row(model)
    theirs: Any = MarianMTModel(_marian_config(config, zero_start)).eval()
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    missing = [name for name in missing if "embed_positions" not in name]
    assert not [*missing, *unexpected], f"MarianMTModel: {missing=}, {unexpected=}"
    theirs.generation_config = _generation_config(model)
    if zero_start:
        logger.info("the decoder starts from a zero vector: it has an embedding of its own beside the output matrix")
    if config.layer_norm_eps != MARIAN_EPS:
        _make_up(model, theirs)
        apart = difference(copy.deepcopy(model).float(), theirs)
        if not apart <= TOLERANCE:
            raise ValueError(
                f"transformers' Marian must have layer_norm_eps={MARIAN_EPS}, got {config.layer_norm_eps}: what its "
                f"first norms add to so small numbers moves logits by {apart:.1e} of the largest, {TOLERANCE} at most "
                "is the same: the folder as it is loads anywhere with trust_remote_code=True"
            )
    return theirs.to(weights["model.encoder.embed_tokens.weight"].dtype)


def _obstacles(config: VaswaniTransformerConfig) -> Iterator[str]:
    """What Marian has, for each setting of ours that it has not."""
    if config.norm_order != "post":
        yield f"norm_order='post', got {config.norm_order!r}"
    if config.final_norm:
        yield "final_norm=False, got True"
    if config.position_embedding != "sinusoidal":
        yield f"position_embedding='sinusoidal', got {config.position_embedding!r}"
    elif config.position_frequency != "paper":
        yield f"position_frequency='paper', got {config.position_frequency!r}"
    if config.position_offset:
        yield f"position_offset=0, got {config.position_offset}"
    head = config.d_model / config.num_heads
    if config.d_model % config.num_heads or max(config.d_k, config.d_v) > head:
        yield (
            f"d_k and d_v of at most d_model / num_heads, a whole number, got d_k={config.d_k}, d_v={config.d_v}, "
            f"d_model={config.d_model}, num_heads={config.num_heads}"
        )


def _needs_zero_row(model: Any) -> bool:
    """Whether the decoder's start is a zero vector, as its embedding's row is not."""
    row = model.model.decoder.embed_tokens.weight[model.config.pad_token_id]
    return model.config.decoder_start == "zero" and bool(row.any())


def _marian_config(config: VaswaniTransformerConfig, zero_start: bool) -> MarianConfig:
    return MarianConfig(
        **{name: getattr(config, name) for name in SAME},
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff,
        activation_function=config.activation,
        forced_eos_token_id=None,
        share_encoder_decoder_embeddings=config.tie_embeddings == "all" and not zero_start,
        tie_word_embeddings=config.tie_embeddings != "none" and not zero_start,
    )


def _weights(model: Any) -> dict[str, Tensor]:
    """Marian's weights, of all names that it has a tensor under."""
    config = model.config
    wider = config.d_model // config.num_heads
    made = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bias = made.pop("lm_head.bias", None)
    made["final_logits_bias"] = torch.zeros(1, config.vocab_size) if bias is None else bias.unsqueeze(0)
    if _needs_zero_row(model):
        made.pop("model.shared.weight", None)
        made["model.decoder.embed_tokens.weight"][config.pad_token_id] = 0
    scale = math.sqrt(MARIAN_EPS / config.layer_norm_eps)
    if scale != 1 or (wider != config.d_k):
        made = {name: tensor.float() for name, tensor in made.items()}
    for stack, layers in (("encoder", model.model.encoder.layers), ("decoder", model.model.decoder.layers)):
        for number in range(len(layers)):
            name = f"model.{stack}.layers.{number}"
            for attention in ("self_attn", "encoder_attn")[: 1 if stack == "encoder" else 2]:
                _widen_heads(made, f"{name}.{attention}", config, wider)
            if scale != 1:
                _scale_layer(made, name, scale, first=number == 0, last=number == len(layers) - 1)
    if config.position_layout == "interleaved":
        order_D = torch.cat((torch.arange(0, config.d_model, 2), torch.arange(1, config.d_model, 2)))
        made = {name: _reordered(name, tensor, order_D) for name, tensor in made.items()}
    return made


def _widen_heads(made: dict[str, Tensor], name: str, config: VaswaniTransformerConfig, wider: int) -> None:
    """Gives an attention biases, and heads of D / H by zeros that change nothing."""
    H = config.num_heads
    for part, size in (("q_proj", config.d_k), ("k_proj", config.d_k), ("v_proj", config.d_v)):
        weight, bias = made[f"{name}.{part}.weight"], made.get(f"{name}.{part}.bias")
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        scale = math.sqrt(wider / size) if part == "q_proj" else 1.0  # scores are divided by the root of the width
        pad = (0, wider - size)
        made[f"{name}.{part}.bias"] = nn.functional.pad(bias.view(H, size) * scale, pad).flatten()
        made[f"{name}.{part}.weight"] = nn.functional.pad(weight.view(H, size, -1) * scale, (0, 0, *pad)).flatten(0, 1)
    out = made[f"{name}.out_proj.weight"]
    made[f"{name}.out_proj.weight"] = nn.functional.pad(out.view(-1, H, config.d_v), (0, wider - config.d_v)).flatten(1)
    made.setdefault(f"{name}.out_proj.bias", out.new_zeros(out.shape[0]))


def _scale_layer(made: dict[str, Tensor], name: str, scale: float, *, first: bool, last: bool) -> None:
    """Makes what flows between norms `scale` times as large, but not what comes in first and goes out last."""
    attentions = [part for part in ("self_attn", "encoder_attn") if f"{name}.{part}.q_proj.weight" in made]
    for attention in attentions:
        if first and attention == "self_attn":
            continue  # before its norm stand the positions
        reads = ("q_proj",) if attention == "encoder_attn" else ("q_proj", "k_proj", "v_proj")
        for part in reads:
            made[f"{name}.{attention}.{part}.weight"] /= scale
        for kind in ("weight", "bias"):
            made[f"{name}.{attention}.out_proj.{kind}"] *= scale
    made[f"{name}.fc1.weight"] /= scale
    norms = [f"{attention}_layer_norm" for attention in attentions]
    for part in ("fc2", *norms, *(() if last else ("final_layer_norm",))):
        for kind in ("weight", "bias"):
            made[f"{name}.{part}.{kind}"] *= scale


@torch.inference_mode()
def _make_up(model: Any, theirs: Any) -> None:
    """Multiplies the weights of both first norms by what another epsilon takes from them, its mid-range."""
    shares: list[Tensor] = []

    def measure(norm: nn.LayerNorm, inputs: tuple[Tensor]) -> None:
        variance = inputs[0].float().var(-1, correction=0)
        shares.append(((variance + MARIAN_EPS) / (variance + norm.eps)).sqrt())

    norms = [stack.layers[0].self_attn_layer_norm for stack in (model.model.encoder, model.model.decoder)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    model(**example_inputs(model))
    for hook in hooks:
        hook.remove()
    for stack, share in zip((theirs.model.encoder, theirs.model.decoder), shares, strict=True):
        stack.layers[0].self_attn_layer_norm.weight *= (share.min() + share.max()) / 2


def _reordered(name: str, tensor: Tensor, order_D: Tensor) -> Tensor:
    """A weight with its D axis in another order; of what has none, the weight itself."""
    part, kind = name.split(".")[-2:] if "." in name else (name, "")
    if part in ("q_proj", "k_proj", "v_proj", "fc1", "embed_tokens", "shared", "lm_head"):
        return tensor[:, order_D] if kind == "weight" else tensor
    return tensor if part == "final_logits_bias" else tensor[order_D]


def _generation_config(model: Any) -> GenerationConfig:
    """The model's own settings in what transformers' search has; see `marian_model` for what differs."""
    ours: Any = model.generation_config
    made: Any = copy.deepcopy(ours)
    if hasattr(made, "max_extra_tokens"):
        del made.max_extra_tokens
    if made.max_length is None and made.max_new_tokens is None:
        made.max_length = model.config.max_position_embeddings
    start = model.config.decoder_start_token_id
    ends = made.eos_token_id if isinstance(made.eos_token_id, list) else [made.eos_token_id]
    made.suppress_tokens = sorted({*(made.suppress_tokens or ()), model.config.pad_token_id, start} - {*ends})
    if (made.num_beams or 1) > 1 and made.length_penalty:
        made.length_penalty = round(made.length_penalty * TYPICAL_LENGTH / (TYPICAL_LENGTH + 5), 4)
        logger.warning(
            "transformers' beam search divides by |Y|^a, not ((5 + |Y|) / 6)^%g: a=%g has that slope at %d tokens; its "
            "output ends at %s tokens, not so many after its source's length",
            ours.length_penalty,
            made.length_penalty,
            TYPICAL_LENGTH,
            made.max_new_tokens or made.max_length,
        )
    return made
