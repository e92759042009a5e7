"""BERT and GPT at the same blank: what each may see, what each puts there, and the page that shows it."""

import base64
from typing import Any

import numpy as np
import pytest
import torch

from vaswani_transformer.viewing.compare_page import compare_page
from vaswani_transformer.viewing.compared import compare_models
from vaswani_transformer.viewing.explained import MOST_TOKENS

from .conftest import DESK, PHONE
from .test_attention_maps import tokenizer
from .test_attention_page import HOSTILE
from .test_explained import PIECES, WORDS, bert, bert_tokenizer, gpt, transformer

TEXT = "a b ___ d e"


def pair() -> list[tuple[str, Any, Any]]:
    return [("some-bert", bert().eval(), bert_tokenizer()), ("some-gpt", gpt().eval(), tokenizer(end=False))]


def compared(text: str = TEXT) -> dict[str, Any]:
    return compare_models(pair(), text)


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_bert_sees_both_sides_of_the_blank_and_gpt_the_left():
    both, left = compared()["models"]
    assert both["words"] == ("[CLS]", "a", "b", "[MASK]", "d", "e", "[SEP]")
    assert left["words"] == ("a", "b")
    assert (both["unread"], left["unread"]) == ("", " d e")
    (one,), (other,) = both["masks"], left["masks"]
    assert (numbers(one["seen"]).tolist(), one["layers"]) == ([1] * 49, [1, 2])
    assert (numbers(other["seen"]).tolist(), other["layers"]) == ([1, 0, 1, 1], [1, 2])


def test_the_blank_is_filled_with_the_models_own_probabilities():
    found = compared()["models"]
    ids = torch.tensor([[2, 5, 6, 4, 8, 9, 3]])
    logits = [
        pair()[0][1](input_ids=ids).prediction_logits[0, 3],
        pair()[1][1](input_ids=torch.tensor([[3, 4]])).logits[0, 1],
    ]
    for model, row, vocabulary in zip(found, logits, (PIECES, WORDS), strict=True):
        filled = model["filled"]
        shown = np.exp(np.array(filled["logits"]) - filled["log_sum"])
        np.testing.assert_allclose(shown, row.detach().softmax(-1)[filled["ids"]], rtol=1e-4)
        assert [vocabulary[number] for number in filled["ids"]] == filled["words"]


def test_what_the_blank_looks_at_is_the_models_own_attention():
    model = pair()[0][1]
    found = compared()["models"][0]
    model.set_attn_implementation("eager")
    own = model(input_ids=torch.tensor([[2, 5, 6, 4, 8, 9, 3]]), output_attentions=True).attentions
    expected = torch.cat(own)[:, :, found["place"]].detach()
    np.testing.assert_allclose(numbers(found["weights"]).reshape(found["shape"]), expected, atol=1e-6)


def test_mask_is_a_blank_for_gpt_too():
    assert compared("a b [MASK] d e")["models"] == compared()["models"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a b c", "a text must have one blank, ___ or .MASK.; got 0 in 'a b c'"),
        ("a ___ b ___", "got 2 in"),
        ("a ___ b [MASK]", "got 2 in"),
        ("___ a", "VaswaniGPTForCausalLM must have something before its blank"),
        (
            "a " * 40 + "___",
            f"the blank must stand among the first {MOST_TOKENS} tokens; some-bert finds it behind them",
        ),
    ],
)
def test_a_text_that_cannot_be_filled_is_refused_with_the_reason(text, told):
    with pytest.raises(ValueError, match=told):
        compared(text)


def test_what_stands_far_behind_the_blank_is_cut_with_a_notice():
    found = compared("a ___ " + "b " * 5000)["models"]
    assert [model["notice"] for model in found] == [f"The first {MOST_TOKENS} of 5004 tokens are shown.", ""]


