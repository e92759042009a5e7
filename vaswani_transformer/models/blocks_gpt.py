"""The layers of GPT: Radford et al. (2018) with norms after the sub-layers, GPT-2 and GPT-3 with norms before them."""

# B batch   T query length   S key length   D hidden size   H heads   K head size

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend
from .configuration_gpt import VaswaniGPTConfig
from .layers import dropout


class Positions(nn.Embedding):
    """The learned position table, of a type of its own because GPT-2 draws it narrower."""


class Added(nn.Linear):
    """A projection whose result is added to the stream, of a type of its own because GPT-2 draws it narrower."""


class GPTAttention(nn.Module):
    """Masked self-attention; queries, keys and values of all heads from one projection.

    The projection's rows are head by head, each head's query, key and value together, so that a split of the rows over
    processes keeps heads whole. OpenAI's order, all queries first, is changed when its weights are loaded.

    Args:
        config: hidden_size, num_attention_heads, attention_dropout, layer_types, sliding_window.
        layer_idx: the layer's number, its place in the cache.
    """

    is_causal = True

    def __init__(self, config: VaswaniGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_size = config.hidden_size // config.num_attention_heads
        self.banded = {"sliding_window": config.sliding_window} if "sliding" in config.layer_types[layer_idx] else {}
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = Added(config.hidden_size, config.hidden_size)

    def forward(
        self, x_BTD: Tensor, mask: Any = None, cache: Cache | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attends to positions at or before each query's own.

        Args:
            x_BTD: hidden states.
            mask: as `masks_gpt.layer_masks` made it for this kind of layer.
            cache: keys and values of earlier calls, updated in place.

        Returns:
            Hidden states [B, T, D], and the attention weights [B, H, T, S] where the implementation gives them.
        """
        qkv_BTH3K = self.qkv_proj(x_BTD).view(*x_BTD.shape[:2], -1, 3, self.head_size)
        query_BHTK, key_BHSK, value_BHSK = (part.transpose(1, 2) for part in qkv_BTH3K.unbind(3))
        if cache is not None:
            key_BHSK, value_BHSK = cache.update(key_BHSK, value_BHSK, self.layer_idx)
        kwargs["implementation"] = self.config._attn_implementation or "eager"
        kwargs["dropout"] = self.config.attention_dropout
        out_BTD, weights_BHTS = attend(self, query_BHTK, key_BHSK, value_BHSK, mask, **self.banded, **kwargs)
        return self.out_proj(out_BTD), weights_BHTS


class GPTFeedForward(nn.Module):
    """The position-wise feed-forward network.

    Args:
        config: hidden_size, intermediate_size, hidden_act.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Added(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x_BTD)))


class GPTBlock(GradientCheckpointingLayer):
    """One layer of GPT, 2018: LayerNorm(x + Sublayer(x)), twice.

    Args:
        config: the model's configuration.
        layer_idx: the layer's number.
    """

    def __init__(self, config: VaswaniGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.rate = config.hidden_dropout
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = GPTAttention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GPTFeedForward(config)

    def forward(self, x_BTD: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
        x_BTD = self.ln_1(x_BTD + self.drop(self.attn(x_BTD, mask, **kwargs)[0]))
        return self.ln_2(x_BTD + self.drop(self.mlp(x_BTD)))

    def drop(self, x_BTD: Tensor) -> Tensor:
        """Residual dropout: on a sub-layer's output, before it is added."""
        return dropout(x_BTD, self.rate, self.training)


class PreNormGPTBlock(GPTBlock):
    """One layer of GPT-2 and GPT-3: x + Sublayer(LayerNorm(x)), twice."""

    def forward(self, x_BTD: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attn(self.ln_1(x_BTD), mask, **kwargs)[0])
        return x_BTD + self.drop(self.mlp(self.ln_2(x_BTD)))
