"""Our models as ONNX graphs, for onnxruntime and whatever else runs them."""

# B batch   T new tokens   P tokens in the cache   S source length   H heads   K head size of keys   W of values

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from ..models import (
    VaswaniBertConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from ..models.attention import split_heads
from ..run_folder import new_folder
from .outgoing import model_to_export, required, tokenizer_to_export

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of the largest output, or of 1 where none is larger
# Rows, new tokens, tokens in the cache, source length: what a graph is traced with, and more that it is checked with.
# None is 0 or 1 in the first, which the exporter would take for constants.
SIZES = ((3, 5, 4, 6), (2, 7, 0, 3), (1, 1, 0, 1), (1, 1, 5, 4))
ONE_FILE = 1 << 30  # bytes of weights up to which they stand in the graph's own file, which may have 2 GiB
Pairs = list[tuple[Tensor, Tensor]]


def export_to_onnx(source: str | Path, out: str | Path) -> Path:
    """Writes a model as ONNX graphs in float32, through PyTorch's own exporter, and compares what onnxruntime computes.

    Every size of batch, text and cache may be given when a graph is run; a cache may be empty, which is how writing
    begins. The names of inputs and outputs are those that optimum gives them:

    - translation model: `encoder_model.onnx`, from `input_ids` and `attention_mask` [B, S] to `last_hidden_state` and
      the keys and values of the source, `present.N.encoder.key` [B, H, S, K] and `.value` [B, H, S, W] for each layer
      of the decoder; `decoder_with_past_model.onnx`, from `input_ids` [B, T], `encoder_attention_mask` [B, S] and
      `past_key_values.N.{encoder,decoder}.{key,value}` to `logits` [B, T, V] and `present.N.decoder.{key,value}`.
    - GPT as a language model: `model.onnx`, from `input_ids` [B, T], `attention_mask` [B, P + T] and
      `past_key_values.N.{key,value}` to `logits` and `present.N.{key,value}`.
    - other heads: `model.onnx`, from `input_ids` and `attention_mask` (BERT's `token_type_ids` too) to what the head
      gives, under its names in our classes.

    Tokenizer, generation settings and config.json come along. Departures: sizes, ids and positions are not checked;
    what stands at padding is of no meaning.

    Args:
        source: a folder of ours, or a name on the Hub.
        out: a folder to make.

    Returns:
        `out`.

    Raises:
        ValueError: a translation model without its output head, a folder that is in use.
        ImportError: without the extra [onnx].
    """
    out, model = new_folder(out, use="export to"), model_to_export(source).float()
    model.set_attn_implementation("eager")  # the others' graphs are longer, and no faster in onnxruntime
    graphs = _graphs(model)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        required(name, extra="onnx")
    out.mkdir(parents=True, exist_ok=True)
    for graph in graphs:
        _write(graph, out)
    apart = max(_compare(graph, out, sizes) for graph in graphs for sizes in SIZES)
    assert apart <= TOLERANCE, f"{out} computes other outputs than {source}: they differ by {apart}"
    fields = {name: value for name, value in model.config.to_dict().items() if name != "auto_map"}  # no code is here
    (out / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if model.can_generate():
        model.generation_config.save_pretrained(out)
    if (tokenizer := tokenizer_to_export(source)) is not None:
        tokenizer.save_pretrained(out)
    logger.info("onnxruntime computes the same outputs to %.1e", apart)
    return out


class Graph(nn.Module, ABC):
    """A forward of tensors alone, with the names and the free sizes of what goes in and comes out.

    Args:
        model: of ours, in eval mode.
    """

    file = "model.onnx"
    outputs: tuple[str, ...]

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.eval()

    @abstractmethod
    def inputs(self, sizes: tuple[int, int, int, int]) -> tuple[Any, ...]:
        """Arguments of `forward` for (B, T, P, S): tensors, and lists of pairs of them."""

    @abstractmethod
    def axes(self) -> tuple[Any, ...]:
        """The names of the free sizes of each of them."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all tensors in the arguments, in order."""


class PlainGraph(Graph):
    """A model without a cache: its outputs by the names they have."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        head = type(model).__name__
        self.bert, choices = isinstance(model.config, VaswaniBertConfig), head.endswith("MultipleChoice")
        orders = head.endswith("SequenceClassification") and getattr(model.config, "both_orders", False)
        self.texts = (3,) if choices else (2,) if orders else ()  # of each row
        self.free = {0: "batch", 1 + len(self.texts): "sequence", **({1: "choices"} if choices else {})}
        with torch.inference_mode():
            found = self._ask(self.inputs(SIZES[0]))
        self.outputs = tuple(name for name, value in found.items() if isinstance(value, Tensor))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self._ask(inputs)
        return tuple(found[name] for name in self.outputs)

    def inputs(self, sizes: tuple[int, int, int, int]) -> tuple[Tensor, ...]:
        shape = (sizes[0], *self.texts, sizes[1])
        ids = _ids(self.config, shape)
        return (ids, _mask(shape), *((ids % self.config.type_vocab_size,) if self.bert else ()))

    def axes(self) -> tuple[Any, ...]:
        return (tuple(self.free for _ in self.names()),)  # of *inputs

    def names(self) -> list[str]:
        return ["input_ids", "attention_mask", *(("token_type_ids",) if self.bert else ())]

    def _ask(self, inputs: tuple[Tensor, ...]) -> Any:
        options = {} if self.bert else {"use_cache": False}
        return self.model(**dict(zip(self.names(), inputs, strict=True)), **options)


class CausalGraph(Graph):
    """GPT with its cache."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.outputs = ("logits", *_cache_names("present", self.config.num_hidden_layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, ...]:
        cache = DynamicCache(past)
        found = self.model(input_ids, attention_mask, cache=cache, use_cache=True)
        return (found.logits, *_tensors(cache))

    def inputs(self, sizes: tuple[int, int, int, int]) -> tuple[Any, ...]:
        rows, length, cached, _ = sizes
        H, width = self.config.num_attention_heads, self.config.hidden_size // self.config.num_attention_heads
        past = _past(self.config.num_hidden_layers, (rows, H, cached), (width, width))
        return _ids(self.config, (rows, length)), _mask((rows, cached + length)).flip(1), past

    def axes(self) -> tuple[Any, ...]:
        past = {0: "batch", 2: "past_sequence"}
        mask = {0: "batch", 1: "past_and_sequence"}
        return {0: "batch", 1: "sequence"}, mask, [(past, past)] * self.config.num_hidden_layers

    def names(self) -> list[str]:
        return ["input_ids", "attention_mask", *_cache_names("past_key_values", self.config.num_hidden_layers)]


class EncoderGraph(Graph):
    """The encoder, and what the decoder's layers make of its output once a sentence."""

    file = "encoder_model.onnx"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        names = _cache_names("present", self.config.num_decoder_layers, "encoder.")
        self.outputs = ("last_hidden_state", *names)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.model.model.encoder(input_ids, attention_mask).last_hidden_state
        made: list[Tensor] = []
        for layer in self.model.model.decoder.layers:
            attention = layer.encoder_attn
            made.append(split_heads(attention.k_proj(states), self.config.d_k))
            made.append(split_heads(attention.v_proj(states), self.config.d_v))
        return (states, *made)

    def inputs(self, sizes: tuple[int, int, int, int]) -> tuple[Tensor, ...]:
        shape = (sizes[0], sizes[3])
        return _ids(self.config, shape), _mask(shape)

    def axes(self) -> tuple[Any, ...]:
        return ({0: "batch", 1: "encoder_sequence"},) * 2

    def names(self) -> list[str]:
        return ["input_ids", "attention_mask"]


class DecoderGraph(Graph):
    """The decoder with its cache, and the output head."""

    file = "decoder_with_past_model.onnx"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.outputs = ("logits", *_cache_names("present", self.config.num_decoder_layers, "decoder."))

    def forward(self, input_ids: Tensor, mask_BS: Tensor, source: Pairs, past: Pairs) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(DynamicCache(past), DynamicCache(source))
        states_BSD = source[0][0][:, 0]  # in place of the encoder's, of which only the length is read
        found = self.model.model.decoder(
            input_ids, encoder_hidden_states=states_BSD, encoder_attention_mask=mask_BS, cache=cache
        )
        return (self.model.lm_head(found.last_hidden_state), *_tensors(cache.self_attention_cache))

    def inputs(self, sizes: tuple[int, int, int, int]) -> tuple[Any, ...]:
        rows, length, cached, source = sizes
        widths, layers = (self.config.d_k, self.config.d_v), self.config.num_decoder_layers
        heads = (rows, self.config.num_heads)
        pairs = (_past(layers, (*heads, source), widths), _past(layers, (*heads, cached), widths))
        return _ids(self.config, (rows, length)), _mask((rows, source)), *pairs

    def axes(self) -> tuple[Any, ...]:
        source, past = {0: "batch", 2: "encoder_sequence"}, {0: "batch", 2: "past_sequence"}
        pairs = [[(named, named)] * self.config.num_decoder_layers for named in (source, past)]
        return {0: "batch", 1: "sequence"}, {0: "batch", 1: "encoder_sequence"}, *pairs

    def names(self) -> list[str]:
        layers = self.config.num_decoder_layers
        pasts = [_cache_names("past_key_values", layers, f"{stack}.") for stack in ("encoder", "decoder")]
        return ["input_ids", "encoder_attention_mask", *pasts[0], *pasts[1]]


def _graphs(model: Any) -> list[Graph]:
    if isinstance(model, VaswaniTransformerForConditionalGeneration):
        return [EncoderGraph(model), DecoderGraph(model)]
    if isinstance(model.config, VaswaniTransformerConfig):
        raise ValueError(f"a translation model to export as ONNX must have its head; got {type(model).__name__}")
    return [(CausalGraph if isinstance(model, VaswaniGPTForCausalLM) else PlainGraph)(model)]


def _cache_names(kind: str, layers: int, stack: str = "") -> list[str]:
    return [f"{kind}.{layer}.{stack}{part}" for layer in range(layers) for part in ("key", "value")]


def _tensors(cache: Cache) -> Iterator[Tensor]:
    for layer in cache.layers:
        yield from (layer.keys, layer.values)  # type: ignore[attr-defined]


def _past(layers: int, shape: tuple[int, ...], widths: tuple[int, int]) -> Pairs:
    generator = torch.Generator().manual_seed(sum(shape))
    return [tuple(torch.randn(*shape, width, generator=generator) for width in widths) for _ in range(layers)]  # type: ignore[misc]


def _ids(config: Any, shape: tuple[int, ...]) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()).view(shape) * 7919 + 1) % config.vocab_size


