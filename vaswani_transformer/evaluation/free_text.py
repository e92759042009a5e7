"""Answers in free text: greedily or with beams, a batch that memory does not hold in halves."""

from collections.abc import Sequence
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .beam_completion import beam_complete, line_ends
from .bounded_batches import BoundedBatches
from .completion import complete, search_options
from .encoder_decoder_scoring import write_targets


class Writer(BoundedBatches):
    """Goes on with prompts.

    Args:
        model: any causal language model, or an encoder-decoder, which writes greedily.
        tokenizer: its tokenizer.
        beams: 1 for the likeliest token at each step, else the width of a beam search; 4 is GPT-3's.
        batch_tokens: most tokens of a batch; halved, for good, where memory does not hold one.

    Raises:
        ValueError: beams of an encoder-decoder.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, beams: int, batch_tokens: int
    ) -> None:
        super().__init__(batch_tokens)
        if beams > 1 and model.config.is_encoder_decoder:
            raise ValueError(
                f"an encoder-decoder's answers are written greedily; got beams={beams}: its own search is `generate`, "
                "and `vaswani translate` for the Transformer"
            )
        self.model, self.tokenizer, self.beams = model, tokenizer, beams
        self._ends = line_ends(model, tokenizer) if beams > 1 else []

    def batch_size(self, longest: int) -> int:
        """Returns how many prompts of so many tokens, new ones included, a batch holds."""
        return max(1, self.batch_tokens // (self.beams * longest))

    def __call__(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
        """Returns what follows each prompt."""
        return self.in_halves(partial(self._write, new_tokens=new_tokens), prompts)

    def _write(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
        how = {"new_tokens": new_tokens, "batch_tokens": self.batch_tokens}
        if self.beams > 1:
            return beam_complete(self.model, self.tokenizer, prompts, ends=self._ends, beams=self.beams, **how)
        options = search_options(self.model, greedy=True)
        write = write_targets if self.model.config.is_encoder_decoder else complete
        return write(self.model, self.tokenizer, prompts, **how, **options)
