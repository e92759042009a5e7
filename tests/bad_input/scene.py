"""Bad input, the whole package over, gives a ValueError (FileNotFoundError for a missing file) with rule and value.

Here is what the tables share: the models and files their rows act on, and what the error of a row must be.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

import vaswani_transformer
from vaswani_cli import verb_parser
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)

SIZES = {"d_model": 16, "d_ff": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
BERT_SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
GPT_SIZES = {"n_embd": 16, "n_head": 2, "n_layer": 1}

ids = torch.tensor


class Scene:
    """What the rows act on; each is made when a row asks for it."""

    def __init__(self, folder: Path, tokenizer: VaswaniTransformerTokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def config(self, **changes: Any) -> VaswaniTransformerConfig:
        return VaswaniTransformerConfig(**{"vocab_size": 300, **SIZES, **changes})

    def model(self, **changes: Any) -> VaswaniTransformerForConditionalGeneration:
        return VaswaniTransformerForConditionalGeneration(self.config(**changes)).eval()

    def bert(self, head: str = "Model", **changes: Any) -> Any:
        config = VaswaniBertConfig(**{"vocab_size": 30, "max_position_embeddings": 6, **BERT_SIZES, **changes})
        return getattr(vaswani_transformer, f"VaswaniBert{head}")(config).eval()

    def gpt(self, head: str = "Model", **changes: Any) -> Any:
        config = VaswaniGPTConfig(**{"vocab_size": 30, "n_positions": 6, **GPT_SIZES, **changes})
        return getattr(vaswani_transformer, f"VaswaniGPT{head}")(config).eval()

    def causal(self, **changes: Any) -> tuple[Any, VaswaniGPT2Tokenizer]:
        tokenizer = VaswaniGPT2Tokenizer.train(["a b."], vocab_size=257)
        return self.gpt("ForCausalLM", vocab_size=257, **changes), tokenizer

    def verb(self, *words: str) -> Any:
        parsed = verb_parser(words[0]).parse_intermixed_args(list(words[1:]))
        return importlib.import_module(f"vaswani_cli.{words[0]}").run(parsed)

    def folder_of(self, model: Any) -> str:
        model.save_pretrained(self.folder / "any")
        return str(self.folder / "any")

    def saved(self, **changes: Any) -> str:
        self.model(**changes).save_pretrained(self.folder / "model")
        return str(self.folder / "model")

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def aligned(self, source: str = "a\nb\n", target: str = "A\nB\n") -> dict[str, str]:
        return {"source": self.write("text.en", source), "target": self.write("text.de", target)}

    def bytes(self) -> VaswaniGPT2Tokenizer:
        return VaswaniGPT2Tokenizer.train(["a"], vocab_size=257)


S = TypeVar("S", bound=Scene)
# What is wrong, how to do it, and what the message must hold: the rule, then the value.
Cases = dict[str, tuple[Callable[[S], Any], str]]


def assert_told(what: str, cases: Cases[S], scene: S) -> None:
    act, told = cases[what]
    with pytest.raises((ValueError, OSError), match=f"(?s){told}") as error:
        act(scene)
    assert type(error.value) is {"no network": OSError}.get(what, ValueError) or "missing" in what
