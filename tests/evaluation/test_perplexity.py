"""Perplexity against windows slid one at a time, against plain chunks, and against counts by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation.perplexity import Perplexity, perplexity, score_tokens, wikitext_detokenized


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 300}
    made = VaswaniGPTForCausalLM(VaswaniGPTConfig(**sizes, max_position_embeddings=8, norm_order="pre"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.train()  # left as it was found, dropout off meanwhile


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    return VaswaniGPT2Tokenizer.train(["a hat, a dog and a hat"], vocab_size=257)


def rows(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 300, length) for length in lengths]


def slid(model: Any, row: np.ndarray, window: int, stride: int) -> list[float]:
    """The nats of each token but the first, each window alone in its batch."""
    found: list[float] = []
    model.eval()
    start = 0
    while len(found) < len(row) - 1:
        ids = torch.tensor(row[start : start + window + 1]).unsqueeze(0)
        with torch.no_grad():
            chances = model(ids[:, :-1]).logits[0].log_softmax(-1)
        nats = -chances.gather(1, ids[0, 1:, None])[:, 0]
        found += nats[len(found) - start :].tolist()
        start += stride
    model.train()
    return found


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 3), (6, 1), (8, 8), (5, 5), (1, 1)])
def test_it_is_that_of_windows_slid_one_at_a_time(model, window, stride):
    texts = rows(30, 1, 2, 8, 9, 10, 17, 5)
    expected = [nats for row in texts for nats in slid(model, row, window, stride)]
    nats, tokens = score_tokens(model, iter(texts), window=window, stride=stride, batch_tokens=20)
    assert tokens == len(expected) == sum(len(row) - 1 for row in texts)
    assert nats == pytest.approx(sum(expected), rel=1e-5)
    assert model.training


def test_with_a_stride_of_the_context_it_is_the_loss_of_plain_chunks(model):
    (row,) = rows(33)
    ids, following = torch.tensor(row[:-1]).view(4, 8), torch.tensor(row[1:]).view(4, 8)
    with torch.no_grad():
        expected = model.eval()(ids, shift_labels=following).loss.item()
    nats, tokens = score_tokens(model.train(), [row], stride=8)
    assert nats / tokens == pytest.approx(expected, rel=1e-5)


def test_by_default_windows_are_the_models_context_and_overlap_by_half(model):
    assert score_tokens(model, rows(40)) == score_tokens(model, rows(40), window=8, stride=4)


@pytest.mark.parametrize("batch_tokens", [1, 16, 10_000])
def test_the_batch_changes_nothing(model, batch_tokens):
    expected, tokens = score_tokens(model, rows(30, 3, 12))
    assert score_tokens(model, rows(30, 3, 12), batch_tokens=batch_tokens) == (pytest.approx(expected), tokens)


def test_texts_are_apart_and_each_stands_behind_the_token_that_starts_one(model, tokenizer):
    texts = ["a hat", "a dog and a hat, and a dog"]
    found = perplexity(model, tokenizer, texts)
    alone = [perplexity(model, tokenizer, [text]) for text in texts]
    assert found.nats == pytest.approx(sum(one.nats for one in alone))
    assert found.documents == 2
    ids = np.array([tokenizer.eos_token_id, *tokenizer("a hat")["input_ids"]])
    assert alone[0].nats == pytest.approx(sum(slid(model, ids, 8, 4)), rel=1e-5)
    assert alone[0].tokens == 5


def test_words_and_bytes_are_those_of_the_text(model, tokenizer):
    found = perplexity(model, tokenizer, ["Zwölf  Hüte,\n\nzwölf Hunde.\n", "a hat"])
    assert (found.words, found.bytes) == (4 + 2, 30 + 5)  # each umlaut takes two bytes


def test_every_figure_follows_from_the_nats_and_the_counts():
    found = Perplexity(nats=12 * math.log(2), tokens=4, words=3, bytes=6, documents=1, window=8, stride=4)
    assert found.nats_per_token == pytest.approx(3 * math.log(2))
    assert found.per_token == pytest.approx(8)
    assert found.per_word == pytest.approx(16)
    assert found.bits_per_byte == pytest.approx(2)
    assert found.as_dict()["per_word"] == found.per_word


def test_a_model_that_is_certainly_wrong_has_no_finite_perplexity_of_a_word():
    assert Perplexity(800.0, 1, 1, 1, 1, 8, 4).per_word == math.inf


@pytest.mark.parametrize(
    ("page", "written"),
    [
        (" = Robert = \n \n Boulter , an actor . \n", " = Robert =\n\nBoulter, an actor.\n"),
        ("a 1 @,@ 500 @-@ metre run in 3 @.@ 5 s", "a 1,500-metre run in 3.5 s"),
        ("( see below ) [ 4 ] { x }", "(see below) [4] {x}"),
        ('he said " never again " ; why ? so : ! ', 'he said "never again"; why? so:! '),
        ("the dogs ' hats", "the dogs' hats"),
        ("the dogs ' hats and Tom 's", "the dogs'hats and Tom's"),  # two apostrophes are taken for quotes
        (" = = Early life = = \n", " == Early life ==\n"),
        ("N at 5 ° N .", "N at 5°N ."),
    ],
)
def test_wikitext_is_detokenised_by_the_rules_of_its_convention(page, written):
    assert wikitext_detokenized(page) == written


def test_detokenised_words_and_bytes_are_counted_before(model, tokenizer):
    page = "a hat , a dog ( and a hat ) . \n"
    found = perplexity(model, tokenizer, [page], detokenize="wikitext")
    assert (found.words, found.bytes) == (11, len(page))
    assert found.tokens == len(tokenizer("a hat, a dog (and a hat).\n")["input_ids"])


def test_a_model_of_transformers_is_scored_as_well(model, tokenizer):
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 300}
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, num_hidden_layers=1, max_position_embeddings=8)
    ).eval()
    nats, _ = score_tokens(peer, rows(20))
    assert nats == pytest.approx(sum(slid(peer, rows(20)[0], 8, 4)), rel=1e-5)
