"""BERT stage by stage: three embeddings, layers that see both directions, the masked word, the next sentence."""

# T length   D hidden size   V vocabulary

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.attention import bidirectional_mask
from ..models.blocks_bert import (
    BertEmbeddings,
    BertEncoder,
    BertIntermediate,
    BertLayer,
    BertPooler,
    BertResidual,
    BertSelfAttention,
)
from ..models.heads_bert import BertPredictions, BertTransform
from ..models.layers import cross_entropy
from ..models.modeling_bert import VaswaniBertForPreTraining
from ..models.tokenization_bert import VaswaniBertTokenizer
from .attention_maps import encoded, words_of
from .recorder import Record, recording
from .stages import candidates, code, matrix, shape, stage
from .sublayers import Attention, FeedForward, Layer, norm_stage, stack_stages

JOIN = (BertResidual.forward, "self.LayerNorm(x_BTD + dropout(self.dense(y_BTF)")
PROJECT = (BertSelfAttention.forward, "split_heads(linear(x_BTD)")
OPEN = "Nothing is hidden: every token looks at every other, to the left and to the right. That is the B of BERT."
SENTENCES = ("follows", "does not follow")


def explain_bert(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str, *, target: str | None, layer: int, most: int
) -> dict[str, Any]:
    """Returns the stages of BERT as data of a page.

    Args:
        model: a `VaswaniBertForPreTraining` or `VaswaniBertForMaskedLM`.
        tokenizer: its tokenizer.
        text: what it reads. Where it has no [MASK], its last word's last token is hidden, with a notice.
        target: a second text behind it, for the next-sentence question.
        layer: whose inside is shown, from 0.
        most: tokens that are shown.
    """
    inputs, notice = encoded(tokenizer, text, target, most=most)
    ids = inputs["input_ids"].clone()
    segments = inputs.get("token_type_ids", torch.zeros_like(ids))
    place, hidden, more = _hide(tokenizer, ids[0], segments[0])
    bert, spec = model.bert, _layer(model, layer)
    embeddings, predictions = bert.embeddings, model.cls.predictions
    modules = [embeddings.word_embeddings, embeddings.token_type_embeddings, embeddings.position_embeddings]
    modules += [embeddings.LayerNorm, *spec.modules(), bert.encoder.layer[-1]]
    modules += [predictions.transform, predictions.decoder]
    sentences = [bert.pooler, model.cls.seq_relationship] if isinstance(model, VaswaniBertForPreTraining) else []
    with recording([*modules, *sentences], attentions=spec.attentions()) as record:
        given = {"input_ids": ids.to(model.device), "token_type_ids": segments.to(model.device)}
        model(**given, output_attentions=True)  # asked for, attention is not packed and stays one call
    words = words_of(tokenizer, ids[0].tolist())
    parts = [
        {"title": "Input", "stages": list(_inputs(record, model, ids[0], segments[0]))},
        {"title": "Encoder", "stages": list(_encoder(record, model, spec, layer))},
        {"title": "Masked word", "stages": list(_word(record, model, tokenizer, (place, hidden), len(words)))},
    ]
    if sentences:
        parts.append({"title": "Next sentence", "stages": [_sentence(record, model, target)]})
    return {
        "family": "BERT",
        "source": text,
        "arrow": "+",
        "result": target or "",
        "notice": " ".join(part for part in (notice, more) if part),
        "words": {"source": words},
        "heads": model.config.num_attention_heads,
        "layer": layer + 1,
        "parts": parts,
    }


def _hide(tokenizer: PreTrainedTokenizerBase, ids: Tensor, segments: Tensor) -> tuple[int, int, str]:
    """The masked place, what is hidden there (-1 where it is not known), and what the reader must know.

    Raises:
        ValueError: a text without a word.
    """
    mask: Any = tokenizer.mask_token_id
    if (ids == mask).any():
        return int((ids == mask).nonzero()[0]), -1, ""
    special = set(tokenizer.all_special_ids)
    words = words_of(tokenizer, ids.tolist())
    whole = [
        number
        for number, word in enumerate(words)
        if segments[number] == 0 and int(ids[number]) not in special and any(map(str.isalnum, word))
    ]
    if not whole:
        raise ValueError(f"a text must have a word that can be hidden, or a {tokenizer.mask_token}; got {words}")
    hidden = int(ids[whole[-1]])
    ids[whole[-1]] = mask
    told = f"The text has no {tokenizer.mask_token}: “{words[whole[-1]]}” is hidden, for the model to tell."
    return whole[-1], hidden, told


def _layer(model: Any, number: int) -> Layer:
    layer = model.bert.encoder.layer[number]
    activation = "GELU" if "gelu" in model.config.hidden_act else model.config.hidden_act
    return Layer(
        layer,
        True,
        (
            Attention(
                "Self-attention",
                "self",
                layer.attention.self,
                layer.attention.output.dense,
                layer.attention.output.LayerNorm,
                "source",
                "source",
                OPEN,
                "section 3; Vaswani et al. (2017), 3.2",
                {
                    "query": PROJECT,
                    "mask": (bidirectional_mask, "return create_bidirectional_mask("),
                    "out": JOIN,
                    "norm": JOIN,
                    "add": JOIN,
                },
            ),
            FeedForward(
                "ffn",
                layer.intermediate.dense,
                layer.intermediate.activation,
                layer.output.dense,
                layer.output.LayerNorm,
                "source",
                f"{activation}(x W_{{1}} + b_{{1}})",
                "section 3; Vaswani et al. (2017), 3.3",
                {
                    "up": (BertIntermediate.forward, "self.dense(x_BTD)"),
                    "down": (BertLayer.forward, "self.output(inner_BTF, x_BTD)"),
                    "norm": JOIN,
                    "add": JOIN,
                },
            ),
        ),
        "section 3",
    )


