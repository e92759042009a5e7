"""What a translation model of another library has twice, encoder's and decoder's, and ours has once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .incoming import Inputs

MOST_POSITIONS = 2**17
UNWRITTEN = -1e4  # a logit that has no share of the probability, in half precision too


@dataclass(frozen=True)
class Vocabulary:
    """One vocabulary for a model that had one for each side: the source's ids stay, what only the target has follows.

    A token that a side does not have was its unknown word there, and has its row: what is computed stays the same. The
    decoder never writes a token that only the source has.

    Args:
        tokens: V in order of their ids.
        source_rows: [V], each token's row in the source side's matrix.
        target_rows: [V], each token's row in the target side's matrices.
        written: [V], whether the target side has the token.
    """

    tokens: list[str]
    source_rows: Tensor
    target_rows: Tensor
    written: Tensor

    @property
    def shared(self) -> bool:
        """Whether both sides had the same tokens with the same ids."""
        ids = torch.arange(len(self.tokens))
        return torch.equal(self.source_rows, ids) and torch.equal(self.target_rows, ids)

    def of_target(self, number: Any) -> int:
        """The id of a token of the target side.

        Raises:
            ValueError: that has no such token.
        """
        found = (self.written & (self.target_rows == number)).nonzero() if isinstance(number, int) else ()
        if len(found) != 1:
            raise ValueError(
                f"a token's id must be in [0, {int(self.written.sum())}) of the target side; got {number!r}"
            )
        return int(found[0])


def joined(source: Sequence[str], target: Sequence[str], *, unk: str) -> Vocabulary:
    """Returns one vocabulary for two.

    Args:
        source: the source side's tokens in order of their ids.
        target: the target side's.
        unk: the unknown word, in both.

    Raises:
        ValueError: a token that stands twice, no unknown word.
    """
    sides = [{token: number for number, token in enumerate(tokens)} for tokens in (source, target)]
    for side, tokens, ids in zip(("source", "target"), (source, target), sides, strict=True):
        if len(ids) != len(tokens):
            twice = next(token for number, token in enumerate(tokens) if ids[token] != number)
            raise ValueError(f"a vocabulary must have each token once; got {twice!r} twice on the {side} side")
        if source != target and unk not in ids:
            raise ValueError(
                f"two vocabularies must each have an unknown word to be one; got no {unk!r} in the {side}'s"
            )
    tokens = [*source, *(token for token in target if token not in sides[0])]
    source_rows, target_rows = (torch.tensor([ids.get(token, ids.get(unk, 0)) for token in tokens]) for ids in sides)
    return Vocabulary(tokens, source_rows, target_rows, torch.tensor([token in sides[1] for token in tokens]))


def embeddings(
    vocabulary: Vocabulary, *, source: Tensor, target: Tensor, head: Tensor, bias: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the weights by our names, and vocab_size, tie_embeddings and lm_head_bias of the configuration.

    Matrices with the same numbers are one.

    Args:
        vocabulary: of both sides.
        source: [Vs, D] embedding of the source side.
        target: [Vt, D] embedding of the target side.
        head: [Vt, D] projection to logits.
        bias: [Vt] of the logits; zeros are none.

    Raises:
        ValueError: a matrix that has not a row for every token.
    """
    rows = {"source": vocabulary.source_rows, "target": vocabulary.target_rows}
    for name, side, matrix in (("source", "source", source), ("target", "target", target), ("output", "target", head)):
        if (tokens := int(rows[side].max()) + 1) != len(matrix):
            raise ValueError(
                f"weights must have a row for every token, and no more; got {len(matrix)} rows in the {name} matrix, "
                f"{tokens} tokens: is this the vocabulary the model was trained with?"
            )
    tie = "decoder" if torch.equal(target, head) else "none"
    tie = "all" if tie == "decoder" and vocabulary.shared and torch.equal(source, target) else tie
    if bias is not None and not bias.any():
        bias = None
    if not vocabulary.shared:
        source, target, head = source[rows["source"]], target[rows["target"]], head[rows["target"]]
        bias = None if bias is None else bias[rows["target"]]
    if not vocabulary.written.all():
        bias = source.new_zeros(len(source)) if bias is None else bias
        bias = bias.masked_fill(~vocabulary.written, UNWRITTEN)
    weights = {"model.encoder.embed_tokens.weight": source, "model.decoder.embed_tokens.weight": target}
    weights = {"model.shared.weight": source} if tie == "all" else weights
    weights |= {"lm_head.weight": head} if tie == "none" else {}
    weights |= {} if bias is None else {"lm_head.bias": bias}
    return weights, {"vocab_size": len(source), "tie_embeddings": tie, "lm_head_bias": bias is not None}


def reference(vocabulary: Vocabulary, load: Callable[[], Any]) -> Callable[[Inputs], Tensor]:
    """Returns the logits of the source's own model as a function of inputs in our ids.

    Args:
        vocabulary: of both sides.
        load: gives the model, or a function of `input_ids` and `decoder_input_ids`, in the ids of each side, to logits.
    """

    def logits(inputs: Inputs) -> Tensor:
        found = load()(
            input_ids=vocabulary.source_rows[inputs["input_ids"]],
            decoder_input_ids=vocabulary.target_rows[inputs["decoder_input_ids"]],
        )
        found = getattr(found, "logits", found)
        return found[..., vocabulary.target_rows].masked_fill(~vocabulary.written, -torch.inf)

    return logits


