"""Translating many lines with little padding, and scoring them as sacreBLEU does and as the paper did."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.generation_transformer import PaperGenerationMixin
from .text_metrics import bleu_figures

logger = logging.getLogger(__name__)

MAX_SOURCE_TOKENS = 1024
STREAM_WINDOW = 1000


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one line.

    Attributes:
        text: the translation.
        score: the search's score of it (for a Vaswani Transformer the length-penalised log-probability), None where
            the search gives none or none was asked for.
    """

    text: str
    score: float | None = None


# ---------------------------------------------------------------------------------------------------- translating


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    batch_tokens: int = 4096,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> list[str]:
    """Translates texts, all of them sorted by length together, and returns them in the order they came in.

    Args:
        model: any sequence-to-sequence model with `generate`.
        tokenizer: its tokenizer.
        texts: source sentences; an empty or blank one becomes "" without the model seeing it.
        batch_tokens: the most source tokens of a batch, padding included; a single longer sentence is a batch alone.
        device: where to translate; the model is moved there. Default: where the model is.
        progress: called with the number of texts finished since its last call.
        **options: those of `translate_nbest` (`max_source_tokens`, `prefix`) and of `model.generate`.

    Returns:
        The best translation of each text.

    Raises:
        ValueError: batch_tokens or max_source_tokens not positive, or a tokenizer larger than the model.
    """
    texts = list(texts)
    options.update(batch_tokens=batch_tokens, device=device, progress=progress)
    return list(translate_stream(model, tokenizer, texts, window=max(1, len(texts)), **options))


def translate_stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window: int = STREAM_WINDOW,
    **options: Any,
) -> Iterator[str]:
    """Yields translations in input order, reading `window` texts at a time: memory does not grow with the input."""
    for hypotheses in translate_nbest(model, tokenizer, texts, window=window, **options):
        yield hypotheses[0].text


def translate_nbest(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    n: int = 1,
    scores: bool = False,
    window: int = STREAM_WINDOW,
    batch_tokens: int = 4096,
    max_source_tokens: int = MAX_SOURCE_TOKENS,
    prefix: str | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
    **generate_kwargs: Any,
) -> Iterator[list[Hypothesis]]:
    """Yields the n best translations of each text, best first, in input order; the core of the functions above.

    Args:
        n: translations of each text, at most the number of beams.
        scores: also asks the search for its scores (transformers' own beams keep every step's logits for that).
        window: texts read, sorted by length and translated at a time; 1 answers line by line.
        max_source_tokens: a longer source is cut to this many tokens, end of sentence included, with a warning that
            names its number; attention's memory grows with the square of the length. A model with a fixed number of
            positions lowers it to that.
        prefix: text that every translation must start with; it is part of what is returned.
        **generate_kwargs: passed to `model.generate`.

    A blank text yields one `Hypothesis("", 0.0)`, whatever n is. The other arguments are those of `translate`.
    """
    for name, value in {"window": window, "batch_tokens": batch_tokens, "n": n}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {name}={value}")
    if max_source_tokens < 2:
        raise ValueError(f"max_source_tokens must be at least 2 (a token and </s>); got {max_source_tokens=}")
    _check_sizes(model, tokenizer)
    _check_beams(model, n, generate_kwargs)
    if device is not None:
        model.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue] (its stub wants one fixed signature)
    limit = min(max_source_tokens, _positions(model))
    if n > 1:
        generate_kwargs["num_return_sequences"] = n
    if scores:
        generate_kwargs["output_scores"] = True
    if prefix:
        generate_kwargs["prefix"] = prefix
    report = progress or (lambda count: None)
    numbered = enumerate(texts, start=1)
    while lines := list(itertools.islice(numbered, window)):
        yield from _translate_window(model, tokenizer, lines, batch_tokens, limit, report, generate_kwargs)


def _translate_window(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[tuple[int, str]],
    batch_tokens: int,
    limit: int,
    report: Callable[[int], object],
    generate_kwargs: dict[str, Any],
) -> list[list[Hypothesis]]:
    results: list[list[Hypothesis]] = [[Hypothesis("", 0.0)] for _ in lines]
    spoken = [index for index, (_, text) in enumerate(lines) if text.strip()]
    report(len(lines) - len(spoken))
    sources = encode_sources(tokenizer, [lines[index] for index in spoken], limit)
    with evaluating(model):
        for batch in token_batches([len(source) for source in sources], batch_tokens):
            hypotheses = _generate(model, tokenizer, [sources[index] for index in batch], generate_kwargs)
            for index, found in zip(batch, hypotheses, strict=True):
                results[spoken[index]] = found
            report(len(batch))
    return results


