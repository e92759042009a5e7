"""The page of attention: one file, its numbers, and what a person does with it in a browser."""

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest

from vaswani_transformer.viewing.attention_maps import AttentionMap
from vaswani_transformer.viewing.attention_page import attention_page
from vaswani_transformer.viewing.page import STEPS, packed_weights

from .conftest import DESK, PHONE

WORDS = ("The", " cat", " eats", " its", " fish")
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "@CODE@",
    "\u202egnirts",
    "👩‍👩‍👧",
    "\x07\x1b[31m",
)


def drawn(layers: int = 2, heads: int = 3, rows: int = 5, columns: int = 5) -> np.ndarray:
    weights = np.random.default_rng(0).exponential(size=(layers, heads, rows, columns)).astype(np.float32) ** 3
    return weights / weights.sum(-1, keepdims=True)


def page(words: tuple[str, ...] = WORDS, **more: Any) -> str:
    found = AttentionMap(words, words, drawn(rows=len(words), columns=len(words)))
    cross = AttentionMap(("‹start›", "Die"), words, drawn(1, 2, 2, len(words)))
    return attention_page({"encoder": found, "cross": cross}, model="toy", **more)


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def unpacked(text: str) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(3, -1).astype(np.int64)
    return (planes[0] + 256 * planes[1] + 65536 * planes[2]) / STEPS


def test_the_page_holds_the_weights_to_within_a_millionth():
    packed = data_of(page())["maps"]["encoder"]["packed"]
    np.testing.assert_allclose(unpacked(packed), drawn().ravel(), atol=1e-6)


def test_zero_and_one_are_exact():
    np.testing.assert_array_equal(unpacked(packed_weights(np.array([0.0, 1.0]))), [0, 1])


def test_a_page_of_12_layers_12_heads_and_128_tokens_is_under_6_mb():
    words = tuple(f"word{number}" for number in range(128))
    html = attention_page({"encoder": AttentionMap(words, words, drawn(12, 12, 128, 128))}, model="base")
    assert len(html.encode()) < 6e6


def test_a_page_names_no_address_but_the_name_of_svg():
    assert set(re.findall(r"(?:https?:)?//[a-z][\w.]*\.[a-z]+", page())) == {"http://www.w3.org"}


def test_text_of_any_kind_stands_in_the_page_as_data():
    html = page(HOSTILE)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert data_of(html)["maps"]["encoder"]["looking"] == list(HOSTILE)


def test_hostile_text_is_shown_as_text_and_never_run(open_page):
    opened = open_page(page(HOSTILE))
    shown = opened.text_content("#lines")
    assert "<script>alert(1)</scrip" in shown
    assert r"\u202egnirts" in shown
    assert r"\u0007\u001b[31m" in shown
    assert opened.query_selector("img") is None


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_page_is_no_wider_than_its_window(open_page, size):
    assert open_page(page(), size).evaluate("document.documentElement.scrollWidth") <= size[0]


def test_a_layer_and_a_head_are_chosen_by_their_small_pictures(open_page):
    opened = open_page(page())
    before = opened.inner_html("#lines")
    opened.click("#all button[data-layer='1'][data-head='2']")
    assert (opened.input_value("#layer"), opened.input_value("#head")) == ("1", "2")
    assert opened.inner_text("#layer-title") == "The 3 heads of layer 2"
    assert opened.inner_html("#lines") != before
    assert len(opened.query_selector_all("[aria-pressed='true']")) == 2  # in the row and among all


def test_a_word_tells_what_it_looks_at_and_who_looks_at_it(open_page):
    opened = open_page(page(layer=2, head=3))
    opened.click("#lines g[aria-label=' its, what it looks at']")
    told = opened.inner_text("#told")
    weights = drawn()[1, 2]
    nearest = WORDS[int(weights[3].argmax())].strip()
    assert told.startswith("its looks at")
    assert f"{nearest} {100 * weights[3].max():.1f} %" in told
    assert "who looks at its" in told
    assert opened.input_value("#word") == "looking 3"


