"""Our scorers as a model of lm-eval (EleutherAI's lm-evaluation-harness), under the name `vaswani`.

    vaswani lm-eval run --model vaswani --model_args pretrained=runs/gpt --tasks hellaswag --num_fewshot 5
    vaswani lm-eval run --model vaswani --model_args pretrained=runs/bert,pll=original --tasks blimp

A causal model's tokens, windows and stop sequences are those of lm-eval's own `hf` model, by its own functions, so that
any of its tasks has the same log-likelihoods; the choices of a question are read in one row. A masked model and an
encoder-decoder, which lm-eval reads as if they were causal or not at all, have those of `evaluate_few_shot`. Of several
processes each has all requests, as lm-eval allows, and answers its part: shots do not change with their number, which
they do with `hf`.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .bounded_batches import BATCH_TOKENS
from .causal_lm import start_token
from .completion import complete, search_options
from .encoder_decoder_scoring import write_targets
from .fitted_texts import fitted, pieces
from .masked_scoring import PLL
from .scorers import load_scored_model, scorer_of
from .scoring import Continuation, Likelihood
from .together import Processes, launched
from .translation import token_batches

try:
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
        handle_stop_sequences,
        has_bos_prefix,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
    from lm_eval.models.utils_hf import stop_sequences_criteria  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import get_rolling_token_windows  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(f"lm-eval is not here ({error}): pip install 'vaswani-transformer[lm-eval]'") from error

logger = logging.getLogger(__name__)

NEW_TOKENS = 256  # lm-eval's, where a task does not say
T = TypeVar("T")
R = TypeVar("R")


@register_model("vaswani")
class VaswaniLM(TemplateLM):
    """A causal or masked language model, or an encoder-decoder, for lm-eval.

    A masked model writes no text, an encoder-decoder has no probability of a text alone. Of a masked model that of a
    whole text is its pseudo-log-likelihood, a long text's in pieces that fit.

    Args:
        pretrained: a folder, a name on the Hub, or a model.
        tokenizer: of a model that is given; else it is loaded.
        device: the GPU where there is one, where left out; of several processes each has its own.
        dtype: of the weights, torch's name; as they were saved where left out or "auto".
        batch_tokens: most tokens of a batch with padding.
        max_length: most tokens read together; the model's context where left out.
        pll: of a masked model, "word_l2r" where left out, or "original"; see `MaskedTokens`.
        batch_size: lm-eval always gives it; batches are of so many tokens instead.
        max_batch_size: the same.

    Raises:
        ValueError: nothing to load, no language model, an unknown dtype or `pll`, the `pll` of another model.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        max_length: int | None = None,
        pll: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        self._processes = Processes()
        if isinstance(pretrained, PreTrainedModel):
            if tokenizer is None:
                raise ValueError("a model that is given needs its tokenizer; got tokenizer=None")
            self.model, self.tokenizer = pretrained, tokenizer
        else:
            place = self._processes.device or device
            self.model, self.tokenizer = load_scored_model(pretrained, dtype=_dtype_named(dtype), device=place)
        self._device = self.model.device
        how = scorer_of(self.model, self.tokenizer, pll=pll or PLL[0])
        self.kind, self._tokens = how.kind, how.tokens
        if pll is not None and how.pll is None:
            raise ValueError(f"pll is of a masked language model; got {pll=} of a model of the kind {how.kind}")
        self.batch_tokens, self.max_length = int(batch_tokens), max_length or how.context
        self.scorer = how.score(self.batch_tokens)
        self._questions: list[Any] = []  # that the requests at hand belong to; lm-eval hands on their tokens alone

    @property
    def eot_token_id(self) -> int:
        """Returns the token that ends a text."""
        found: Any = self.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        """Returns the token that stands for an empty context."""
        start = start_token(self.model, self.tokenizer)
        if start is None:
            raise ValueError(
                "an empty context needs a bos or eos token to stand for it; got neither in model/tokenizer"
            )
        return start

    @property
    def tokenizer_name(self) -> str:
        """Returns the name that lm-eval's cache of requests goes by."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns turns as the text that the tokenizer's template makes of them."""
        text: Any = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Returns the tokens of a text, with what its tokenizer puts around it unless the text begins with bos."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        more: dict[str, Any] = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: Any = self.tokenizer(string, verbose=False, **more)["input_ids"]
        return ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns the log-probability of each continuation, and whether a greedy search would write it."""
        # Unconditional ones share nothing with the others of their question; a request of no question has its context.
        self._questions = [
            request.args[0] if request.doc_id is None else (request.task_name, request.doc_id, not request.args[0])
            for request in requests
        ]
        if self.kind != "causal":
            return self._loglikelihood_texts([request.args for request in requests])
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The likelihoods of continuations of contexts, those of a question in one row."""
        long = [len(context + text) - 1 > (self.max_length or sys.maxsize) for _, context, text in requests]
        self._warn_of_long(long)
        return self._loglikelihood_rows([self._continuation(context, text) for _, context, text in requests])

    def _loglikelihood_texts(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """The likelihoods of texts behind contexts, each text as `evaluate_few_shot` has it."""
        found = [fitted(self._tokens, context, text, most=self.max_length) for context, text in pairs]
        self._warn_of_long([cut for _, cut in found])
        return self._loglikelihood_rows([row for row, _ in found])

    def _loglikelihood_rows(self, rows: Sequence[Any]) -> list[tuple[float, bool]]:
        """The likelihoods of what is tokenised, the choices of a question together."""
        groups = [
            [row for _, row in group]
            for _, group in groupby(zip(self._questions, rows, strict=True), key=lambda pair: pair[0])
        ]
        return [(score.logprob, score.greedy) for group in self._shared(groups, self._score) for score in group]

    def _continuation(self, context: list[int], continuation: list[int]) -> Continuation:
        """As much of a context as fits, its end, and what follows it."""
        if not continuation or not context or len(continuation) > (self.max_length or len(continuation)):
            raise ValueError(
                f"a continuation must have from 1 to {self.max_length} tokens, and one before it; got "
                f"{len(continuation)} behind {len(context)}: {self.tokenizer.decode(continuation)[:60]!r}"
            )
        ids = [*context, *continuation][-(self.max_length or 0) - 1 :] if self.max_length else [*context, *continuation]
        return Continuation(tuple(ids), len(ids) - len(continuation))

    def _warn_of_long(self, long: Sequence[bool]) -> None:
        if any(long):
            logger.warning("%s of %s requests are longer than %s tokens: cut", sum(long), len(long), self.max_length)

    def _score(self, groups: Sequence[Sequence[Any]]) -> list[list[Likelihood]]:
        found = dict(self.scorer(groups))
        return [found[number] for number in range(len(groups))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-probability of each whole text, behind the prefix token, in lm-eval's windows.

        Raises:
            ValueError: an encoder-decoder.
        """
        if self.kind == "encoder_decoder":
            raise ValueError(
                "the probability of a text alone is a causal or masked model's; got loglikelihood_rolling of an "
                "encoder-decoder, which has targets behind sources: ask it tasks of choices or of text"
            )
        return self._shared([request.args[0] for request in requests], self._roll)

    def _roll(self, texts: Sequence[str]) -> list[float]:
        parts = [(owner, part) for owner, text in enumerate(texts) for part in self._parts(text)]
        sums = [0.0] * len(texts)
        for (owner, _), (score,) in zip(parts, self._score([[part] for _, part in parts]), strict=True):
            sums[owner] += score.logprob
        return sums

    def _parts(self, text: str) -> list[Any]:
        """The windows of a whole text, or a masked model's pieces of it."""
        if self.kind == "masked":
            return pieces(self._tokens, text, most=self.max_length)
        ids = self.tok_encode(text)
        windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length or max(1, len(ids)), 1)
        return [Continuation((*read, wanted[-1]), len(read) + 1 - len(wanted)) for read, wanted in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns what the model writes behind each context, up to the first of its task's stop sequences.

        An encoder-decoder writes a target of the context, to its end, and what follows a stop sequence is left out.

        Raises:
            ValueError: a masked model; a task that asks for as many new tokens as the model reads together.
        """
        if self.kind == "masked":
            raise ValueError(
                "a masked language model writes no text; got generate_until: ask it tasks of choices, those with "
                "output_type multiple_choice or loglikelihood"
            )
        return self._shared([request.args for request in requests], self._write)

    def _write(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        texts = [""] * len(asked)
        kinds: dict[str, list[int]] = {}
        for number, (_, how) in enumerate(asked):
            kinds.setdefault(repr(how), []).append(number)
        for numbers in kinds.values():
            written = self._write_alike([asked[number][0] for number in numbers], asked[numbers[0]][1])
            for number, text in zip(numbers, written, strict=True):
                texts[number] = text
        return texts

    def _write_alike(self, contexts: Sequence[str], how: dict[str, Any]) -> list[str]:
        """Goes on with contexts in one way; a batch at a time, since lm-eval's stop criterion belongs to a batch."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(how, NEW_TOKENS))
        stop = handle_stop_sequences(options.pop("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        new_tokens = options.pop("max_gen_toks")
        if not options["do_sample"]:
            options.pop("temperature", None)
            options = search_options(self.model, greedy=True) | options
        if self.kind == "encoder_decoder":
            return self._targets(contexts, stop, new_tokens, options)
        room = None if self.max_length is None else self.max_length - new_tokens
        if room is not None and room < 1:
            raise ValueError(
                f"new tokens must leave room for a context; got max_gen_toks={new_tokens} of {self.max_length}: give "
                "--gen_kwargs max_gen_toks=N"
            )
        prompts = [(self.tok_encode(context) or [self.prefix_token_id])[-(room or 0) :] for context in contexts]
        texts = [""] * len(prompts)
        for batch in token_batches([len(ids) + new_tokens for ids in prompts], self.batch_tokens):
            part = [prompts[number] for number in batch]
            width = max(map(len, part))
            options["stopping_criteria"] = stop_sequences_criteria(self.tokenizer, stop, width, len(part))
            whole = len(part) * (width + new_tokens)
            written = complete(self.model, self.tokenizer, part, new_tokens=new_tokens, batch_tokens=whole, **options)
            for number, text in zip(batch, written, strict=True):
                texts[number] = postprocess_generated_text(text, stop, None)
        return texts

    def _targets(self, contexts: Sequence[str], stop: list[str], new_tokens: int, options: dict[str, Any]) -> list[str]:
        """An encoder-decoder's texts; a long context is cut by tokens at its beginning, as lm-eval does."""
        most = self.max_length
        if most is not None and new_tokens > most:
            raise ValueError(
                f"new tokens must fit the model; got max_gen_toks={new_tokens} of {most}: give --gen_kwargs "
                "max_gen_toks=N"
            )
        found: list[list[int]] = [self.tokenizer(context, verbose=False)["input_ids"] for context in contexts]  # type: ignore[misc]
        self._warn_of_long([most is not None and len(ids) > most for ids in found])
        sources = [ids[-(most or 0) :] for ids in found]
        how = {"new_tokens": new_tokens, "batch_tokens": self.batch_tokens}
        texts = write_targets(self.model, self.tokenizer, sources, **how, **options)
        return [postprocess_generated_text(text, stop, None) for text in texts]

    def _shared(self, items: Sequence[T], work: Callable[[Sequence[T]], list[R]]) -> list[R]:
        """The results of all items, in their order, each process working on its part."""
        if self._processes.count == 1:
            return work(items)
        parts = gather_object([work(self._processes.share(items))])
        found: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            found[rank :: self._processes.count] = part
        return found


def _dtype_named(name: str | None) -> torch.dtype | None:
    if name in (None, "auto"):
        return None
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype must be torch's name of one, bfloat16 or float32; got dtype={name!r}")
    return found


def run_command(words: Sequence[str]) -> None:
    """Runs lm-eval's own command, which finds `vaswani` among its models, in the processes of this launch.

    Args:
        words: behind `lm-eval`.
    """
    before = sys.argv
    sys.argv = ["lm-eval", *words]  # it reads nothing else
    try:
        with launched():
            cli_evaluate()
    finally:
        sys.argv = before
