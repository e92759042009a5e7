"""A tokenizer, a model that echoes its source, and a real model of toy size."""

from types import SimpleNamespace

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from vaswani_transformer import (
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)

SENTENCES = [
    "Ein Mann liest ein Buch.",
    "Two dogs run through the deep snow.",
    "Das Haus ist klein.",
    "A woman rides a bicycle.",
]


class Echo(torch.nn.Module):
    """Stands where a model does and returns its source; remembers the batches it was given and how."""

    def __init__(self, tokenizer, device="cpu"):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=len(tokenizer))
        self.generation_config = SimpleNamespace(num_beams=4, do_sample=False, decoder_start_token_id=0)
        self.device = torch.device(device)
        self.shapes, self.kwargs, self.modes = [], [], []

    def generate(self, input_ids, attention_mask, return_dict_in_generate, **kwargs):
        self.shapes.append(tuple(input_ids.shape))
        self.kwargs.append(kwargs)
        self.modes.append(self.training)
        assert bool(attention_mask.any(1).all())
        n = kwargs.get("num_return_sequences", 1)
        scores = -torch.arange(len(input_ids) * n, dtype=torch.float) % n
        return SimpleNamespace(sequences=input_ids.repeat_interleave(n, 0), sequences_scores=scores)


@pytest.fixture(scope="session")
def tokenizer():
    return VaswaniTransformerTokenizer.train(SENTENCES * 3, vocab_size=320)


@pytest.fixture
def echo(tokenizer):
    return Echo(tokenizer)


def toy_model(size, seed=0):
    torch.manual_seed(seed)
    config = VaswaniTransformerConfig(
        vocab_size=size, d_model=16, d_ff=32, num_heads=2, d_k=8, d_v=8, num_encoder_layers=1, num_decoder_layers=1
    )
    model = VaswaniTransformerForConditionalGeneration(config).eval()
    model.generation_config.update(max_extra_tokens=4)  # an untrained model runs to its limit
    return model


@pytest.fixture(scope="session")
def model(tokenizer):
    return toy_model(len(tokenizer))


@pytest.fixture(scope="session")
def marian(tokenizer):
    """A toy model of transformers' own."""
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    return MarianMTModel(config).eval()


@pytest.fixture(scope="session")
def folder(model, tokenizer, tmp_path_factory):
    """The toy model and its tokenizer, saved."""
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
