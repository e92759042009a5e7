"""MarianMT: a folder of transformers' MarianMTModel, such as those of Helsinki-NLP.

    source.spm, target.spm       SentencePiece of both sides
    vocab.json                   its pieces' ids; with target_vocab.json, those of the source side
    config.json, model.safetensors or pytorch_model.bin, generation_config.json

Its positions are half-split with the paper's frequencies, which is not what the C++ trainer computes, but what
transformers does. Departure: padding on the left moves positions there, not here.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast
from transformers.utils import logging

from .. import models
from .incoming import Source
from .two_sides import (
    Vocabulary,
    configuration,
    embeddings,
    generation_of,
    joined,
    one_of,
    reference,
    sides,
    tokens_by_id,
)
from .untrusted import load_json, load_weights

logger = logging.get_logger(__name__)

SETTINGS = {  # ours by theirs
    "d_model": "d_model",
    "activation_function": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "scale_embedding": "scale_embedding",
    "max_position_embeddings": "max_position_embeddings",
}
TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")  # of sinusoids
MATRICES = ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
MATRICES = (*MATRICES, "lm_head.weight", "final_logits_bias")
FIXED: dict[str, Any] = {
    "attention_bias": True,
    "layer_norm_eps": 1e-5,
    "position_layout": "half-split",
    "decoder_start": "token",
}
SECOND = "target_vocab.json"  # where each side has a vocabulary
TOKENIZER = ("source.spm", "target.spm", "vocab.json")


def read(source: Path) -> Source:
    """Reads a folder of transformers' MarianMTModel; weights are bit-identical, names of layers are ours.

    Raises:
        ValueError: a folder of another model, a broken file, a setting that our model has not.
    """
    found = load_json(source / "config.json")
    if found.get("model_type") != "marian":
        raise ValueError(
            f"--from marian reads a folder of MarianMTModel; got model_type={found.get('model_type')!r} in {source}"
        )
    theirs = configuration(MarianConfig, found, source / "config.json")
    weights = load_weights(source)
    two = not theirs.share_encoder_decoder_embeddings and (source / SECOND).is_file()
    vocabulary = _joined(source) if two else _one(theirs, weights)
    tokenizer = _tokenizer(source, vocabulary if two else None)
    placed, sizes = _embeddings(weights, vocabulary)
    config = models.VaswaniTransformerConfig(
        **sizes,
        **{ours: getattr(theirs, name) for name, ours in SETTINGS.items()},
        **FIXED,
        **sides(theirs, weights),
        **_tokens(theirs, vocabulary),
        unk_token_id=None if tokenizer is None else tokenizer.unk_token_id,
        label_smoothing=0.1 if vocabulary.written.all() else 0.0,
    )
    layers = {name: tensor for name, tensor in weights.items() if name not in (*TABLES, *MATRICES)}
    return Source(
        model=models.VaswaniTransformerForConditionalGeneration,
        config=config,
        weights=placed | layers,
        dropped=tuple(_dropped(weights, sizes)),
        tokenizer=tokenizer,
        generation=generation_of(source, theirs, vocabulary),
        reference=reference(
            vocabulary, lambda: MarianMTModel.from_pretrained(source, config=theirs, dtype=torch.float32).eval()
        ),
    )


def _joined(source: Path) -> Vocabulary:
    both = [tokens_by_id(load_json(source / name), source / name) for name in ("vocab.json", SECOND)]
    return joined(*both, unk="<unk>")


def _one(config: Any, weights: Mapping[str, Tensor]) -> Vocabulary:
    """Of one vocabulary the ids are enough."""
    rows = {name: len(weights[name]) for name in MATRICES[:3] if name in weights}
    tokens = [str(number) for number in range(one_of("vocabulary", vocab_size=config.vocab_size, **rows))]
    return joined(tokens, tokens, unk="")


def _embeddings(weights: Mapping[str, Tensor], vocabulary: Vocabulary) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Files hold each matrix once, or under every name."""
    shared, encoder, decoder, head, bias = (weights.get(name) for name in MATRICES)
    encoder = shared if encoder is None else encoder
    decoder = shared if decoder is None else decoder
    if encoder is None or decoder is None:
        raise ValueError(
            f"the weights must have {MATRICES[0]}, or an embedding of each side; got {len(weights)} others"
        )
    head = decoder if head is None else head
    return embeddings(
        vocabulary, source=encoder, target=decoder, head=head, bias=None if bias is None else bias.flatten()
    )


def _dropped(weights: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> list[str]:
    """Tables of sinusoids; a bias of zeros; the shared matrix beside two others, which nothing reads."""
    dropped = [name for name in TABLES if name in weights]
    if MATRICES[-1] in weights and not sizes["lm_head_bias"]:
        dropped.append(MATRICES[-1])
    if set(MATRICES[:3]) <= weights.keys() and sizes["tie_embeddings"] != "all":
        dropped.append(MATRICES[0])
    return dropped


def _tokens(config: Any, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "pad_token_id": config.pad_token_id,
        "eos_token_id": vocabulary.of_target(config.eos_token_id),
        "bos_token_id": config.bos_token_id,
        "decoder_start_token_id": vocabulary.of_target(config.decoder_start_token_id),
    }


def _tokenizer(source: Path, vocabulary: Vocabulary | None) -> Any:
    """transformers' own, or a stock one that was saved instead; for a joined vocabulary with that in place of both.

    Raises:
        ValueError: SentencePiece is not installed.
    """
    if (source / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(source)
    missing = [name for name in TOKENIZER if not (source / name).is_file()]
    if missing:
        logger.warning("%s has no %s: the model is converted without a tokenizer", source, ", ".join(missing))
        return None
    if importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            "Marian's tokenizer needs the package sentencepiece: pip install 'vaswani-transformer[convert]'; "
            f"got {source / TOKENIZER[0]} without it"
        )
    from transformers import MarianTokenizer

    if vocabulary is None:
        return MarianTokenizer.from_pretrained(source)
    settings = load_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    languages: dict[str, Any] = {name: settings.get(name) for name in ("source_lang", "target_lang")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: number for number, token in enumerate(vocabulary.tokens)}))
        return MarianTokenizer(str(source / "source.spm"), str(source / "target.spm"), str(path), **languages)
