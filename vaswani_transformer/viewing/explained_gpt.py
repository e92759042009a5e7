"""GPT stage by stage: embeddings, layers that see only what stands before, the next word, temperature and top-k."""

# T length   D hidden size   V vocabulary

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..evaluation.completion import search_options
from ..models.blocks_gpt import GPTAttention, GPTBlock, GPTFeedForward, PreNormGPTBlock
from ..models.layers import cross_entropy
from ..models.masks_gpt import layer_masks
from ..models.modeling_gpt import VaswaniGPTForCausalLM, VaswaniGPTModel
from ..models.tokenization_gpt import VaswaniGPTTokenizer
from ..models.tokenization_gpt2 import VaswaniGPT2Tokenizer
from .attention_maps import encoded, words_of
from .recorder import Record, recording
from .stages import candidates, code, matrix, packed, shape, stage
from .sublayers import Attention, FeedForward, Layer, norm_stage, stack_stages

MOST_KEPT = 40  # words that the slider of top-k reaches
CAUSAL = "No token may look at a later one: each is to foretell the one behind it."


def explain_gpt(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str, *, target: str | None, layer: int, most: int
) -> dict[str, Any]:
    """Returns the stages of GPT as data of a page.

    Args:
        model: a `VaswaniGPTForCausalLM`.
        tokenizer: its tokenizer.
        text: what it reads.
        target: must be left out.
        layer: whose inside is shown, from 0.
        most: tokens that are shown.

    Raises:
        ValueError: a target.
    """
    if target is not None:
        raise ValueError(
            f"a target is of an encoder-decoder, or the second text of an encoder; got {type(model).__name__}, which "
            "reads one text from left to right: put the target behind the text"
        )
    inputs, notice = encoded(tokenizer, text, most=most)
    ids, spec, gpt = inputs["input_ids"], _layer(model, layer), model.transformer
    modules = [gpt.wte, gpt.wpe, *spec.modules(), gpt.h[0], gpt.h[-1], model.lm_head]
    modules += [] if gpt.ln_f is None else [gpt.ln_f]
    with recording(modules, attentions=spec.attentions()) as record:
        model(input_ids=ids.to(model.device), use_cache=False)
    words = words_of(tokenizer, ids[0].tolist())
    return {
        "family": "GPT",
        "source": text,
        "result": "",
        "notice": notice,
        "words": {"source": words},
        "heads": model.config.num_attention_heads,
        "layer": layer + 1,
        "parts": [
            {"title": "Input", "stages": list(_inputs(record, model, ids[0], tokenizer))},
            {"title": "Decoder", "stages": list(_decoder(record, model, spec, layer))},
            {"title": "Next word", "stages": list(_output(record, model, tokenizer, ids[0]))},
        ],
    }


def _layer(model: Any, number: int) -> Layer:
    layer, post = model.transformer.h[number], model.config.norm_order == "post"
    forward = (GPTBlock if post else PreNormGPTBlock).forward
    line = {name: (forward, f"self.{name}(") for name in ("attn", "mlp")}
    activation = "GELU" if "gelu" in model.config.hidden_act else model.config.hidden_act
    banded = (
        f" This layer looks back at the last {model.config.sliding_window} tokens only." if layer.attn.banded else ""
    )
    inner = (GPTFeedForward.forward, "self.down_proj(self.activation(self.up_proj(x_BTD)))")
    return Layer(
        layer,
        post,
        (
            Attention(
                "Masked self-attention",
                "self",
                layer.attn,
                layer.attn.out_proj,
                layer.ln_1,
                "source",
                "source",
                CAUSAL + banded,
                "section 3.1; Vaswani et al. (2017), 3.2",
                {
                    "query": (GPTAttention.forward, "self.qkv_proj(x_BTD)"),
                    "key": (GPTAttention.forward, "qkv_BTH3K.unbind(3)"),
                    "mask": (layer_masks, "MASKS[kind]("),
                    "out": (GPTAttention.forward, "self.out_proj(out_BTD)"),
                    "norm": line["attn"],
                    "add": line["attn"],
                },
            ),
            FeedForward(
                "ffn",
                layer.mlp.up_proj,
                layer.mlp.activation,
                layer.mlp.down_proj,
                layer.ln_2,
                "source",
                f"{activation}(x W_{{1}} + b_{{1}})",
                "section 3.1; Vaswani et al. (2017), 3.3",
                {"up": inner, "norm": line["mlp"], "add": line["mlp"]},
            ),
        ),
        "section 3.1",
    )


