"""The walk through a model as a page: one file, and what a person does with it in a browser."""

import re
from functools import cache
from typing import Any

import pytest
import torch

from vaswani_transformer.viewing.explain_page import explain_page
from vaswani_transformer.viewing.explained import explain_model

from .conftest import DESK, PHONE
from .test_attention_maps import tokenizer
from .test_attention_page import HOSTILE
from .test_explained import TARGET, TEXT, bert, bert_tokenizer, gpt, numbers, stages_of, transformer


@cache
def explained(text: str = TEXT, **more: Any) -> dict[str, Any]:
    model = transformer(num_encoder_layers=1, num_decoder_layers=1)
    return explain_model(model, tokenizer(end=True), text, target=TARGET, **more)


def page(**more: Any) -> str:
    return explain_page(explained() | more, model="toy")


def test_a_page_names_no_address_but_the_name_of_svg():
    assert set(re.findall(r"(?:https?:)?//[a-z][\w.]*\.[a-z]+", page())) == {"http://www.w3.org"}


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_page_is_no_wider_than_its_window(open_page, size):
    assert open_page(page(), size).evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_stages_stand_in_the_order_of_their_links(open_page):
    opened = open_page(page())
    found = [section.get_attribute("id") for section in opened.query_selector_all("section.stage")]
    assert found == list(stages_of(explained()))
    assert [link.get_attribute("href") for link in opened.query_selector_all("nav a")] == ["#" + name for name in found]


def test_another_head_is_shown_everywhere(open_page):
    opened = open_page(page())
    cells = "#decoder-cross-softmax td:not(:empty)"
    for head in (1, 2):
        opened.select_option("#head", str(head))
        shown = [float(cell.inner_text()) for cell in opened.query_selector_all(cells)]
        weights = numbers(stages_of(explained())["decoder-cross-softmax"])[head - 1].ravel()
        assert shown == pytest.approx(weights, abs=0.0051)
        assert f"Weights of head {head}" in opened.inner_text("#decoder-cross-softmax figcaption")


def test_the_head_that_is_asked_for_is_shown_first(open_page):
    assert open_page(page(head=2)).input_value("#head") == "2"


def test_arrow_keys_read_the_numbers_of_a_strip(open_page):
    opened = open_page(page())
    opened.focus("#encoder-embedding .field")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        opened.keyboard.press(key)
    x = numbers(stages_of(explained())["encoder-embedding"])[1, 2]
    told = opened.inner_text("#encoder-embedding .cell").replace("−", "-")
    assert told.startswith("b · number 3: ")
    assert float(told.rpartition(" ")[2]) == pytest.approx(float(x), rel=1e-5)


def test_a_finger_reads_the_number_under_it(open_page):
    opened = open_page(page(), PHONE)
    opened.click("#encoder-sum .field", position={"x": 3, "y": 3})
    assert opened.inner_text("#encoder-sum .cell").startswith("a · number 1: ")


def test_masked_scores_are_shown_as_minus_infinity(open_page):
    opened = open_page(page())
    shown = [cell.inner_text() for cell in opened.query_selector_all("#decoder-self-mask tbody tr:first-of-type td")]
    assert shown[1:] == ["−∞"] * 3
    assert shown[0] != "−∞"


def test_a_place_tells_its_likeliest_words(open_page):
    opened = open_page(page())
    opened.click("#probabilities .places button >> nth=1")
    place = stages_of(explained())["probabilities"]["views"][0]["places"][1]
    assert opened.inner_text("#probabilities .bars [role=row] >> nth=1").startswith(place["words"][0])
    assert opened.get_attribute("#probabilities .places button >> nth=1", "aria-pressed") == "true"


def test_the_tree_tells_the_words_that_lead_to_a_place(open_page):
    opened = open_page(page())
    tree = stages_of(explained())["beam"]["views"][0]
    opened.focus("#beam g[aria-label^='Step 2:']")
    node = tree["steps"][1][0]
    first = tree["steps"][0][node["parent"]]
    assert opened.inner_text("#beam .cell").startswith(f"Step 2: {first['word']} {node['word']} · log P = ")


def test_every_number_field_has_a_name_for_who_cannot_see_it(open_page):
    opened = open_page(page())
    fields = opened.query_selector_all(".field, table.numbers")
    assert len(fields) > 30
    assert all("arrow keys" in field.get_attribute("aria-label") for field in fields)


def read_bars(opened: Any, name: str) -> dict[str, float]:
    rows = [row.query_selector_all("span") for row in opened.query_selector_all(f"#{name} .bars > div")[1:]]
    return {row[0].inner_text(): float(row[2].inner_text().removesuffix(" %")) for row in rows}


def test_temperature_and_top_k_compute_the_probabilities_anew(open_page):
    model = gpt().eval()
    opened = open_page(explain_page(explain_model(model, tokenizer(end=False), TEXT), model="toy"))
    logits = model(input_ids=torch.tensor([[3, 4, 5]])).logits[0, -1].detach()
    words = tokenizer(end=False).convert_ids_to_tokens(list(range(len(logits))))
    everything = {word: 100 * x for word, x in zip(words, logits.softmax(-1).tolist(), strict=True)}
    assert read_bars(opened, "sampling") == pytest.approx(everything, abs=0.06)
    opened.fill("#sampling input >> nth=0", "0.5")
    opened.fill("#sampling input >> nth=1", "3")
    best = logits.topk(3)
    shares = 100 * (best.values / 0.5).softmax(-1)
    kept = {words[i]: x for i, x in zip(best.indices.tolist(), shares.tolist(), strict=True)}
    assert read_bars(opened, "sampling") == pytest.approx(dict.fromkeys(words, 0.0) | kept, abs=0.06)


