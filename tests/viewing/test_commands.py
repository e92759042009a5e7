"""`vaswani explain` and `vaswani compare`, with the models that ship."""

import re

import pytest

from vaswani_cli import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["explain", "demo-transformer", "The package contains files.", "--target", "Das Paket."], "Beam search"),
        (["explain", "demo-bert", "It was a [MASK] of time.", "--target", "He came.", "--layer", "2"], "Next sentence"),
        (["explain", "demo-gpt", "It was a pity that", "--head", "3"], "Temperature and top-k"),
        (["compare", "It was a ___ that he had not come."], "decoder: reads only what stands before the blank"),
        (["compare", "It was a ___ that", "demo-gpt"], "demo-gpt"),
    ],
    ids=["transformer", "bert", "gpt", "compare", "compare one"],
)
def test_a_page_is_written_and_its_name_printed(words, told, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([*words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    html = out.read_text(encoding="utf-8")
    assert told in html
    assert str(tmp_path) not in html
    assert not re.search(r"/(home|root|tmp|work)/", html)


@pytest.mark.parametrize(
    "words", [["explain", "demo-gpt", "It was"], ["compare", "It was ___"]], ids=["explain", "compare"]
)
def test_what_is_no_page_is_refused_before_anything_is_loaded(words, capsys):
    assert main([*words, "--out", "picture.png"]) == 2
    assert "--out must be a page, .html; got --out picture.png" in capsys.readouterr().err


def test_a_layer_that_is_not_there_is_told_in_one_line(tmp_path, capsys):
    assert main(["explain", "demo-gpt", "It was", "--layer", "9", "--out", str(tmp_path / "page.html")]) == 2
    assert "the model has the layers 1 to 4; got layer=9" in capsys.readouterr().err