def _mask(shape: tuple[int, ...]) -> Tensor:
    """1 at tokens; each row ends in up to two of padding, but one token is left."""
    padding = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) % 3
    return (torch.arange(shape[-1]) < (shape[-1] - padding).clamp(min=1)).long().expand(shape).contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision, which no model of ours needs, and of its own use of torch."""
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _write(graph: Graph, out: Path) -> None:
    weights = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    with _quiet():
        program: Any = torch.onnx.export(
            graph,
            graph.inputs(SIZES[0]),
            dynamo=True,
            dynamic_shapes=graph.axes(),
            input_names=graph.names(),
            output_names=list(graph.outputs),
            verbose=False,
        )
    passes = required("onnx_ir.passes.common", extra="onnx")
    passes.ClearMetadataAndDocStringPass()(program.model)  # the calls behind each node, with the paths of this machine
    program.save(out / graph.file, external_data=weights > ONE_FILE)


@torch.inference_mode()
def _compare(graph: Graph, out: Path, sizes: tuple[int, int, int, int]) -> float:
    """How far what onnxruntime computes from the file is from what the model computes, as a share of the largest."""
    runtime = required("onnxruntime", extra="onnx")
    session = runtime.InferenceSession(out / graph.file, providers=["CPUExecutionProvider"])
    inputs = graph.inputs(sizes)
    flat = [x for given in inputs for x in (chain(*given) if isinstance(given, list) else (given,))]
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(graph.names(), flat, strict=True)})
    expected = dict(zip(graph.outputs, graph(*inputs), strict=True))
    pairs = [(torch.from_numpy(got), value) for got, value in zip(found, expected.values(), strict=True)]
    if isinstance(graph, PlainGraph):  # what stands at padding is of no meaning, and set to other numbers
        real = inputs[1].bool()
        pairs = [(x[real], y[real]) if y.shape[: real.dim()] == real.shape else (x, y) for x, y in pairs]
    return max(float((got - value).abs().max() / value.abs().max().clamp(min=1)) for got, value in pairs)