def test_berts_page_opens_at_the_masked_word_and_asks_for_the_next_sentence(open_page):
    found = explain_model(bert(), bert_tokenizer(), "a [MASK] c", target="d")
    opened = open_page(explain_page(found, model="toy"), PHONE)
    assert opened.inner_text("#probabilities .places [aria-pressed=true]") == "[MASK]"
    assert set(read_bars(opened, "next-sentence")) == {"follows", "does not follow"}
    assert "text 2" in opened.inner_text("#tokens li >> nth=5")
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_hostile_text_is_shown_as_text_and_never_run(open_page):
    words = {"source": list(HOSTILE[:4]), "target": list(HOSTILE[2:6])}
    html = page(words=words, source="".join(HOSTILE), result=HOSTILE[0], notice=HOSTILE[1])
    assert "<script>alert" not in html
    opened = open_page(html)
    assert "<script>alert(1)</scrip" in opened.text_content("#tokens")
    assert HOSTILE[1] in opened.text_content("#notice")
    assert r"\u202egnirts" in opened.text_content("#sentence")
    assert opened.query_selector("img") is None


def test_the_dark_scheme_draws_in_its_own_colours(open_page):
    opened = open_page(page())
    picture = "document.querySelector('#encoder-sum canvas').toDataURL()"
    light = opened.evaluate(picture)
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function(f"light => {picture} !== light", arg=light)


def test_numbers_that_are_rounded_are_read_to_so_many_digits(open_page, monkeypatch):
    monkeypatch.setattr("vaswani_transformer.viewing.explain_page.LARGEST", 1)
    opened = open_page(page())
    opened.focus("#encoder-embedding .field")
    x = numbers(stages_of(explained())["encoder-embedding"])[0, 0]
    told = opened.inner_text("#encoder-embedding .cell").replace("−", "-").rpartition(" ")[2]
    assert float(told) == pytest.approx(float(x), rel=2e-3)
    assert len(told.lstrip("-0.")) <= 4
    assert "told to 3 digits" in opened.inner_text("#notice")


@pytest.mark.parametrize("width", [959, 960, 961])
def test_the_list_of_stages_is_never_folded_without_a_way_to_open_it(open_page, width):
    opened = open_page(page(), (width, 800))
    assert opened.is_visible("#links a >> nth=0") or opened.is_visible("nav summary")
    opened.set_viewport_size({"width": 390, "height": 800})
    opened.set_viewport_size({"width": 1200, "height": 800})
    opened.wait_for_selector("#links a >> nth=0", timeout=5000)


def test_the_tree_is_one_stop_of_the_tab_key_and_arrows_move_in_it(open_page):
    opened = open_page(page())
    assert len(opened.query_selector_all("#beam .tree [tabindex='0']")) == 1
    opened.focus("#beam .tree [tabindex='0']")
    for key in ("ArrowRight", "ArrowDown"):
        opened.keyboard.press(key)
    node = stages_of(explained())["beam"]["views"][0]["steps"][0][1]
    assert opened.inner_text("#beam .cell").startswith(f"Step 1: {node['word']} · log P = ")


def test_sliders_tell_a_screen_reader_what_they_mean(open_page):
    opened = open_page(page())
    opened.fill("#encoder-positions input", "2")
    assert opened.get_attribute("#encoder-positions input", "aria-valuetext").startswith("numbers 5 (blue) and 6")
    opened = open_page(explain_page(explain_model(gpt(), tokenizer(end=False), TEXT), model="toy"))
    assert opened.get_attribute("#sampling input >> nth=1", "aria-valuetext") == "all 11"


def test_the_word_that_stands_there_is_marked_for_who_cannot_see_colours(open_page):
    opened = open_page(page())
    place = stages_of(explained())["probabilities"]["views"][0]["places"][0]
    marked = opened.query_selector_all("#probabilities .bars [aria-current=true]")
    assert len(marked) == (place["chosen"] in place["ids"])


@pytest.mark.parametrize("word", ["W" * 20, "狐" * 20, "Dokumentation", "a"])
def test_words_stay_in_the_boxes_of_the_tree(open_page, word):
    stages = stages_of(explained())
    tree = stages["beam"]["views"][0]
    steps = [[node | {"word": word} for node in level] for level in tree["steps"]]
    stage = stages["beam"] | {"views": [tree | {"steps": steps}]}
    opened = open_page(page(parts=[{"title": "Search", "stages": [stage]}]))
    widths = opened.eval_on_selector_all(".tree text", "all => all.map((text) => text.getBBox().width)")
    assert max(widths) <= 96


def test_the_tab_key_reaches_the_tree(open_page):
    opened = open_page(page())
    opened.focus("#probabilities .places button >> nth=-1")
    stops = []
    for _ in range(4):
        opened.keyboard.press("Tab")
        stops.append(opened.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert "start" in stops
    opened.focus("#beam .tree [tabindex='0']")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Shift+Tab")
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Step 1:")
