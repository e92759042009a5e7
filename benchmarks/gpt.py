"""What the benchmarks of GPT share: the peers."""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from vaswani_transformer import VaswaniGPTForCausalLM

PEERS: dict[str, Any] = {"gpt2": (GPT2Config, GPT2LMHeadModel), "openai-gpt": (OpenAIGPTConfig, OpenAIGPTLMHeadModel)}
SHAPE = {"n_layer": 6, "n_embd": 256, "n_head": 4}


def both(kind: str, folder: str, **fields: Any) -> tuple[VaswaniGPTForCausalLM, Any]:
    """Ours and transformers' model of a kind, 6 layers of 256, of the same random weights.

    Args:
        kind: of `PEERS`.
        folder: where the peer is saved, for ours to read.
        **fields: of the peer's config.
    """
    torch.manual_seed(0)
    config, head = PEERS[kind]
    peer = head(config(**SHAPE, bos_token_id=None, eos_token_id=None, **fields))
    peer.save_pretrained(folder)
    return VaswaniGPTForCausalLM.from_pretrained(folder), peer
