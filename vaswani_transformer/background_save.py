"""Checkpoints written beside the training: the state is copied to the CPU's memory, and a thread writes the copy."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


def snapshot(state: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples in which every tensor lies in the CPU's memory, its own.

    Tensors that are the same memory, as tied weights are, stay so.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return tree_map_only(Tensor, copied, state)


class BackgroundSave:
    """Writes in a thread, one save at a time. An error is raised by what comes next: a save, `wait`, or the end.

    As a context manager it waits at its end, whatever ended it: what was begun is whole.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._last: Future[Any] | None = None

    def start(self, work: Callable[[], Any]) -> None:
        """Waits for the save before, and begins this one."""
        self.wait()
        self._last = self._pool.submit(work)

    def wait(self) -> None:
        """Returns when nothing is being written; raises what went wrong with it."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> "BackgroundSave":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wait()
