"""Pseudo-log-likelihoods of BERT's in batches against one forward pass a token, and which tokens are hidden."""

import logging
import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from vaswani_transformer import VaswaniBertConfig, VaswaniBertForMaskedLM, VaswaniBertTokenizer
from vaswani_transformer.evaluation.masked_scoring import (
    MaskedScorer,
    MaskedText,
    MaskedTokens,
    score_masked_plainly,
)

PIECES = ["the", "cat", "dog", "sat", "on", "mat", "run", "##ning", "##ner", "##s", "new", "##er", "a", "was", ".", "'"]
VOCABULARY = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES])}
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
MODELS = {
    "ours": lambda: VaswaniBertForMaskedLM(VaswaniBertConfig(**SIZES)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=len(VOCABULARY), dim=32, n_layers=2, n_heads=2, hidden_dim=48)
    ),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES, pad_token_id=0, bos_token_id=2, eos_token_id=3)),
}
WORDS = ("the", "cats", "dog", "sat", "on", "mat", "running", "runners", "newer", "a", "was", ".")


def drawn(make: Any) -> Any:
    """A model with dropout, far from its drawn weights, in training mode."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.train()


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniBertTokenizer:
    return VaswaniBertTokenizer(VOCABULARY)


def asked(tokens: MaskedTokens, count: int = 14) -> list[list[MaskedText]]:
    """Questions of 0 to 12 words, choices of 1 to 4, some with a context of their own."""
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    return [
        [tokens(context + rng.choice(("", "", " new")), " " + text(1, 4)) for _ in range(rng.randint(1, 4))]
        for context in (text(0, 12) for _ in range(count))
    ]


def plainly(model: Any, groups: list[list[MaskedText]]) -> list[Any]:
    model.eval()
    found = [score_masked_plainly(model, group, mask=VOCABULARY["[MASK]"]) for group in groups]
    model.train()
    return found


def in_order(scorer: MaskedScorer, groups: list[list[MaskedText]]) -> list[Any]:
    pairs = list(scorer(groups))
    assert len(pairs) == len(groups)
    found = dict(pairs)
    return [found[number] for number in range(len(groups))]


def check(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [x.logprob for x in one] == pytest.approx([x.logprob for x in other], abs=1e-4)
        assert [(x.tokens, x.greedy) for x in one] == [(x.tokens, x.greedy) for x in other]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pll", ["word_l2r", "original"])
def test_batched_scores_are_those_of_one_forward_pass_a_token(name, pll, tokenizer):
    model = drawn(MODELS[name])
    groups = asked(MaskedTokens(tokenizer, pll=pll))
    scorer = MaskedScorer(model, tokenizer, batch_tokens=150)
    assert scorer.fast
    check(in_order(scorer, groups), plainly(model, groups))
    assert model.training  # as it was


def test_a_plain_score_is_the_sum_of_the_log_softmax_at_the_masks(tokenizer):
    model = drawn(MODELS["bert"]).eval()
    v = VOCABULARY
    front, back = [v["[CLS]"], v["the"]], [v["."], v["[SEP]"]]
    run, ning, mask = v["run"], v["##ning"], v["[MASK]"]
    with torch.no_grad():
        both, first, second = (
            torch.log_softmax(model(torch.tensor([[*front, *word, *back]])).logits[0], -1)
            for word in ((mask, mask), (mask, ning), (run, mask))
        )
        stop = torch.log_softmax(model(torch.tensor([[*front, run, ning, mask, back[1]]])).logits[0], -1)[4, v["."]]
    expected = {
        "word_l2r": both[2, run] + second[3, ning] + stop,
        "original": first[2, run] + second[3, ning] + stop,
    }
    assert expected["word_l2r"].item() != pytest.approx(expected["original"].item(), abs=1e-3)
    for pll, value in expected.items():
        text = MaskedTokens(tokenizer, pll=pll)("the", " running.")
        found = score_masked_plainly(model, [text], mask=mask)[0]
        assert found.logprob == pytest.approx(value.item(), abs=1e-5)
        assert found.tokens == 3


def test_word_l2r_hides_the_rest_of_the_word_and_the_original_the_token_alone(tokenizer):
    # [CLS] the run ##ner ##s sat [SEP]
    text = MaskedTokens(tokenizer)("the", " runners sat")
    assert text.hidden == ((2, 3, 4), (3, 4), (4,), (5,))
    assert MaskedTokens(tokenizer, pll="original")("the", " runners sat").hidden == ((2,), (3,), (4,), (5,))


def test_a_punctuation_mark_is_a_word_of_its_own(tokenizer):
    assert MaskedTokens(tokenizer)("the", " cat's.").hidden == ((2,), (3,), (4,), (5,))


def test_special_tokens_stand_around_the_text_and_are_not_scored(tokenizer):
    text = MaskedTokens(tokenizer)("", "the cat")
    assert [tokenizer.convert_ids_to_tokens(i) for i in text.ids] == ["[CLS]", "the", "cat", "[SEP]"]
    assert text.hidden == ((1,), (2,))


def test_spaces_at_a_contexts_end_change_nothing(tokenizer):
    tokens = MaskedTokens(tokenizer)
    assert tokens("the cat ", "sat") == tokens("the cat", " sat")


def test_a_continuation_that_completes_the_contexts_word_leaves_its_beginning_seen(tokenizer):
    text = MaskedTokens(tokenizer)("the run", "ning sat")
    assert text.hidden == ((3,), (4,))


def test_a_tail_is_read_but_not_scored_and_its_part_of_the_word_is_hidden(tokenizer):
    names = ["[CLS]", "a", "new", "dog", "was", ".", "[SEP]"]
    text = MaskedTokens(tokenizer)("a", " new dog", " was.")
    assert [tokenizer.convert_ids_to_tokens(i) for i in text.ids] == names
    assert text.hidden == ((2,), (3,))
    assert MaskedTokens(tokenizer)("a", " run", "ner sat").hidden == ((2, 3),)


def test_labels_of_a_cloze_have_the_probabilities_at_its_mask(tokenizer):
    model, tokens = drawn(MODELS["ours"]).eval(), MaskedTokens(tokenizer)
    labels = ("new", "a", "dog")
    ids = tokenizer("the cat was [MASK] on the mat.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits_V = model(ids).logits[0, ids[0].tolist().index(VOCABULARY["[MASK]"])]
    expected = logits_V.log_softmax(-1)[[VOCABULARY[label] for label in labels]].tolist()
    found = dict(
        MaskedScorer(model, tokenizer)([[tokens("the cat was", f" {label}", " on the mat.") for label in labels]])
    )
    assert [score.logprob for score in found[0]] == pytest.approx(expected, abs=1e-5)


def test_words_of_a_byte_level_tokenizer_are_known_too():
    vocabulary = {token: n for n, token in enumerate(["<s>", "<pad>", "</s>", "<mask>", "a", "Ġa", "b", "Ġb", "Ġ"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("Ġ", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", pad_token="<pad>")
    text = MaskedTokens(made)("ab", " ab b")  # <s> a b Ġa b Ġb </s>
    assert text.ids == (0, 4, 6, 5, 6, 7, 2)
    assert text.hidden == ((3, 4), (4,), (5,))


@pytest.mark.parametrize("batch_tokens", [1, 60, 10000])
def test_scores_do_not_depend_on_the_batch_the_subset_or_the_order(batch_tokens, tokenizer):
    model = drawn(MODELS["ours"])
    groups = asked(MaskedTokens(tokenizer))
    expected = in_order(MaskedScorer(model, tokenizer), groups)
    scorer = MaskedScorer(model, tokenizer, batch_tokens=batch_tokens)
    check(in_order(scorer, groups), expected)
    check(in_order(scorer, groups[::-2]), expected[::-2])


def rows_read(model: Any, scorer: MaskedScorer, groups: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    forward = model.bert.forward
    monkeypatch.setattr(model.bert, "forward", lambda *a, **k: shapes.append(tuple(a[0].shape)) or forward(*a, **k))
    list(scorer(groups))
    return shapes


def test_all_labels_of_one_token_are_read_off_one_mask(monkeypatch, tokenizer):
    model, tokens = drawn(MODELS["ours"]), MaskedTokens(tokenizer)
    groups = [[tokens("the cat was", f" {label}") for label in ("new", "a", "dog", "mat")]]
    assert rows_read(model, MaskedScorer(model, tokenizer), groups, monkeypatch) == [(1, 6)]


def test_a_batch_has_no_more_tokens_than_asked_for(monkeypatch, tokenizer):
    model = drawn(MODELS["ours"])
    groups = asked(MaskedTokens(tokenizer), 20)
    shapes = rows_read(model, MaskedScorer(model, tokenizer, batch_tokens=90), groups, monkeypatch)
    assert max(rows * width for rows, width in shapes) <= 90
    assert max(rows for rows, _ in shapes) > 1


def test_the_head_is_computed_at_the_masks_alone(tokenizer):
    tokens = MaskedTokens(tokenizer)
    groups = [[tokens("the cat was on a mat", " running")], [tokens("a", " dog")]]
    for name in ("ours", "bert"):
        model = drawn(MODELS[name])
        scorer, rows = MaskedScorer(model, tokenizer), []
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda module, inputs, output, rows=rows: rows.append(output.shape[:-1].numel()))
        list(scorer(groups))
        assert rows == [3], name


def test_a_model_whose_head_cannot_be_narrowed_is_scored_plainly_with_a_notice(monkeypatch, caplog, tokenizer):
    model = drawn(MODELS["bert"])
    groups = asked(MaskedTokens(tokenizer), 3)
    expected = plainly(model, groups)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with caplog.at_level(logging.WARNING):
        scorer = MaskedScorer(model, tokenizer)
    assert not scorer.fast
    assert "one choice at a time" in caplog.text
    check(in_order(scorer, groups), expected)


def test_a_batch_that_does_not_fit_memory_is_halved_and_all_is_scored(monkeypatch, tokenizer):
    model = drawn(MODELS["ours"])
    groups = asked(MaskedTokens(tokenizer))
    expected = plainly(model, groups)
    scorer = MaskedScorer(model, tokenizer, batch_tokens=400)
    forward = scorer._forward

    def small(rows: Any) -> Any:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no")
        return forward(rows)

    monkeypatch.setattr(scorer, "_forward", small)
    check(in_order(scorer, groups), expected)
    assert scorer.batch_tokens < 400


def test_what_has_no_token_and_what_cannot_be_hidden_is_refused(tokenizer):
    with pytest.raises(ValueError, match="a continuation must have a token; got ' ' behind 'the cat'"):
        MaskedTokens(tokenizer)("the cat", " ")
    with pytest.raises(ValueError, match="pll must be one of word_l2r, original; got pll='l2r'"):
        MaskedTokens(tokenizer, pll="l2r")
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    with pytest.raises(ValueError, match="no mask token"):
        MaskedTokens(bare)
