"""GPT-1s that transformers saved, with any of its heads."""

from pathlib import Path

from .gpt2 import read_gpt
from .incoming import Source


def read(source: Path) -> Source:
    """Returns a GPT-1 of transformers.

    Departure: its OpenAIGPTTokenizer, which splits words as BERT does, becomes the tokenizer of 2018, whose tokens are
    those that OpenAI's weights have learnt.

    Args:
        source: the folder.

    Raises:
        ImportError: without ftfy or spaCy, which that tokenizer needs.
        ValueError: files that are missing, broken or of another model, a head or a setting that ours has not.
    """
    return read_gpt(source, "openai-gpt")
