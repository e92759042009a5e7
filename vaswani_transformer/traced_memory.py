"""What a training step needs at most beyond weights and gradients: the step itself, run on tensors without data.

Nothing here knows a model: its own forward and backward are run, so that the numbers follow the code. A tensor of
numbers has a shape, a type and a storage of a size, but no memory (PyTorch's fake tensors); the ids, positions and
masks of the micro batch are real, because the models look at them.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from .models import layers

Precision = Literal["fp32", "autocast", "bf16"]
# Layers of two shallow models, from which a deep one's memory follows: each layer more keeps as much as the one before.
DEPTHS = {0: (4, 6), 1: (5, 7)}  # for an even and an odd number of layers, as kinds of layers may alternate
REAL = 1 << 20  # elements; larger tensors of whole numbers, the random bits of dropout, need no values


class SizesOnly(TorchDispatchMode):
    """Within it operations on numbers give sizes only, and `now` and `peak` count the bytes of all storages alive.

    Attributes:
        now: bytes alive.
        peak: the most there have been; the user sets it back.
        backward: set during a backward pass. Its engine adds the gradients that meet at a tensor in place, but not
            those of tensors that are not of the plainest kind, as these; then it is done here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.now = self.peak = 0
        self.backward = False
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.backward and func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            func = torch.ops.aten.add_.Tensor
        made = self._made(func, args, kwargs or {})
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = tree_leaves((args, kwargs))
        if any(isinstance(one, FakeTensor) for one in given):
            with self.fake:
                return func(*args, **kwargs)
        if not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
            with self.fake:
                made = func(*args, **kwargs)
            tensors = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
            if any(one.is_floating_point() or one.numel() > REAL for one in tensors):
                return made
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def step_memory(
    build: Callable[[Any], PreTrainedModel],
    config: Any,
    *,
    batch: dict[str, Tensor],
    precision: Precision,
    chunk: str = "other",
) -> int:
    """The most bytes that a micro batch's forward and backward pass hold beside weights and their gradients.

    What the gradient of one weight takes before it is added to the one that is there counts. A deep model's bytes are
    those of two shallow ones, drawn out in a straight line.

    Args:
        build: makes the model of a configuration; whether it computes activations again is set there.
        config: the model's; attention is taken to be a fused kernel, which keeps no weights (dropout or not).
        batch: what the model's forward takes, on the CPU, `num_items_in_batch` included.
        precision: "fp32"; "autocast", float32 weights and bfloat16 products; "bf16", weights and all else bfloat16.
        chunk: key of `layers.CHUNK_ELEMENTS`, how many logits are held at once: those of a GPU, or "cpu".
    """

    def traced(one: Any) -> tuple[int, int]:
        with torch.device("meta"):
            model = build(_fused_attention(one))
        with patch.object(layers, "device_kind", lambda _: chunk), patch.object(FakeTensor, "data_ptr", _address):
            return _trace(model, batch, precision)

    if not _alike(config):
        return max(traced(config))
    low, high = DEPTHS[config.num_hidden_layers % 2]
    (peak, last), (more, _) = (traced(_shallow(config, depth)) for depth in (low, high))
    return max(peak + (config.num_hidden_layers - low) // (high - low) * (more - peak), last)


def _trace(model: PreTrainedModel, batch: dict[str, Tensor], precision: Precision) -> tuple[int, int]:
    """The peak until the backward pass has left the layers, and the peak after that, in the embeddings."""
    if precision == "bf16":
        model.to(torch.bfloat16)  # type: ignore[call-overload]
    with SizesOnly() as held:
        model.to_empty(device="cpu")
        model.tie_weights()
        for weight in model.train().parameters():
            weight.grad = torch.empty_like(weight)
        start = held.peak = held.now
        peaks: list[int] = []

        def left_the_layers(_: Tensor) -> None:
            peaks.append(held.peak - start)
            held.peak = held.now

        def watch(module: Any, inputs: Any, embedded: Tensor) -> None:
            embedded.register_hook(left_the_layers)

        model.get_input_embeddings().register_forward_hook(watch)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            loss = model(**batch).loss
        held.backward = True
        loss.backward()
        return max(peaks), held.peak - start


def _address(tensor: Tensor) -> int:
    """In place of an address, which a tensor without memory has not: models tell by it whether two are the same."""
    return tensor.untyped_storage()._cdata + tensor.storage_offset() * tensor.element_size()


def _alike(config: Any) -> bool:
    """Whether the model is one stack deep enough to be told from shallow ones, its kinds of layers in turns of two."""
    if config.is_encoder_decoder or config.num_hidden_layers <= max(DEPTHS[config.num_hidden_layers % 2]):
        return False
    types = getattr(config, "layer_types", None) or []
    return types == (types[:2] * len(types))[: len(types)]


def _shallow(config: Any, depth: int) -> Any:
    fields = config.to_dict()
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][:depth]
    return type(config)(**fields | {"num_hidden_layers": depth})


def _fused_attention(config: Any) -> Any:
    """The configuration without dropout of attention: with it a CPU has no fused kernel, a GPU has."""
    config = copy.deepcopy(config)
    for name in ("attention_dropout", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config
