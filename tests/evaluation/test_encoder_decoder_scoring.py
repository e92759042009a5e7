"""Likelihoods of targets with shared encoder output against one forward pass each, for ours and transformers' own."""

import logging
import random
from typing import Any

import pytest
import torch
from transformers import MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from vaswani_transformer import VaswaniTransformerConfig, VaswaniTransformerForConditionalGeneration
from vaswani_transformer.evaluation.encoder_decoder_scoring import (
    EncoderDecoderScorer,
    Pair,
    PairTokens,
    score_pairs_plainly,
)

VOCABULARY = 320
OURS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_ff": 48,
    "num_heads": 2,
    "d_k": 16,
    "d_v": 16,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
MARIAN: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
NO_START: dict[str, Any] = {**T5, "decoder_start_token_id": None}
MODELS = {
    "ours": lambda: VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(**OURS)),
    "our big": lambda: VaswaniTransformerForConditionalGeneration(
        VaswaniTransformerConfig(**OURS, norm_order="pre", final_norm=True, tie_embeddings="none")
    ),
    "marian": lambda: MarianMTModel(MarianConfig(**MARIAN)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
}
WORDS = (
    "Ein",
    "Mann",
    "liest",
    "ein",
    "Buch.",
    "Two",
    "dogs",
    "run",
    "through",
    "snow.",
    "Das",
    "Haus",
    "ist",
    "klein.",
)


