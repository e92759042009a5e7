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


def test_attention_and_explain_show_the_transformer_that_ships_where_no_model_is_named(tmp_path):
    for verb in ("attention", "explain"):
        out = tmp_path / f"{verb}.html"
        assert main([verb, "--out", str(out), "The package contains files."]) == 0
        assert "demo-transformer" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["attention", "explain"])
def test_a_models_name_without_a_text_is_told(verb, tmp_path, capsys):
    assert main([verb, "demo-gpt", "--out", str(tmp_path / "page.html")]) == 2
    assert "TEXT must be what the model reads; got a model's name" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("words", [["attention", "demo-bert", "It was [MASK]."], ["compare", "It was ___ that"]])
def test_nothing_is_told_of_weights_that_a_page_does_not_need(words, tmp_path, capfd):
    assert main([*words, "--out", str(tmp_path / "page.html")]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["It was long. " * 1000, "a\0b"], ids=["10,000 letters", "a letter that no file has"])
def test_a_text_that_no_file_could_be_named_is_read_as_a_text(text, tmp_path):
    out = tmp_path / "page.html"
    assert main(["attention", "demo-gpt", text, "--out", str(out)]) == 0
    assert out.is_file()
