"""The original Transformer stage by stage: encoder, decoder with masked and cross attention, output, beam search."""

# T target length   S source length   D hidden size   V vocabulary

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.attention import bidirectional_mask, causal_mask
from ..models.beams_transformer import extend
from ..models.blocks_transformer import (
    DecoderLayer,
    EncoderLayer,
    FeedForwardLayer,
    MultiHeadAttention,
    PreNormDecoderLayer,
    PreNormEncoderLayer,
)
from ..models.generation_transformer import Scorer
from ..models.modeling_transformer import TransformerStack, VaswaniTransformerForConditionalGeneration
from ..models.tokenization_transformer import VaswaniTransformerTokenizer
from .attention_maps import START, encoded, words_of
from .beam_tree import beam_tree
from .recorder import Record, recording
from .stages import candidates, code, matrix, shape, stage
from .sublayers import Attention, FeedForward, Layer, norm_stage, stack_stages

CURVE_POSITIONS = 64
PROJECTIONS = {
    "query": (MultiHeadAttention.forward, "self.q_proj(x_BTD)"),
    "key": (MultiHeadAttention._keys_and_values, "self.k_proj(states)"),
    "value": (MultiHeadAttention._keys_and_values, "self.v_proj(states)"),
    "out": (MultiHeadAttention.forward, "self.out_proj(out_BTD)"),
}
OPEN = "There is no padding in one sentence: every token may look at every other, to the left and to the right."
CAUSAL = "No token may look at a later one: when it is foretold, the later ones are not there yet."
CROSS = "Every token of the target may look at the whole source."
MASKS = {
    OPEN: (bidirectional_mask, "return create_bidirectional_mask("),
    CAUSAL: (causal_mask, "return create_causal_mask("),
    CROSS: (bidirectional_mask, "return create_bidirectional_mask("),
}


def explain_transformer(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str, *, target: str | None, layer: int, most: int
) -> dict[str, Any]:
    """Returns the stages of a translation as data of a page.

    Args:
        model: a `VaswaniTransformerForConditionalGeneration`.
        tokenizer: its tokenizer.
        text: the source.
        target: what the decoder is shown; the best translation of the model's own search where it is left out.
        layer: whose inside is shown, of encoder and decoder, from 0.
        most: tokens that are shown.
    """
    inputs, notice = encoded(tokenizer, text, most=most)
    source_ids = inputs["input_ids"].to(model.device)
    beam = beam_tree(model, tokenizer, source_ids)
    labels, more = _target(tokenizer, target, beam["ids"], most)
    layers = [_encoder_layer(model, layer), _decoder_layer(model, layer)]
    stacks = [model.model.encoder, model.model.decoder]
    modules = [module for part in layers for module in part.modules()] + [model.lm_head]
    for stack in stacks:
        modules += [stack.layers[0], stack.layers[-1]] + ([] if stack.layer_norm is None else [stack.layer_norm])
    attentions = [module for part in layers for module in part.attentions()]
    methods = [(stack, name) for stack in stacks for name in ("add_positions", "positions")]
    with recording(modules, attentions=attentions, methods=methods) as record:
        model(input_ids=source_ids, labels=labels.to(model.device))
    wanted = labels[0].tolist()
    return {
        "family": "Transformer",
        "source": text,
        "arrow": "→",
        "result": tokenizer.decode(wanted, skip_special_tokens=True),
        "notice": " ".join(part for part in (notice, more) if part),
        "words": {
            "source": words_of(tokenizer, source_ids[0].tolist()),
            "target": (START, *words_of(tokenizer, wanted[:-1])),
        },
        "heads": model.config.num_heads,
        "layer": layer + 1,
        "parts": [
            {"title": "Encoder", "stages": list(_encoder(record, model, layers[0], source_ids[0], layer))},
            {"title": "Decoder", "stages": list(_decoder(record, model, layers[1], labels[0], layer))},
            {"title": "Output", "stages": list(_output(record, model, tokenizer, wanted))},
            {"title": "Search", "stages": [_search(beam)]},
        ],
    }


def _target(tokenizer: PreTrainedTokenizerBase, target: str | None, best: list[int], most: int) -> tuple[Tensor, str]:
    """[1, T] what the decoder is to tell, and a notice where it has too many tokens and is cut."""
    if target is not None:
        shown, notice = encoded(tokenizer, target, side="text_target", most=most)
        return shown["input_ids"], notice
    cut = len(best) > most
    notice = f"The first {most} of {len(best)} tokens of the translation are shown." if cut else ""
    return torch.tensor([best[:most]]), notice


def _encoder_layer(model: Any, number: int) -> Layer:
    layer, post = model.model.encoder.layers[number], model.config.norm_order == "post"
    forward = (EncoderLayer if post else PreNormEncoderLayer).forward
    joins = "self.self_attn_layer_norm(x_BSD", "self.final_layer_norm(x_BSD"
    adds = "x_BSD + self.drop(self.self_attn", "x_BSD + self.drop(self.feed_forward"
    return Layer(
        layer,
        post,
        (
            _attention(layer, "self", "encoder", OPEN, (forward, joins[0]), (forward, adds[0])),
            _feed_forward(model, layer, "encoder", (forward, joins[1]), (forward, adds[1])),
        ),
        "section 3.1",
    )


