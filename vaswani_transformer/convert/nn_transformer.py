"""torch.nn.Transformer between two embeddings and a linear layer, in the names of PyTorch's translation tutorial.

    model.pt or model.safetensors      the state dict:
        transformer.*                  torch.nn.Transformer's own names; the prefix may be missing
        src_tok_emb.embedding.weight   embeddings of each side; or embedding.weight for both
        tgt_tok_emb.embedding.weight
        generator.weight, .bias        to logits; without them by the target's embedding
        positional_encoding.pos_embedding   a table of sinusoids, which may be missing
    config.json                        what no weight tells: nhead and ids of special tokens at least, all of `CONFIG`

The norms behind both stacks, which torch.nn.Transformer has in either order of norms, come along. It has no tokenizer:
give the converted model the ids that the source was given.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..sections import unknown_name
from .incoming import Source
from .two_sides import activation_of, embeddings, joined, layers_of, needed, one_of, reference
from .untrusted import load_json, load_torch, load_weights, state_dict

CONFIG: dict[str, Any] = {  # the defaults are torch.nn.Transformer's and the tutorial's; None must be told
    "nhead": None,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "unk_token_id": 0,
    "activation": "relu",
    "dropout": 0.1,
    "layer_norm_eps": 1e-5,
    "norm_first": False,
    "scale_embedding": True,
    "position_layout": "interleaved",
    "position_frequency": "paper",
}
NAMES = {
    "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
    "decoder": {"norm1": "self_attn_layer_norm", "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"},
}
NAMES = {
    side: names | {"linear1": "fc1", "linear2": "fc2", "multihead_attn": "encoder_attn", "norm": "layer_norm"}
    for side, names in NAMES.items()
}
EMBEDDINGS = ("src_tok_emb.embedding.weight", "tgt_tok_emb.embedding.weight", "embedding.weight")
HEAD = ("generator.weight", "generator.bias")
TABLE = "positional_encoding.pos_embedding"


def read(source: Path) -> Source:
    """Reads a folder of a state dict and its settings; weights are bit-identical, packed projections taken apart.

    Raises:
        ValueError: a file that is missing, broken or hostile, an unknown or missing setting, weights without biases,
            names that are none of the above.
    """
    settings, weights = _settings(source), _weights(source)
    inner, ends = _inner(weights), _ends(weights)
    sides = [[str(number) for number in range(len(ends[side]))] for side in ("source", "target")]
    vocabulary = joined(*sides, unk=str(settings["unk_token_id"]))
    placed, sizes = embeddings(vocabulary, **ends)
    layers = {new: part for name, tensor in inner.items() for new, part in renamed(name, tensor).items()}
    known = {*EMBEDDINGS, *HEAD, TABLE, *(f"transformer.{name}" for name in inner), *inner}
    layers |= {name: tensor for name, tensor in weights.items() if name not in known}  # told as unknown
    config = models.VaswaniTransformerConfig(
        **sizes,
        **_switches(settings, inner, weights.get(TABLE)),
        label_smoothing=0.1 if vocabulary.written.all() else 0.0,
    )
    dropped = [TABLE] if TABLE in weights else []
    dropped += [HEAD[1]] if HEAD[1] in weights and not config.lm_head_bias else []
    return Source(
        model=models.VaswaniTransformerForConditionalGeneration,
        config=config,
        weights=placed | layers,
        dropped=tuple(dropped),
        reference=reference(vocabulary, lambda: _model(config, inner, ends, weights.get(TABLE))),
    )


def _settings(source: Path) -> dict[str, Any]:
    told = load_json(source / "config.json")
    for name in told:
        if name not in CONFIG:
            raise ValueError(unknown_name(name, list(CONFIG), "setting of config.json"))
    settings = CONFIG | told
    for name in CONFIG:
        needed(settings, name)
    return settings


def _weights(source: Path) -> dict[str, Tensor]:
    if (path := source / "model.pt").is_file():
        return state_dict(load_torch(path), path)
    return load_weights(source)


def _inner(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of torch.nn.Transformer by its own names.

    Raises:
        ValueError: there are none, or none has a bias.
    """
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    inner = {name: tensor for name, tensor in bare.items() if name.startswith(("encoder.", "decoder."))}
    if "encoder.layers.0.linear1.weight" not in inner:
        raise ValueError(
            "the state dict must have torch.nn.Transformer's names, encoder.layers.0.linear1.weight among them; got "
            f"{len(weights)} others"
        )
    if without := [name for name in ("linear1", "norm1") if f"encoder.layers.0.{name}.bias" not in inner]:
        raise ValueError(
            f"feed-forward layers and norms must have biases; got encoder.layers.0.{without[0]} without one: a model "
            "made with bias=False has no place in ours, whose switch is of attention alone"
        )
    return inner


