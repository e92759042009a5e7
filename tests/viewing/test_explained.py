"""The numbers behind the walk through a model: those that it computed, and each stage follows from the one before."""

import base64
import inspect
import json
import math
import re
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForPreTraining,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from vaswani_transformer.models.attention import eager_attention
from vaswani_transformer.viewing.beam_tree import MOST_STEPS
from vaswani_transformer.viewing.explain_page import explain_page
from vaswani_transformer.viewing.explained import MOST_TOKENS, explain_model, load_explained_model
from vaswani_transformer.viewing.stages import code

from .test_attention_maps import WORDS, tokenizer

TEXT, TARGET = "a b c", "d e f"


def spread(kind: Any, config: Any) -> Any:
    """A model far from uniform attention, the same one each time."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def transformer(**more: Any) -> Any:
    sizes: dict[str, Any] = {
        "d_model": 16,
        "d_ff": 24,
        "num_heads": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
    }
    config = VaswaniTransformerConfig(vocab_size=len(WORDS), **(sizes | more))
    return spread(VaswaniTransformerForConditionalGeneration, config)


SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


def bert(kind: Any = VaswaniBertForPreTraining) -> Any:
    return spread(kind, VaswaniBertConfig(vocab_size=len(PIECES), **SMALL))


def bert_tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(PIECES)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    special = [(word, PIECES.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)  # pyright: ignore[reportAttributeAccessIssue]
    names: dict[str, Any] = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names)


def gpt(**more: Any) -> Any:
    return spread(VaswaniGPTForCausalLM, VaswaniGPTConfig(vocab_size=len(WORDS), **SMALL, **more))


def tokenizer_of(model: Any) -> PreTrainedTokenizerFast:
    is_bert = isinstance(model.config, VaswaniBertConfig)
    return bert_tokenizer() if is_bert else tokenizer(end=model.config.is_encoder_decoder)


def page_of(model: Any, text: str = TEXT, **more: Any) -> dict[str, Any]:
    """The data that the page holds, read back from it."""
    html = explain_page(explain_model(model, tokenizer_of(model), text, **more), model="toy")
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    return json.loads(found)


def stages_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["name"]: stage for part in data["parts"] for stage in part["stages"]}


def numbers(stage: dict[str, Any], place: int = 0) -> np.ndarray:
    """A matrix of a stage, as the page unpacks it."""
    views = [view for view in stage["views"] if view["kind"] == "matrix"]
    return np.frombuffer(base64.b64decode(views[place]["numbers"]), "<f4").reshape(views[place]["shape"])


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", ["encoder-self", "decoder-self", "decoder-cross"])
def test_attention_follows_from_the_pages_own_queries_keys_and_values(kind):
    stages = stages_of(page_of(transformer(), target=TARGET))
    query, key, value = (numbers(stages[f"{kind}-qkv"], place) for place in range(3))
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    np.testing.assert_allclose(numbers(stages[f"{kind}-scores"]), scores, atol=1e-5)
    if kind == "decoder-self":
        masked = numbers(stages[f"{kind}-mask"])
        hidden = np.triu(np.ones(scores.shape[1:], dtype=bool), 1)
        assert (masked[:, hidden] == -np.inf).all()
        np.testing.assert_allclose(masked[:, ~hidden], scores[:, ~hidden], atol=1e-5)
        scores = np.where(hidden, -np.inf, scores)
    weights = numbers(stages[f"{kind}-softmax"])
    np.testing.assert_allclose(weights, softmax(scores), atol=1e-5)
    result = numbers(stages[f"{kind}-z"])
    np.testing.assert_allclose(result, weights @ value, atol=1e-5)
    joined = numbers(stages[f"{kind}-out"])
    np.testing.assert_allclose(joined, result.transpose(1, 0, 2).reshape(joined.shape))


def test_embedding_norm_and_feed_forward_follow_from_the_pages_numbers():
    model = transformer()
    stages = stages_of(page_of(model))
    scaled = math.sqrt(16) * numbers(stages["encoder-embedding"]) + numbers(stages["encoder-positions"])
    np.testing.assert_allclose(numbers(stages["encoder-sum"]), scaled, atol=1e-5)
    total, normed, (gain, bias) = (numbers(stages["encoder-self-norm"], place) for place in range(3))
    np.testing.assert_allclose(total, scaled + numbers(stages["encoder-self-out"], 1), atol=1e-5)
    centred = total - total.mean(-1, keepdims=True)
    by_hand = gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.config.layer_norm_eps) + bias
    np.testing.assert_allclose(normed, by_hand, atol=1e-5)
    before, inner, out = (numbers(stages["encoder-ffn-feed-forward"], place) for place in range(3))
    np.testing.assert_array_equal(inner, np.maximum(before, 0))
    np.testing.assert_allclose(numbers(stages["encoder-ffn-norm"]), normed + out, atol=1e-5)


def test_means_and_deviations_are_those_of_the_numbers_shown():
    stage = stages_of(page_of(transformer()))["decoder-cross-norm"]
    (told,) = (view for view in stage["views"] if view["kind"] == "norm")
    for name, place in (("before", 0), ("after", 1)):
        found = numbers(stage, place)
        np.testing.assert_allclose(told[name], np.stack([found.mean(-1), found.std(-1)], -1), atol=1e-5)


def test_a_transformers_numbers_are_its_own_however_it_was_loaded():
    model = transformer().eval()
    assert model.config._attn_implementation == "sdpa"
    stages = stages_of(page_of(model, target=TARGET, layer=2))
    model.set_attn_implementation("eager")
    ids, labels = torch.tensor([[3, 4, 5, 1]]), torch.tensor([[6, 7, 8, 1]])
    with torch.no_grad():
        own = model(input_ids=ids, labels=labels, output_attentions=True, output_hidden_states=True)
    weights = {"encoder-self": own.encoder_attentions, "decoder-self": own.decoder_attentions}
    for kind, layers in (weights | {"decoder-cross": own.cross_attentions}).items():
        np.testing.assert_allclose(numbers(stages[f"{kind}-softmax"]), layers[1][0], atol=1e-6)
    np.testing.assert_allclose(numbers(stages["encoder-into"]), own.encoder_hidden_states[1][0], atol=1e-6)
    np.testing.assert_allclose(numbers(stages["decoder-ffn-norm"], 1), own.decoder_hidden_states[2][0], atol=1e-6)
    (view,) = stages["probabilities"]["views"]
    for place, row in zip(view["places"], own.logits[0], strict=True):
        shown = np.exp(np.array(place["logits"]) - place["log_sum"])
        np.testing.assert_allclose(shown, row.softmax(-1)[place["ids"]], rtol=1e-5)
    assert [place["chosen"] for place in view["places"]] == labels[0].tolist()


def test_the_target_that_is_left_out_is_the_models_own_translation():
    model = transformer().eval()
    data = page_of(model)
    best = model.generate(torch.tensor([[3, 4, 5, 1]]))[0, 1:].tolist()[:MOST_TOKENS]
    assert [place["chosen"] for place in stages_of(data)["probabilities"]["views"][0]["places"]] == best
    assert data["words"]["target"][0] == "‹start›"


def test_the_beams_tree_adds_up_to_the_scores_of_the_search():
    model = transformer(num_encoder_layers=1, num_decoder_layers=1).eval()
    (tree,) = stages_of(page_of(model))["beam"]["views"]
    level = {0: 0.0}
    for step in tree["steps"]:
        assert len(step) <= tree["beams"] == 4
        for node in step:
            assert node["total"] == pytest.approx(level[node["parent"]] + node["log_prob"], abs=1e-4)
        level = {number: node["total"] for number, node in enumerate(step)}
    assert any(found["ended"] for found in tree["finished"])
    for found in tree["finished"]:
        path = [step[number]["id"] for step, number in zip(tree["steps"], found["path"], strict=False)]
        assert path == found["ids"][: len(path)]
        assert len(path) == min(found["length"] - found["ended"], MOST_STEPS) or not found["ended"]
        total = model.score(torch.tensor([[3, 4, 5, 1]]), torch.tensor([found["ids"]])).item()
        assert found["total"] == pytest.approx(total, abs=1e-3)
        assert found["penalty"] == pytest.approx(((5 + found["length"]) / 6) ** 0.6)
        assert found["score"] == pytest.approx(total / found["penalty"], abs=1e-3)
    assert [found["score"] for found in tree["finished"]] == sorted(
        (f["score"] for f in tree["finished"]), reverse=True
    )


OTHERS = {
    "pre": {"norm_order": "pre", "final_norm": True},
    "learned": {"position_embedding": "learned", "tie_embeddings": "none"},
    "sizes": {"d_k": 4, "d_v": 6, "activation": "gelu"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_stage_of_other_settings_names_its_line_and_its_shape(name):
    data = page_of(transformer(**OTHERS[name]), layer=2)
    stages = stages_of(data)
    for stage in stages.values():
        assert stage["code"], stage["name"]
        assert stage["shapes"], stage["name"]
    if name == "pre":
        np.testing.assert_allclose(
            numbers(stages["decoder-cross-add"]),
            numbers(stages["decoder-cross-norm"]) + numbers(stages["decoder-cross-out"], 1),
            atol=1e-5,
        )
        np.testing.assert_allclose(numbers(stages["logits"]), numbers(stages["decoder-final-norm"], 1))


def own(model: Any, stages: dict[str, dict[str, Any]], **inputs: torch.Tensor) -> Any:
    """What the model itself returns, after its weights and states of the second layer are found in the stages."""
    model.eval().set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**inputs, output_attentions=True, output_hidden_states=True)
    np.testing.assert_allclose(numbers(stages["self-softmax"]), found.attentions[1][0], atol=1e-6)
    name = "encoder-into" if "encoder-into" in stages else "decoder-into"
    np.testing.assert_allclose(numbers(stages[name]), found.hidden_states[1][0], atol=1e-6)
    return found


def test_berts_numbers_are_its_own_with_two_texts():
    model = bert()
    assert model.config._attn_implementation == "sdpa"
    stages = stages_of(page_of(model, "a [MASK] c", target="d e", layer=2))
    ids, segments = torch.tensor([[2, 5, 4, 7, 3, 8, 9, 3]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    found = own(model, stages, input_ids=ids, token_type_ids=segments)
    added = sum(numbers(stages[name]) for name in ("words", "segments", "positions"))
    np.testing.assert_allclose(numbers(stages["sum"]), added, atol=1e-5)
    (view,) = stages["probabilities"]["views"]
    assert view["first"] == 2
    for place, row in zip(view["places"], found.prediction_logits[0], strict=True):
        shown = np.exp(np.array(place["logits"]) - place["log_sum"])
        np.testing.assert_allclose(shown, row.softmax(-1)[place["ids"]], rtol=1e-5)
    (answers,) = (view for view in stages["next-sentence"]["views"] if view["kind"] == "candidates")
    logits = dict(zip(answers["places"][0]["words"], answers["places"][0]["logits"], strict=True))
    expected = found.seq_relationship_logits[0].tolist()
    assert [logits["follows"], logits["does not follow"]] == pytest.approx(expected, abs=1e-5)


def test_a_text_without_a_mask_has_its_last_word_hidden_with_a_notice():
    data = page_of(bert(), "a b", target="c")
    assert data["words"]["source"] == ["[CLS]", "a", "[MASK]", "[SEP]", "c", "[SEP]"]
    assert data["notice"] == "The text has no [MASK]: “b” is hidden, for the model to tell."
    (view,) = stages_of(data)["probabilities"]["views"]
    assert view["places"][view["first"]]["chosen"] == PIECES.index("b")


def test_a_bert_with_the_masked_word_head_alone_is_not_asked_for_the_next_sentence():
    assert "next-sentence" not in stages_of(page_of(bert(VaswaniBertForMaskedLM)))


@pytest.mark.parametrize("order", ["pre", "post"])
def test_gpts_numbers_are_its_own(order):
    model = gpt(norm_order=order)
    stages = stages_of(page_of(model, layer=2))
    found = own(model, stages, input_ids=torch.tensor([[3, 4, 5]]))
    np.testing.assert_allclose(
        numbers(stages["sum"]), numbers(stages["words"]) + numbers(stages["positions"]), atol=1e-6
    )
    (view,) = stages["sampling"]["views"]
    logits = np.frombuffer(base64.b64decode(view["logits"]), "<f4")
    np.testing.assert_allclose(logits, found.logits[0, -1], atol=1e-6)
    assert view["ids"] == found.logits[0, -1].argsort(descending=True).tolist()
    assert [place["chosen"] for place in stages["probabilities"]["views"][0]["places"]] == [4, 5, -1]


def test_a_banded_layer_of_gpt_hides_what_is_too_far_back():
    bands = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 2}
    masked = numbers(stages_of(page_of(gpt(**bands), "a b c d"))["self-mask"])[0]
    assert (masked > -np.inf).astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("make", [bert, gpt, lambda: gpt(norm_order="post")], ids=["bert", "gpt", "gpt of 2018"])
def test_every_stage_of_bert_and_gpt_names_its_line_and_its_shape(make):
    for stage in stages_of(page_of(make(), layer=2)).values():
        assert stage["code"], stage["name"]
        assert stage["shapes"], stage["name"]


def test_a_target_for_gpt_is_refused():
    with pytest.raises(ValueError, match="put the target behind the text"):
        page_of(gpt(), target=TARGET)


def test_a_text_without_a_word_to_hide_is_refused():
    with pytest.raises(ValueError, match=r"a text must have a word that can be hidden, or a \[MASK\]"):
        page_of(bert(), "...")


def test_stages_have_names_of_their_own():
    names = [stage["name"] for part in page_of(transformer())["parts"] for stage in part["stages"]]
    assert len(set(names)) == len(names) > 30


def test_a_line_is_told_with_its_number_in_its_file():
    found = code(eager_attention, "torch.softmax")
    lines = inspect.getsource(inspect.getmodule(eager_attention)).splitlines()  # type: ignore[arg-type]
    assert found["file"] == "vaswani_transformer/models/attention.py"
    assert found["symbol"] == "eager_attention"
    assert lines[found["line"] - 1].strip() == found["text"]


def test_a_line_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="must name a line of its function; got 'no such line'"):
        code(eager_attention, "no such line")


def test_a_model_is_afterwards_as_it_was():
    model = transformer().train()
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    page_of(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_long_texts_are_cut_with_a_notice():
    data = page_of(transformer(), "a b " * 5000, target="c " * 40)
    assert data["notice"] == (
        f"The first {MOST_TOKENS} of 10001 tokens are shown. The first {MOST_TOKENS} of 41 tokens are shown."
    )
    assert len(data["words"]["source"]) == len(data["words"]["target"]) == MOST_TOKENS


def test_a_page_of_the_papers_base_sizes_is_under_6_mb():
    model = transformer(d_model=512, d_ff=2048, num_heads=8, num_encoder_layers=1, num_decoder_layers=1)
    data = page_of(model, "a b c d " * 20, target="a b c d " * 20)
    assert len(json.dumps(data)) < 6e6


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"layer": 3}, "the model has the layers 1 to 2; got layer=3"),
        ({"head": 5}, "the model has the heads 1 to 2; got head=5"),
    ],
)
def test_what_is_not_there_is_told_with_what_there_is(asked, told):
    with pytest.raises(ValueError, match=told):
        page_of(transformer(), **asked)


def test_a_text_without_a_token_is_refused():
    model = transformer()
    with pytest.raises(ValueError, match="a text must have a token; got ''"):
        explain_model(model, tokenizer(end=False), "")


def other() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2))


def test_a_model_of_another_family_is_refused_with_those_that_can_be_explained():
    with pytest.raises(
        ValueError, match=r"VaswaniTransformerForConditionalGeneration.*; got GPT2LMHeadModel: vaswani convert"
    ):
        explain_model(other(), tokenizer(end=False), TEXT)


def test_a_folder_of_another_family_is_refused_by_its_name(tmp_path):
    other().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"VaswaniTransformerForConditionalGeneration.*, GPT2LMHeadModel: vaswani convert"
    ):
        load_explained_model(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="MODEL must be a folder with a model and its tokenizer"):
        load_explained_model(tmp_path)


def test_a_saved_model_is_loaded_with_its_head(tmp_path):
    model = transformer()
    model.save_pretrained(tmp_path)
    tokenizer(end=True).save_pretrained(tmp_path)
    found, words = load_explained_model(tmp_path)
    assert explain_model(found, words, TEXT) == explain_model(model, tokenizer(end=True), TEXT)


@pytest.mark.parametrize(("make", "biased"), [(bert, True), (gpt, True), (transformer, False)])
def test_equations_have_biases_where_the_model_has_them(make, biased):
    stages = stages_of(page_of(make()))
    key = "encoder-self" if make is transformer else "self"
    assert ("K = x W^{K} + b^{K}" in stages[f"{key}-qkv"]["equation"]) is biased
    assert stages[f"{key}-out"]["equation"].endswith("W^{O} + b^{O}" if biased else "W^{O}")


def test_a_transformer_with_biases_shows_them_in_its_equations():
    stages = stages_of(page_of(transformer(attention_bias=True, lm_head_bias=True)))
    assert stages["decoder-cross-qkv"]["equation"].endswith("V = m W^{V} + b^{V}")
    assert stages["logits"]["equation"] == "logits = x W^{E⊤} + b"


def test_a_banded_layer_tells_how_far_back_it_looks():
    bands = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 2}
    told = [stages_of(page_of(gpt(**bands), layer=layer))["self-mask"]["about"] for layer in (1, 2)]
    assert ["looks back at the last 2 tokens only" in about for about in told] == [False, True]


def test_a_page_that_would_be_too_large_has_its_numbers_rounded_with_a_notice(monkeypatch):
    model = transformer()
    exact = page_of(model)
    largest = len(explain_page(explain_model(model, tokenizer_of(model), TEXT), model="toy")) - 1
    monkeypatch.setattr("vaswani_transformer.viewing.explain_page.LARGEST", largest)
    data = page_of(model)
    assert data["notice"].endswith("the numbers of its matrices are told to 4 digits.")
    assert exact["notice"] == ""
    view, plain = (stages_of(found)["encoder-self-qkv"]["views"][0] for found in (data, exact))
    found = rounded_numbers(view["numbers"]).reshape(plain["shape"])
    np.testing.assert_allclose(found, numbers(stages_of(exact)["encoder-self-qkv"]), rtol=2**-13)


def rounded_numbers(text: str) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(3, -1)
    whole = np.zeros((planes.shape[1], 4), np.uint8)
    whole[:, 3:0:-1] = planes.T
    return whole.view("<f4").ravel()


def test_a_page_of_the_papers_big_sizes_is_under_6_mb():
    sizes = {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
    found = explain_model(transformer(**sizes), tokenizer(end=True), "a b c d " * 20, target="a b c d " * 20)
    assert len(explain_page(found, model="big")) < 6e6


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_mask_is_found_in_every_precision(kind):
    stage = stages_of(page_of(gpt().to(kind)))["self-mask"]
    assert "3 of 9 scores are taken away" in stage["about"]
    assert (numbers(stage)[0] == -np.inf).tolist() == [[False, True, True], [False, False, True], [False] * 3]


@pytest.mark.parametrize(
    ("make", "place", "told"),
    [(gpt, "transformer.wte", "among its logits"), (transformer, "model.encoder.layers.0.fc1", "in its beam search")],
)
def test_a_model_that_diverged_is_refused(make, place, told):
    model = make()
    model.get_submodule(place).weight.data[3] = torch.nan
    with pytest.raises(ValueError, match=f"a model must compute numbers; got NaN {told}"):
        page_of(model)


def test_a_text_is_cut_to_the_positions_of_a_model_that_has_few():
    config = VaswaniGPTConfig(vocab_size=len(WORDS), **SMALL, max_position_embeddings=4)
    found = explain_model(spread(VaswaniGPTForCausalLM, config), tokenizer(end=False), "a b c d e f")
    assert found["notice"] == "The first 4 of 6 tokens are shown."