def _decoder_layer(model: Any, number: int) -> Layer:
    layer, post = model.model.decoder.layers[number], model.config.norm_order == "post"
    forward = (DecoderLayer if post else PreNormDecoderLayer).forward
    adds = (
        "x_BTD + self.drop(self.self_attn",
        "x_BTD + self.drop(attended)",
        "x_BTD + self.drop(self.feed_forward",
    )
    norms = ("self.self_attn_layer_norm(x_BTD", "self.encoder_attn_layer_norm(x_BTD", "self.final_layer_norm(x_BTD")
    lines = [((forward, norm), (forward, add)) for norm, add in zip(norms, adds, strict=True)]
    return Layer(
        layer,
        post,
        (
            _attention(layer, "self", "decoder", CAUSAL, *lines[0]),
            _attention(layer, "encoder", "decoder", CROSS, *lines[1]),
            _feed_forward(model, layer, "decoder", *lines[2]),
        ),
        "section 3.1",
    )


def _attention(layer: Any, kind: str, stack: str, mask: str, norm: Any, add: Any) -> Attention:
    module, crossed = getattr(layer, f"{kind}_attn"), kind == "encoder"
    names = {("self", "encoder"): "Self-attention", ("self", "decoder"): "Masked self-attention"}
    rows = "source" if stack == "encoder" else "target"
    return Attention(
        names.get((kind, stack), "Cross-attention"),
        f"{stack}-cross" if crossed else f"{stack}-self",
        module,
        module.out_proj,
        getattr(layer, f"{kind}_attn_layer_norm"),
        rows,
        "source" if crossed else rows,
        mask,
        "section 3.2.3" if crossed else "section 3.2",
        PROJECTIONS | {"mask": MASKS[mask], "norm": norm, "add": add},
    )


def _feed_forward(model: Any, layer: Any, stack: str, norm: Any, add: Any) -> FeedForward:
    relu = model.config.activation == "relu"
    inner = FeedForwardLayer.feed_forward
    return FeedForward(
        f"{stack}-ffn",
        layer.fc1,
        layer.activation,
        layer.fc2,
        layer.final_layer_norm,
        "source" if stack == "encoder" else "target",
        "max(0, x W_{1} + b_{1})" if relu else f"{model.config.activation}(x W_{{1}} + b_{{1}})",
        "section 3.3, equation 2",
        {"up": (inner, "self.fc1(x_BTD)"), "down": (inner, "self.fc2("), "norm": norm, "add": add},
    )


def _encoder(record: Record, model: Any, layer: Layer, ids: Tensor, number: int) -> Iterator[dict[str, Any]]:
    stack = model.model.encoder
    yield stage(
        "tokens",
        "Tokens",
        "The text is cut into pieces that the vocabulary has, each with a number; </s> ends it.",
        paper="section 5.1",
        lines=[code(VaswaniTransformerTokenizer, "class VaswaniTransformerTokenizer")],
        shapes=[shape("ids", "S", ids)],
        views=[{"kind": "tokens", "rows": "source", "ids": ids.tolist()}],
    )
    yield from _embedded(record, model, stack, "encoder", "source")
    yield from _stack(record, layer, stack, "encoder", number)


def _decoder(record: Record, model: Any, layer: Layer, labels: Tensor, number: int) -> Iterator[dict[str, Any]]:
    ids = model.prepare_decoder_input_ids_from_labels(labels.unsqueeze(0))[0]
    forward = VaswaniTransformerForConditionalGeneration.prepare_decoder_input_ids_from_labels
    yield stage(
        "target-tokens",
        "The target, shifted right",
        "The decoder reads a start token and the target without its last token: at each place it has what stands "
        "before, and is to tell what comes next.",
        paper="section 3.1",
        lines=[code(forward, "shifted[:, 1:] =")],
        shapes=[shape("ids", "T", ids)],
        views=[{"kind": "tokens", "rows": "target", "ids": ids.tolist()}],
    )
    yield from _embedded(record, model, model.model.decoder, "decoder", "target")
    yield from _stack(record, layer, model.model.decoder, "decoder", number)


def _embedded(record: Record, model: Any, stack: Any, key: str, rows: str) -> Iterator[dict[str, Any]]:
    config, embeds = model.config, record.taken(stack, "add_positions")
    scaled = f"√D = {math.sqrt(config.d_model):.4g}" if config.scale_embedding else ""
    start = " The start token's row is 0." if key == "decoder" and config.decoder_start == "zero" else ""
    yield stage(
        f"{key}-embedding",
        "Embedding",
        f"Each number is looked up: a row of {config.d_model} learnt numbers a token.{start}",
        equation="E = W^{E}[ids]",
        paper="section 3.4",
        lines=[code(TransformerStack.embed, "self.embed_tokens(given)")],
        shapes=[shape("E", "T, D", embeds)],
        views=[matrix("E", embeds, rows)],
    )
    yield _positions(record, stack, key, rows)
    total = record.taken(stack.layers[0])
    yield stage(
        f"{key}-sum",
        "What the first layer reads",
        "Embedding" + (f", multiplied by {scaled}," if scaled else "") + " and position are added.",
        equation="x = √D · E + P" if scaled else "x = E + P",
        paper="sections 3.4 and 3.5",
        lines=[code(TransformerStack.add_positions, "x_BTD + positions")],
        shapes=[shape("x", "T, D", total)],
        views=[matrix("x", total, rows)],
    )


