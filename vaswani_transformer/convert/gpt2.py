"""GPT-2s that transformers saved, with any of its heads."""

from pathlib import Path
from typing import Any

from .. import models
from .incoming import Source
from .to_transformers import HEADS, PREFIXES
from .transformers_folder import read_folder, read_settings
from .untrusted import load_weights


def read(source: Path) -> Source:
    """Returns a GPT-2 of transformers.

    Args:
        source: the folder.

    Raises:
        ValueError: files that are missing, broken or of another model, a head or a setting that ours has not.
    """
    return read_gpt(source, "gpt2")


def read_gpt(source: Path, model_type: str) -> Source:
    """Returns a GPT of transformers; its double heads are the classifier of choices with the language model's loss.

    Args:
        source: the folder.
        model_type: "gpt2" or "openai-gpt".

    Raises:
        ValueError: as `read`.
    """
    settings = read_settings(source, model_type)
    classes = {PREFIXES[model_type] + theirs: head for head, theirs in HEADS[model_type].items()}
    double = f"{PREFIXES[model_type]}DoubleHeadsModel"
    classes[double] = "ForMultipleChoice"
    (stock, *_) = settings.get("architectures") or [f"{PREFIXES[model_type]}LMHeadModel"]
    if stock not in classes:
        known = ", ".join(classes)
        raise ValueError(f"architectures must name one of {known}; got {stock!r} in {source}/config.json")
    fields: dict[str, Any] = {"lm_loss_weight": 0.5} if stock == double else {}
    ours = getattr(models, f"VaswaniGPT{classes[stock]}")
    return read_folder(source, settings, weights=load_weights(source), stock=stock, ours=ours, **fields)
