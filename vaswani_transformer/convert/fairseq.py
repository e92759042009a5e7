"""fairseq's Transformer: a folder or an archive as it was published, of any version.

    model.pt or checkpoint_best.pt     weights and settings
    dict.en.txt, dict.de.txt           tokens of each side in order of their ids, which begin at 4
    bpecodes or code                   byte-pair encoding of subword-nmt or fastBPE

Layouts: projections apart, or packed as q, k, v in one (2018); norms with names, or numbered; settings in `args`, or in
`cfg`. The text is Moses-tokenised, which transformers' FSMTTokenizer does.

Departures in what `generate` does: fairseq's length penalty is |Y|^lenpen, which `custom_generate=None` has too, the
paper's search is not fairseq's.
"""

import argparse
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .. import models
from .fsmt import FIXED, moses_tokenizer
from .incoming import Source
from .two_sides import Vocabulary, activation_of, embeddings, joined, layers_of, needed, one_of, padded, refuse
from .untrusted import Plain, is_archive, load_torch, state_dict, unpack

logger = logging.get_logger(__name__)

CHECKPOINTS = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
CODES = ("bpecodes", "code", "codes", "bpe.codes")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3
MATRICES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEADS = ("decoder.output_projection.weight", "decoder.embed_out")  # newer and older; none where it is tied
BUFFERS = ("version", "embed_positions._float_tensor", "embed_positions.weights")  # of either side
NUMBERED = {  # norms of 2018
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
ACTIVATIONS |= {"gelu_fast": "gelu_pytorch_tanh", "gelu_accurate": "gelu_pytorch_tanh"}
UNKNOWN = ("no_token_positional_embeddings", "adaptive_input", "adaptive_softmax_cutoff", "layernorm_embedding")
UNKNOWN = (*UNKNOWN, "cross_self_attention", "no_cross_attention", "no_decoder_final_norm", "base_layers")
UNKNOWN = (*UNKNOWN, "encoder_layers_to_keep", "decoder_layers_to_keep")
# What else stands in its checkpoints and holds no weight: figures of the training.
METERS = ("AverageMeter", "TimeMeter", "StopwatchMeter", "SumMeter", "MetersDict")
FIGURES = [f"{module}.{name}" for module in ("fairseq.meters", "fairseq.logging.meters") for name in METERS]
FIGURES += ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]


def read(source: Path) -> Source:
    """Reads fairseq's Transformer; weights are bit-identical, two vocabularies become one.

    Args:
        source: a folder, a .pt file beside its dictionaries, or an archive of either.

    Raises:
        ValueError: a file that is missing, broken or hostile, another architecture, a setting that our model has not, a
            dictionary that is not the weights'.
    """
    if not is_archive(source):
        return _read(source)
    with tempfile.TemporaryDirectory() as folder:
        return _read(unpack(source, folder))


def _read(source: Path) -> Source:
    path = source if source.is_file() else _checkpoint(source)
    found = load_torch(path, allowed=[argparse.Namespace, *((Plain, name) for name in FIGURES)])
    if not isinstance(found, dict) or "model" not in found:
        raise ValueError(f"--from fairseq reads a checkpoint with `model` and its settings; got {path} without")
    settings = settings_of(found, path)
    weights = state_dict(found["model"], path)
    dropped = {name: weights.pop(name) for name in _dropped(weights)}
    vocabulary = _vocabulary(path.parent, settings, weights)
    placed, sizes = embeddings(vocabulary, **_matrices(weights))
    layers = {
        new: part
        for name, tensor in weights.items()
        if name not in (*MATRICES, *HEADS)
        for new, part in renamed(name, tensor).items()
    }
    switches = _switches(settings, layers)
    smoothing = settings.get("label_smoothing") or 0.0
    return Source(
        model=models.VaswaniTransformerForConditionalGeneration,
        config=models.VaswaniTransformerConfig(
            **sizes, **FIXED, **switches, label_smoothing=smoothing if vocabulary.written.all() else 0.0
        ),
        weights=placed | layers,
        dropped=tuple(dropped),
        tokenizer=_tokenizer(path.parent, settings, vocabulary),
        generation=_generation(settings),
        absent="fairseq does not install on this Python",
    )


