"""The paper's search as `generate`'s default: its options, the models it asks, what it returns."""

# B sentences (those still searched)   G beams   L tokens so far   V vocabulary   S source length
# N hypotheses returned a sentence

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .beams_transformer import Beams, done, extend, with_living
from .caches import CACHE

logger = logging.get_logger(__name__)

MAX_EXTRA_TOKENS = 50  # section 6.1: output at most the input length + 50
# What transformers' own search knows and this one does without.
NOT_SEARCHED = ("stopping_criteria", "stop_strings", "max_time", "cache", "past_key_values", "cache_implementation")
RECORDED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


class PaperGenerationMixin(GenerationMixin):
    """transformers' generation with the paper's search as the default."""

    config: Any

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        custom_generate: str | Callable | None = "paper",
        max_extra_tokens: int | None = None,
        prefix_ids: Tensor | None = None,
        ensemble: Sequence[Any] = (),
        **kwargs: Any,
    ) -> Any:
        """Translates; by default with the paper's search (section 6.1): beam 4, length penalty 0.6, input length + 50.

        Everything else is transformers' `generate`: `num_beams=1` is greedy, `do_sample=True` samples, and
        `custom_generate=None` takes transformers' own beam search, whose penalty is |Y|^alpha.

        Args:
            inputs: [B, S] source ids; also as `input_ids=`.
            generation_config: replaces the model's own.
            custom_generate: "paper", None for transformers' search, or any function `generate` takes.
            max_extra_tokens: a translation has at most this many tokens more than its own source; 50 in the paper.
                Ignored where `max_length` or `max_new_tokens` is given.
            prefix_ids: [B, P] target ids that each translation begins with, padded on the right (paper's search only).
            ensemble: further models whose probabilities are averaged with this one's (paper's search only).

        Raises:
            ValueError: an empty source, or an option that the chosen search does not have.
        """
        source = inputs if inputs is not None else kwargs.get("input_ids")
        if source is not None and not source.is_floating_point() and kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = source.ne(self.config.pad_token_id)
        options = ({"max_extra_tokens": max_extra_tokens, **kwargs}, generation_config, self.generation_config)
        beams, sample = _option("num_beams", *options) or 1, _option("do_sample", *options)
        paper = custom_generate == "paper" and beams > 1 and not sample
        if not paper and (prefix_ids is not None or len(ensemble)):
            raise ValueError(
                "prefix_ids and ensemble belong to the paper's beam search; got "
                f"num_beams={beams}, do_sample={sample}, custom_generate={custom_generate!r}"
            )
        if _option("max_length", *options) is None and _option("max_new_tokens", *options) is None:
            extra = _option("max_extra_tokens", *options)
            extra = MAX_EXTRA_TOKENS if extra is None else extra
            limit = self._source_length(source, kwargs) + extra
            if generation_config is None:
                kwargs["max_new_tokens"] = limit
            else:  # transformers warns of options beside a config
                generation_config = copy.deepcopy(generation_config)
                generation_config.max_new_tokens = limit
            if paper:
                kwargs["extra_tokens"] = extra
        if paper:
            kwargs.update(prefix_ids=prefix_ids, ensemble=tuple(ensemble))
            if ignored := [name for name in NOT_SEARCHED if _option(name, *options) is not None]:
                logger.warning_once(
                    f"the paper's beam search ignores {', '.join(ignored)}; custom_generate=None has transformers'"
                )
        search = paper_beam_search if paper else (None if custom_generate == "paper" else custom_generate)
        return super().generate(inputs, generation_config, custom_generate=search, **kwargs)  # type: ignore[misc]

    @torch.no_grad()
    def score(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Log-probability of each given target, in nats, end-of-sentence included.

        Args:
            input_ids: [B, S] source ids.
            labels: [B, T] target ids ending in the end-of-sentence id, -100 at padding.
            attention_mask: [B, S], 1 at source tokens.

        Returns:
            [B] sums of log-probabilities, not divided by any length penalty.
        """
        model: Any = self
        decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
        logits_BTV = model(input_ids, attention_mask, decoder_input_ids, use_cache=False).logits
        ids_BT1 = labels.clamp(min=0).unsqueeze(-1)
        log_probabilities_BT = logits_BTV.float().log_softmax(-1).gather(-1, ids_BT1).squeeze(-1)
        return (log_probabilities_BT * labels.ne(-100)).sum(-1)

    def _source_length(self, source: Tensor | None, kwargs: dict[str, Any]) -> int:
        for given in (source, kwargs.get("inputs_embeds"), (kwargs.get("encoder_outputs") or (None,))[0]):
            if given is not None:
                return given.shape[1]
        if self.config.bos_token_id is not None:
            return 1  # transformers starts from it
        raise ValueError("generate needs a source: pass input_ids, inputs_embeds or encoder_outputs")


def _option(name: str, call: dict[str, Any], *configs: GenerationConfig | None) -> Any:
    """An option as transformers resolves it: the call's own, else that of the first config that has it."""
    values = (call.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def paper_generation_config(config: Any) -> GenerationConfig:
    """The search of section 6.1: beam 4, length penalty 0.6, output at most 50 tokens longer than the input."""
    return GenerationConfig(
        num_beams=4,
        length_penalty=0.6,
        max_extra_tokens=MAX_EXTRA_TOKENS,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )


class Scorer:
    """One model with its encoded sources and its cache; the log-probabilities of the next token come from it.

    Encoder states are held once a sentence, not once a beam: the model lets a row of them serve G rows of the decoder.
    `outputs` collects what the model returned at each step where it is a list.
    """

    def __init__(self, model: Any, encoder_states_BSD: Tensor, mask_BS: Tensor | None, use_cache: bool) -> None:
        self.model, self.states, self.mask = model, encoder_states_BSD, mask_BS
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if use_cache else None
        self.outputs: list[Any] | None = None
        self.options: dict[str, bool] = {}

    def log_probs(self, tokens_BGL: Tensor) -> Tensor:
        """[B, G, V] log-probabilities of the token after each hypothesis, in float32."""
        B, G, L = tokens_BGL.shape
        past = 0 if self.cache is None else self.cache.get_seq_length()
        output = self.model(
            decoder_input_ids=tokens_BGL.view(B * G, L)[:, past:],
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            cache=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=1,
            **self.options,
        )
        if self.outputs is not None:
            self.outputs.append(output)
        return output.logits[:, -1].float().log_softmax(-1).view(B, G, -1)

    def select(self, rows: Tensor | None, beams: Tensor) -> None:
        """Keeps `rows` of the sentences (all where None) and `beams` (flat indices) of the decoder's cache."""
        if self.cache is not None:
            self.cache.self_attention_cache.reorder_cache(beams)  # type: ignore[arg-type]
        if rows is not None:
            self.states = self.states[rows]
            self.mask = None if self.mask is None else self.mask[rows]
            if self.cache is not None:
                self.cache.cross_attention_cache.batch_select_indices(rows)


def paper_beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    inputs_tensor: Tensor | None = None,
    extra_tokens: int | None = None,
    prefix_ids: Tensor | None = None,
    ensemble: Sequence[Any] = (),
    **model_kwargs: Any,
) -> Any:
    """Beam search as the paper's code (tensor2tensor) runs it, for `generate(custom_generate=paper_beam_search)`.

    A hypothesis Y scores log P(Y | X) / ((5 + |Y|) / 6)^alpha. At each step the 2G best extensions are taken; those
    that end compete with the finished ones, the G best others live on. A sentence is done when no living hypothesis can
    still beat its N-th best finished one, and then leaves the batch. One that meets its limit without any finished
    hypothesis returns the living ones.

    Args:
        model: the translation model.
        input_ids: [B * G, P] decoder input to start from.
        logits_processor: applied to log-probabilities, as in transformers' beam search.
        stopping_criteria: only their maximum length is honoured, through `generation_config.max_length`.
        generation_config: `num_beams`, `num_return_sequences`, `length_penalty` (alpha), `max_length`.
        inputs_tensor: [B, S] source ids, which ensemble members encode for themselves.
        extra_tokens: limit of each translation beyond its own source's length.
        prefix_ids: [B, P] ids that each translation begins with, padded on the right; they count in |Y| and the score.
        ensemble: more models; the mean of all models' probabilities is searched.
        **model_kwargs: `encoder_outputs`, `attention_mask` and `use_cache` as `generate` made them.

    Returns:
        [B * N, L] ids; with `return_dict_in_generate`, also `sequences_scores`, the penalised log-probabilities, and
        the scores, logits, attentions, hidden states of every step where asked for, which keeps all sentences to the
        end.
    """
    G, N, alpha = (
        generation_config.num_beams,
        generation_config.num_return_sequences or 1,
        generation_config.length_penalty,
    )
    scorers = _scorers(model, ensemble, inputs_tensor, model_kwargs, G)
    beams = _first_beams(input_ids, scorers[0], generation_config, extra_tokens)
    B = left = beams.tokens_BGL.shape[0]
    _check_prefix(prefix_ids, B)
    ends = _end_ids(generation_config, input_ids.device)
    banned = _never_generated(model.config, generation_config, ends.tolist())
    recorded = _record(scorers[0], generation_config)
    sequences = input_ids.new_full((B, N, int(beams.limit_B.max()) + 1), model.config.pad_token_id)
    scores = beams.log_probs_BG.new_full((B, N), -torch.inf)
    waiting_B = torch.ones(B, dtype=torch.bool, device=input_ids.device)
    while left:
        log_probs = _mean_log_probs([scorer.log_probs(beams.tokens_BGL) for scorer in scorers])
        log_probs = _processed(log_probs, beams.tokens_BGL, banned, logits_processor)
        if prefix_ids is not None:
            step = beams.tokens_BGL.shape[-1] - input_ids.shape[-1]
            _force(log_probs, prefix_ids[beams.sentence_B], step, model.config.pad_token_id)
        if recorded is not None:
            recorded.append(log_probs.flatten(0, 1))
        beams, parents = extend(beams, log_probs, ends, alpha)
        ready = done(beams, alpha) & waiting_B[beams.sentence_B]
        rows = None
        if ready.any():
            final = with_living(beams.keep(ready), alpha)
            ids = final.finished_BNL.masked_fill(final.finished_BNL < 0, model.config.pad_token_id)
            sequences[final.sentence_B, :, : ids.shape[-1]] = ids
            scores[final.sentence_B] = final.scores_BN
            waiting_B[final.sentence_B] = False
            left -= len(final.sentence_B)
            if recorded is None:
                rows = (~ready).nonzero().squeeze(-1)
                beams, parents = beams.keep(rows), parents[rows]
        for scorer in scorers:
            scorer.select(rows, parents.flatten())
    sequences = _trim(sequences.flatten(0, 1), model.config.pad_token_id)
    if not generation_config.return_dict_in_generate:
        return sequences
    return _output(
        sequences, scores.flatten(), scorers[0], recorded, generation_config, model_kwargs["encoder_outputs"]
    )


def _scorers(
    model: Any, ensemble: Sequence[Any], inputs: Tensor | None, model_kwargs: dict[str, Any], G: int
) -> list[Scorer]:
    mask = model_kwargs.get("attention_mask")
    mask = None if mask is None else mask[::G]  # `generate` has repeated each row G times
    use_cache = model_kwargs.get("use_cache", True)
    scorers = [Scorer(model, model_kwargs["encoder_outputs"][0][::G], mask, use_cache)]
    if len(ensemble) and (inputs is None or inputs.is_floating_point()):
        raise ValueError("an ensemble takes input_ids, which each of its models embeds for itself; got embeddings")
    for member in ensemble:
        if member.config.vocab_size != model.config.vocab_size:
            raise ValueError(
                "the models of an ensemble must share one vocabulary; "
                f"got vocab_size={model.config.vocab_size} and {member.config.vocab_size}"
            )
        states = member.get_encoder()(inputs, attention_mask=mask).last_hidden_state
        scorers.append(Scorer(member, states, mask, use_cache))
    return scorers


def _first_beams(
    input_ids: Tensor, scorer: Scorer, generation_config: GenerationConfig, extra_tokens: int | None
) -> Beams:
    G, N = generation_config.num_beams, generation_config.num_return_sequences or 1
    tokens_BGL = input_ids.view(-1, G, input_ids.shape[-1])
    B, device = tokens_BGL.shape[0], input_ids.device
    limit_B = torch.full((B,), generation_config.max_length - 1, device=device)
    if extra_tokens is not None:
        lengths = scorer.mask.sum(-1) if scorer.mask is not None else limit_B.new_full((B,), scorer.states.shape[1])
        limit_B = torch.minimum(limit_B, lengths + extra_tokens)
    log_probs_BG = torch.full((B, G), -torch.inf, device=device)
    log_probs_BG[:, 0] = 0.0  # all beams are alike at first: one of them may grow
    finished = tokens_BGL.new_empty((B, N, 0))
    return Beams(
        tokens_BGL,
        log_probs_BG,
        finished,
        log_probs_BG.new_full((B, N), -torch.inf),
        torch.arange(B, device=device),
        limit_B,
    )


def _check_prefix(prefix_ids: Tensor | None, B: int) -> None:
    if prefix_ids is not None and (prefix_ids.dim() != 2 or prefix_ids.shape[0] != B):
        raise ValueError(f"prefix_ids must have shape [{B}, P], a row for each source; got {tuple(prefix_ids.shape)}")


def _end_ids(generation_config: GenerationConfig, device: torch.device) -> Tensor:
    ids = generation_config.eos_token_id
    ids = [] if ids is None else torch.as_tensor(ids).flatten().tolist()
    return torch.tensor(ids, dtype=torch.long, device=device)


def _never_generated(config: Any, generation_config: GenerationConfig, ends: list[int]) -> list[int]:
    """Padding and the start token are inputs, never outputs; a start token that is also the end is one."""
    start = generation_config.decoder_start_token_id
    return sorted({config.pad_token_id, config.decoder_start_token_id if start is None else start} - set(ends))


def _record(scorer: Scorer, generation_config: GenerationConfig) -> list[Tensor] | None:
    """An empty list, and the scorer set to collect its outputs, where the caller asked for those of each step."""
    wanted = [name for name in RECORDED if getattr(generation_config, name)]
    if not wanted or not generation_config.return_dict_in_generate:
        return None
    scorer.outputs = []
    scorer.options = {name: True for name in wanted if name in ("output_attentions", "output_hidden_states")}
    return []


def _output(
    sequences: Tensor,
    scores: Tensor,
    scorer: Scorer,
    recorded: list[Tensor] | None,
    generation_config: GenerationConfig,
    encoder_outputs: Any,
) -> GenerateBeamEncoderDecoderOutput:
    output = GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores)  # type: ignore[arg-type]
    if recorded is None:
        return output
    steps = scorer.outputs or []
    if scorer.cache is not None:  # as transformers returns it, the source's keys in a row a beam
        scorer.cache.cross_attention_cache.batch_repeat_interleave(generation_config.num_beams)
        setattr(output, CACHE, scorer.cache)
    if generation_config.output_scores:
        output.scores = tuple(recorded)  # type: ignore[assignment]
    if generation_config.output_logits:
        output.logits = tuple(step.logits[:, -1].float() for step in steps)  # type: ignore[assignment]
    if generation_config.output_attentions:
        output.encoder_attentions = encoder_outputs.get("attentions")
        output.decoder_attentions = tuple(step.decoder_attentions for step in steps)
        output.cross_attentions = tuple(step.cross_attentions for step in steps)
    if generation_config.output_hidden_states:
        output.encoder_hidden_states = encoder_outputs.get("hidden_states")
        output.decoder_hidden_states = tuple(step.decoder_hidden_states for step in steps)
    return output