def one_of(what: str, **values: Any) -> Any:
    """Returns what encoder and decoder both have.

    Raises:
        ValueError: they differ.
    """
    found = list(values.values())
    if any(value != found[0] for value in found):
        got = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ValueError(f"encoder and decoder must have one {what}; got {got}: our model has no setting for each side")
    return found[0]


def layers_of(names: Mapping[str, Any], prefix: str) -> int:
    """How many layers there are under `prefix`, from the weights' names alone.

    Raises:
        ValueError: none.
    """
    found = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if not found:
        raise ValueError(f"the weights must have layers {prefix}0, {prefix}1 and so on; got none of {len(names)} names")
    return len(found)


def sides(config: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes that transformers' configuration gives each side, as ours.

    Raises:
        ValueError: sides of different widths, layers that the weights do not have.
    """
    heads = one_of("number of heads", encoder=config.encoder_attention_heads, decoder=config.decoder_attention_heads)
    width = one_of("width of feed-forward layers", encoder=config.encoder_ffn_dim, decoder=config.decoder_ffn_dim)
    layers = {side: layers_of(weights, f"model.{side}.layers.") for side in ("encoder", "decoder")}
    for side, count in layers.items():
        one_of(f"number of {side} layers", config=getattr(config, f"{side}_layers"), weights=count)
    return {
        "num_heads": heads,
        "d_ff": width,
        "num_encoder_layers": layers["encoder"],
        "num_decoder_layers": layers["decoder"],
    }


def tokens_by_id(ids: dict[str, Any], path: Path) -> list[str]:
    """A vocabulary's tokens in order of their ids.

    Raises:
        ValueError: ids that are not 0, 1, 2 and so on.
    """
    tokens = sorted(ids, key=lambda token: ids[token] if isinstance(ids[token], int) else -1)
    for number, token in enumerate(tokens):
        if ids[token] != number:
            raise ValueError(
                f"a vocabulary's ids must be 0 to {len(ids) - 1}, each once; got {token!r}: {ids[token]!r} in {path}"
            )
    return tokens


def padded(tokens: Sequence[str], rows: int) -> list[str]:
    """Returns the tokens and those that fairseq adds up to a multiple of eight, which stand for nothing."""
    more = rows - len(tokens) if len(tokens) <= rows <= (len(tokens) + 7) // 8 * 8 else 0
    names = (f"madeupword{number:04d}</w>" for number in range(rows))
    return [*tokens, *islice((name for name in names if name not in tokens), more)]


def refuse(settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """Looks for settings that our model has not.

    Args:
        settings: the source's, by name.
        names: those that must be off, 0, empty or missing.

    Raises:
        ValueError: one is on.
    """
    for name in names:
        if settings.get(name):
            raise ValueError(
                f"the source must be a Transformer of 2017 but for our switches, without {name}; got "
                f"{name}={settings[name]!r}: our model has no such setting"
            )


def needed(settings: Mapping[str, Any], name: str) -> Any:
    """Returns a setting that no weight tells.

    Raises:
        ValueError: it is missing.
    """
    if settings.get(name) is None:
        raise ValueError(f"the source must tell {name}, which no weight does; got settings without it")
    return settings[name]


def activation_of(name: str, known: Mapping[str, str]) -> str:
    """Returns our name of an activation.

    Raises:
        ValueError: an unknown one.
    """
    if name not in known:
        raise ValueError(f"the activation must be one of {', '.join(known)}; got {name!r}")
    return known[name]


def generation_of(folder: Path, config: Any, vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the settings of `generate` in a folder of transformers, token ids in our vocabulary."""
    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder)
    else:
        found = GenerationConfig.from_model_config(config)
    kept = {name: value for name, value in found.to_diff_dict().items() if not name.endswith("token_id")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("_", "transformers_version"))}
    kept |= {"num_beams": found.num_beams or 1, "length_penalty": found.length_penalty or 1.0}
    if words := kept.get("bad_words_ids"):
        kept["bad_words_ids"] = [[vocabulary.of_target(number) for number in word] for word in words]
    if isinstance(found.forced_eos_token_id, int):
        kept["forced_eos_token_id"] = vocabulary.of_target(found.forced_eos_token_id)
    return kept


def configuration(kind: Any, found: Mapping[str, Any], path: Path) -> Any:
    """Returns transformers' configuration of what config.json holds; its own errors are none of ValueError's.

    Args:
        kind: the class.
        found: the file's content.
        path: the file.

    Raises:
        ValueError: a field of another type, a size that no model has.
    """
    labels = ("num_labels", "id2label", "label2id")  # made as many as a file claims, and no translator has any
    try:
        config = kind.from_dict({name: value for name, value in found.items() if name not in labels})
    except Exception as error:  # its checks raise classes of several libraries
        raise ValueError(f"a configuration must have fields of their types; got {path}: {error}") from error
    if not 0 < config.max_position_embeddings <= MOST_POSITIONS:  # transformers makes a table of them
        raise ValueError(
            f"max_position_embeddings must be in [1, {MOST_POSITIONS}]; got {config.max_position_embeddings} in {path}"
        )
    return config