def _inputs(record: Record, model: Any, ids: Tensor, segments: Tensor) -> Iterator[dict[str, Any]]:
    part = model.bert.embeddings
    yield stage(
        "tokens",
        "Tokens",
        "The text is cut into word pieces, each with a number. [CLS] begins it, [SEP] ends each text, [MASK] hides a "
        "word.",
        paper="section 3",
        lines=[code(VaswaniBertTokenizer, "class VaswaniBertTokenizer")],
        shapes=[shape("ids", "T", ids)],
        views=[{"kind": "tokens", "rows": "source", "ids": ids.tolist(), "segments": segments.tolist()}],
    )
    tables = (
        ("words", "Word embedding", part.word_embeddings, "E", "A row of learnt numbers for each word piece."),
        ("segments", "Segment embedding", part.token_type_embeddings, "S", "Which of the two texts: one row of two."),
        ("positions", "Position embedding", part.position_embeddings, "P", "A learnt row a position."),
    )
    for key, title, module, letter, about in tables:
        found = record.given(module)
        text = "self.word_embeddings(input_ids)" if key == "words" else "self.token_type_embeddings(token_type_ids)"
        yield stage(
            key,
            title,
            about,
            equation=f"{letter} = W^{{{letter}}}[{'ids' if key == 'words' else key}]",
            paper="section 3, figure 2",
            lines=[code(BertEmbeddings.forward, text)],
            shapes=[shape(letter, "T, D", found)],
            views=[matrix(letter, found.expand(len(ids), -1), "source")],
        )
    found = norm_stage(
        record,
        part.LayerNorm,
        key="sum",
        title="The three are added, and normed",
        rows="source",
        paper="figure 2",
        line=(BertEmbeddings.forward, "self.LayerNorm(x_BTD)"),
        about="What the first layer reads.",
    )
    yield found | {"equation": f"x = E + S + P,\u2003{found['equation']}"}


def _encoder(record: Record, model: Any, layer: Layer, number: int) -> Iterator[dict[str, Any]]:
    line = (BertEncoder.forward, "x_BTD = layer(")
    layers = list(model.bert.encoder.layer)
    yield from stack_stages(record, layer, layers, number=number, key="encoder", rows="source", line=line)


def _word(record: Record, model: Any, tokenizer: Any, hidden: tuple[int, int], count: int) -> Iterator[dict[str, Any]]:
    head = model.cls.predictions
    before, logits = record.given(head.transform), record.given(head.decoder)
    yield stage(
        "logits",
        "Logits",
        "A dense layer, an activation and a norm more; then each vector is compared with each word piece of the "
        "vocabulary: the matrix is the embedding's own, with a bias.",
        equation="logits = LayerNorm(act(x W + b)) W^{E⊤} + b^{V}",
        paper="section 3.1, task 1",
        lines=[
            code(BertTransform.forward, "self.LayerNorm(self.activation(self.dense(x_ND)))"),
            code(BertPredictions.forward, "self.decoder(self.transform(x_ND)"),
        ],
        shapes=[shape("LayerNorm(…)", "T, D", before), shape("logits", "T, V", logits)],
        views=[matrix("What the matrix is multiplied with", before, "source")],
    )
    chosen = [hidden[1] if number == hidden[0] else -1 for number in range(count)]
    words = partial(words_of, tokenizer)
    view = candidates("The likeliest words at each place", logits, "source", words, chosen=chosen)
    yield stage(
        "probabilities",
        "Masked word",
        "A softmax over the vocabulary at the masked place"
        + (", where the hidden word is marked." if hidden[1] >= 0 else ".")
        + " Elsewhere the model has seen the word that it tells.",
        equation="P(w | text) = exp(logit_{w}) / Σ_{v} exp(logit_{v})",
        paper="section 3.1, task 1",
        lines=[code(cross_entropy, "log_softmax(-1)")],
        shapes=[shape("P", "T, V", logits)],
        views=[view | {"first": hidden[0]}],
    )


def _sentence(record: Record, model: Any, target: str | None) -> dict[str, Any]:
    pooled, logits = record.given(model.bert.pooler), record.given(model.cls.seq_relationship)
    told = "" if target is not None else " One text alone was given, of which that makes no sense: give a second one."
    answers = candidates("The second text", logits, ["[CLS]"], _answers, chosen=[-1])
    return stage(
        "next-sentence",
        "Next sentence",
        "The first token's vector goes through a dense layer and tanh, and is asked whether the second text followed "
        "the first." + told,
        equation="P = softmax(tanh(x_{[CLS]} W + b) W^{NSP} + b^{NSP})",
        paper="section 3.1, task 2",
        lines=[
            code(BertPooler.forward, "torch.tanh(self.dense(first_QD))"),
            code(VaswaniBertForPreTraining.forward, "self.cls.seq_relationship(outputs.pooler_output)"),
        ],
        shapes=[shape("pooled", "1, D", pooled), shape("logits", "1, 2", logits)],
        views=[matrix("tanh(x_{[CLS]} W + b)", pooled, ["[CLS]"]), answers],
    )


def _answers(ids: Sequence[int]) -> list[str]:
    return [SENTENCES[number] for number in ids]
