"""OpenNMT-py's Transformer: a checkpoint of versions 2 and 3, one .pt file.

    model          weights
    generator      the projection to logits
    vocab          tokens of each side: lists (version 3), or fields of torchtext (version 2)
    opt            settings, an argparse.Namespace

Its norms stand before the sub-layers and behind the stacks, its attention has biases in version 2 alone. The vocabulary
is of words as the model was given them: the tokenizer splits at spaces, and what cut the text into pieces before stays
the user's. A source does not end in `</s>`, as it does not there.

Departures: its label smoothing gives epsilon / V to each word, and `generate` searches as the paper does.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .. import models
from .incoming import Source
from .two_sides import Vocabulary, activation_of, embeddings, joined, layers_of, needed, one_of, refuse
from .untrusted import Plain, load_torch, plain_dict, state_dict

EMBEDDING = "embeddings.make_embedding.emb_luts.0.weight"  # of either side
TABLE = "embeddings.make_embedding.pe.pe"
NAMES = (  # patterns of theirs, and ours
    (r"\.a_2$", ".weight"),
    (r"\.b_2$", ".bias"),
    (r"^encoder\.transformer\.", "encoder.layers."),
    (r"^decoder\.transformer_layers\.", "decoder.layers."),
    (r"\.feed_forward\.layer_norm\.", ".final_layer_norm."),
    (r"\.feed_forward\.w_([12])\.", r".fc\1."),
    (r"\.context_attn\.", ".encoder_attn."),
    (r"(\.layers\.\d+)\.layer_norm(?:_1)?\.", r"\1.self_attn_layer_norm."),
    (r"(\.layers\.\d+)\.layer_norm_2\.", r"\1.encoder_attn_layer_norm."),
    (r"\.linear_(query|keys|values)\.", lambda found: f".{found[1][0]}_proj."),
    (r"\.final_linear\.", ".out_proj."),
)
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu"}
UNKNOWN = ("max_relative_positions", "copy_attn", "parallel_residual", "multiquery", "num_kv", "shared_layer_norm")
SAME = {"encoder_type": "transformer", "decoder_type": "transformer", "layer_norm": "standard"}
SAME |= {"self_attn_type": "scaled-dot", "position_encoding": True}
POSITIONS = {  # opt.position_encoding_type
    "SinusoidalInterleaved": {"position_layout": "interleaved", "position_frequency": "paper"},
    "SinusoidalConcat": {"position_layout": "half-split", "position_frequency": "tensor2tensor"},
}
TOKENS = {"pad_token": "<blank>", "unk_token": "<unk>"}  # bos and eos are the target's alone
BOS, EOS = "<s>", "</s>"
# What version 2 pickles of its vocabularies beside their tokens.
FIELDS = [f"torchtext.{legacy}data.field.{name}" for legacy in ("", "legacy.") for name in ("Field", "RawField")]
FIELDS += ["torchtext.vocab.Vocab", "torchtext.legacy.vocab.Vocab", "onmt.inputters.text_dataset.TextMultiField"]
FIELDS += ["onmt.inputters.text_dataset._feature_tokenize", "functools.partial", "builtins.getattr", "builtins.int"]
FIELDS += ["torchtext.vocab._default_unk_index", "torchtext.legacy.vocab._default_unk_index"]


def read(source: Path) -> Source:
    """Reads a checkpoint; weights are bit-identical, two vocabularies become one.

    Args:
        source: the file, or a folder that holds no other .pt file.

    Raises:
        ValueError: a file that is missing, broken or hostile, another architecture, a setting that our model has not, a
            vocabulary that is not the weights'.
    """
    path = source if source.is_file() else _only(source)
    allowed = [argparse.Namespace, (plain_dict, "collections.defaultdict"), *((Plain, name) for name in FIELDS)]
    found = load_torch(path, allowed=allowed)
    parts: list[Any] = [
        found.get(name) if isinstance(found, dict) else None for name in ("model", "generator", "vocab", "opt")
    ]
    if any(part is None for part in parts):
        raise ValueError(
            f"--from opennmt-py reads a checkpoint with model, generator, vocab and opt; got {path} without"
        )
    settings = _settings(parts[3])
    weights, generator = state_dict(parts[0], path), state_dict(parts[1], path)
    vocabulary = joined(*(tokens_of(parts[2], side) for side in ("src", "tgt")), unk=TOKENS["unk_token"])
    ends = _ends(weights, generator)
    placed, sizes = embeddings(vocabulary, **ends)
    dropped = [name for name in weights if name.partition(".")[2] == TABLE or name.endswith(".mask")]
    ending = [f"{side}.{EMBEDDING}" for side in ("encoder", "decoder")]
    layers = {renamed(name): tensor for name, tensor in weights.items() if name not in (*dropped, *ending)}
    if "bias" in ends and not sizes["lm_head_bias"]:
        dropped.append("generator.bias")
    config = models.VaswaniTransformerConfig(
        **sizes,
        **_switches(settings, layers),
        **_ids(vocabulary, parts[2].get("decoder_start_token") or BOS),
        label_smoothing=_smoothing(settings, vocabulary),
    )
    return Source(
        model=models.VaswaniTransformerForConditionalGeneration,
        config=config,
        weights=placed | layers,
        dropped=tuple(dropped),
        tokenizer=_tokenizer(vocabulary),
        generation={"num_beams": 5, "length_penalty": 1.0},  # what onmt_translate does unless it is told otherwise
        absent="OpenNMT-py is not installed here and is maintained no longer",
    )


def _only(folder: Path) -> Path:
    found = sorted(folder.glob("*.pt"))
    if len(found) != 1:
        raise ValueError(
            f"--from opennmt-py reads a .pt file, or a folder with one; got {len(found)} of them in {folder}"
        )
    return found[0]


def _settings(opt: Any) -> dict[str, Any]:
    settings = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    if not isinstance(settings, dict):
        raise ValueError(f"opt must be a Namespace of settings; got {type(opt).__name__}")
    refuse(settings, UNKNOWN)
    for name, value in SAME.items():
        if settings.get(name, value) not in (value, "scaled-dot-flash"):
            raise ValueError(f"--from opennmt-py reads its Transformer with {name}={value!r}; got {settings[name]!r}")
    return settings


def tokens_of(vocab: Any, side: str) -> list[str]:
    """Returns one side's tokens in order of their ids.

    Args:
        vocab: as a checkpoint holds it: lists (version 3), or fields of torchtext, whose classes `Plain` stands for.
        side: "src" or "tgt".

    Raises:
        ValueError: it is neither.
    """
    found = vocab.get(side) if isinstance(vocab, dict) else None
    if isinstance(fields := getattr(found, "fields", None), list) and fields:
        found = fields[0][1]  # the words; features follow
    found = getattr(getattr(found, "vocab", found), "itos", found)
    if not isinstance(found, list) or not all(isinstance(token, str) for token in found):
        raise ValueError(f"vocab must hold a list of tokens for {side}; got {type(found).__name__}")
    return found


def _ends(weights: Mapping[str, Tensor], generator: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is before and behind the layers, as `embeddings` takes it."""
    head = {name.removeprefix("0."): tensor for name, tensor in generator.items()}
    if unknown := sorted(head.keys() - {"weight", "bias"}):
        raise ValueError(f"the generator must be one linear layer; got {', '.join(unknown)} in it")
    names = {"source": f"encoder.{EMBEDDING}", "target": f"decoder.{EMBEDDING}"}
    if missing := [name for name in names.values() if name not in weights]:
        raise ValueError(f"the weights must have {missing[0]}; got {len(weights)} others")
    ends = {side: weights[name] for side, name in names.items()}
    return ends | {"head": head.get("weight", ends["target"])} | ({"bias": head["bias"]} if "bias" in head else {})


