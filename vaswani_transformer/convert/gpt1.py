"""GPT-1 as OpenAI released it in 2018: params_0.npy to params_9.npy, their shapes, the vocabulary and its merges."""

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models import VaswaniGPTConfig, VaswaniGPTForCausalLM, VaswaniGPTTokenizer
from .incoming import Source
from .transformers_folder import as_ours, whole
from .untrusted import load_json, load_npy

logger = logging.getLogger(__name__)

HEAD_SIZE = 64  # the release's; no file says it
# Names in transformers' OpenAI-GPT, in the order of the release: two tables, then these of each layer.
TABLES = ("positions_embed.weight", "tokens_embed.weight")
PARTS = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
LAYER = tuple(f"{part}.{kind}" for part in PARTS for kind in ("weight", "bias"))
VOCABULARY, MERGES = "encoder_bpe_40000.json", "vocab_40000.bpe"


def read(source: Path) -> Source:
    """Returns the model in the folder `model` of OpenAI's finetune-transformer-lm.

    Heads are of 64, as many as the hidden size holds: the release's number, which none of its files says.

    Args:
        source: the folder.

    Raises:
        ImportError: without ftfy or spaCy, which the tokenizer needs.
        ValueError: files that are missing or broken, numbers other than the shapes ask for.
    """
    shapes = _shapes(source / "params_shapes.json")
    weights = dict(zip(_names(len(shapes)), _cut(source, shapes), strict=True))
    positions, size = weights[f"transformer.{TABLES[0]}"].shape
    if size % HEAD_SIZE:
        raise ValueError(f"the hidden size must be a multiple of {HEAD_SIZE}, the release's heads; got {size}")
    config = VaswaniGPTConfig(
        vocab_size=len(weights[f"transformer.{TABLES[1]}"]),
        hidden_size=size,
        num_hidden_layers=(len(shapes) - len(TABLES)) // len(LAYER),
        num_attention_heads=size // HEAD_SIZE,
        max_position_embeddings=positions,
    )
    return Source(
        model=VaswaniGPTForCausalLM,
        config=config,
        weights=as_ours(VaswaniGPTForCausalLM, config, weights),
        tokenizer=_tokenizer(source),
        absent="OpenAI's code runs on TensorFlow 1 alone",
    )


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """The shapes, those of [1, in, out] convolutions as [in, out]."""
    found: list[Any] = load_json(path, kind=list)
    sizes = [size for shape in found if isinstance(shape, list) for size in shape]
    if not all(isinstance(shape, list) and 0 < len(shape) < 4 for shape in found) or not all(
        isinstance(size, int) and size > 0 for size in sizes
    ):
        raise ValueError(f"params_shapes.json must list shapes of whole numbers above 0; got others in {path}")
    shapes = [tuple(shape[1:] if len(shape) == 3 and shape[0] == 1 else shape) for shape in found]
    layers, rest = divmod(len(shapes) - len(TABLES), len(LAYER))
    if layers < 1 or rest or not all(len(shape) == 2 for shape in shapes[: len(TABLES)]):
        raise ValueError(
            f"params_shapes.json must list {len(TABLES)} tables and {len(LAYER)} shapes a layer; got {len(shapes)} "
            f"in {path}"
        )
    return shapes


def _names(shapes: int) -> list[str]:
    layers = range((shapes - len(TABLES)) // len(LAYER))
    names = [*TABLES, *(f"h.{layer}.{name}" for layer in layers for name in LAYER)]
    return [f"transformer.{name}" for name in names]


def _cut(folder: Path, shapes: list[tuple[int, ...]]) -> Iterator[Tensor]:
    """The weights: the files' numbers are one row, cut where a shape is full."""
    found = {
        int(match[1]): path for path in folder.glob("*") if (match := re.fullmatch(r"params_(\d+)\.npy", path.name))
    }
    if absent := sorted(set(range(max(found, default=0) + 1)) - set(found)):
        raise ValueError(f"the folder must hold params_0.npy and those that follow; got {folder} without {absent}")
    arrays = [load_npy(found[number]) for number in sorted(found)]
    held, asked = sum(array.size for array in arrays), sum(map(math.prod, shapes))
    if held != asked:
        raise ValueError(
            f"the arrays must hold the {asked} numbers that params_shapes.json asks for; got {held} in "
            f"{len(arrays)} files of {folder}: is the download complete?"
        )
    row = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    for shape, end in zip(shapes, ends, strict=True):
        yield row[end - math.prod(shape) : end].view(shape)


def _tokenizer(folder: Path) -> VaswaniGPTTokenizer | None:
    files = folder / VOCABULARY, folder / MERGES
    if not any(path.is_file() for path in files):
        logger.warning("%s has neither %s nor %s, so that the model has no tokenizer", folder, VOCABULARY, MERGES)
        return None
    return whole(folder, lambda: VaswaniGPTTokenizer(*files))
