"""Models of other libraries and ours, one module a format."""

from collections.abc import Callable
from pathlib import Path

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

__all__ = ["EXPORTS", "export_to_ctranslate2", "export_to_gguf", "export_to_onnx", "export_to_transformers"]