def encode_sources(tokenizer: PreTrainedTokenizerBase, lines: Sequence[tuple[int, str]], limit: int) -> list[list[int]]:
    """Token ids of numbered lines, each at most `limit` long; what looks like a special token stays text.

    Raises:
        ValueError: the tokenizer has no token at all for a text.
    """
    if not lines:
        return []
    options: dict[str, Any] = {"verbose": False}
    if tokenizer.is_fast:  # a slow tokenizer may not know the switch
        options["split_special_tokens"] = True
    sources: list[list[int]] = tokenizer([text for _, text in lines], **options)["input_ids"]  # pyright: ignore
    for index, (number, text) in enumerate(lines):
        if len(sources[index]) > limit:
            logger.warning(f"line {number} has {len(sources[index])} tokens and is cut to {limit} before translating")
            cut = tokenizer(text, truncation=True, max_length=limit, **options)
            sources[index] = list(cut["input_ids"])  # pyright: ignore
        if not sources[index]:
            raise ValueError(f"every source needs at least one token, </s> included; got none for line {number}")
    return sources


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cuts indices, longest first, into batches whose padded size is at most batch_tokens.

    Longest first, so that a batch that does not fit into memory shows at once. A single longer text is alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Returns ids [B, S], padded on the right, and their mask [B, S] of ones and zeros."""
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    generate_kwargs: dict[str, Any],
) -> list[list[Hypothesis]]:
    ids, mask = pad_right(sources, int(tokenizer.pad_token_id))  # pyright: ignore
    kwargs = dict(generate_kwargs)
    if prefix := kwargs.pop("prefix", None):
        kwargs.update(_forced_prefix(model, tokenizer, prefix, len(sources)))
    n = kwargs.get("num_return_sequences", 1)
    output: Any = model.generate(  # pyright: ignore[reportCallIssue] (typed for GenerationMixin only)
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), return_dict_in_generate=True, **kwargs
    )
    texts = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
    scores = getattr(output, "sequences_scores", None)
    values = [None] * len(texts) if scores is None else scores.tolist()
    found = [Hypothesis(text, value) for text, value in zip(texts, values, strict=True)]
    return [found[start : start + n] for start in range(0, len(found), n)]


def _forced_prefix(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: str, rows: int
) -> dict[str, Tensor]:
    ids: Any = tokenizer(text_target=prefix, add_special_tokens=False)["input_ids"]
    if isinstance(model, PaperGenerationMixin):
        return {"prefix_ids": torch.tensor([ids] * rows, device=model.device)}
    settings: Any = model.generation_config
    return {"decoder_input_ids": torch.tensor([[settings.decoder_start_token_id, *ids]] * rows, device=model.device)}


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switches dropout off inside, and back to what it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_sizes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    size = model.config.vocab_size
    if len(tokenizer) > size:
        raise ValueError(
            f"the tokenizer must not have more tokens than the model; got {len(tokenizer)} tokens, vocab_size={size}"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer needs a pad token to translate in batches; set tokenizer.pad_token")


def _check_beams(model: PreTrainedModel, n: int, generate_kwargs: dict[str, Any]) -> None:
    settings: Any = model.generation_config
    beams = generate_kwargs.get("num_beams") or settings.num_beams or 1
    sampling = generate_kwargs.get("do_sample", settings.do_sample)
    if n > beams and not sampling:
        raise ValueError(f"the n best translations need at least n beams; got {n=}, num_beams={beams}")


def _positions(model: PreTrainedModel) -> int:
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 1 else MAX_SOURCE_TOKENS**2


# -------------------------------------------------------------------------------------------------------- scoring


def translation_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    target_language: str,
) -> dict[str, Any]:
    """Corpus scores of translations, each with the signature that says how it was computed.

    Args:
        hypotheses: detokenised translations, one a line.
        references: as many detokenised references.
        sources: the sentences translated; adds the share of translations that merely copy them.
        target_language: code such as "de"; chooses sacreBLEU's tokeniser (13a for most) and Moses's rules.

    Returns:
        `bleu`, `chrf`, `paper_bleu` (0 to 100), `..._signature` for each, `bleu_interval` (95%, bootstrap over
        sentences, None for one), `sentences`, `target_language`, and `copied` (0 to 1) when sources are given.
        `paper_bleu` is what `paper_tokens` says.

    Raises:
        ValueError: no lines, or lists of different lengths.
        ImportError: sacrebleu or sacremoses is missing; names the extra that brings them.
    """
    _check_lines(hypotheses, references, sources)
    language = _language(target_language)
    scores: dict[str, Any] = {"sentences": len(references), "target_language": language}
    scores.update(sacrebleu_scores(hypotheses, references, target_language=language))
    lines = [{"text": text, "answers": [line]} for text, line in zip(hypotheses, references, strict=True)]
    scores["bleu_interval"] = bleu_figures([lines], target_language=language)["bleu_interval"]
    scores.update(_paper_bleu(hypotheses, references, language))
    if sources is not None:
        same = sum(hypothesis.strip() == source.strip() for hypothesis, source in zip(hypotheses, sources, strict=True))
        scores["copied"] = same / len(sources)
    return scores


def sacrebleu_scores(hypotheses: Sequence[str], references: Sequence[str], *, target_language: str) -> dict[str, Any]:
    """sacreBLEU and chrF with sacreBLEU's defaults for the language, and their signatures."""
    sacrebleu = _require("sacrebleu")
    bleu, chrf = sacrebleu.BLEU(trg_lang=target_language), sacrebleu.CHRF()
    return {
        "bleu": bleu.corpus_score(list(hypotheses), [list(references)]).score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf": chrf.corpus_score(list(hypotheses), [list(references)]).score,
        "chrf_signature": str(chrf.get_signature()),
    }


