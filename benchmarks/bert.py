"""What the benchmarks of BERT share: the peer, its update and ours, and what they are counted in."""

from typing import Any

import torch
import transformers
from torch import Tensor

LEARNING_RATE = 1e-4


def bert_like(model: Any) -> Any:
    """transformers' model with the head, sizes and weights of one of ours, attending by the same implementation."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    head = getattr(transformers, type(model).__name__.removeprefix("Vaswani"))
    peer = head(transformers.BertConfig(**fields))
    peer.set_attn_implementation(model.config._attn_implementation)
    peer.load_state_dict(model.state_dict())
    return peer.train(model.training)


class Stepper:
    """A model with its optimiser: torch's fused AdamW, the same on both sides.

    Args:
        model: of either kind.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def update(self, batch: dict[str, Tensor]) -> None:
        """Forward, backward and one step of AdamW."""
        self.model(**batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def real_tokens(batch: dict[str, Tensor]) -> int:
    """Tokens that are no padding."""
    return int(batch["attention_mask"].sum())
