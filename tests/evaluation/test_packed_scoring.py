"""Scores of packed rows against one forward pass a choice, for models of several kinds, and what happens without."""

import logging
import random
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.activations import NewGELUActivation

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation.packed_scoring import PackedScorer, block_mask, pack
from vaswani_transformer.evaluation.scoring import Continuation, Tokens, score_plainly

VOCABULARY = 90
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED: dict[str, Any] = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 128}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128)),
    "our gpt 1": lambda: VaswaniGPTForCausalLM(VaswaniGPTConfig(**SIZES, max_position_embeddings=128)),
    "our gpt 2": lambda: VaswaniGPTForCausalLM(
        VaswaniGPTConfig(**SIZES, max_position_embeddings=128, norm_order="pre")
    ),
    "rotary": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**GATED)),
    "grouped query": lambda: LlamaForCausalLM(LlamaConfig(**GATED, num_key_value_heads=2)),
}


def drawn(make: Any, **settings: Any) -> Any:
    """A model with dropout, far from its drawn weights, in training mode."""
    torch.manual_seed(0)
    model = make(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.train()


def groups(count: int, *, prefix: int, choices: int = 4, seed: int = 0) -> list[list[Continuation]]:
    """Questions of 1 to 20 tokens behind a prefix, choices of 1 to 6, some with a context of their own."""
    rng = random.Random(seed)
    start = [rng.randrange(VOCABULARY) for _ in range(prefix)]
    found = []
    for _ in range(count):
        question = [*start, *(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 20)))]
        group = []
        for _ in range(rng.randint(1, choices)):
            own = rng.choice(([], [], [rng.randrange(VOCABULARY)]))
            tail = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 6))]
            group.append(Continuation((*question, *own, *tail), len(question) + len(own)))
        found.append(group)
    return found


def plainly(model: Any, asked: list[list[Continuation]]) -> list[Any]:
    model.eval()
    found = [score_plainly(model, group) for group in asked]
    model.train()
    return found


def in_order(scorer: PackedScorer, asked: list[list[Continuation]]) -> list[Any]:
    found = dict(scorer(asked))
    assert sorted(found) == list(range(len(asked)))
    return [found[number] for number in range(len(asked))]


def check(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [x.logprob for x in one] == pytest.approx([x.logprob for x in other], abs=1e-4)
        assert [(x.tokens, x.greedy) for x in one] == [(x.tokens, x.greedy) for x in other]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prefix", [0, 40], ids=["fresh", "shared"])
def test_packed_scores_are_those_of_one_forward_pass_a_choice(name, prefix):
    model = drawn(MODELS[name])
    asked = groups(20, prefix=prefix)
    scorer = PackedScorer(model, batch_tokens=300)
    assert scorer.fast
    check(in_order(scorer, asked), plainly(model, asked))
    assert model.training  # as it was


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_either_attention_gives_the_same(implementation):
    model = drawn(MODELS["grouped query"])
    model.set_attn_implementation(implementation)
    asked = groups(6, prefix=30)
    check(in_order(PackedScorer(model), asked), plainly(model, asked))


def test_a_plain_score_is_the_sum_of_the_log_softmax():
    model = drawn(MODELS["gpt2"]).eval()
    ids, begin = (3, 1, 4, 1, 5), 2
    with torch.no_grad():
        table = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    expected = sum(table[place - 1, ids[place]].item() for place in range(begin, len(ids)))
    found = score_plainly(model, [Continuation(ids, begin)])[0]
    assert found.logprob == pytest.approx(expected, abs=1e-5)
    assert (found.tokens, found.greedy) == (3, False)


def test_the_likeliest_continuation_is_told_to_be_what_a_greedy_search_writes():
    model = drawn(MODELS["our gpt 2"]).eval()
    written = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)[0]
    found = PackedScorer(model)([[Continuation(tuple(written.tolist()), 3)]])
    assert next(iter(found))[1][0].greedy


@pytest.mark.parametrize("batch_tokens", [1, 50, 10000])
def test_scores_do_not_depend_on_the_batch_the_subset_or_the_order(batch_tokens):
    model = drawn(MODELS["gpt2"])
    asked = groups(12, prefix=20)
    expected = in_order(PackedScorer(model), asked)
    scorer = PackedScorer(model, batch_tokens=batch_tokens)
    check(in_order(scorer, asked), expected)
    check(in_order(scorer, asked[::-2]), expected[::-2])


def test_a_prefix_is_read_once_and_choices_share_their_question(monkeypatch):
    model = drawn(MODELS["gpt2"])
    scorer = PackedScorer(model)
    read: list[int] = []
    forward = model.transformer.forward
    monkeypatch.setattr(
        model.transformer,
        "forward",
        lambda *a, **k: read.append(a[0].numel()) or forward(*a, **k),
    )
    question = (*range(30), 40, 41)
    asked = [[Continuation((*question, number, choice, 60, 61), 33) for choice in range(50, 54)] for number in (1, 2)]
    list(scorer(asked))
    assert read == [30 + 2, 2 * (1 + 4 * 2)]  # the last token of each choice is foretold alone


def test_the_head_is_computed_where_it_is_read_alone(monkeypatch):
    model = drawn(MODELS["gpt2"])
    scorer, rows = PackedScorer(model), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    list(scorer([[Continuation((1, 2, 3, 4, 5, choice, 7), 5) for choice in range(3)]]))
    assert rows == [3 * 2]


