"""Answers in free text: greedily or with beams, a batch that memory does not hold in halves."""

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .beam_completion import beam_complete, line_ends
from .completion import complete, search_options
from .packed_scoring import out_of_memory

logger = logging.getLogger(__name__)


class Writer:
    """Goes on with prompts.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        beams: 1 for the likeliest token at each step, else the width of a beam search; 4 is GPT-3's.
        batch_tokens: most tokens of a batch; halved, for good, where memory does not hold one.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, beams: int, batch_tokens: int
    ) -> None:
        self.model, self.tokenizer, self.beams, self.batch_tokens = model, tokenizer, beams, batch_tokens
        self._ends = line_ends(model, tokenizer) if beams > 1 else []

    def batch_size(self, longest: int) -> int:
        """Returns how many prompts of so many tokens, new ones included, a batch holds."""
        return max(1, self.batch_tokens // (self.beams * longest))

    def __call__(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
        """Returns what follows each prompt."""
        try:
            return self._write(prompts, new_tokens)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(prompts) < 2 or not out_of_memory(error):
                raise
        self.batch_tokens = max(1, self.batch_tokens // 2)
        logger.warning("memory does not hold a batch: going on with batches of %s tokens", self.batch_tokens)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(prompts) // 2
        return [text for part in (prompts[:middle], prompts[middle:]) for text in self(part, new_tokens)]

    def _write(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
        how = {"new_tokens": new_tokens, "batch_tokens": self.batch_tokens}
        if self.beams > 1:
            return beam_complete(self.model, self.tokenizer, prompts, ends=self._ends, beams=self.beams, **how)
        options = search_options(self.model, greedy=True)
        return complete(self.model, self.tokenizer, prompts, **how, **options)
