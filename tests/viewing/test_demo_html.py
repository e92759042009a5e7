"""The demo's answers as HTML: texts stay texts, and the numbers are there."""

from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from vaswani_transformer.evaluation.translation import Hypothesis
from vaswani_transformer.viewing import demo_html
from vaswani_transformer.viewing.attention_maps import AttentionMap
from vaswani_transformer.viewing.demo import Candidate, Refused, Step, Translated, Written

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'${alert(3)}{{x}}"


class Seen(HTMLParser):
    """Tags and text of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.frames: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.frames += [value for name, value in attrs if name == "srcdoc" and value]

    def handle_data(self, data):
        self.text += data


def step(word: str, probability: float = 0.25, drawn: float | None = None) -> Step:
    candidates = (Candidate("the", 0.5, drawn), Candidate("a", 0.25, drawn))
    return Step(7, Candidate(word, probability, drawn), candidates)


def translated(text: str) -> Translated:
    cross = AttentionMap(("‹start›", text), ("x", text), np.full((2, 1, 2, 2), 0.5, np.float32))
    return Translated((Hypothesis(text, -1.5), Hypothesis("other", -2.0)), {"cross": cross}, "")


ANSWERS = {
    "translation": lambda text: demo_html.translation(translated(text), model=text),
    "blanks": lambda text: demo_html.blanks(text, [[Candidate(text, 0.5)]]),
    "continuation": lambda text: demo_html.continuation(text, Written(text, (step(text),))),
    "answers": lambda text: demo_html.answers({"zero-shot": (text, Written(text, ())), "few": (text, Refused(text))}),
    "refusal": demo_html.refusal,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_hostile_text_is_text_in_every_answer(name):
    html = ANSWERS[name](HOSTILE)
    seen = Seen(html)
    assert not seen.tags & {"script", "img"}
    assert HOSTILE in seen.text
    assert not set("${}`") & set(html)  # nothing that a template would fill


def test_the_frame_holds_the_page_of_the_attention_cross_attention_and_last_layer_first():
    (page,) = Seen(demo_html.translation(translated("Wort"), model="toy")).frames
    assert '"start": {"kind": "cross", "layer": 1, "head": "all"}' in page
    assert page.startswith("<!doctype html>")


def test_control_characters_are_named_and_long_words_cut():
    assert unescape(demo_html.shown("a\n\u202eb")) == r"<bdi>a\u000a\u202eb</bdi>"
    assert demo_html.shown("x" * 99) == f"<bdi>{'x' * 23}…</bdi>"


def test_a_half_of_a_character_is_shown_and_no_error():
    assert unescape(demo_html.shown("\ud83d")) == r"<bdi>\ud83d</bdi>"


@pytest.mark.parametrize(("word", "rows"), [("a", 2), ("rare", 3)])
def test_the_chosen_word_is_marked_and_stands_behind_the_likeliest_where_it_is_none_of_them(word, rows):
    html = demo_html.continuation("", Written(word, (step(word),)))
    assert html.count("<tr class=") == rows
    assert html.count('<tr class="chosen">') == 1
    assert f"<summary>1. <bdi>{word}</bdi> 25.00 %</summary>" in html


def test_what_a_token_is_drawn_with_is_shown_where_tokens_are_drawn():
    assert "drawn with" not in demo_html.continuation("", Written("a", (step("a"),)))
    html = demo_html.continuation("", Written("a", (step("a", drawn=0.75),)))
    assert "drawn with" in html
    assert "75.00 %" in html
