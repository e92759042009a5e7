"""What every fast scorer of choices needs: bounded batches, halves of what memory does not hold, a trial beforehand."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from .scoring import Likelihood

logger = logging.getLogger(__name__)

BATCH_TOKENS = 2048
HEAD_NUMBERS = 2**25  # most logits of a batch: 128 MiB of them
REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError)
Row = TypeVar("Row")
Score = TypeVar("Score")


class BoundedBatches:
    """Batches of so many tokens; fewer, for good, where memory does not hold one.

    Args:
        batch_tokens: most tokens of a batch with padding; what is longer is alone.

    Raises:
        ValueError: no room for a token.
    """

    def __init__(self, batch_tokens: int) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1; got {batch_tokens=}")
        self.batch_tokens = batch_tokens

    def in_halves(self, forward: Callable[[Sequence[Row]], list[Score]], rows: Sequence[Row]) -> list[Score]:
        """Returns what `forward` gives for each row, called anew with halves where memory does not hold all."""
        try:
            return forward(rows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(rows) < 2 or not out_of_memory(error):
                raise
        self.batch_tokens = max(1, self.batch_tokens // 2)
        logger.warning("memory does not hold a batch: going on with batches of %s tokens", self.batch_tokens)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        return self.in_halves(forward, rows[:middle]) + self.in_halves(forward, rows[middle:])


def batches(order: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> Iterator[list[int]]:
    """Yields rows in their order, as many at a time as fit, one at least; a batch is cut when it is asked for."""
    left = list(order)
    while left:
        count = 1
        while count < len(left) and fits(left[: count + 1]):
            count += 1
        yield left[:count]
        left = left[count:]


def most_logits(model: PreTrainedModel) -> int:
    """Returns how many tokens of a batch may have their logits computed."""
    return max(1, HEAD_NUMBERS // model.config.get_text_config().vocab_size)


def scores_alike(
    model: PreTrainedModel, expected: Sequence[Likelihood], fast: Callable[[], Sequence[Likelihood]]
) -> bool:
    """Whether a fast way of scoring runs and gives what is expected; says so where it does not."""
    try:
        found = fast()
    except REFUSALS as error:
        return refused(f"{type(error).__name__}: {error}")
    apart = max(abs(one.logprob - other.logprob) for one, other in zip(expected, found, strict=True))
    bound = 1e-4 if model.dtype == torch.float32 else 0.25
    return True if apart < bound else refused(f"scores {apart:.2g} apart")


def refused(reason: str) -> bool:
    """Tells that a model is scored plainly, and why; returns False."""
    logger.warning("the model does not take several choices at once (%s): scoring one choice at a time", reason)
    return False


def out_of_memory(error: BaseException) -> bool:
    """Also a CPU's, which torch tells as a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
