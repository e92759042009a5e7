"""The zero-shot heuristics against plain arithmetic, one text at a time, for our GPT and for transformers'."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation.zero_shot import acceptability, answers, best_threshold, sentiment, substitutions

TEXTS = ["the cat sat", "a very long film that was good", "music", "the trophy does not fit the case"]
SIZES: dict[str, Any] = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 48}


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    return VaswaniGPT2Tokenizer.train([*TEXTS, *TEXTS, "very positive negative"] * 2, vocab_size=300)


@pytest.fixture(params=["ours", "gpt2"])
def model(request, tokenizer) -> Any:
    """A decoder in training mode, with dropout, far from its drawn weights."""
    torch.manual_seed(0)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    made: Any = (
        VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=len(tokenizer), **SIZES))
        if request.param == "ours"
        else GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **SIZES, **ends))
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.train()


def log_probabilities(model: Any, ids: list[int], begin: int) -> list[float]:
    """Of the tokens from `begin` on, a forward pass for each."""
    model.eval()
    found = []
    with torch.no_grad():
        for place in range(begin, len(ids)):
            logits = model(torch.tensor([ids[:place]])).logits[0, -1]
            found.append(torch.log_softmax(logits, -1)[ids[place]].item())
    model.train()
    return found


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]


def behind(model: Any, tokenizer: Any, context: str, text: str) -> list[float]:
    return log_probabilities(model, ids_of(tokenizer, context + text), len(ids_of(tokenizer, context)))


def test_acceptability_is_the_mean_log_probability_of_a_sentences_tokens(model, tokenizer) -> None:
    expected = [np.mean(log_probabilities(model, ids_of(tokenizer, text), 1)) for text in TEXTS]
    for size in (1, 3, 16):
        assert acceptability(model, tokenizer, TEXTS, batch_size=size) == pytest.approx(expected, abs=1e-5)
    assert model.training


def test_sentiment_compares_two_words_behind_very(model, tokenizer) -> None:
    found = sentiment(model, tokenizer, TEXTS, batch_size=3)
    for text, scores in zip(TEXTS, found, strict=True):
        words = (" negative", " positive")
        expected = [np.sum(behind(model, tokenizer, f"{text} very", word)) for word in words]
        assert scores == pytest.approx(expected, abs=1e-5)


def test_an_answers_score_is_the_mean_of_its_tokens_behind_the_context(model, tokenizer) -> None:
    choices = [["a cat", "the film"], ["good", "was not good", "fit"], ["music", "a"], ["the case", "the trophy"]]
    found = answers(model, tokenizer, TEXTS, choices, batch_size=4)
    for text, several, scores in zip(TEXTS, choices, found, strict=True):
        expected = [np.mean(behind(model, tokenizer, text, f" {one}")) for one in several]
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_substitution_is_scored_on_what_follows_it(model, tokenizer) -> None:
    rows = [("the trophy does not fit as ", ["the trophy", "the case"], " was long"), ("", ["a", "the"], " cat sat")]
    found = substitutions(model, tokenizer, rows, batch_size=2)
    for (before, referents, after), scores in zip(rows, found, strict=True):
        expected = [np.mean(behind(model, tokenizer, before + referent, after)) for referent in referents]
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning(model, tokenizer) -> None:
    context = " ".join(TEXTS * 3)
    ids = ids_of(tokenizer, f"{context} good")
    assert len(ids) > 48
    begin = len(ids_of(tokenizer, context))
    expected = np.mean(log_probabilities(model, ids[-48:], begin - len(ids) + 48))
    assert answers(model, tokenizer, [context], [["good"]])[0] == pytest.approx([expected], abs=1e-5)


def test_a_token_that_spans_context_and_continuation_is_scored(model, tokenizer) -> None:
    found = substitutions(model, tokenizer, [("the mus", [""], "ic")])
    whole, context = ids_of(tokenizer, "the music"), ids_of(tokenizer, "the mus")
    begin = next(i for i, (one, other) in enumerate(zip(whole, context, strict=False)) if one != other)
    assert begin < len(context)
    assert found[0] == pytest.approx([np.mean(log_probabilities(model, whole, begin))], abs=1e-5)


def test_the_best_threshold_is_that_of_the_highest_correlation_of_all() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, of the extra [eval]")
    rng = np.random.default_rng(0)
    for _ in range(30):
        labels = rng.integers(0, 2, 20)
        scores = (rng.normal(size=20) + labels).round(1)
        correlations = {t: metrics.matthews_corrcoef(labels, scores >= t) for t in scores}
        found = best_threshold(scores.tolist(), labels.tolist())
        assert correlations[found] == pytest.approx(max(correlations.values()))


def test_a_threshold_parts_what_can_be_parted() -> None:
    assert best_threshold([-3.0, -1.0, -2.0, -5.0], [0, 1, 1, 0]) == -2.0