def _paper_bleu(hypotheses: Sequence[str], references: Sequence[str], language: str) -> dict[str, Any]:
    sacrebleu, sacremoses = _require("sacrebleu"), _require("sacremoses")
    # multi-bleu.perl: whitespace tokens, no smoothing; `force` only silences the advice not to pass tokenised text.
    bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    score = bleu.corpus_score(paper_tokens(hypotheses, language), [paper_tokens(references, language)]).score
    tokens = f"moses-{language}" + ("+compound-split" if language == "de" else "")
    signature = (
        f"nrefs:1|case:mixed|punctuation:ascii|tok:{tokens}|smooth:none|"
        f"sacremoses:{sacremoses.__version__}|version:{sacrebleu.__version__}"
    )
    return {"paper_bleu": score, "paper_bleu_signature": signature}


def paper_tokens(lines: Iterable[str], language: str) -> list[str]:
    """Tokenises lines as the paper's authors did before counting n-grams; multi-bleu then takes words at spaces.

    The steps of tensor2tensor's utils/get_ende_bleu.sh: Unicode punctuation to ASCII, Moses tokenizer, and for
    German `split_compounds`. sacremoses 0.2.0 gives, on 8,652 German lines, exactly the tokens of Moses's Perl scripts
    as they were in June 2017; since November 2018 the Perl tokenizer also splits a full stop off a final abbreviation.

    Departure: the authors' reference had every quotation mark, „ included, as &quot; (tensor2tensor issue 317); here
    both sides pass through the script and nothing else.
    """
    sacremoses = _require("sacremoses")
    tokenizer, normalizer = sacremoses.MosesTokenizer(language), sacremoses.MosesPunctNormalizer()
    tokenised = (tokenizer.tokenize(normalizer.replace_unicode_punct(line), return_str=True) for line in lines)
    return [split_compounds(line) if language == "de" else line for line in tokenised]


def split_compounds(line: str) -> str:
    """Writes "rich-text" as "rich ##AT##-##AT## text", as GNMT, ConvS2S and the paper did for German.

    On bytes, as the script's `perl -ple` does: matches do not overlap, so that in "a-b-c" only the first hyphen is
    split while both are in "ä-ö-ü", whose letters have two bytes.
    """
    return re.sub(rb"(\S)-(\S)", rb"\1 ##AT##-##AT## \2", line.encode("utf-8", "surrogatepass")).decode(
        "utf-8", "surrogatepass"
    )


def _check_lines(hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str] | None) -> None:
    counts = {"hypotheses": len(hypotheses), "references": len(references)}
    if sources is not None:
        counts["sources"] = len(sources)
    if len(set(counts.values())) > 1 or not references:
        got = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"scoring needs as many lines on each side, and at least one; got {got}")


def _language(code: str) -> str:
    language = re.split(r"[-_]", code.strip().lower())[0]
    if not re.fullmatch(r"[a-z]{2,3}", language):
        raise ValueError(f"a language is a two- or three-letter code such as 'de'; got language={code!r}")
    return language


def _require(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"scoring translations needs {name}, which is not installed: pip install 'vaswani-transformer[eval]'"
        ) from error


# ------------------------------------------------------------------------------------------ validation in training


def bleu_metric(
    model: PreTrainedModel, data: Any, limit: int | None = None, *, batch_tokens: int = 4096, **generate_kwargs: Any
) -> dict[str, float]:
    """sacreBLEU and chrF of the validation texts, for the training loop; the same numbers on every process.

    Under several processes each translates every n-th sentence and all gather all. The model must be whole on each
    process (one device, data parallelism, ZeRO 1 and 2): with sharded weights the processes' searches would wait for
    each other.

    Args:
        model: the model, wrapped for training or not.
        data: a `TranslationData` or anything with its `tokenizer`, `texts("validation")` and `options.target`.
        limit: only the first so many sentences.
        batch_tokens: the most source tokens of a batch, padding included.
        **generate_kwargs: passed to `model.generate`.

    Returns:
        `bleu` and `chrf`.
    """
    from accelerate import PartialState
    from accelerate.utils import extract_model_from_parallel, gather_object

    sources, references = (texts[:limit] for texts in data.texts("validation"))
    _check_lines(sources, references, None)
    state, bare = PartialState(), extract_model_from_parallel(model, keep_torch_compile=False)
    mine = range(state.process_index, len(sources), state.num_processes)
    found = translate(
        bare, data.tokenizer, [sources[index] for index in mine], batch_tokens=batch_tokens, **generate_kwargs
    )
    numbered = list(zip(mine, found, strict=True))
    if state.num_processes > 1:
        numbered = gather_object(numbered)
    hypotheses = [text for _, text in sorted(numbered)]
    scores = sacrebleu_scores(hypotheses, references, target_language=data.options.target or "")
    return {"bleu": scores["bleu"], "chrf": scores["chrf"]}