def test_keys_alone_choose_a_word_and_read_the_heat_map(open_page):
    opened = open_page(page(layer=1, head=1))
    opened.focus("#lines g.word >> nth=1")
    opened.keyboard.press("Enter")
    assert opened.inner_text("#told").startswith("cat looks at")
    opened.focus("#map")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        opened.keyboard.press(key)
    assert opened.inner_text("#cell") == f"cat → eats: {drawn()[0, 0, 1, 2]:.6f}"


def test_another_kind_is_shown_from_its_first_layer(open_page):
    opened = open_page(page(layer=2, head=3))
    opened.select_option("#kind", "cross")
    assert (opened.input_value("#layer"), opened.input_value("#head")) == ("0", "all")
    assert opened.inner_text("#layer-title") == "The 2 heads of layer 1"


def test_a_notice_is_shown(open_page):
    assert open_page(page(notice="The first 128 of 900 tokens are shown.")).is_visible("#notice")
    assert not open_page(page()).is_visible("#notice")


def test_the_dark_scheme_draws_in_its_own_colours(open_page):
    opened = open_page(page())
    picture = "document.querySelector('#map canvas').toDataURL()"
    light = opened.evaluate(picture)
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function(f"light => {picture} !== light", arg=light)


ACTIVE = "[document.activeElement.dataset.row, document.activeElement.dataset.column].join()"


def test_the_keyboard_stays_where_it_was_when_something_is_chosen(open_page):
    opened = open_page(page())
    for group, place in (("lines", "2,1"), ("heads", "0,1"), ("all", "1,2")):
        row, column = place.split(",")
        opened.focus(f"#{group} [data-row='{row}'][data-column='{column}']")
        opened.keyboard.press("Enter")
        assert opened.evaluate(ACTIVE) == place, group
        assert opened.get_attribute(f"#{group} [data-row='{row}'][data-column='{column}']", "aria-pressed") == "true"


def test_words_and_heads_are_one_stop_of_the_tab_key_each_and_arrows_move_in_them(open_page):
    opened = open_page(page())
    for group, last in (("lines", "4,1"), ("heads", "0,1"), ("all", "1,1")):
        assert len(opened.query_selector_all(f"#{group} [tabindex='0']")) == 1
        opened.focus(f"#{group} [tabindex='0']")
        for key in ("ArrowRight", *["ArrowDown"] * 9):
            opened.keyboard.press(key)
        assert opened.evaluate(ACTIVE) == last
        assert opened.get_attribute(f"#{group} [tabindex='0']", "data-column") == "1"


def test_between_columns_of_two_lengths_the_arrow_keys_find_the_last_word(open_page):
    opened = open_page(page(kind="cross"))
    opened.focus("#lines [data-row='4'][data-column='1']")
    opened.keyboard.press("ArrowLeft")
    assert opened.evaluate(ACTIVE) == "1,0"


def test_the_heat_map_tells_the_number_of_the_head_that_is_shown(open_page):
    opened = open_page(page(layer=1, head=1))
    opened.focus("#map")
    opened.keyboard.press("ArrowDown")
    opened.select_option("#head", label="2")
    assert opened.inner_text("#cell") == f"cat → The: {drawn()[0, 1, 1, 0]:.6f}"
    opened.select_option("#kind", "cross")
    assert opened.inner_text("#cell") == ""


def test_enter_on_the_heat_map_chooses_the_word_of_the_row(open_page):
    opened = open_page(page())
    opened.focus("#map")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    assert opened.inner_text("#told").startswith("cat looks at")


def test_a_word_that_is_seen_is_chosen_in_the_list_too(open_page):
    opened = open_page(page())
    opened.click("#lines g[aria-label=' its, who looks at it']")
    assert opened.input_value("#word") == "seen 3"
    opened.select_option("#word", "seen 1")
    assert opened.inner_text("#told").startswith("who looks at cat")