def _positions(record: Record, stack: Any, key: str, rows: str) -> dict[str, Any]:
    found, config = record.given(stack, "positions"), stack.config
    views: list[dict[str, Any]] = [matrix("P", found, rows)]
    sines = config.position_embedding == "sinusoidal"
    if sines and key == "encoder":
        count = max(CURVE_POSITIONS, len(found))
        with torch.no_grad():
            curves = stack.positions(torch.arange(count, device=found.device))
        views.append({"kind": "waves", "rows": rows} | _plain("P at positions 0 to " + str(count - 1), curves))
    told = (
        "Attention does not know the order of words. Each position has a pattern of its own: sines and cosines, from "
        "short waves to long ones."
        if sines
        else "Attention does not know the order of words. Each position has a learnt row of its own."
    )
    paper = "PE(pos, 2i) = sin(pos / 10000^{2i/D}),\u2003PE(pos, 2i+1) = cos(pos / 10000^{2i/D})"
    other = config.position_layout != "interleaved" or config.position_frequency != "paper"
    return stage(
        f"{key}-positions",
        "Positions",
        told + (f" (Layout {config.position_layout}, frequencies of {config.position_frequency}.)" if other else ""),
        equation=paper if sines and not other else "P = W^{P}[positions]" if not sines else "",
        paper="section 3.5",
        lines=[code(TransformerStack.positions, "return sinusoids(" if sines else "return self.embed_positions")],
        shapes=[shape("P", "T, D", found)],
        views=views,
    )


def _plain(title: str, numbers: Tensor) -> dict[str, Any]:
    found = matrix(title, numbers, [])
    return {name: found[name] for name in ("title", "shape", "numbers")}


def _stack(record: Record, layer: Layer, stack: Any, key: str, number: int) -> Iterator[dict[str, Any]]:
    forward = type(stack).forward
    line = (forward, "x_BSD = layer(" if key == "encoder" else "x_BTD = layer(")
    rows = "source" if key == "encoder" else "target"
    yield from stack_stages(record, layer, list(stack.layers), number=number, key=key, rows=rows, line=line)
    if stack.layer_norm is not None:
        yield norm_stage(
            record,
            stack.layer_norm,
            key=f"{key}-final-norm",
            title="The last norm",
            rows=rows,
            paper="",
            line=(forward, "self.layer_norm(x_B"),
            about="A norm more behind the last layer, a departure from the paper that its later code has too.",
        )


def _output(record: Record, model: Any, tokenizer: Any, wanted: list[int]) -> Iterator[dict[str, Any]]:
    logits = record.given(model.lm_head)
    forward = VaswaniTransformerForConditionalGeneration.forward
    tied = model.config.tie_embeddings != "none"
    yield stage(
        "logits",
        "Logits",
        "The decoder's last vectors are compared with each word of the vocabulary"
        + (": the matrix is the embedding's own." if tied else "."),
        equation=("logits = x W^{E⊤}" if tied else "logits = x W^{out}")
        + (" + b" if model.config.lm_head_bias else ""),
        paper="section 3.4",
        lines=[code(forward, "logits_BTV = self.lm_head(")],
        shapes=[shape("logits", "T, V", logits)],
        views=[matrix("x, what the matrix is multiplied with", record.taken(model.lm_head), "target")],
    )
    yield stage(
        "probabilities",
        "Probabilities",
        "A softmax over the whole vocabulary: how likely each word comes next. Choose a place; the word that the "
        "target has there is marked.",
        equation="P(y_{t} | y_{<t}, x) = exp(logit_{y}) / Σ_{v} exp(logit_{v})",
        paper="section 3.4",
        lines=[code(Scorer.log_probs, "log_softmax(-1)")],
        shapes=[shape("P", "T, V", logits)],
        views=[candidates("The likeliest next words", logits, "target", partial(words_of, tokenizer), chosen=wanted)],
    )


def _search(beam: dict[str, Any]) -> dict[str, Any]:
    return stage(
        "beam",
        "Beam search",
        f"The search does not take the likeliest word alone: it keeps the {beam['beams']} likeliest beginnings at each "
        "step. A finished one is judged by its log-probability, divided by a penalty that grows with its length, or "
        "else short translations would always win.",
        equation="score(Y) = log P(Y | X) / lp(Y),\u2003lp(Y) = ((5 + |Y|) / 6)^{α}",
        paper="section 6.1; equation 14 of Wu et al. (2016)",
        lines=[code(extend, "topk(min(2 * G"), code(extend, "candidate_B2G / length_penalty")],
        shapes=[f"beams G = {beam['beams']}, α = {beam['alpha']:g}"],
        views=[beam],
    )