def _checkpoint(folder: Path) -> Path:
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            return folder / name
    others = ", ".join(sorted(path.name for path in folder.glob("*.pt"))) or "no .pt file"
    raise ValueError(
        f"a folder of fairseq must have {' or '.join(CHECKPOINTS)}; got {others} in {folder}: name one of "
        "several as the source"
    )


def settings_of(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the settings of a checkpoint under the names that `args` had.

    Raises:
        ValueError: there are none, or another architecture's.
    """
    settings: dict[str, Any] = {}
    parts = [found.get("args")]
    if isinstance(configuration := found.get("cfg"), dict):
        parts = [configuration.get(name) for name in ("generation", "criterion", "task", "model")]
    for part in parts:
        values = vars(part) if isinstance(part, argparse.Namespace) else part
        for name, value in (values if isinstance(values, dict) else {}).items():
            inner = value if name in ("encoder", "decoder") and isinstance(value, dict) else None
            settings |= {name: value} if inner is None else {f"{name}_{key}": one for key, one in inner.items()}
    if not settings:
        raise ValueError(f"a checkpoint of fairseq must hold its settings in args or cfg; got {path} without")
    architecture = str(settings.get("arch") or settings.get("_name") or "transformer")
    if not architecture.startswith("transformer") or architecture.startswith("transformer_lm"):
        raise ValueError(f"--from fairseq reads its Transformer; got arch={architecture!r} in {path}")
    refuse(settings, UNKNOWN)
    return settings


def _dropped(weights: Mapping[str, Tensor]) -> list[str]:
    """Buffers; and norms after the last layer that versions before the second have not used."""
    dropped = [name for name in weights if name.partition(".")[2] in BUFFERS]
    for side in ("encoder", "decoder"):
        version = weights.get(f"{side}.version")
        if version is not None and float(version.flatten()[0]) < 2:
            dropped += [name for name in weights if name.startswith(f"{side}.layer_norm.")]
    return dropped


def renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns a weight of a layer by our names: its own, or three that were packed."""
    side, _, rest = name.partition(".")
    parts = rest.split(".")
    if "layer_norms" in parts and side in NUMBERED:
        place = parts.index("layer_norms")
        number = parts[place + 1]
        if number.isdigit() and int(number) < len(NUMBERED[side]):
            parts[place : place + 2] = [NUMBERED[side][int(number)]]
    if parts[-1] in ("in_proj_weight", "in_proj_bias"):
        start, kind = ".".join(["model", side, *parts[:-1]]), parts[-1].removeprefix("in_proj_")
        return {f"{start}.{x}_proj.{kind}": part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
    return {".".join(["model", side, *parts]): tensor}


def _matrices(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    missing = [name for name in MATRICES if name not in weights]
    if missing:
        raise ValueError(f"the weights must have {missing[0]}; got {len(weights)} others")
    source, target = (weights[name] for name in MATRICES)
    return {
        "source": source,
        "target": target,
        "head": next((weights[name] for name in HEADS if name in weights), target),
    }


def _switches(settings: Mapping[str, Any], layers: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes from the weights, the rest from the settings."""

    def both(what: str, name: str, default: Any = None) -> Any:
        values = {side: settings.get(f"{side}_{name}", default) for side in ("encoder", "decoder")}
        return one_of(what, **values)

    counts = {side: layers_of(layers, f"model.{side}.layers.") for side in ("encoder", "decoder")}
    norms = {side: f"model.{side}.layer_norm.weight" in layers for side in counts}
    if "model.encoder.layers.0.fc1.weight" not in layers:
        raise ValueError(f"the weights must have encoder.layers.0.fc1.weight; got {len(layers)} others")
    d_ff, d_model = layers["model.encoder.layers.0.fc1.weight"].shape
    learned = bool(both("kind of positions", "learned_pos", False))
    rows = layers.get("model.encoder.embed_positions.weight")
    needed(settings, "encoder_attention_heads")
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": both("number of heads", "attention_heads"),
        "num_encoder_layers": counts["encoder"],
        "num_decoder_layers": counts["decoder"],
        "activation": activation_of(settings.get("activation_fn") or "relu", ACTIVATIONS),
        "dropout": settings.get("dropout", 0.1),
        "attention_dropout": settings.get("attention_dropout", 0.0),
        "activation_dropout": settings.get("activation_dropout") or settings.get("relu_dropout") or 0.0,
        "norm_order": "pre" if both("order of norms", "normalize_before", False) else "post",
        "final_norm": one_of("norm after the last layer", **norms),
        "position_embedding": "learned" if learned else "sinusoidal",
        "position_offset": len(SPECIAL) - 2,  # behind the id of padding
        "max_position_embeddings": settings.get("max_source_positions") or 1024 if rows is None else len(rows) - 2,
        "scale_embedding": not settings.get("no_scale_embedding", False),
        "bos_token_id": SPECIAL.index("<s>"),
        "pad_token_id": SPECIAL.index("<pad>"),
        "eos_token_id": SPECIAL.index("</s>"),
        "unk_token_id": SPECIAL.index("<unk>"),
        "decoder_start_token_id": SPECIAL.index("</s>"),
    }


def _vocabulary(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Vocabulary:
    rows, sides = [len(matrix) for matrix in _matrices(weights).values()], []
    for language, size in zip(languages_of(settings), rows, strict=False):
        sides.append(padded(dictionary(folder / f"dict.{language}.txt"), size))
    return joined(*sides, unk="<unk>")


def languages_of(settings: Mapping[str, Any]) -> list[str]:
    """Returns the source's and the target's, which name files.

    Raises:
        ValueError: one is missing, or no name.
    """
    found = [needed(settings, name) for name in ("source_lang", "target_lang")]
    if odd := [name for name in found if not (isinstance(name, str) and re.fullmatch(r"[\w.@-]+", name))]:
        raise ValueError(f"source_lang and target_lang must be names of languages; got {odd[0]!r}")
    return found


def dictionary(path: Path) -> list[str]:
    """Returns the tokens of a dict.txt in order of their ids, special ones first, ends of words marked `</w>`.

    Raises:
        ValueError: the file is missing, or a line is no token and count.
    """
    if not path.is_file():
        there = ", ".join(sorted(other.name for other in path.parent.glob("dict.*"))) or "none"
        raise ValueError(f"the source must have its dictionaries beside its weights; got no {path.name}, but {there}")
    tokens: list[str] = [*SPECIAL]
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"a dictionary must be UTF-8; got {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        token, _, count = line.rstrip("\r").rpartition(" ")
        if not token or not count.isdigit():
            raise ValueError(f"a dictionary must have a token and its count a line; got {line!r} in {path}:{number}")
        tokens.append(token.removesuffix("@@") if token.endswith("@@") else f"{token}</w>")
    return tokens


def _tokenizer(folder: Path, settings: Mapping[str, Any], vocabulary: Vocabulary) -> PreTrainedTokenizerBase | None:
    path = next((folder / name for name in CODES if (folder / name).is_file()), None)
    if path is None:
        logger.warning("%s has no %s: the model is converted without a tokenizer", folder, " or ".join(CODES))
        return None
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    version = lines.pop(0) if lines and lines[0].startswith("#version") else ""
    parts = [line.split(" ") for line in lines]
    if not version.endswith("0.2") and any(len(line) < 3 for line in parts):  # fastBPE has counts and no version
        logger.warning(
            "%s is of subword-nmt before 0.2, which marks ends of words otherwise than any tokenizer of transformers: "
            "the model is converted without a tokenizer",
            path,
        )
        return None
    merges = [" ".join(line[:2]) for line in parts]
    return moses_tokenizer(vocabulary.tokens, merges, languages=languages_of(settings))


def _generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What fairseq-generate does by default, or was told."""
    kept = {"num_beams": settings.get("beam") or 5, "length_penalty": float(settings.get("lenpen") or 1.0)}
    if not settings.get("max_len_a"):
        kept["max_length"] = (settings.get("max_len_b") or 200) + 2  # start and end are not counted there
    if settings.get("no_repeat_ngram_size"):
        kept["no_repeat_ngram_size"] = settings["no_repeat_ngram_size"]
    return kept
