"""Our models' weights in CTranslate2's own specifications of an encoder-decoder, an encoder and a decoder."""

# D hidden size   H heads   K size of a head   V vocabulary   F width of the feed-forward network

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..models import VaswaniGPTConfig

# transformers' names of activations by CTranslate2's.
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "quick_gelu": "GELUSigmoid",
    "silu": "SWISH",
    "swish": "SWISH",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}
# CTranslate2 has a table of positions where ours are computed: so many rows beyond `max_position_embeddings`.
MORE_POSITIONS = 1024


def transformer_spec(model: Any) -> Any:
    """Returns the `TransformerSpec` of a VaswaniTransformerForConditionalGeneration, without its vocabulary.

    Heads whose keys and values differ in size (rows B of Table 3) are widened with zeros to the larger of the two,
    which changes no product. The decoder's start from a zero vector is CTranslate2's `start_from_zero_embedding`.

    Raises:
        ValueError: an activation that CTranslate2 does not have.
    """
    from ctranslate2 import specs
    from ctranslate2.specs.common_spec import LayerNormSpec

    config = model.config
    shape = {
        "num_heads": config.num_heads,
        "pre_norm": config.norm_order == "pre",
        "no_final_norm": True,
        "activation": _activation("activation", config.activation),
        "head_dim": max(config.d_k, config.d_v),
    }
    spec: Any = specs.TransformerSpec(
        specs.TransformerEncoderSpec(config.num_encoder_layers, **shape),
        specs.TransformerDecoderSpec(config.num_decoder_layers, **shape),
    )
    spec.decoder.start_from_zero_embedding = config.decoder_start == "zero"
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.encoder.embeddings[0].weight = _array(model.model.encoder.embed_tokens.weight)
    spec.decoder.embeddings.weight = _array(model.model.decoder.embed_tokens.weight)
    _fill_linear(spec.decoder.projection, model.lm_head)
    rows = config.max_position_embeddings + (0 if config.position_embedding == "learned" else MORE_POSITIONS)
    spec.config.add_attribute("max_position_embeddings", rows)
    for stack, filled in ((model.model.encoder, spec.encoder), (model.model.decoder, spec.decoder)):
        filled.scale_embeddings = config.scale_embedding
        filled.position_encodings.encodings = _array(stack.positions(torch.arange(rows)))
        if stack.layer_norm is not None:
            # The specification has this norm in stacks with norms before their sub-layers alone, the runtime in any.
            vars(filled)["layer_norm"] = LayerNormSpec()
            _fill_norm(filled.layer_norm, stack.layer_norm)
        for layer, into in zip(stack.layers, filled.layer, strict=True):
            _fill_attention(into.self_attention, layer.self_attn, layer.self_attn_layer_norm)
            if hasattr(layer, "encoder_attn"):
                _fill_attention(into.attention, layer.encoder_attn, layer.encoder_attn_layer_norm)
            _fill_feed_forward(into.ffn, layer.fc1, layer.fc2, layer.final_layer_norm)
    return spec


def bert_spec(bert: Any) -> Any:
    """Returns the `TransformerEncoderModelSpec` of a VaswaniBertModel, with its pooler where it has one.

    Raises:
        ValueError: an activation that CTranslate2 does not have.
    """
    from ctranslate2 import specs

    config = bert.config
    encoder = specs.TransformerEncoderSpec(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=False,
        activation=_activation("hidden_act", config.hidden_act),
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=specs.EmbeddingsMerge.ADD,
    )
    spec: Any = specs.TransformerEncoderModelSpec(encoder, pooling_layer=bert.pooler is not None)
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = _array(bert.embeddings.word_embeddings.weight)
    encoder.embeddings[1].weight = _array(bert.embeddings.token_type_embeddings.weight)
    encoder.position_encodings.encodings = _array(bert.embeddings.position_embeddings.weight)
    _fill_norm(encoder.layernorm_embedding, bert.embeddings.LayerNorm)
    for layer, into in zip(bert.encoder.layer, encoder.layer, strict=True):
        own, output = layer.attention.self, layer.attention.output
        _fill_linear(into.self_attention.linear[0], own.query, own.key, own.value)
        _fill_linear(into.self_attention.linear[1], output.dense)
        _fill_norm(into.self_attention.layer_norm, output.LayerNorm)
        _fill_feed_forward(into.ffn, layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm)
    if bert.pooler is not None:
        _fill_linear(spec.pooler_dense, bert.pooler.dense)
    return spec