def drawn(make: Any) -> Any:
    """A model with dropout, far from its drawn weights, in training mode."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def asked(tokenizer: Any, count: int = 16) -> list[list[Pair]]:
    """Questions of 0 to 10 words, 1 to 4 choices of 1 to 5, every third question with a source for each choice."""
    rng, tokens = random.Random(0), PairTokens(tokenizer)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    found = []
    for number in range(count):
        context, own = text(0, 10), not number % 3
        choices = range(rng.randint(1, 4))
        found.append([tokens(f"{context} {text(1, 2)}" if own else context, " " + text(1, 5)) for _ in choices])
    return found


def plainly(model: Any, groups: list[list[Pair]]) -> list[Any]:
    model.eval()
    found = [score_pairs_plainly(model, group) for group in groups]
    model.train()
    return found


def in_order(scorer: EncoderDecoderScorer, groups: list[list[Pair]]) -> list[Any]:
    pairs = list(scorer(groups))
    assert len(pairs) == len(groups)
    found = dict(pairs)
    return [found[number] for number in range(len(groups))]


def check(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [x.logprob for x in one] == pytest.approx([x.logprob for x in other], abs=1e-4)
        assert [(x.tokens, x.greedy) for x in one] == [(x.tokens, x.greedy) for x in other]


@pytest.mark.parametrize("name", MODELS)
def test_batched_scores_are_those_of_one_forward_pass_a_choice(name, tokenizer):
    model, groups = drawn(MODELS[name]), asked(tokenizer)
    scorer = EncoderDecoderScorer(model, tokenizer, batch_tokens=400)
    assert scorer.fast
    check(in_order(scorer, groups), plainly(model, groups))
    assert model.training  # as it was


def test_a_plain_score_is_the_models_own_of_the_target_and_its_end(tokenizer):
    model = drawn(MODELS["ours"]).eval()
    pair = PairTokens(tokenizer)("Ein Mann liest", " Two dogs")
    assert pair.source == tuple(tokenizer("Ein Mann liest")["input_ids"])
    assert pair.target == tuple(tokenizer("Two dogs")["input_ids"])
    assert pair.target[-1] == tokenizer.eos_token_id
    expected = model.score(torch.tensor([pair.source]), torch.tensor([pair.target])).item()
    found = score_pairs_plainly(model, [pair])[0]
    assert found.logprob == pytest.approx(expected, abs=1e-5)
    assert found.tokens == len(pair.target)


def test_what_a_greedy_search_writes_is_told_to_be_so(tokenizer):
    model = drawn(MODELS["ours"]).eval()
    source = tuple(tokenizer("Ein Mann liest ein Buch.")["input_ids"])
    written: list[int] = []
    for _ in range(4):
        given = torch.tensor([[model.config.decoder_start_token_id, *written]])
        with torch.no_grad():
            written.append(int(model(torch.tensor([source]), decoder_input_ids=given).logits[0, -1].argmax()))
    other = (*written[:-1], (written[-1] + 1) % VOCABULARY)
    found = dict(EncoderDecoderScorer(model, tokenizer)([[Pair(source, tuple(written)), Pair(source, other)]]))
    assert [score.greedy for score in found[0]] == [True, False]


@pytest.mark.parametrize("batch_tokens", [1, 100, 10000])
@pytest.mark.parametrize("name", ["ours", "marian"])
def test_scores_do_not_depend_on_the_batch_the_subset_or_the_order(name, batch_tokens, tokenizer):
    model, groups = drawn(MODELS[name]), asked(tokenizer)
    expected = in_order(EncoderDecoderScorer(model, tokenizer), groups)
    scorer = EncoderDecoderScorer(model, tokenizer, batch_tokens=batch_tokens)
    check(in_order(scorer, groups), expected)
    check(in_order(scorer, groups[::-2]), expected[::-2])


@pytest.mark.parametrize("name", ["ours", "marian"])
def test_a_source_is_encoded_once_for_all_choices(name, monkeypatch, tokenizer):
    model, tokens = drawn(MODELS[name]), PairTokens(tokenizer)
    scorer, encoded = EncoderDecoderScorer(model, tokenizer), []
    encoder = model.get_encoder()
    forward = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda *a, **k: encoded.append(tuple(k["input_ids"].shape)) or forward(*a, **k)
    )
    groups = [[tokens(context, f" {word}") for word in WORDS[:4]] for context in ("Das Haus", "Das Haus")]
    list(scorer(groups))
    assert encoded == [(2, len(groups[0][0].source))]


def test_our_decoder_reads_the_encoders_output_without_a_copy_for_each_choice(monkeypatch, tokenizer):
    model, tokens = drawn(MODELS["ours"]), PairTokens(tokenizer)
    scorer, rows = EncoderDecoderScorer(model, tokenizer), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **k: rows.append(len(k["encoder_outputs"].last_hidden_state)) or forward(**k)
    )
    list(scorer([[tokens(context, f" {word}") for word in WORDS[:4]] for context in ("Das", "Das Haus", "ist")]))
    assert rows == [3]


def test_the_head_is_computed_where_it_is_read_alone(tokenizer):
    model, tokens = drawn(MODELS["ours"]), PairTokens(tokenizer)
    scorer, rows = EncoderDecoderScorer(model, tokenizer), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    group = [tokens("Das Haus", " ist klein."), tokens("Das Haus", " Buch")]
    list(scorer([group]))
    assert rows == [sum(len(pair.target) for pair in group)]


def test_a_model_that_cannot_be_scored_in_batches_is_scored_plainly_with_a_notice(monkeypatch, caplog, tokenizer):
    model, groups = drawn(MODELS["marian"]), asked(tokenizer, 4)
    expected = plainly(model, groups)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with caplog.at_level(logging.WARNING):
        scorer = EncoderDecoderScorer(model, tokenizer)
    assert not scorer.fast
    assert "one choice at a time" in caplog.text
    check(in_order(scorer, groups), expected)


def test_a_batch_that_does_not_fit_memory_is_halved_and_all_is_scored(monkeypatch, tokenizer):
    model, groups = drawn(MODELS["ours"]), asked(tokenizer)
    expected = plainly(model, groups)
    scorer = EncoderDecoderScorer(model, tokenizer, batch_tokens=2000)
    forward = scorer._forward

    def small(part: Any) -> Any:
        if len(part) > 2:
            raise torch.OutOfMemoryError("no")
        return forward(part)

    monkeypatch.setattr(scorer, "_forward", small)
    check(in_order(scorer, groups), expected)
    assert scorer.batch_tokens < 2000


def test_spaces_around_a_context_and_a_choice_are_not_tokens(tokenizer):
    tokens = PairTokens(tokenizer)
    assert tokens("Das Haus \n", " ist") == tokens("Das Haus", "ist")


def test_a_model_without_a_token_that_starts_a_target_is_refused(tokenizer):
    model = drawn(lambda: T5ForConditionalGeneration(T5Config(**NO_START)))
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        EncoderDecoderScorer(model, tokenizer)