def _ends(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is before and behind torch.nn.Transformer, as `embeddings` takes it."""
    both = weights.get(EMBEDDINGS[2])
    found = [weights.get(name, both) for name in EMBEDDINGS[:2]]
    if found[0] is None or found[1] is None:
        missing = EMBEDDINGS[0 if found[0] is None else 1]
        raise ValueError(f"the state dict must have {missing}, or {EMBEDDINGS[2]} for both; got {len(weights)} others")
    ends = {"source": found[0], "target": found[1], "head": weights.get(HEAD[0], found[1])}
    return ends | ({"bias": weights[HEAD[1]]} if HEAD[1] in weights else {})


def renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns a weight by our names: its own, or three that were packed."""
    side, *parts = name.split(".")
    parts = [NAMES[side].get(part, part) for part in parts]
    if parts[-1] in ("in_proj_weight", "in_proj_bias"):
        start, kind = ".".join(["model", side, *parts[:-1]]), parts[-1].removeprefix("in_proj_")
        return {f"{start}.{x}_proj.{kind}": part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
    return {".".join(["model", side, *parts]): tensor}


def _switches(settings: Mapping[str, Any], inner: Mapping[str, Tensor], table: Tensor | None) -> dict[str, Any]:
    d_ff, d_model = inner["encoder.layers.0.linear1.weight"].shape
    if table is not None and (table.dim() < 2 or table.shape[-1] != d_model):
        raise ValueError(f"{TABLE} must end in the width of the model; got {list(table.shape)}, d_model={d_model}")
    norms = {side: f"{side}.norm.weight" in inner for side in ("encoder", "decoder")}
    same = ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id", "dropout", "layer_norm_eps")
    same = (*same, "scale_embedding", "position_layout", "position_frequency")
    return {name: settings[name] for name in same} | {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": settings["nhead"],
        "num_encoder_layers": layers_of(inner, "encoder.layers."),
        "num_decoder_layers": layers_of(inner, "decoder.layers."),
        "max_position_embeddings": 1024 if table is None else table.numel() // d_model,
        "activation": activation_of(settings["activation"], {"relu": "relu", "gelu": "gelu"}),
        "attention_dropout": settings["dropout"],
        "activation_dropout": settings["dropout"],
        "norm_order": "pre" if settings["norm_first"] else "post",
        "final_norm": one_of("norm after the last layer", **norms),
        "attention_bias": "encoder.layers.0.self_attn.in_proj_bias" in inner,
        "decoder_start": "token",
        "decoder_start_token_id": settings["bos_token_id"],
    }


def _model(
    config: Any, inner: Mapping[str, Tensor], ends: Mapping[str, Tensor], table: Tensor | None
) -> Callable[..., Tensor]:
    """torch's own module between the same embeddings, as a function of ids to logits."""
    model = nn.Transformer(
        config.d_model,
        config.num_heads,
        config.num_encoder_layers,
        config.num_decoder_layers,
        config.d_ff,
        activation=config.activation,
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
        norm_first=config.norm_order == "pre",
    ).eval()
    if not config.final_norm:
        model.encoder.norm = model.decoder.norm = None
    model.load_state_dict({name: tensor.float() for name, tensor in inner.items()})

    def embedded(side: str, ids: Tensor) -> Tensor:
        states = ends[side].float()[ids] * (math.sqrt(config.d_model) if config.scale_embedding else 1.0)
        length = ids.shape[1]
        return states + (_sinusoids(config, length) if table is None else table.flatten(0, -2)[:length].float())

    def logits(*, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1])
        states = model(embedded("source", input_ids), embedded("target", decoder_input_ids), tgt_mask=causal)
        return nn.functional.linear(states, *(ends[name].float() for name in ("head", "bias") if name in ends))

    return logits


def _sinusoids(config: Any, length: int) -> Tensor:
    half = config.d_model // 2
    step = 1 / half if config.position_frequency == "paper" else 1 / max(half - 1, 1)
    angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(half) * step))
    table = torch.stack((angles.sin(), angles.cos()), dim=-1)
    return table.flatten(1) if config.position_layout == "interleaved" else table.transpose(1, 2).flatten(1)