def gpt_spec(model: Any) -> Any:
    """Returns the `TransformerDecoderModelSpec` of a VaswaniGPTForCausalLM, norms before or after the sub-layers.

    Raises:
        ValueError: an activation or banded layers, which CTranslate2 does not have.
    """
    from ctranslate2 import specs

    config, gpt = model.config, model.transformer
    _refuse_bands(config)
    spec: Any = specs.TransformerDecoderModelSpec.from_config(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=config.norm_order == "pre",
        activation=_activation("hidden_act", config.hidden_act),
    )
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = _array(gpt.wte.weight)
    decoder.position_encodings.encodings = _array(gpt.wpe.weight)
    _fill_linear(decoder.projection, model.lm_head)
    if gpt.ln_f is not None:
        _fill_norm(decoder.layer_norm, gpt.ln_f)
    for block, into in zip(gpt.h, decoder.layer, strict=True):
        qkv, attention = block.attn.qkv_proj, into.self_attention
        attention.linear[0].weight = _array(_queries_first(qkv.weight, config.num_attention_heads))
        attention.linear[0].bias = _array(_queries_first(qkv.bias, config.num_attention_heads))
        _fill_linear(attention.linear[1], block.attn.out_proj)
        _fill_norm(attention.layer_norm, block.ln_1)
        _fill_feed_forward(into.ffn, block.mlp.up_proj, block.mlp.down_proj, block.ln_2)
    return spec


def _activation(field: str, name: str) -> Any:
    from ctranslate2 import specs

    if name not in ACTIVATIONS:
        raise ValueError(f"CTranslate2 has the activations {', '.join(ACTIVATIONS)}; got {field}={name!r}")
    return specs.Activation[ACTIVATIONS[name]]


def _refuse_bands(config: VaswaniGPTConfig) -> None:
    if "sliding_attention" in config.layer_types and config.sliding_window < config.max_position_embeddings:  # type: ignore[operator]
        raise ValueError(
            f"CTranslate2's decoders have no banded layers among full ones; got layer_types={config.layer_types}, "
            f"sliding_window={config.sliding_window}"
        )


def _array(weight: Tensor) -> Any:
    """A copy in float32, because quantising changes arrays in place."""
    return weight.detach().float().numpy().copy()


def _fill_norm(into: Any, norm: nn.LayerNorm) -> None:
    into.gamma, into.beta = _array(norm.weight), _array(norm.bias)


def _fill_linear(into: Any, *layers: nn.Linear) -> None:
    """One projection, or several one after the other."""
    into.weight = _array(torch.cat([layer.weight for layer in layers]))
    if layers[0].bias is not None:
        into.bias = _array(torch.cat([layer.bias for layer in layers]))


def _fill_feed_forward(into: Any, first: nn.Linear, second: nn.Linear, norm: nn.LayerNorm) -> None:
    _fill_linear(into.linear_0, first)
    _fill_linear(into.linear_1, second)
    _fill_norm(into.layer_norm, norm)


def _fill_attention(into: Any, attention: Any, norm: nn.LayerNorm) -> None:
    """The original Transformer's: self-attention has one projection for all three, the other one for the queries."""
    config = attention.config
    inner = [
        _widened(linear, config.num_heads, max(config.d_k, config.d_v))
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    first = [inner] if len(into.linear) == 2 else [inner[:1], inner[1:]]
    for filled, group in zip(into.linear, first, strict=False):
        filled.weight = _array(torch.cat([weight for weight, _ in group]))
        if attention.q_proj.bias is not None:
            filled.bias = _array(torch.cat([bias for _, bias in group if bias is not None]))
    output = into.linear[-1]
    output.weight = _array(_wider(attention.out_proj.weight.t(), config.num_heads, max(config.d_k, config.d_v)).t())
    if attention.out_proj.bias is not None:
        output.bias = _array(attention.out_proj.bias)
    into.queries_scale = 1.0 / math.sqrt(config.d_k)
    _fill_norm(into.layer_norm, norm)


def _widened(linear: nn.Linear, heads: int, size: int) -> tuple[Tensor, Tensor | None]:
    bias = None if linear.bias is None else _wider(linear.bias, heads, size)
    return _wider(linear.weight, heads, size), bias


def _wider(rows: Tensor, heads: int, size: int) -> Tensor:
    """[H * K, ...] with zeros behind each head's rows, [H * size, ...]."""
    split = rows.unflatten(0, (heads, -1))
    zeros = split.new_zeros(heads, size - split.shape[1], *split.shape[2:])
    return torch.cat((split, zeros), dim=1).flatten(0, 1)


def _queries_first(rows: Tensor, heads: int) -> Tensor:
    """[3 * D, ...] that went head by head, each head's query, key and value together, all queries first."""
    return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
