"""FSMT: a folder of transformers' FSMTForConditionalGeneration, fairseq's models of WMT 2019 among them.

    vocab-src.json, vocab-tgt.json     tokens of each side by id, those that end a word marked `</w>`
    merges.txt                         byte-pair encoding in the order it was learnt
    tokenizer_config.json              langs: the source's and the target's, for the Moses tokeniser
    config.json, model.safetensors or pytorch_model.bin, generation_config.json

The tokenizer stays transformers' own, which needs sacremoses: raw text in, raw text out.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import FSMTConfig, FSMTForConditionalGeneration, PreTrainedTokenizerBase
from transformers.utils import logging

from .. import models
from .incoming import Source
from .two_sides import (
    Vocabulary,
    configuration,
    embeddings,
    generation_of,
    joined,
    padded,
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
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
}
TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")  # of sinusoids
MATRICES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
MATRICES = (*MATRICES, "model.decoder.output_projection.weight")
# Of everything that comes from fairseq.
FIXED: dict[str, Any] = {
    "attention_bias": True,
    "layer_norm_eps": 1e-5,
    "position_layout": "half-split",
    "position_frequency": "tensor2tensor",
    "decoder_start": "token",
}


def read(source: Path) -> Source:
    """Reads a folder of transformers' FSMT; weights are bit-identical, two vocabularies become one.

    Raises:
        ValueError: a folder of another model, a broken or missing file, a setting that our model has not.
    """
    found = load_json(source / "config.json")
    if found.get("model_type") != "fsmt":
        raise ValueError(f"--from fsmt reads a folder of FSMT; got model_type={found.get('model_type')!r} in {source}")
    theirs = configuration(FSMTConfig, found, source / "config.json")
    weights = load_weights(source)
    encoder, decoder, head = _matrices(weights)
    vocabulary = _vocabulary(source, len(encoder), len(decoder))
    placed, sizes = embeddings(vocabulary, source=encoder, target=decoder, head=head)
    config = models.VaswaniTransformerConfig(
        **sizes,
        **{ours: getattr(theirs, name) for name, ours in SETTINGS.items()},
        **FIXED,
        **sides(theirs, weights),
        position_offset=theirs.pad_token_id + 1,
        eos_token_id=vocabulary.of_target(theirs.eos_token_id),
        decoder_start_token_id=vocabulary.of_target(theirs.decoder_start_token_id),
        unk_token_id=vocabulary.tokens.index("<unk>"),
        label_smoothing=0.1 if vocabulary.written.all() else 0.0,
    )
    return Source(
        model=models.VaswaniTransformerForConditionalGeneration,
        config=config,
        weights=placed | {name: tensor for name, tensor in weights.items() if name not in (*TABLES, *MATRICES)},
        dropped=tuple(name for name in TABLES if name in weights),
        tokenizer=_tokenizer(source, vocabulary),
        generation=generation_of(source, theirs, vocabulary),
        reference=reference(
            vocabulary,
            # With a cache it would read the last token alone.
            lambda: partial(
                FSMTForConditionalGeneration.from_pretrained(source, config=theirs, dtype=torch.float32),
                use_cache=False,
            ),
        ),
    )


def _matrices(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of both sides and the projection to logits; a file holds tied ones once or more often."""
    encoder, decoder, head = (weights.get(name) for name in MATRICES)
    decoder = encoder if decoder is None else decoder
    if decoder is None:
        raise ValueError(f"the weights must have {MATRICES[0]} or {MATRICES[1]}; got {len(weights)} others")
    return decoder if encoder is None else encoder, decoder, decoder if head is None else head


def _vocabulary(source: Path, *rows: int) -> Vocabulary:
    paths = [source / name for name in ("vocab-src.json", "vocab-tgt.json")]
    both = [padded(tokens_by_id(load_json(path), path), size) for path, size in zip(paths, rows, strict=True)]
    return joined(*both, unk="<unk>")


def _tokenizer(source: Path, vocabulary: Vocabulary) -> PreTrainedTokenizerBase | None:
    if not (source / "merges.txt").is_file():
        logger.warning("%s has no merges.txt: the model is converted without a tokenizer", source)
        return None
    settings = load_json(source / "tokenizer_config.json")
    merges = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
    return moses_tokenizer(
        vocabulary.tokens,
        [line for line in merges if line and not line.startswith("#version")],
        languages=settings.get("langs") or (),
        lower_case=bool(settings.get("do_lower_case")),
    )


def moses_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], *, languages: Sequence[str], lower_case: bool = False
) -> PreTrainedTokenizerBase:
    """Returns transformers' FSMTTokenizer: Moses' tokeniser, then byte-pair encoding as subword-nmt has it.

    Args:
        tokens: in order of their ids, those that end a word with `</w>`, four special ones among them.
        merges: two symbols a line.
        languages: the source's and the target's.
        lower_case: whether texts are put in lower case first.

    Raises:
        ValueError: sacremoses is not installed, no two languages, a special token that is not there.
    """
    if importlib.util.find_spec("sacremoses") is None:
        raise ValueError(
            "fairseq's text needs the package sacremoses: pip install 'vaswani-transformer[convert]'; got a byte-pair "
            "encoding without it"
        )
    if len(languages) != 2:
        raise ValueError(f"the tokenizer must know two languages, source and target; got {list(languages)}")
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    if missing := sorted(set(special.values()) - set(tokens)):
        raise ValueError(f"a vocabulary must have fairseq's special tokens; got none of {', '.join(missing)}")
    from transformers import FSMTTokenizer

    ids = json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("vocab-src.json", "vocab-tgt.json", "merges.txt")]
        for path, text in zip(paths, (ids, ids, "".join(f"{line}\n" for line in merges)), strict=True):
            path.write_text(text, encoding="utf-8")
        return FSMTTokenizer(
            list(languages),
            *map(str, paths),
            do_lower_case=lower_case,
            split_special_tokens=True,  # a text cannot end a sentence early
            **special,
        )
