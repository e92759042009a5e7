"""The sub-layers of a layer as stages: attention step by step, feed-forward, the residual stream and its norm."""

# T query length   S key length   D hidden size   H heads   F inner size of the feed-forward network

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.attention import eager_attention
from .recorder import Record
from .stages import code, matrix, norm_view, shape, stage, taken_away

Line = tuple[Any, str]  # a function, and what one of its lines holds


@dataclass(frozen=True)
class Attention:
    """An attention sub-layer.

    Args:
        name: its title.
        key: that begins its stages' names.
        module: that calls `eager_attention`.
        out: the projection of the joined heads.
        norm: the sub-layer's.
        rows: which of the page's words look.
        seen: which are looked at.
        mask: what the mask does here, in a sentence.
        paper: the section.
        lines: of "query", "key", "value", "mask", "out", "add" and "norm".
    """

    name: str
    key: str
    module: nn.Module
    out: nn.Module
    norm: nn.Module
    rows: str
    seen: str
    mask: str
    paper: str
    lines: Mapping[str, Line]

    def projections(self) -> list[Any]:
        """The matrices of queries, keys and values."""
        return [part for part in self.module.modules() if isinstance(part, nn.Linear) and part is not self.out]


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward sub-layer.

    Args:
        key: that begins its stages' names.
        up: the first matrix.
        activation: between the two.
        down: the second matrix.
        norm: the sub-layer's.
        rows: which of the page's words.
        activated: the activation as the equation writes it, of x W_{1} + b_{1}.
        paper: the section.
        lines: of "up", "down", "add" and "norm".
    """

    key: str
    up: nn.Module
    activation: nn.Module
    down: nn.Module
    norm: nn.Module
    rows: str
    activated: str
    paper: str
    lines: Mapping[str, Line]


Sublayer = Attention | FeedForward


@dataclass(frozen=True)
class Layer:
    """A layer: its sub-layers in order, each with a norm after it ("post") or before it.

    Args:
        module: the layer.
        post: whether norms come after the residual sums, as in the paper.
        sublayers: in order.
        norm_paper: the section that tells of the norm.
    """

    module: nn.Module
    post: bool
    sublayers: Sequence[Sublayer]
    norm_paper: str

    def modules(self) -> list[nn.Module]:
        """All whose inputs and results are shown."""
        found = [self.module]
        for part in self.sublayers:
            inner = [part.out] if isinstance(part, Attention) else [part.up, part.activation, part.down]
            found += [part.norm, *inner]
        return found

    def attentions(self) -> list[nn.Module]:
        """The modules that call `eager_attention`."""
        return [part.module for part in self.sublayers if isinstance(part, Attention)]


def stack_stages(
    record: Record, layer: Layer, layers: Sequence[Any], *, number: int, key: str, rows: str, line: Line
) -> Iterator[dict[str, Any]]:
    """Yields what a layer reads, its stages, and what the last layer gives.

    Args:
        record: of the model's run.
        layer: the one that is shown.
        layers: all of them.
        number: of the one that is shown, from 0.
        key: that begins the names of the first and the last stage.
        rows: which of the page's words.
        line: that runs a layer.
    """
    if number:
        into = record.taken(layer.module)
        yield stage(
            f"{key}-into",
            f"Into layer {number + 1}",
            f"{number} layer{'s have' if number > 1 else ' has'} done the same before, with weights of their own.",
            paper=layer.norm_paper,
            lines=[code(*line)],
            shapes=[shape("x", "T, D", into)],
            views=[matrix("x", into, rows)],
        )
    yield from layer_stages(record, layer)
    last, left = record.given(layers[-1]), len(layers) - number - 1
    if left:
        yield stage(
            f"{key}-last",
            f"Out of layer {len(layers)}",
            f"{left} more layer{'s do' if left > 1 else ' does'} the same with weights of their own.",
            paper=layer.norm_paper,
            lines=[code(*line)],
            shapes=[shape("x", "T, D", last)],
            views=[matrix("x", last, rows)],
        )


def layer_stages(record: Record, layer: Layer) -> Iterator[dict[str, Any]]:
    """Yields the stages of a layer in the order in which they are computed."""
    for number, part in enumerate(layer.sublayers):
        last = number == len(layer.sublayers) - 1
        if layer.post:
            yield from _sublayer(record, part)
            yield _add_and_norm(record, part, layer.norm_paper)
            continue
        yield _norm(record, part, layer.norm_paper)
        yield from _sublayer(record, part)
        total = record.given(layer.module) if last else record.taken(layer.sublayers[number + 1].norm)
        yield _add(record, part, total)


def _sublayer(record: Record, part: Sublayer) -> Iterator[dict[str, Any]]:
    return attention_stages(record, part) if isinstance(part, Attention) else _feed_forward(record, part)


def attention_stages(record: Record, part: Attention) -> Iterator[dict[str, Any]]:
    """Yields the six stages of an attention sub-layer, before its residual sum."""
    found = record.attended(part.module)
    yield _queries(found, part)
    yield from _weights(found, part)
    yield stage(
        f"{part.key}-z",
        "The weighted values, Z",
        "Each token's result is the mean of the values, each counted as much as its weight says.",
        equation="Z = A V",
        paper=part.paper,
        lines=[code(eager_attention, "out_BTHW = torch.matmul")],
        shapes=[shape("Z", "H, T, d_v", found.result)],
        views=[matrix("Z of head {head}", found.result, part.rows)],
    )
    joined, out = record.taken(part.out), record.given(part.out)
    heads = len(found.query)
    yield stage(
        f"{part.key}-out",
        "Heads joined",
        f"The results of all {heads} heads are laid side by side and multiplied by one matrix more.",
        equation="MultiHead = Concat(Z_{1}, …, Z_{h}) W^{O}" + _bias([part.out], "O"),
        paper=part.paper,
        lines=[code(*part.lines["out"])],
        shapes=[shape("Concat", "T, H·d_v", joined), shape("result", "T, D", out)],
        views=[
            matrix("The heads side by side", joined, part.rows, parts=heads),
            matrix("MultiHead", out, part.rows),
        ],
    )


def _queries(found: Any, part: Attention) -> dict[str, Any]:
    crossed = "" if part.rows == part.seen else " Queries come from the decoder, keys and values from the encoder."
    return stage(
        f"{part.key}-qkv",
        f"{part.name}: queries, keys, values",
        "Three matrices make three vectors of each token: what it asks, what it answers to, what it hands on."
        + crossed,
        equation=",\u2003".join(
            f"{letter} = {read} W^{{{letter}}}" + _bias(part.projections(), letter)
            for letter, read in zip("QKV", "xxx" if part.rows == part.seen else "xmm", strict=True)
        ),
        paper=part.paper,
        lines=[code(*part.lines[name]) for name in ("query", "key", "value") if name in part.lines],
        shapes=[
            shape("Q", "H, T, d_k", found.query),
            shape("K", "H, S, d_k", found.key),
            shape("V", "H, S, d_v", found.value),
        ],
        views=[
            matrix("Q of head {head}", found.query, part.rows),
            matrix("K of head {head}", found.key, part.seen),
            matrix("V of head {head}", found.value, part.seen),
        ],
    )


def _bias(projections: Sequence[Any], letter: str) -> str:
    """What an equation adds to a product where the model has biases; the paper has none."""
    return f" + b^{{{letter}}}" if any(part.bias is not None for part in projections) else ""


def _weights(found: Any, part: Attention) -> Iterator[dict[str, Any]]:
    yield stage(
        f"{part.key}-scores",
        "Scores",
        "How well each token's query (row) fits each token's key (column): their product, divided by √d_{k} = "
        f"{found.query.shape[-1] ** 0.5:.4g} so that the softmax does not saturate.",
        equation="S = Q K^{T} / √d_{k}",
        paper=part.paper,
        lines=[code(eager_attention, "scores_BHTS = torch.matmul")],
        shapes=[shape("S", "H, T, S", found.scores)],
        views=[matrix("Scores of head {head}", found.scores, part.rows, columns=part.seen)],
    )
    away = taken_away(found.masked)
    hidden, masked = int(away[0].sum()), found.masked.masked_fill(away, -torch.inf)
    views = [matrix("Scores after the mask, head {head}", masked, part.rows, columns=part.seen)] if hidden else []
    yield stage(
        f"{part.key}-mask",
        "Mask",
        part.mask + (f" {hidden} of {found.masked[0].numel()} scores are taken away." if hidden else ""),
        equation="S′ = S + M,\u2003M = −∞ where a token must not look" if hidden else "",
        paper=part.paper,
        lines=[code(*part.lines["mask"])]
        + ([code(eager_attention, "scores_BHTS = scores_BHTS + attention_mask")] if hidden else []),
        shapes=[shape("S′", "H, T, S", found.masked)],
        views=views,
    )
    yield stage(
        f"{part.key}-softmax",
        "Softmax",
        "Exponentials of the scores, divided by their row's sum: weights from 0 to 1 that sum to 1 in each row.",
        equation="A = softmax(S′)" if hidden else "A = softmax(S)",
        paper=part.paper,
        lines=[code(eager_attention, "weights_BHTS = torch.softmax")],
        shapes=[shape("A", "H, T, S", found.weights)],
        views=[matrix("Weights of head {head}", found.weights, part.rows, columns=part.seen, scale="unit")],
    )


def _feed_forward(record: Record, part: FeedForward) -> Iterator[dict[str, Any]]:
    before, inner, out = record.given(part.up), record.given(part.activation), record.given(part.down)
    silent = float((inner == 0).float().mean())
    told = f" The activation leaves {100 * silent:.0f} % of them at 0." if silent else ""
    yield stage(
        f"{part.key}-feed-forward",
        "Feed-forward",
        f"Each token alone goes through {inner.shape[-1]} inner units and back to {out.shape[-1]} numbers.{told}",
        equation=f"FFN(x) = {part.activated} W_{{2}} + b_{{2}}",
        paper=part.paper,
        lines=[code(*part.lines[name]) for name in ("up", "down") if name in part.lines],
        shapes=[shape("inner", "T, d_ff", inner), shape("FFN(x)", "T, D", out)],
        views=[
            matrix("x W_{1} + b_{1}", before, part.rows),
            matrix("After the activation", inner, part.rows),
            matrix("FFN(x)", out, part.rows),
        ],
    )


NORMED = "γ (x − μ) / √(σ^{2} + ε) + β"


def gains(norm: nn.Module) -> dict[str, Any]:
    """Returns γ and β of a norm."""
    weights: Any = norm
    return matrix("γ and β, learnt", torch.stack([weights.weight, weights.bias]), ["γ", "β"])


def _add_and_norm(record: Record, part: Sublayer, paper: str) -> dict[str, Any]:
    total, normed = record.taken(part.norm), record.given(part.norm)
    return stage(
        f"{part.key}-norm",
        "Add and norm",
        "What went into the sub-layer is added to what came out; then each token's numbers are brought to mean 0 and "
        "deviation 1, multiplied by γ and moved by β.",
        equation=f"LayerNorm(x + Sublayer(x)),\u2003LayerNorm(x) = {NORMED}",
        paper=paper,
        lines=[code(*part.lines["norm"])],
        shapes=[shape("x + Sublayer(x)", "T, D", total), shape("LayerNorm", "T, D", normed)],
        views=[
            matrix("x + Sublayer(x)", total, part.rows),
            matrix("After the norm", normed, part.rows),
            norm_view(total, normed, part.rows),
            gains(part.norm),
        ],
    )


def norm_stage(
    record: Record, norm: nn.Module, *, key: str, title: str, rows: str, paper: str, line: Line, about: str
) -> dict[str, Any]:
    """Returns the stage of a norm that stands alone."""
    before, after = record.taken(norm), record.given(norm)
    return stage(
        key,
        title,
        about,
        equation=f"LayerNorm(x) = {NORMED}",
        paper=paper,
        lines=[code(*line)],
        shapes=[shape("LayerNorm(x)", "T, D", after)],
        views=[
            matrix("x", before, rows),
            matrix("After the norm", after, rows),
            norm_view(before, after, rows),
            gains(norm),
        ],
    )


def _norm(record: Record, part: Sublayer, paper: str) -> dict[str, Any]:
    return norm_stage(
        record,
        part.norm,
        key=f"{part.key}-norm",
        title="Norm",
        rows=part.rows,
        paper=paper,
        line=part.lines["norm"],
        about="Before the sub-layer each token's numbers are brought to mean 0 and deviation 1, multiplied by γ and "
        "moved by β.",
    )


def _add(record: Record, part: Sublayer, total: Tensor) -> dict[str, Any]:
    return stage(
        f"{part.key}-add",
        "Add",
        "What went into the norm is added to what the sub-layer gave.",
        equation="x + Sublayer(LayerNorm(x))",
        paper="",
        lines=[code(*part.lines["add"])],
        shapes=[shape("x + Sublayer", "T, D", total)],
        views=[matrix("x + Sublayer(LayerNorm(x))", total, part.rows)],
    )
