"""Models of other libraries and ours, one module a format."""

import importlib
from collections.abc import Callable
from pathlib import Path

from ..sections import unknown_name
from .incoming import Conversion, write
from .to_ctranslate2 import export_to_ctranslate2
from .to_gguf import export_to_gguf
from .to_onnx import export_to_onnx
from .to_transformers import export_to_transformers

# What a model folder can be written as: functions of the model's folder or Hub name, a new folder, a format's options.
EXPORTS: dict[str, Callable[..., Path]] = {
    "ctranslate2": export_to_ctranslate2,
    "gguf": export_to_gguf,
    "onnx": export_to_onnx,
    "transformers": export_to_transformers,
}

# What can be read: the module of each format, whose `read(source: Path) -> Source` is called.
SOURCES: dict[str, str] = {
    "bert": "bert",
    "fairseq": "fairseq",
    "fsmt": "fsmt",
    "google-bert": "google_bert",
    "gpt1": "gpt1",
    "gpt2": "gpt2",
    "marian": "marian",
    "nanogpt": "nanogpt",
    "openai-gpt": "openai_gpt",
    "opennmt-py": "opennmt",
    "torch": "nn_transformer",
}


def convert(source: str | Path, *, format: str, out: str | Path) -> Conversion:
    """Makes another library's model a folder of ours, tokenizer and generation settings with it.

    Args:
        source: its file or folder.
        format: one of `SOURCES`.
        out: a folder to make.

    Raises:
        ValueError: an unknown format, a source that is not there, is of another format, broken or hostile, a setting
            that our model has not, weights without a place.
    """
    if format not in SOURCES:
        raise ValueError(unknown_name(format, list(SOURCES), "format"))
    if not Path(source).exists():
        raise ValueError(f"the source must be a file or a folder; got {source}, which is not there")
    return write(importlib.import_module(f".{SOURCES[format]}", __name__).read(Path(source)), out)


__all__ = [
    "EXPORTS",
    "SOURCES",
    "Conversion",
    "convert",
    "export_to_ctranslate2",
    "export_to_gguf",
    "export_to_onnx",
    "export_to_transformers",
]
