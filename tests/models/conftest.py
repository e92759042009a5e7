"""Toy models and a padded batch for the model tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vaswani_transformer
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniGPTConfig,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)

SIZES = {"vocab_size": 29, "d_model": 16, "d_ff": 24, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2}
BERT_SIZES = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
BERT_SIZES |= {"num_hidden_layers": 2, "max_position_embeddings": 40}
GPT_SIZES = {"vocab_size": 37, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
GPT_SIZES |= {"max_position_embeddings": 40}
MakeModel = Callable[..., VaswaniTransformerForConditionalGeneration]


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits[batch["labels"] != -100]


@pytest.fixture
def make_model() -> MakeModel:
    """Builds a toy model in eval mode whose every weight is random, biases and norms too."""

    def make(seed: int = 0, **fields) -> VaswaniTransformerForConditionalGeneration:
        torch.manual_seed(seed)
        model = VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(**{**SIZES, **fields}))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three sentence pairs of different lengths, padded on the right; the ids fit a vocabulary of 29."""
    source = torch.tensor([[3, 4, 5, 6, 7, 1], [8, 9, 10, 1, 0, 0], [11, 1, 0, 0, 0, 0]])
    labels = torch.tensor([[12, 13, 14, 1, -100], [15, 1, -100, -100, -100], [16, 17, 18, 19, 1]])
    return {"input_ids": source, "attention_mask": source.ne(0).long(), "labels": labels}


@pytest.fixture
def make_bert() -> Callable[..., Any]:
    """Builds a toy BERT in eval mode, named by its head ("Model", "ForMaskedLM"), whose every weight is random."""

    def make(head: str = "Model", seed: int = 0, **fields) -> Any:
        torch.manual_seed(seed)
        attention = fields.pop("attn_implementation", None)
        model = getattr(vaswani_transformer, f"VaswaniBert{head}")(VaswaniBertConfig(**{**BERT_SIZES, **fields}))
        with torch.no_grad():
            for parameter in model.parameters():  # far from zero, so that the layers matter
                parameter.add_(0.3 * torch.randn_like(parameter))
        if attention is not None:
            model.config._attn_implementation = attention  # unasked whether its kernels are installed
        return model.eval()

    return make


@pytest.fixture
def make_gpt() -> Callable[..., Any]:
    """Builds a toy GPT in eval mode, named by its head ("Model", "ForCausalLM"), whose every weight is random."""

    def make(head: str = "Model", seed: int = 0, **fields) -> Any:
        torch.manual_seed(seed)
        attention = fields.pop("attn_implementation", None)
        model = getattr(vaswani_transformer, f"VaswaniGPT{head}")(VaswaniGPTConfig(**{**GPT_SIZES, **fields}))
        with torch.no_grad():
            for parameter in model.parameters():  # far from zero, so that the layers matter
                parameter.add_(0.3 * torch.randn_like(parameter))
        if attention is not None:
            model.config._attn_implementation = attention  # unasked whether its kernels are installed
        return model.eval()

    return make


@pytest.fixture
def texts() -> dict[str, Tensor]:
    """Four texts of 9, 5, 1 and 7 tokens, padded on the right; the ids fit a vocabulary of 37, 0 is padding."""
    torch.manual_seed(11)
    ids, lengths = torch.randint(1, 37, (4, 9)), torch.tensor([9, 5, 1, 7])
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.randint(0, 2, (4, 9)) * mask}


@pytest.fixture
def in_two_processes(tmp_path: Path, repository: Path) -> Callable[[str], None]:
    """Runs a job of two_processes.py in both of its processes, on `tmp_path`."""

    def run(job: str) -> None:
        script = str(Path(__file__).parent / "two_processes.py")
        environment = {**os.environ, "PYTHONPATH": str(repository), "WORLD_SIZE": "2"}
        processes = [
            subprocess.Popen(
                [sys.executable, script, job, str(rank), str(tmp_path)],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        for process, error in zip(processes, errors, strict=True):
            assert process.returncode == 0, error

    return run
