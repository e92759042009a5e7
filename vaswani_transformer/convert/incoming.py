"""Another library's model as a folder of ours: what every reader returns, and what is done with it.

Every number of the source must have a place in our model and every weight of our model a number: nothing is left at
random, nothing dropped without being named. What was written is loaded again and compared with the source's own code
wherever that can be imported.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..run_folder import new_folder

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of the largest logit, or of 1 where none is larger
NEVER = -1000.0  # a logit below it has no share of the probability in any precision
LENGTH = 16  # tokens of the texts that are compared
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model read from another library's files.

    Args:
        model: our class.
        config: its configuration.
        weights: by our names, in the precision they had; those of tied weights once or more often.
        dropped: names in the source that hold no weight of the model: buffers, the state of an optimiser.
        tokenizer: of ours or of transformers, None where the source has none.
        generation: settings for `generation_config`.
        reference: the source's own code: of the inputs of our model's forward what `logits_of` says of an output, -inf
            for what it never says; None where it cannot be imported.
        absent: why there is no `reference`.
    """

    model: type[PreTrainedModel]
    config: PreTrainedConfig
    weights: Mapping[str, Tensor]
    dropped: tuple[str, ...] = ()
    tokenizer: PreTrainedTokenizerBase | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[[Inputs], Tensor] | None = None
    absent: str = ""


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Args:
        out: the new folder.
        weights: how many weights were mapped.
        dropped: names in the source that are no weights.
        difference: largest difference of logits from the source's own code, as a share of the largest logit, or of 1;
            None where that code cannot be imported.
        absent: why there is no difference.
    """

    out: Path
    weights: int
    dropped: tuple[str, ...]
    difference: float | None
    absent: str


def write(source: Source, out: str | Path) -> Conversion:
    """Writes a model as a folder of ours, loads it again and compares it with the source's own code.

    Args:
        source: what a reader found.
        out: a folder to make; nothing is there if anything fails.

    Raises:
        ValueError: weights that are missing, left over or of another shape, a vocabulary that the weights do not hold,
            logits other than the source's, a folder in use.
    """
    out = new_folder(out, use="convert into")
    model = filled(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        made = Path(place) / "model"
        model.save_pretrained(made)
        if source.tokenizer is not None:
            source.tokenizer.save_pretrained(made)
        difference = _difference(source, made)
        if out.exists():
            out.rmdir()
        os.replace(made, out)
    return Conversion(out, len(source.weights), source.dropped, difference, source.absent)


def filled(source: Source) -> PreTrainedModel:
    """Returns our model with the source's weights, every one of them.

    Raises:
        ValueError: weights that are missing, left over or of another shape, a vocabulary that they do not hold.
    """
    dtype = precision(source.weights)
    tokens = 0 if source.tokenizer is None else len(source.tokenizer)
    if tokens > source.config.vocab_size:  # type: ignore[attr-defined]
        raise ValueError(
            f"weights must have a row for every token; got vocab_size={source.config.vocab_size}, {tokens} tokens: "  # type: ignore[attr-defined]
            "is this the vocabulary the model was trained with?"
        )
    _check_places(source)
    model: Any = source.model(source.config)
    model = model.eval().to(dtype)
    own = model.state_dict(keep_vars=True)
    model.load_state_dict(source.weights, strict=False)
    for name, tensor in source.weights.items():
        if not torch.equal(own[name], tensor):
            raise ValueError(f"tied weights must be equal; got other numbers for {name}")
    if model.can_generate():
        model.generation_config.update(**source.generation)
    return model


def precision(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Returns the floating-point precision that weights have.

    Raises:
        ValueError: none, or several.
    """
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"weights must be of one floating-point precision; got {sorted(map(str, dtypes))}")
    return dtypes.pop()


def _check_places(source: Source) -> None:
    """Compares names and shapes with those of our model before it takes any memory: its sizes are a stranger's."""
    config, weights = source.config, source.weights
    layers = [getattr(config, name, 0) for name in ("num_hidden_layers", "num_encoder_layers", "num_decoder_layers")]
    if max(layers) > len(weights):
        raise ValueError(f"every layer must have its weights; got {max(layers)} layers, {len(weights)} weights")
    with torch.device("meta"):
        own = source.model(config).state_dict(keep_vars=True)
    shapes = [
        f"{name} {list(tensor.shape)}, ours {list(own[name].shape)}"
        for name, tensor in weights.items()
        if name in own and own[name].shape != tensor.shape
    ]
    given = {id(own[name]) for name in weights if name in own}  # a tied weight is given by any of its names
    missing = [name for name, tensor in own.items() if id(tensor) not in given]
    unused = [name for name in weights if name not in own]
    if shapes or missing or unused:
        raise ValueError(
            f"every weight must have its place; got {_listed('of another shape', shapes)}, "
            f"{_listed('without a number', missing)}, {_listed('unknown', unused)}"
        )


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:6])}{more})" if names else "")


@torch.inference_mode()
def _difference(source: Source, made: Path) -> float | None:
    """How far the folder's logits are from the source's own, as a share of the largest, or of 1."""
    model: Any = source.model.from_pretrained(made, dtype=torch.float32).eval()
    if source.reference is None:
        return None
    inputs = inputs_for(model.config)
    if source.model.__name__.endswith("MultipleChoice"):
        ids = torch.stack((inputs["input_ids"], inputs["input_ids"].flip(1)), dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    got, expected = logits_of(model(**inputs)), source.reference(inputs).float()
    known = ~expected.isneginf()
    if bool((got[~known] > NEVER).any()):
        raise ValueError(f"what the source never says must stay so; got logits above {NEVER}")
    got, expected = got[known], expected[known]
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"what is converted must compute what the source's own code does, to {TOLERANCE}; got logits "
            f"{difference:.2g} apart: the source has a setting that was not read"
        )
    return difference


def logits_of(output: Any) -> Tensor:
    """Returns an output's logits [B, T, V]; the last hidden state [B, T, D] where there is no head; two of any of
    these, of two heads or beside what is pooled, as one row of numbers.
    """
    if output.get("logits") is not None:
        return output["logits"]
    names = ("last_hidden_state", "pooler_output", "prediction_logits", "seq_relationship_logits")
    found = [output[name] for name in (*names, "start_logits", "end_logits") if output.get(name) is not None]
    return found[0] if len(found) == 1 else torch.cat([tensor.flatten() for tensor in found])


def inputs_for(config: Any) -> dict[str, Tensor]:
    """Returns texts to compare: ids [1, T] of the whole vocabulary but padding; source and target of a translator."""
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    ids = torch.arange(1, 2 * length + 1) * 7919 % config.vocab_size
    if config.pad_token_id is not None:
        ids[ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    if config.is_encoder_decoder:
        return {"input_ids": ids[None, :length], "decoder_input_ids": ids[None, length:]}
    return {"input_ids": ids[None, :length]}