def _processed(log_probs_BGV: Tensor, ids_BGL: Tensor, banned: list[int], processors: LogitsProcessorList) -> Tensor:
    log_probs_BGV[..., banned] = -torch.inf
    if not len(processors):
        return log_probs_BGV
    ids: Any = ids_BGL.flatten(0, 1)
    return processors(ids, log_probs_BGV.flatten(0, 1)).view_as(log_probs_BGV)  # type: ignore[arg-type]


def _mean_log_probs(each: list[Tensor]) -> Tensor:
    if len(each) == 1:
        return each[0]
    return torch.stack(each).logsumexp(0) - torch.log(torch.tensor(float(len(each))))


def _force(log_probs_BGV: Tensor, prefix_BP: Tensor, step: int, pad_token_id: int) -> None:
    """Leaves only the prefix's token at this step, where the prefix has one."""
    if step >= prefix_BP.shape[1]:
        return
    forced_B = prefix_BP[:, step]
    rows = (forced_B != pad_token_id).nonzero().squeeze(-1)
    kept = log_probs_BGV[rows, :, forced_B[rows]]
    log_probs_BGV[rows] = -torch.inf
    log_probs_BGV[rows, :, forced_B[rows]] = kept


def _trim(sequences: Tensor, pad_token_id: int) -> Tensor:
    used = (sequences[:, 1:] != pad_token_id).any(0).sum()
    return sequences[:, : int(used) + 1]
