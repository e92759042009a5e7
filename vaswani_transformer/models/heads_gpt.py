"""What the models of GPT, Radford et al. (2018), return, and where they find a text's last token."""

# B batch   T length   D hidden size   V vocabulary

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast


@dataclass
class VaswaniGPTCausalLMOutput(CausalLMOutputWithPast):
    """What the language model returns.

    Args:
        loss: cross-entropy of each token from those before it, in nats; a scalar.
        logits: [B, T, V]; None while training with labels, unless `return_logits=True`.
        nll_loss: the loss without gradient; its exponential is the perplexity.
    """

    nll_loss: Tensor | None = None


def last_tokens(
    x_BTD: Tensor, input_ids: Tensor | None, attention_mask: Any, pad_token_id: int | None, *, name: str
) -> Tensor:
    """[B, D] hidden states of each text's last token, padded on either side.

    Args:
        x_BTD: hidden states.
        input_ids: [B, T]; where there is no mask, the last that is not padding is taken. None for embeddings, whose
            last position is then taken.
        attention_mask: [B, T], 1 at tokens, 0 at padding; or None.
        pad_token_id: the config's.
        name: the model's class, for the message.

    Raises:
        ValueError: several texts without a mask, and no pad token to tell where each ends.
    """
    B, T = x_BTD.shape[:2]
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
        real_BT = attention_mask.to(x_BTD.device).ne(0)
    elif input_ids is None or (B == 1 and pad_token_id is None):
        return x_BTD[:, -1]
    elif pad_token_id is None:
        raise ValueError(
            f"{name} must know where each text ends; got a batch of {B} without attention_mask, and no pad_token_id in "
            "the config: pass attention_mask, or set config.pad_token_id"
        )
    else:
        real_BT = input_ids.to(x_BTD.device).ne(pad_token_id)
    last_B = (torch.arange(T, device=x_BTD.device) * real_BT).argmax(-1)
    return x_BTD[torch.arange(B, device=x_BTD.device), last_B]
