"""BERTs of Google's code: a checkpoint of TensorFlow, which is not needed, with bert_config.json and vocab.txt."""

import logging
import re
from collections.abc import Collection
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ..models import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForNextSentencePrediction,
    VaswaniBertForPreTraining,
    VaswaniBertForQuestionAnswering,
    VaswaniBertForSequenceClassification,
    VaswaniBertModel,
    VaswaniBertTokenizer,
)
from ..models.tokenization_bert import read_vocabulary
from .incoming import Source
from .tensor_bundle import read_index, read_tensors
from .untrusted import load_json

logger = logging.getLogger(__name__)

FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
FIELDS = (*FIELDS, "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size")
FIELDS = (*FIELDS, "initializer_range")
# Google's "gelu" is the tanh form, and no activation is "linear" there.
ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "relu": "relu", "tanh": "tanh", "linear": "linear"}
# Variables outside the encoder: of the pre-training heads, of run_squad.py, of run_classifier.py.
HEADS = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
}
ENDS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}  # the last part of other names; a kernel is [in, out]
TRAINING = re.compile(r"/adam_[mv]$|^global_step$")  # state of the optimiser


def read(source: Path) -> Source:
    """Returns a BERT of Google's code: pre-trained, or fine-tuned by its run_classifier.py or run_squad.py.

    The vocabulary says whether the model is cased, bert_config.json does not: one that lowers what it reads has no
    capital as a token.

    Args:
        source: the folder, or the .index file in it where there are several.

    Raises:
        ValueError: files that are missing or broken, settings that are missing, another model's checkpoint.
    """
    index = _index_of(source)
    settings = _settings(index.with_name("bert_config.json"))
    entries = read_index(index)
    if not any(name.startswith("bert/") for name in entries):
        raise ValueError(
            f"a checkpoint of Google's BERT has names that start with bert/; got {', '.join(sorted(entries)[:3])} in "
            f"{index}: one of Keras or of TensorFlow 2 is not read"
        )
    model = _class_of(entries)
    dropped = [name for name in entries if TRAINING.search(name)]
    if model is VaswaniBertForQuestionAnswering:
        dropped += [name for name in entries if name.startswith("bert/pooler/")]  # made by its code, and not read
    tensors = read_tensors({name: entry for name, entry in entries.items() if name not in dropped})
    weights = {our_name(name): x.t().contiguous() if name.endswith("/kernel") else x for name, x in tensors.items()}
    if len(weights) < len(tensors):
        raise ValueError(f"every variable must have a name of its own among ours; got two of one name in {index}")
    if model is VaswaniBertModel:
        weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    if model is VaswaniBertForSequenceClassification:
        settings["num_labels"] = len(weights["classifier.weight"])
    return Source(
        model=model,
        config=VaswaniBertConfig(**settings),
        weights=weights,
        dropped=tuple(dropped),
        tokenizer=_tokenizer(index.with_name("vocab.txt")),
        absent="Google's code runs on TensorFlow 1 alone",
    )


def our_name(name: str) -> str:
    """Returns our name of one of Google's variables, which is transformers' too."""
    if name in HEADS:
        return HEADS[name]
    scope, _, end = name.rpartition("/")
    end = f"{end}.weight" if end.endswith("_embeddings") else ENDS.get(end, end)
    return re.sub(r"layer_(\d+)", r"layer.\1", f"{scope}.{end}".replace("/", "."))


def _settings(path: Path) -> dict[str, Any]:
    """Fields of our configuration."""
    found = load_json(path)
    if missing := [name for name in FIELDS if name not in found]:
        raise ValueError(f"bert_config.json must say all of {', '.join(FIELDS)}; got none of {', '.join(missing)}")
    if (activation := str(found["hidden_act"])) not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"hidden_act must be one of Google's, {known}; got {activation!r}")
    return {**{name: found[name] for name in FIELDS}, "hidden_act": ACTIVATIONS[activation]}


def _index_of(source: Path) -> Path:
    if source.is_file():
        if source.suffix != ".index":
            raise ValueError(f"the source must be the folder, or the .index file of a checkpoint; got {source}")
        return source
    found = sorted(source.glob("*.index"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"the folder must hold the .index file of one checkpoint of TensorFlow; got {listed} in {source}"
            + (": name the file" if found else "")
        )
    return found[0]


def _class_of(names: Collection[str]) -> type[Any]:
    """Our class with the heads that a checkpoint holds."""
    words, sentences = (any(name.startswith(f"cls/{head}") for name in names) for head in ("pred", "seq"))
    if words and sentences:
        return VaswaniBertForPreTraining
    if words or sentences:
        return VaswaniBertForMaskedLM if words else VaswaniBertForNextSentencePrediction
    if "cls/squad/output_weights" in names:
        return VaswaniBertForQuestionAnswering
    return VaswaniBertForSequenceClassification if "output_weights" in names else VaswaniBertModel


def _tokenizer(path: Path) -> VaswaniBertTokenizer | None:
    if not path.is_file():
        logger.warning("%s is not there, so that the model has no tokenizer", path)
        return None
    vocab = read_vocabulary(path)
    cased = any(letter in vocab for letter in ascii_uppercase)
    logger.info("the vocabulary is %s", "cased" if cased else "uncased: texts are lowered")
    return VaswaniBertTokenizer(vocab, do_lower_case=not cased)