def renamed(name: str) -> str:
    """Returns our name of a weight of theirs."""
    for pattern, ours in NAMES:
        name = re.sub(pattern, ours, name)
    return f"model.{name}"


def _switches(settings: Mapping[str, Any], layers: Mapping[str, Tensor]) -> dict[str, Any]:
    if "model.encoder.layers.0.fc1.weight" not in layers:
        raise ValueError(
            f"the weights must have encoder.transformer.0.feed_forward.w_1.weight; got {len(layers)} others"
        )
    d_ff, d_model = layers["model.encoder.layers.0.fc1.weight"].shape
    kind = settings.get("position_encoding_type") or "SinusoidalInterleaved"
    if kind not in POSITIONS:
        raise ValueError(f"position_encoding_type must be one of {', '.join(POSITIONS)}; got {kind!r}")
    norms = {side: f"model.{side}.layer_norm.weight" in layers for side in ("encoder", "decoder")}
    return POSITIONS[kind] | {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": needed(settings, "heads"),
        "num_encoder_layers": layers_of(layers, "model.encoder.layers."),
        "num_decoder_layers": layers_of(layers, "model.decoder.layers."),
        "activation": activation_of(settings.get("pos_ffn_activation_fn") or "relu", ACTIVATIONS),
        "dropout": _rate(settings, "dropout"),
        "attention_dropout": _rate(settings, "attention_dropout"),
        "activation_dropout": _rate(settings, "dropout"),
        "norm_order": "pre",
        "final_norm": one_of("norm after the last layer", **norms),
        "attention_bias": "model.encoder.layers.0.self_attn.q_proj.bias" in layers,
        "layer_norm_eps": settings.get("norm_eps") or 1e-6,
        "decoder_start": "token",
    }


def _rate(settings: Mapping[str, Any], name: str) -> Any:
    """A rate, or the last of a schedule of rates."""
    found = settings.get(name) or 0.0
    return found[-1] if isinstance(found, list) else found


def _smoothing(settings: Mapping[str, Any], vocabulary: Vocabulary) -> Any:
    return (settings.get("label_smoothing") or 0.0) if vocabulary.written.all() else 0.0


def _ids(vocabulary: Vocabulary, start: str) -> dict[str, Any]:
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    if missing := [token for token in (*TOKENS.values(), BOS, EOS, start) if token not in ids]:
        raise ValueError(f"a vocabulary must have OpenNMT-py's special tokens; got none of {', '.join(missing)}")
    return {f"{name}_id": ids[token] for name, token in TOKENS.items()} | {
        "bos_token_id": ids[BOS],
        "eos_token_id": ids[EOS],
        "decoder_start_token_id": ids[start],
    }


def _tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Splits at spaces, and ends neither side with `</s>`."""
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    backend = Tokenizer(WordLevel(ids, unk_token=TOKENS["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **TOKENS,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )
