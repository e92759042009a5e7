"""What the benchmarks of BERT share: the peer, and what both sides are counted in."""

from typing import Any

import transformers
from torch import Tensor


def bert_like(model: Any) -> Any:
    """transformers' model with the head, sizes and weights of one of ours, attending by the same implementation."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    head = getattr(transformers, type(model).__name__.removeprefix("Vaswani"))
    peer = head(transformers.BertConfig(**fields))
    peer.set_attn_implementation(model.config._attn_implementation)
    peer.load_state_dict(model.state_dict())
    return peer.train(model.training)


def real_tokens(batch: dict[str, Tensor]) -> int:
    """Tokens that are no padding."""
    return int(batch["attention_mask"].sum())
