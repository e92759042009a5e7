"""Going on with prompts: which search, which tokens a prompt is, many prompts at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .causal_lm import context_of, start_token
from .translation import evaluating, pad_right, token_batches

SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}  # llama.cpp's
TEMPERATURES = (1e-6, 1e6)  # logits divided by less leave float32
NEW_TOKENS = 200


def search_options(
    model: PreTrainedModel,
    *,
    greedy: bool = False,
    beams: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> dict[str, Any]:
    """Returns the keyword arguments of `generate` for a search.

    Tokens are drawn unless `greedy` or `beams` ask for the likeliest. What is not given comes from the model's
    generation settings, else from `SAMPLING`: small models repeat themselves under a greedy search.

    Args:
        model: whose generation settings are read.
        greedy: take the likeliest token.
        beams: width of a beam search.
        temperature: the logits are divided by it; one of `TEMPERATURES` or between them.
        top_k: draw from so many of the likeliest tokens; 0 for all.
        top_p: draw from the likeliest tokens that together have this probability; 1 for all.

    Raises:
        ValueError: a number out of its range, or two ways to search.
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    named = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    least, most = TEMPERATURES
    if temperature is not None and not least <= temperature <= most:
        raise ValueError(
            f"temperature must be from {least} to {most}; got {temperature=}: a greedy search takes the likeliest token"
        )
    if top_k is not None and top_k < 0:
        raise ValueError(f"top_k must be 0 (all tokens) or more; got {top_k=}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1; got {top_p=}")
    if beams is not None and (beams < 1 or greedy):
        raise ValueError(f"beams must be at least 1, and not go with greedy; got {beams=}, {greedy=}")
    if (greedy or beams is not None) and named:
        raise ValueError(f"greedy and beams draw no tokens, so that nothing goes with them; got {named}")
    if greedy or beams is not None:
        return {"do_sample": False, "num_beams": beams or 1, **dict.fromkeys(SAMPLING)}
    settings: Any = model.generation_config
    saved = {name: getattr(settings, name) if settings.do_sample else None for name in SAMPLING}
    found = {name: next(v for v in (given[name], saved[name], SAMPLING[name]) if v is not None) for name in SAMPLING}
    return {"do_sample": True, "num_beams": 1, **found}


def new_tokens_of(model: PreTrainedModel, wanted: int | None) -> int:
    """Returns how many tokens to write: those wanted, else `NEW_TOKENS` or half the model's context."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"max_new_tokens must be at least 1; got max_new_tokens={wanted}")
    return wanted or min(NEW_TOKENS, (context_of(model) or 2 * NEW_TOKENS) // 2)


def prompt_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, *, new_tokens: int
) -> list[int]:
    """Returns the tokens of a prompt; an empty one is the token that starts a text.

    What the tokenizer puts before a text stays, Llama's bos for one; what it puts behind one, an eos or the extract
    token of a fine-tuned GPT, goes: the text is to go on.

    Raises:
        ValueError: no token and none that starts a text, or no room for the new tokens behind it.
    """
    ids = _open_ended(tokenizer, prompt)
    if not ids:
        start = start_token(model, tokenizer)
        if start is None:
            raise ValueError(
                f"a prompt must have at least one token; got {prompt!r}, and neither model nor tokenizer has a bos or "
                "eos token to start from: give it a word"
            )
        ids = [start]
    most = context_of(model)
    if most is not None and len(ids) + new_tokens > most:
        raise ValueError(
            f"prompt and new tokens must fit the model's context of {most}; got a prompt of {len(ids)} and "
            f"max_new_tokens={new_tokens}: shorten the prompt or ask for fewer new tokens"
        )
    return ids


def _open_ended(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text and of what the tokenizer puts before it."""

    def tokens(of: str, special: bool) -> list[int]:
        found: Any = tokenizer(of, add_special_tokens=special, verbose=False)["input_ids"]
        return found

    letter, whole = tokens("a", False), tokens("a", True)
    before = next((place for place in range(len(whole)) if whole[place : place + len(letter)] == letter), 0)
    return tokens(text, True)[: before + len(tokens(text, False))]


def padding_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token to pad with, which no text sees."""
    return next(
        (token for token in (tokenizer.pad_token_id, start_token(model, tokenizer)) if isinstance(token, int)), 0
    )


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    batch_tokens: int = 4096,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> list[str]:
    """Goes on with prompts, in batches of prompts of like length, and returns the new texts in the prompts' order.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        prompts: the ids of each, from `prompt_ids`.
        new_tokens: most tokens to write.
        batch_tokens: most tokens of a batch, new ones and padding included; a longer text is alone.
        progress: called with the number of prompts finished since its last call.
        **options: those of `generate`, from `search_options`. Tokens are drawn from torch's global generator.
    """
    texts = [""] * len(prompts)
    pad = padding_of(model, tokenizer)
    with evaluating(model):
        for batch in token_batches([len(ids) + new_tokens for ids in prompts], batch_tokens):
            # padded on the left: what is new follows the prompt
            ids, mask = (rows.flip(1) for rows in pad_right([list(prompts[index])[::-1] for index in batch], pad))
            inputs: dict[str, Any] = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            generate: Any = model.generate
            with torch.inference_mode():
                found = generate(**inputs, max_new_tokens=new_tokens, pad_token_id=pad, **options)
            written = tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
            for index, text in zip(batch, written, strict=True):
                texts[index] = text
            if progress:
                progress(len(batch))
    return texts
