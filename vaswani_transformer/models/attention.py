"""Attention as functions without parameters: head splitting, masks, the call through transformers' interface."""

# B batch   T query length   S key length   H heads   K query/key head size   W value head size
# G rows of queries for each row of keys

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .layers import dropout as drop
from .layers import on_eager_cpu


def eager_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSW: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_k)) V, equation 1 of Vaswani et al. (2017), every step spelt out.

    Args:
        module: the attention module; only its `training` flag is read.
        query_BHTK: queries.
        key_BHSK: keys.
        value_BHSW: values; their head size may differ from the keys'.
        attention_mask: added to the scores, 0 where attention is allowed; broadcast to [B, H, T, S].
        scaling: factor on the scores, 1 / sqrt(d_k).
        dropout: rate on the attention weights; 0 in the paper.

    Returns:
        The attended values [B, T, H, W] and the weights [B, H, T, S].
    """
    scores_BHTS = torch.matmul(query_BHTK, key_BHSK.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores_BHTS = scores_BHTS + attention_mask
    weights_BHTS = torch.softmax(scores_BHTS, dim=-1, dtype=torch.float32).to(query_BHTK.dtype)
    weights_BHTS = drop(weights_BHTS, dropout, module.training)
    out_BTHW = torch.matmul(weights_BHTS, value_BHSW).transpose(1, 2).contiguous()
    return out_BTHW, weights_BHTS


def split_heads(x_BTD: Tensor, head_size: int) -> Tensor:
    """[B, T, H * head_size] to [B, H, T, head_size]; H follows from the width (fewer under tensor parallelism)."""
    return x_BTD.view(*x_BTD.shape[:2], -1, head_size).transpose(1, 2)


def attend(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSW: Tensor,
    mask: Any,
    *,
    implementation: str,
    dropout: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attends by the named implementation ("eager", "sdpa", "flash_attention_2", "flex_attention", ...).

    Queries may come in G rows for each row of keys, as the beams of one sentence do over its encoding. They are then
    laid side by side as G * T queries of one row, so that keys and values are neither copied nor reordered.

    Args:
        module: the attention module; implementations read `training` and `is_causal` from it.
        query_BHTK: queries, [B * G, H, T, K].
        key_BHSK: keys, [B, H, S, K].
        value_BHSW: values, [B, H, S, W].
        mask: what `bidirectional_mask` or `causal_mask` made for the implementation.
        implementation: `config._attn_implementation`.
        dropout: rate on the attention weights.

    Returns:
        The attended values, heads joined, [B * G, T, H * W], and the weights [B * G, H, T, S] where the implementation
        gives them ("eager"), else None.
    """
    rows, heads, T, K = query_BHTK.shape
    B, S = key_BHSK.shape[0], key_BHSK.shape[2]
    folded = rows != B
    if folded:
        query_BHTK = query_BHTK.view(B, rows // B, heads, T, K).transpose(1, 2).reshape(B, heads, -1, K)
        if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, rows // B, 1)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
    rate = dropout if module.training else 0.0
    if implementation == "sdpa" and rate and on_eager_cpu(query_BHTK):
        # With dropout torch's own leaves its fast path on a CPU, and draws one number a weight: a quarter slower.
        if mask is None and module.is_causal and T > 1:  # what sdpa does where it is given no mask
            mask = torch.ones(T, S, dtype=torch.bool).tril()
        out = eager_attention(module, query_BHTK, key_BHSK, value_BHSW, added_mask(mask, query_BHTK), K**-0.5, rate)[0]
        return out.reshape(rows, T, -1), None
    out, weights = function(module, query_BHTK, key_BHSK, value_BHSW, mask, dropout=rate, scaling=K**-0.5, **kwargs)
    if folded and weights is not None:
        weights = weights.view(B, heads, rows // B, T, S).transpose(1, 2).reshape(rows, heads, T, S)
    return out.reshape(rows, T, -1), weights


def added_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A mask as `eager_attention` adds it to the scores of queries; in a boolean one, True = may attend."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)


def bidirectional_mask(config: Any, queries_BTD: Tensor, mask_BS: Tensor | None, keys_BSD: Tensor | None = None) -> Any:
    """Mask of encoder self-attention, or of cross-attention when `keys_BSD` is given.

    Args:
        config: names the attention implementation the mask is for.
        queries_BTD: hidden states that attend; only shape, type and device are read.
        mask_BS: 1 (or True) at tokens that may be attended, 0 at padding; None for no padding.
        keys_BSD: hidden states that are attended, when they are not the queries'.
    """
    return create_bidirectional_mask(
        config=config, inputs_embeds=queries_BTD, attention_mask=mask_BS, encoder_hidden_states=keys_BSD
    )


def causal_mask(config: Any, queries_BTD: Tensor, mask_BS: Tensor | None, cache: Cache | None) -> Any:
    """Mask of decoder self-attention: no position sees a later one, section 3.2.3, nor padding.

    Args:
        config: names the attention implementation the mask is for.
        queries_BTD: hidden states that attend.
        mask_BS: 1 at tokens, 0 at padding, over cached and new positions; None for no padding.
        cache: keys and values of earlier positions, or None.
    """
    return create_causal_mask(config, queries_BTD, mask_BS, cache)  # by place: the last has had two names