def test_the_colours_of_the_lines_and_what_has_none_are_told(open_page):
    opened = open_page(page())
    assert "Weights under 5 % have no line." in opened.inner_text("#hint")
    opened.select_option("#word", "looking 3")
    assert opened.inner_text("#hint").startswith("Blue: what its looks at. Orange: who looks at its.")
    assert "Weights under 0.5 % have no line." in opened.inner_text("#hint")


@pytest.mark.parametrize("word", ["狐" * 20, "WWWWWWWWWWWWWWWWWWWW", "👩‍👩‍👧" * 6, "ﷺ" * 10, "שלום עולם"])
def test_wide_words_stand_in_the_picture(open_page, word):
    opened = open_page(page((*WORDS[:4], word)))
    left, right = opened.evaluate(
        """() => { const boxes = [...document.querySelectorAll('#lines text')].map((text) => text.getBBox());
        const width = document.querySelector('#lines').width.baseVal.value;
        return [Math.min(...boxes.map((box) => box.x)),
                Math.max(...boxes.map((box) => box.x + box.width)) - width]; }"""
    )
    assert left >= 0
    assert right <= 0


def test_what_has_no_shape_is_named_and_no_letter_is_halved(open_page):
    words = ("a\u200bb", "\ud800", "\u00ad", "👩‍👧", "\u200d", "😀" * 30)
    shown = open_page(page(words)).eval_on_selector_all(
        "#lines [data-column='0']", "all => all.map((x) => x.textContent)"
    )
    assert shown == [r"a\u200bb", r"\ud800", r"\u00ad", "👩‍👧", r"\u200d", "😀" * 23 + "…"]


def test_a_screen_reader_finds_buttons_and_what_takes_keys(open_page):
    opened = open_page(page(layer=2, head=3))
    assert opened.get_attribute("#lines", "role") == "group"  # the children of an img are not told
    assert opened.get_attribute("#map", "role") == "application"
    assert "encoder attention, layer 2, head 3" in opened.get_attribute("#lines", "aria-label")
    assert opened.get_by_role("button", name="eats, who looks at it").count() == 1
    assert opened.get_by_role("group", name="All layers").get_by_role("button", name="layer 2, head 3").count() == 1


def test_each_row_of_all_layers_has_its_number(open_page):
    assert open_page(page()).eval_on_selector_all("#all .layer", "all => all.map((x) => x.innerText)") == ["1", "2"]


def test_words_that_are_read_to_the_left_do_not_turn_the_arrow_between_them(open_page):
    opened = open_page(page(("שלום", "עולם")))
    opened.focus("#map")
    opened.keyboard.press("ArrowDown")
    assert opened.inner_text("#cell").startswith("\u2068עולם\u2069 → \u2068שלום\u2069: ")


def test_a_models_name_and_a_notice_are_named_like_words(open_page):
    html = attention_page({"encoder": AttentionMap(WORDS, WORDS, drawn())}, model="a\u202eb\ud800", notice="\u202ex")
    opened = open_page(html)
    assert opened.inner_text("#title") == opened.title() == r"Attention of a\u202eb\ud800"
    assert opened.inner_text("#notice") == r"\u202ex"


def test_the_frame_of_what_has_the_keyboard_is_not_cut_off(open_page):
    opened = open_page(page())
    opened.focus("#map")
    frame, room = opened.evaluate(
        """() => { const map = getComputedStyle(document.querySelector('#map'));
        const around = getComputedStyle(document.querySelector('#map').parentElement);
        return [parseFloat(map.outlineWidth) + parseFloat(map.outlineOffset), parseFloat(around.paddingLeft)]; }"""
    )
    assert 0 < frame <= room


def test_the_tab_key_goes_through_the_page_in_few_stops(open_page):
    opened = open_page(page(layer=2, head=3))
    stops = []
    for _ in range(8):
        opened.keyboard.press("Tab")
        stops.append(opened.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    pressed = ["layer 2, head 3"] * 2
    assert stops == ["kind", "layer", "head", "word", "The, what it looks at", "map", *pressed]
