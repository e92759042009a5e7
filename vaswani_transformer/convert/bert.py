"""BERTs that transformers saved, with any head, under today's names or those of 2019 (gamma, beta)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models import FAMILIES, VaswaniBertConfig
from .incoming import Source
from .transformers_folder import read_folder, read_settings
from .untrusted import load_weights

CLASSES = {model.__name__.removeprefix("Vaswani"): model for model in FAMILIES[VaswaniBertConfig].values()}
# Heads that read no pooled first token; folders of old have its weights all the same.
POOLED_IN_VAIN = ("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")


def read(source: Path) -> Source:
    """Returns a BERT of transformers.

    A folder that names the masked-word model but holds both pre-training heads, as Google's do on the Hub, is the
    pre-training model.

    Args:
        source: the folder.

    Raises:
        ValueError: files that are missing, broken or of another model, a head or a setting that ours has not.
    """
    settings = read_settings(source, "bert")
    weights = load_weights(source)
    stock = _class_of(settings, weights)
    if stock not in CLASSES:
        raise ValueError(f"architectures must name one of {', '.join(CLASSES)}; got {stock!r} in {source}/config.json")
    drop = [r"pooler\."] if stock in POOLED_IN_VAIN else []
    return read_folder(source, settings, weights=weights, stock=stock, ours=CLASSES[stock], drop=drop)


def _class_of(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """transformers' class whose weights these are."""
    heads = {name.split(".")[1] for name in weights if name.startswith("cls.")}
    named = settings.get("architectures") or ["BertForMaskedLM" if heads else "BertModel"]
    pretraining = ("BertForMaskedLM", "BertForNextSentencePrediction")
    return "BertForPreTraining" if len(heads) == 2 and named[0] in pretraining else named[0]
