"""What really passes through a model: inputs and results of chosen modules and methods, and the steps of attention."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WATCHED = (torch.matmul, torch.Tensor.mul, torch.softmax)  # what `eager_attention` is made of


@dataclass(frozen=True)
class Attended:
    """The steps of one call of `models.attention.eager_attention`, of a batch of one.

    Args:
        query: [H, T, K].
        key: [H, S, K].
        value: [H, S, W].
        scores: [H, T, S], Q K^T / sqrt(d_k).
        masked: [H, T, S], with the mask added; the same tensor where there is no mask.
        weights: [H, T, S], their softmax.
        result: [H, T, W], the weighted values, Z.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    masked: Tensor
    weights: Tensor
    result: Tensor


class Record(TorchFunctionMode):
    """What `recording` saw. A module that is called again is seen as in its last call."""

    def __init__(self) -> None:
        super().__init__()
        self._inputs: dict[Any, tuple[Any, ...]] = {}
        self._results: dict[Any, Any] = {}
        self._steps: dict[nn.Module, list[tuple[Any, tuple[Any, ...], Any]]] = {}
        self._inside: nn.Module | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs torch's function, and keeps what it took and gave inside of an attention."""
        result = func(*args, **(kwargs or {}))
        if self._inside is not None and any(func is watched for watched in WATCHED):
            self._steps[self._inside].append((func, args, result))
        return result

    def taken(self, module: Any, method: str = "forward") -> Any:
        """The first argument of a module's or a method's call, without its batch of one."""
        return _single(self._inputs[module, method][0])

    def given(self, module: Any, method: str = "forward") -> Any:
        """What the call returned, the same way."""
        return _single(self._results[module, method])

    def attended(self, module: nn.Module) -> Attended:
        """The steps of an attention module's last call."""
        steps = self._steps[module]
        products = [step for step in steps if step[0] is torch.matmul]
        normed = [step for step in steps if step[0] is torch.softmax]
        assert (len(products), len(normed)) == (2, 1), [step[0] for step in steps]
        (_, (query, key), raw), (_, (_, value), result) = products
        (scores,) = (step[2] for step in steps if step[1][0] is raw)
        _, (masked, *_), weights = normed[0]
        tensors = (query, key.transpose(2, 3), value, scores, masked, weights, result)
        return Attended(*(_single(tensor) for tensor in tensors))

    def before(self, module: nn.Module, inputs: tuple[Any, ...], *, attends: bool) -> None:
        """Keeps what a module takes; what is computed from now on is an attention's where it attends."""
        self._inputs[module, "forward"] = inputs
        if attends:
            self._steps[module], self._inside = [], module

    def after(
        self, module: Any, result: Any, *, method: str = "forward", inputs: tuple[Any, ...] | None = None
    ) -> None:
        """Keeps what a module or a method gives."""
        self._results[module, method] = result
        if inputs is not None:
            self._inputs[module, method] = inputs
        if self._inside is module:
            self._inside = None


@contextmanager
def recording(
    modules: Sequence[nn.Module], *, attentions: Sequence[nn.Module] = (), methods: Sequence[tuple[Any, str]] = ()
) -> Iterator[Record]:
    """Keeps what passes inside; the model is afterwards as it was.

    Args:
        modules: whose first input and result are kept.
        attentions: modules that call `eager_attention`, whose steps are kept too.
        methods: (object, name) of methods that are no modules, the same.
    """
    record, undo = Record(), []
    for module in dict.fromkeys([*modules, *attentions]):
        undo.append(module.register_forward_pre_hook(_before(record, attends=module in attentions)).remove)
        undo.append(module.register_forward_hook(lambda module, inputs, result: record.after(module, result)).remove)
    for owner, name in methods:
        setattr(owner, name, _watched(record, owner, name))
        undo.append(lambda owner=owner, name=name: delattr(owner, name))
    try:
        with torch.no_grad(), record:
            yield record
    finally:
        for step in undo:
            step()


def _before(record: Record, *, attends: bool) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda module, inputs: record.before(module, inputs, attends=attends)


def _watched(record: Record, owner: Any, name: str) -> Callable[..., Any]:
    method = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        record.after(owner, result, method=name, inputs=args)
        return result

    return watched


def _single(value: Any) -> Any:
    """A tensor without its batch of one; of a module's several results the first."""
    value = value[0] if isinstance(value, tuple) else value
    return value[0] if isinstance(value, Tensor) and value.dim() > 2 else value