def _inputs(record: Record, model: Any, ids: Tensor, tokenizer: Any) -> Iterator[dict[str, Any]]:
    first = isinstance(tokenizer, VaswaniGPTTokenizer)  # that of 2018
    gpt = model.transformer
    words, positions, total = record.given(gpt.wte), record.given(gpt.wpe), record.taken(gpt.h[0])
    line = code(VaswaniGPTModel._embed, "self.wpe(position_ids)")
    yield stage(
        "tokens",
        "Tokens",
        "The text is cut into words and the pairs of letters inside them, each with a number."
        if first
        else "The text is cut into pieces of bytes, each with a number; a space belongs to the word behind it.",
        paper="section 4.1" if first else "Radford et al. (2019), 2.2",
        lines=[code(VaswaniGPTTokenizer if first else VaswaniGPT2Tokenizer, "class Vaswani")],
        shapes=[shape("ids", "T", ids)],
        views=[{"kind": "tokens", "rows": "source", "ids": ids.tolist()}],
    )
    yield stage(
        "words",
        "Word embedding",
        f"Each number is looked up: a row of {words.shape[-1]} learnt numbers a token.",
        equation="E = W^{E}[ids]",
        paper="section 3.1, equation 2",
        lines=[line],
        shapes=[shape("E", "T, D", words)],
        views=[matrix("E", words, "source")],
    )
    yield stage(
        "positions",
        "Position embedding",
        "Attention does not know the order of words. Each position has a learnt row of its own.",
        equation="P = W^{P}[positions]",
        paper="section 3.1, equation 2",
        lines=[line],
        shapes=[shape("P", "T, D", positions)],
        views=[matrix("P", positions, "source")],
    )
    yield stage(
        "sum",
        "What the first layer reads",
        "Word and position are added.",
        equation="x = E + P",
        paper="section 3.1, equation 2",
        lines=[line],
        shapes=[shape("x", "T, D", total)],
        views=[matrix("x", total, "source")],
    )


def _decoder(record: Record, model: Any, layer: Layer, number: int) -> Iterator[dict[str, Any]]:
    gpt, forward = model.transformer, VaswaniGPTModel.forward
    line = (forward, "x_BTD = block(")
    yield from stack_stages(record, layer, list(gpt.h), number=number, key="decoder", rows="source", line=line)
    if gpt.ln_f is not None:
        yield norm_stage(
            record,
            gpt.ln_f,
            key="final-norm",
            title="The last norm",
            rows="source",
            paper="Radford et al. (2019), 2.3",
            line=(forward, "x_BTD = self.ln_f(x_BTD)"),
            about="Where norms stand before the sub-layers, one more stands behind the last layer.",
        )


def _output(record: Record, model: Any, tokenizer: Any, ids: Tensor) -> Iterator[dict[str, Any]]:
    logits, words = record.given(model.lm_head), partial(words_of, tokenizer)
    yield stage(
        "logits",
        "Logits",
        "Each vector is compared with each word of the vocabulary: the matrix is the embedding's own.",
        equation="logits = x W^{E⊤}",
        paper="section 3.1, equation 2",
        lines=[code(VaswaniGPTForCausalLM.forward, "logits_BTV = self.lm_head(")],
        shapes=[shape("logits", "T, V", logits)],
        views=[matrix("x, what the matrix is multiplied with", record.taken(model.lm_head), "source")],
    )
    view = candidates("What comes next", logits, "source", words, chosen=[*ids[1:].tolist(), -1])
    yield stage(
        "probabilities",
        "Probabilities",
        "A softmax over the vocabulary: how likely each word comes next. Choose a place; the word that the text has "
        "there is marked.",
        equation="P(u_{i} | u_{<i}) = exp(logit_{u}) / Σ_{v} exp(logit_{v})",
        paper="section 3.1, equations 1 and 2",
        lines=[code(cross_entropy, "log_softmax(-1)")],
        shapes=[shape("P", "T, V", logits)],
        views=[view | {"first": len(ids) - 1}],
    )
    likeliest = logits[-1].topk(min(MOST_KEPT, logits.shape[-1])).indices.tolist()
    yield stage(
        "sampling",
        "Temperature and top-k",
        "Text is written by drawing. A temperature below 1 makes the likely likelier, top-k leaves so many words. Move "
        "them: the probabilities are computed anew from the logits of the last place.",
        equation="P(v) = exp(logit_{v} / τ) / Σ_{w in top-k} exp(logit_{w} / τ)",
        paper="",
        lines=[code(search_options, '"temperature": temperature')],
        shapes=[shape("logits of the last place", "V", logits[-1])],
        views=[{"kind": "dials", "logits": packed(logits[-1]), "ids": likeliest, "words": words(likeliest)}],
    )