def test_a_model_that_fills_no_blank_is_refused():
    with pytest.raises(ValueError, match="got VaswaniTransformerForConditionalGeneration for some"):
        compare_models([("some", transformer(), tokenizer(end=True))], TEXT)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_page_is_no_wider_than_its_window(open_page, size):
    assert open_page(compare_page(compared()), size).evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_page_shows_each_model_with_its_words_and_what_it_does_not_read(open_page):
    opened = open_page(compare_page(compared()))
    assert opened.inner_text("#sentence") == "a b ___ d e"
    left, right = opened.query_selector_all("#models section")
    for section, model in zip((left, right), compared()["models"], strict=True):
        assert section.query_selector("h2").inner_text() == model["name"]
        assert model["filled"]["words"][0] in section.query_selector(".bars").inner_text()
    assert left.query_selector("s") is None
    assert right.query_selector("s").inner_text() == "d e"


def test_a_layer_and_a_head_are_chosen(open_page):
    opened = open_page(compare_page(compared()))
    found = compared()["models"][0]
    weights = 100 * numbers(found["weights"]).reshape(found["shape"])
    read = "els => els.map((el) => parseFloat(el.innerText))"
    chips = "#models section:first-child .reading li span"
    assert opened.eval_on_selector_all(chips, read) == pytest.approx(weights[1].mean(0), abs=0.06)
    opened.select_option("#models section:first-child select >> nth=0", label="1")
    opened.select_option("#models section:first-child select >> nth=1", label="2")
    assert opened.eval_on_selector_all(chips, read) == pytest.approx(weights[0, 1], abs=0.06)


def test_arrow_keys_read_the_mask(open_page):
    opened = open_page(compare_page(compared()))
    opened.focus("#models section:nth-child(2) .field")
    assert opened.inner_text("#models section:nth-child(2) .cell") == "a may look at a"
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text("#models section:nth-child(2) .cell") == "a must not look at b"


def test_hostile_text_is_shown_as_text_and_never_run(open_page):
    found = compared()
    found["models"][0] |= {"words": (*HOSTILE, "x"), "name": HOSTILE[0], "notice": HOSTILE[1]}
    opened = open_page(compare_page(found | {"before": "".join(HOSTILE), "behind": HOSTILE[0]}))
    assert "<script>alert(1)</scrip" in opened.text_content("#models")
    assert r"\u202egnirts" in opened.text_content("#sentence")
    assert opened.query_selector("img") is None


def test_layers_that_look_back_differently_have_masks_of_their_own(open_page):
    model = gpt(layer_types=["full_attention", "sliding_attention"], sliding_window=2).eval()
    found = compare_models([("banded", model, tokenizer(end=False))], "a b c ___")
    masks = found["models"][0]["masks"]
    assert [mask["layers"] for mask in masks] == [[1], [2]]
    assert [int(numbers(mask["seen"]).sum()) for mask in masks] == [6, 5]
    captions = open_page(compare_page(found)).eval_on_selector_all("figcaption", "all => all.map((x) => x.innerText)")
    assert sum(caption.startswith("The mask of layer") for caption in captions) == 2


def test_a_blank_may_be_longer():
    assert compared("a b _____ d e")["models"] == compared()["models"]


def test_what_gpt_does_not_read_is_cut_with_a_notice(open_page):
    opened = open_page(compare_page(compared("a ___ " + "b " * 500)))
    assert opened.inner_text("#models .unread span") == "not read, nor 801 letters more"


def test_more_models_and_two_of_a_kind_stand_beside_each_other(open_page):
    models = [*pair(), ("another-gpt", gpt().eval(), tokenizer(end=False))]
    html = compare_page(compare_models(models, TEXT))
    for size in (DESK, PHONE):
        opened = open_page(html, size)
        assert opened.eval_on_selector_all("#models h2", "all => all.map((x) => x.innerText)") == [
            "some-bert",
            "some-gpt",
            "another-gpt",
        ]
        assert opened.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize(("count", "told"), [(1, "by a"), (2, "by a and b"), (3, "by a, b and c")])
def test_the_title_names_the_models(count, told):
    models = [{"name": name} for name in "abc"[:count]]
    assert f"<title>The same blank, filled {told}</title>" in compare_page({"models": models})


def test_the_mask_of_a_model_in_half_precision_is_drawn():
    found = compare_models([("half", gpt().half().eval(), tokenizer(end=False))], TEXT)
    assert numbers(found["models"][0]["masks"][0]["seen"]).tolist() == [1, 0, 1, 1]
