"""The layers of the original Transformer, Vaswani et al. (2017): attention, feed-forward, and the four blocks."""

# B batch   T length (target, or queries)   S source length (or keys)   D hidden size   H heads
# K head size of queries and keys   W head size of values

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend, split_heads
from .configuration_transformer import VaswaniTransformerConfig
from .layers import dropout


class MultiHeadAttention(nn.Module):
    """Multi-head attention, section 3.2.2: heads of their own key and value sizes, joined by an output projection.

    Args:
        config: sizes d_model, num_heads, d_k, d_v, attention_dropout, attention_bias.
        layer_idx: the layer's number, its place in the cache.
        is_causal: whether a query may see only keys at or before its own position.
    """

    def __init__(self, config: VaswaniTransformerConfig, layer_idx: int, *, is_causal: bool = False) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, is_causal
        D, H, K, W, bias = config.d_model, config.num_heads, config.d_k, config.d_v, config.attention_bias
        self.q_proj = nn.Linear(D, H * K, bias=bias)
        self.k_proj = nn.Linear(D, H * K, bias=bias)
        self.v_proj = nn.Linear(D, H * W, bias=bias)
        self.out_proj = nn.Linear(H * W, D, bias=bias)

    def forward(
        self,
        x_BTD: Tensor,
        mask: Any = None,
        memory_BSD: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends from `x_BTD` to itself, or to `memory_BSD` (cross-attention).

        Args:
            x_BTD: queries' hidden states.
            mask: as `attention.bidirectional_mask` or `attention.causal_mask` made it.
            memory_BSD: the encoder's output; it may have fewer rows, each then serving several rows of queries.
            cache: keys and values of earlier calls, updated in place.

        Returns:
            Hidden states [B, T, D] and the attention weights where the implementation gives them.
        """
        query_BHTK = split_heads(self.q_proj(x_BTD), self.config.d_k)
        key_BHSK, value_BHSW = self._keys_and_values(x_BTD, memory_BSD, cache)
        out_BTD, weights_BHTS = attend(
            self,
            query_BHTK,
            key_BHSK,
            value_BHSW,
            mask,
            implementation=self.config._attn_implementation or "eager",
            dropout=self.config.attention_dropout,
            **kwargs,
        )
        return self.out_proj(out_BTD), weights_BHTS

    def _keys_and_values(self, x_BTD: Tensor, memory_BSD: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor]:
        own = memory_BSD is None
        layers = cache
        if isinstance(cache, EncoderDecoderCache):
            layers = cache.self_attention_cache if own else cache.cross_attention_cache
            if not own and cache.is_updated.get(self.layer_idx):  # the source's keys are computed once
                source: Any = layers.layers[self.layer_idx]
                return source.keys, source.values
        states = x_BTD if own else memory_BSD
        key_BHSK = split_heads(self.k_proj(states), self.config.d_k)
        value_BHSW = split_heads(self.v_proj(states), self.config.d_v)
        if layers is None:
            return key_BHSK, value_BHSW
        if not own and isinstance(cache, EncoderDecoderCache):
            cache.is_updated[self.layer_idx] = True
        return layers.update(key_BHSK, value_BHSW, self.layer_idx)


class FeedForwardLayer(GradientCheckpointingLayer):
    """What encoder and decoder layers share: the feed-forward network and residual dropout, no wiring.

    Args:
        config: sizes d_model and d_ff, activation, dropout and activation_dropout.
    """

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.activation = ACT2FN[config.activation]
        self.fc1 = nn.Linear(config.d_model, config.d_ff)
        self.fc2 = nn.Linear(config.d_ff, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)

    def feed_forward(self, x_BTD: Tensor) -> Tensor:
        """max(0, x W1 + b1) W2 + b2, equation 2."""
        inner = self.activation(self.fc1(x_BTD))
        return self.fc2(dropout(inner, self.activation_dropout, self.training))

    def drop(self, x_BTD: Tensor) -> Tensor:
        """Residual dropout, section 5.4: on a sub-layer's output, before it is added."""
        return dropout(x_BTD, self.dropout, self.training)


class EncoderLayer(FeedForwardLayer):
    """One layer of the encoder, section 3.1: LayerNorm(x + Sublayer(x)), twice."""

    def __init__(self, config: VaswaniTransformerConfig, layer_idx: int) -> None:
        super().__init__(config)
        self.self_attn = MultiHeadAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)

    def forward(self, x_BSD: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
        x_BSD = self.self_attn_layer_norm(x_BSD + self.drop(self.self_attn(x_BSD, mask, **kwargs)[0]))
        return self.final_layer_norm(x_BSD + self.drop(self.feed_forward(x_BSD)))


class PreNormEncoderLayer(EncoderLayer):
    """Departure from the paper: x + Sublayer(LayerNorm(x)), as later tensor2tensor and OpenNMT-py."""

    def forward(self, x_BSD: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
        x_BSD = x_BSD + self.drop(self.self_attn(self.self_attn_layer_norm(x_BSD), mask, **kwargs)[0])
        return x_BSD + self.drop(self.feed_forward(self.final_layer_norm(x_BSD)))


class DecoderLayer(FeedForwardLayer):
    """One layer of the decoder, section 3.1: masked self-attention, attention over the source, feed-forward."""

    def __init__(self, config: VaswaniTransformerConfig, layer_idx: int) -> None:
        super().__init__(config)
        self.self_attn = MultiHeadAttention(config, layer_idx, is_causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.encoder_attn = MultiHeadAttention(config, layer_idx)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)

    def forward(
        self, x_BTD: Tensor, mask: Any, memory_BSD: Tensor, memory_mask: Any, cache: Cache | None = None, **kwargs: Any
    ) -> Tensor:
        x_BTD = self.self_attn_layer_norm(x_BTD + self.drop(self.self_attn(x_BTD, mask, cache=cache, **kwargs)[0]))
        attended = self.encoder_attn(x_BTD, memory_mask, memory_BSD, cache, **kwargs)[0]
        x_BTD = self.encoder_attn_layer_norm(x_BTD + self.drop(attended))
        return self.final_layer_norm(x_BTD + self.drop(self.feed_forward(x_BTD)))


class PreNormDecoderLayer(DecoderLayer):
    """Departure from the paper: each sub-layer's input is normalised, not its output."""

    def forward(
        self, x_BTD: Tensor, mask: Any, memory_BSD: Tensor, memory_mask: Any, cache: Cache | None = None, **kwargs: Any
    ) -> Tensor:
        x_BTD = x_BTD + self.drop(self.self_attn(self.self_attn_layer_norm(x_BTD), mask, cache=cache, **kwargs)[0])
        attended = self.encoder_attn(self.encoder_attn_layer_norm(x_BTD), memory_mask, memory_BSD, cache, **kwargs)[0]
        x_BTD = x_BTD + self.drop(attended)
        return x_BTD + self.drop(self.feed_forward(self.final_layer_norm(x_BTD)))
