"""What every export begins and ends with: a model of ours, its tokenizer, the comparison."""

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from .. import models

logger = logging.getLogger(__name__)

FAMILIES = {
    models.VaswaniTransformerConfig: "vaswani-transformer",
    models.VaswaniBertConfig: "vaswani-bert",
    models.VaswaniGPTConfig: "vaswani-gpt",
}
TOLERANCE = 1e-5  # of the largest logit, or of 1 where none is larger
ROWS, LENGTH = 8, 16  # of the texts that are compared
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")


def model_to_export(source: str | Path) -> Any:
    """Loads a model of ours by the class that its folder names, ready to be asked.

    Args:
        source: a folder of ours, or a name on the Hub.

    Raises:
        ValueError: a folder without a model, another library's model, a class that is not ours.
    """
    source = str(source)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ValueError(f"a model's folder has a config.json; got {source} without one")
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, tuple(FAMILIES)):
        raise ValueError(
            f"a model to export must be of this package, {', '.join(FAMILIES.values())}; got model_type "
            f"{config.model_type!r} in {source}: transformers loads it as it is"
        )
    (name,) = config.architectures or ["none"]
    if not hasattr(models, name):
        raise ValueError(f"config.json must name the class of the weights in architectures; got {name!r} in {source}")
    return getattr(models, name).from_pretrained(source).eval()


def tokenizer_to_export(source: str | Path) -> Any:
    """The tokenizer beside a model; None, and a warning, where there is none."""
    source = str(source)
    if not any(cached_file(source, name, _raise_exceptions_for_missing_entries=False) for name in TOKENIZER_FILES):
        logger.warning("%s has no tokenizer, so that what is exported has none", source)
        return None
    return AutoTokenizer.from_pretrained(source)


def example_inputs(model: Any, *, rows: int = ROWS, length: int = LENGTH) -> dict[str, Tensor]:
    """Texts to compare two models with, [rows, length] ids of the whole vocabulary, or [rows, 2, length] for choices.

    Args:
        model: of ours; a translation model gets sources, all of them real, and targets behind its start token.
        rows: B.
        length: T, less where the position table is shorter.
    """
    config = model.config
    length = min(length, config.max_position_embeddings)
    ids = torch.arange(rows * length).view(rows, length) * 7919 % config.vocab_size
    if type(model).__name__.endswith("MultipleChoice"):
        return {"input_ids": torch.stack((ids, ids.flip(1)), dim=1)}
    if not config.is_encoder_decoder:
        return {"input_ids": ids}
    start = ids.new_full((rows, 1), config.decoder_start_token_id)
    target = torch.cat((start, ids.flip(0)[:, : length - 1]), dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": target}


@torch.inference_mode()
def difference(ours: Any, theirs: Any) -> float:
    """How far the outputs of another library's model are from ours, as a share of the largest, or of 1."""
    inputs = example_inputs(ours)
    if getattr(ours.config, "pad_token_id", None) is None and not ours.config.is_encoder_decoder:
        inputs = {"input_ids": inputs["input_ids"][:1]}  # of several texts a classifier asks for padding
    got, expected = ours(**inputs), theirs(**inputs)
    names = ["logits"] if ours.config.is_encoder_decoder else expected  # its states may lie in another order
    pairs = [(got[name], expected[name]) for name in names if isinstance(expected[name], Tensor)]
    assert pairs
    return max(float((mine - value).abs().max() / value.abs().max().clamp(min=1)) for mine, value in pairs)


def required(name: str, *, extra: str) -> ModuleType:
    """A library that an export needs.

    Raises:
        ImportError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the export needs {name}, which is not here ({error}): pip install 'vaswani-transformer[{extra}]'"
        ) from error