def test_the_activation_that_transformers_writes_out_is_fused_while_a_model_is_scored_and_its_own_again(monkeypatch):
    model = drawn(MODELS["gpt2"])
    scorer = PackedScorer(model)
    calls = []
    written_out = NewGELUActivation.forward
    monkeypatch.setattr(NewGELUActivation, "forward", lambda self, x: calls.append(1) or written_out(self, x))
    list(scorer(groups(3, prefix=20)))
    assert not calls
    model(input_ids=torch.tensor([[1, 2]]))
    assert len(calls) == model.config.n_layer


def test_a_model_that_takes_no_mask_of_attention_is_scored_plainly_with_a_notice(caplog):
    model = drawn(lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)))
    with caplog.at_level(logging.WARNING):
        scorer = PackedScorer(model)
    assert not scorer.fast
    assert "one choice at a time" in caplog.text
    asked = groups(3, prefix=20)
    check(in_order(scorer, asked), plainly(model, asked))


def test_a_model_with_banded_layers_is_scored_plainly(caplog):
    config = VaswaniGPTConfig(
        **SIZES, max_position_embeddings=128, sliding_window=4, layer_types=["sliding_attention"] * 3
    )
    model = drawn(lambda: VaswaniGPTForCausalLM(config))
    asked = groups(3, prefix=20)
    with caplog.at_level(logging.WARNING):
        scorer = PackedScorer(model)
    assert "sliding" in caplog.text
    check(in_order(scorer, asked), plainly(model, asked))


def test_what_a_model_does_to_its_logits_is_done_to_the_few_too():
    """Gemma 2 caps its logits behind the head."""
    settings = {**GATED, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8}
    config = Gemma2Config(**settings, layer_types=["full_attention"] * 3, final_logit_softcapping=2.0)
    model = drawn(lambda: Gemma2ForCausalLM(config))
    asked = groups(3, prefix=20)
    scorer = PackedScorer(model)
    assert scorer.fast
    check(in_order(scorer, asked), plainly(model, asked))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_that_does_not_fit_memory_is_halved_and_all_is_scored(error, monkeypatch, caplog):
    model = drawn(MODELS["gpt2"])
    asked = groups(16, prefix=20)
    expected = plainly(model, asked)
    scorer, sizes = PackedScorer(model, batch_tokens=400), []
    forward = scorer._forward

    def small(rows: Any, cache: Any) -> Any:
        if len(rows) > 3:
            raise error
        sizes.append(len(rows))
        return forward(rows, cache)

    monkeypatch.setattr(scorer, "_forward", small)
    with caplog.at_level(logging.WARNING):
        check(in_order(scorer, asked), expected)
    assert scorer.batch_tokens < 400
    assert max(sizes) > 1
    assert "memory" in caplog.text


def test_an_error_that_is_not_of_memory_is_raised(monkeypatch):
    scorer = PackedScorer(drawn(MODELS["gpt2"]))
    monkeypatch.setattr(scorer.model, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        list(scorer(groups(4, prefix=0)))


def test_a_row_has_the_shared_tokens_once_and_positions_that_start_again():
    row = pack([Continuation((1, 2, 3, 4, 5, 9), 3), Continuation((1, 2, 3, 6, 7), 3)], 1)
    assert (row.ids, row.positions, row.segments) == ([2, 3, 4, 5, 6], [1, 2, 3, 4, 3], [0, 0, 1, 1, 2])
    assert (row.reads, row.wanted) == ([[1, 2, 3], [1, 4]], [(4, 5, 9), (6, 7)])


def test_a_choice_sees_the_shared_tokens_and_its_own():
    mask = block_mask(torch.tensor([[0, 1, 2, 2, -1]]), 1, torch.float32)[0, 0] == 0
    expected = [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 1]]
    assert mask.int().tolist() == expected


@pytest.fixture(scope="module")
def tokens() -> tuple[Tokens, VaswaniGPT2Tokenizer]:
    tokenizer = VaswaniGPT2Tokenizer.train(["the cat sat on the mat", "a dog"] * 9, vocab_size=300)
    return Tokens(drawn(MODELS["gpt2"]), tokenizer), tokenizer


def test_a_continuation_is_what_stands_behind_the_contexts_tokens(tokens):
    made, tokenizer = tokens
    found = made("the cat", " sat on")
    assert list(found.ids) == tokenizer("the cat sat on")["input_ids"]
    assert found.begin == len(tokenizer("the cat")["input_ids"])


def test_spaces_at_a_contexts_end_belong_to_the_continuation(tokens):
    assert tokens[0]("the cat ", "sat") == tokens[0]("the cat", " sat")


def test_an_empty_context_is_the_token_that_starts_a_text(tokens):
    made, tokenizer = tokens
    found = made("", "the cat")
    assert list(found.ids) == [tokenizer.bos_token_id, *tokenizer("the cat")["input_ids"]]
    assert found.begin == 1


def test_a_model_is_tried_once_for_each_way_it_computes(monkeypatch):
    model, tried = drawn(MODELS["gpt2"]), []
    monkeypatch.setattr(PackedScorer, "_trial", lambda self: tried.append(self.model.dtype) is None)
    assert PackedScorer(model).fast
    assert PackedScorer(model).fast
    PackedScorer(model.to(torch.bfloat16))
    assert tried == [torch.float32, torch.bfloat16]


def test_a_batch_without_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match="batch_tokens=0"):
        PackedScorer(drawn(MODELS["gpt2"]), batch_tokens=0)
