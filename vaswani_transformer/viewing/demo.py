"""What the demo shows, without its interface: translations and attention, blanks filled, texts written by steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.causal_lm import context_of
from ..evaluation.completion import padding_of, prompt_ids, search_options
from ..evaluation.translation import Hypothesis, evaluating, translate_nbest
from .attention_maps import AttentionMap, attention_maps, words_of

MOST_CHARACTERS = 1000
MOST_BEAMS = 8
MOST_NEW_TOKENS = 100
CANDIDATES = 10  # likeliest words that are shown
SETTINGS = ("zero-shot", "one-shot", "few-shot")  # figure 2.1 of Brown et al. (2020)


class Refused(ValueError):
    """What a visitor can mend, told in words that are fit for everyone: no path, nothing of the machine."""


@dataclass(frozen=True)
class Candidate:
    """A word that may stand somewhere.

    Args:
        word: the token as a person reads it.
        probability: the model's own.
        drawn: the probability that it is drawn with, after temperature, top k and top p; None where nothing is drawn.
    """

    word: str
    probability: float
    drawn: float | None = None


@dataclass(frozen=True)
class Step:
    """One token that was written: its id, itself, and the likeliest at its place, the likeliest first."""

    token: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Written:
    """What follows a prompt, with a step for each of its tokens."""

    text: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Translated:
    """Translations of a text, the best first, and the attention that gives the best one.

    Args:
        hypotheses: as many as the search has beams.
        maps: "encoder", "decoder" and "cross".
        notice: that a long text is not shown whole, else "".
    """

    hypotheses: tuple[Hypothesis, ...]
    maps: Mapping[str, AttentionMap]
    notice: str


def check_texts(texts: Sequence[str], *, most: int) -> None:
    """Raises Refused where texts together have more characters than `most`."""
    count = sum(map(len, texts))
    if count > most:
        raise Refused(f"a text may have at most {most} characters in this demo; got {count}: shorten it")


def translated(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, *, beams: int = 4) -> Translated:
    """Returns the best translations of a text and the attention of the model that reads it and writes the best.

    Args:
        model: an encoder-decoder.
        tokenizer: its tokenizer.
        text: one sentence.
        beams: width of the search, at most `MOST_BEAMS`; 1 is greedy.

    Raises:
        Refused: a blank text, a width out of its range.
    """
    if not text.strip():
        raise Refused("a text must have a word; got none: write a sentence")
    if not 1 <= beams <= MOST_BEAMS:
        raise Refused(f"the beams must be from 1 to {MOST_BEAMS}; got {beams}")
    (found,) = translate_nbest(model, tokenizer, [text], n=beams, scores=True, num_beams=beams)
    maps, notice = attention_maps(model, tokenizer, text, target=found[0].text)
    return Translated(tuple(found), maps, notice)


@torch.no_grad()
def filled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[str, list[tuple[Candidate, ...]]]:
    """Returns a text with the likeliest word in each blank, and the `CANDIDATES` likeliest words of each blank.

    Each blank is filled as if the others stayed blanks: BERT foretells them independently of each other (section 3.1
    of Devlin et al., 2018).

    Args:
        model: a masked language model.
        tokenizer: its tokenizer, whose mask token, [MASK] of BERT, is a blank.
        text: with at least one blank.

    Raises:
        Refused: no blank, more tokens than the model has positions.
    """
    mask = str(tokenizer.mask_token)
    encoded: Any = tokenizer(text, return_tensors="pt", verbose=False)
    ids = encoded["input_ids"]
    blanks = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not blanks:
        raise Refused(f"a text must have a blank to fill, written {mask}; got none: put {mask} in place of a word")
    most = min(tokenizer.model_max_length, context_of(model) or tokenizer.model_max_length)
    if ids.shape[1] > most:
        raise Refused(f"the model reads at most {most} tokens; got {ids.shape[1]}: shorten the text")
    given = {name: encoded[name].to(model.device) for name in ("input_ids", "token_type_ids") if name in encoded}
    with evaluating(model):
        logits_BV = model(**given).logits[0, blanks]
    filling = ids[0].clone()
    filling[blanks] = logits_BV.argmax(-1).cpu()
    words = str(tokenizer.decode(filling, skip_special_tokens=True))
    return words, [_likeliest(tokenizer, row_V.float().softmax(-1)) for row_V in logits_BV]


def written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    new_tokens: int,
    seed: int = 0,
    **search: Any,
) -> Written:
    """Goes on with a prompt, and tells of each token what else could have stood there.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt: an empty one is the token that starts a text.
        new_tokens: most tokens to write, at most `MOST_NEW_TOKENS`.
        seed: of what is drawn; torch's global generator is as it was afterwards.
        **search: greedy, temperature, top_k and top_p of `search_options`.

    Raises:
        Refused: a number out of its range, a prompt that leaves no room.
    """
    if not 1 <= new_tokens <= MOST_NEW_TOKENS:
        raise Refused(f"the new tokens must be from 1 to {MOST_NEW_TOKENS}; got {new_tokens}")
    if not 0 <= seed < 2**63:
        raise Refused(f"the seed must be from 0 to 2**63 - 1; got {seed}")
    try:
        options = search_options(model, **search)
        ids = torch.tensor([prompt_ids(model, tokenizer, prompt, new_tokens=new_tokens)], device=model.device)
    except ValueError as error:  # both name numbers and the prompt, nothing else
        raise Refused(str(error)) from error
    kept = {"output_logits": True, "output_scores": True, "return_dict_in_generate": True}
    settings = {"max_new_tokens": new_tokens, "pad_token_id": padding_of(model, tokenizer), **kept}
    generate: Any = model.generate
    with torch.random.fork_rng(), evaluating(model):
        torch.manual_seed(seed)
        found = generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings, **options)
    new = found.sequences[0, ids.shape[1] :]
    scores = found.scores if options["do_sample"] else [None] * len(new)
    rows = zip(new.tolist(), found.logits, scores, strict=True)
    steps = tuple(_step(tokenizer, token, logits, drawn) for token, logits, drawn in rows)
    return Written(str(tokenizer.decode(new, skip_special_tokens=True)), steps)


def asked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str,
    examples: str,
    question: str,
    new_tokens: int = 12,
) -> dict[str, tuple[str, Written | Refused]]:
    """Asks one question with no example, with the first and with all, greedily up to a line's end.

    The prompt is that of figure 2.1 of Brown et al. (2020): the task, the examples and the question, a line each.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        task: what is to be done, in words; may be empty.
        examples: questions with their answers, one a line.
        question: the line that the answer follows.
        new_tokens: most tokens of an answer.

    Returns:
        Prompt and answer by the `SETTINGS`; in an answer's place why there is none, such as a prompt too long.

    Raises:
        Refused: no question, no example.
    """
    shots = [line.rstrip() for line in examples.splitlines() if line.strip()]
    if not question.strip() or not shots:
        got = f"{len(shots)} examples and the question {question.strip()!r}"
        raise Refused(f"a question and at least one example, a line each, are needed; got {got}")
    found: dict[str, tuple[str, Written | Refused]] = {}
    for setting, count in zip(SETTINGS, (0, 1, len(shots)), strict=True):
        prompt = "\n".join([*([task.strip()] if task.strip() else []), *shots[:count], question.strip()])
        try:
            answer = written(model, tokenizer, prompt, new_tokens=new_tokens, greedy=True)
            found[setting] = prompt, _first_line(tokenizer, answer)
        except Refused as refusal:
            found[setting] = prompt, refusal
    return found


def _first_line(tokenizer: PreTrainedTokenizerBase, answer: Written) -> Written:
    """An answer up to its line's end, and the steps up to the one that ends it."""
    ends = (place for place, step in enumerate(answer.steps, start=1) if "\n" in tokenizer.decode([step.token]))
    return Written(answer.text.partition("\n")[0], answer.steps[: next(ends, None)])


def _step(tokenizer: PreTrainedTokenizerBase, token: int, logits_BV: Tensor, scores_BV: Tensor | None) -> Step:
    own_V = logits_BV[0].float().softmax(-1)
    drawn_V = None if scores_BV is None else scores_BV[0].float().softmax(-1)
    return Step(token, _candidate(tokenizer, token, own_V, drawn_V), _likeliest(tokenizer, own_V, drawn_V))


def _likeliest(
    tokenizer: PreTrainedTokenizerBase, own_V: Tensor, drawn_V: Tensor | None = None
) -> tuple[Candidate, ...]:
    tokens = own_V.topk(min(CANDIDATES, len(own_V))).indices.tolist()
    return tuple(_candidate(tokenizer, token, own_V, drawn_V) for token in tokens)


def _candidate(tokenizer: PreTrainedTokenizerBase, token: int, own_V: Tensor, drawn_V: Tensor | None) -> Candidate:
    (word,) = words_of(tokenizer, [token])
    return Candidate(word, float(own_V[token]), None if drawn_V is None else float(drawn_V[token]))
