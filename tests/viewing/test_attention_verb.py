"""`vaswani attention` from a folder to a file."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from vaswani_cli import main
from vaswani_transformer import VaswaniBertConfig, VaswaniBertForPreTraining, VaswaniBertTokenizer
from vaswani_transformer.viewing.attention_maps import AttentionMap, attention_maps
from vaswani_transformer.viewing.attention_picture import draw_attention


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bert")
    tokenizer = VaswaniBertTokenizer.train(["the cat eats its fish"] * 4, vocab_size=40)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    VaswaniBertForPreTraining(VaswaniBertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize("how", [[], ["--layer", "2"], ["--layer", "2", "--head", "1"], ["--head", "all"]])
@pytest.mark.parametrize("name", ["page.html", "picture.png", "picture.svg"])
def test_a_page_or_a_picture_is_written_and_its_name_printed(how, name, folder, tmp_path, capsys):
    if not name.endswith(".html"):
        pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra `viz`")
    out = tmp_path / name
    assert main(["attention", str(folder), "the cat eats its $fish$ <b>", *how, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes()[:4] == {".html": b"<!do", ".png": b"\x89PNG", ".svg": b"<?xm"}[out.suffix]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["the cat", "--layer", "3"], "the encoder has the layers 1 to 2; got layer=3"),
        (["the cat", "--head", "9"], "the encoder has the heads 1 to 2; got head=9"),
        (["the cat", "--kind", "cross"], "encoder; got kind='cross'"),
        ([""], "a text must have a token; got ''"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(words, told, folder, tmp_path, capsys):
    status = main(["attention", str(folder), *words, "--out", str(tmp_path / "page.html")])
    assert (status, (tmp_path / "page.html").exists()) == (2, False)
    assert told in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused_before_a_model_is_loaded(capsys):
    assert main(["attention", "nowhere", "text", "--out", "page.pdf"]) == 2
    assert "--out must be a page, .html, or a picture, .png or .svg; got --out page.pdf" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["attention", str(tmp_path / "none"), "text", "--out", str(tmp_path / "page.html")]) == 2
    assert "MODEL must be a folder with a model and its tokenizer" in capsys.readouterr().err


def test_an_svg_of_any_text_is_well_formed_and_makes_no_formula(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra `viz`")
    words = ("$x^$", "\x07", "a--b", "<&>", r"\$", "\u202eab", "\n" * 200)
    found = AttentionMap(words, words, np.full((1, 1, 7, 7), 1 / 7, dtype=np.float32))
    draw_attention(found, tmp_path / "picture.svg", title="a $model^$ \x07", layer=1, head=1)
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert root.findtext("{http://www.w3.org/2000/svg}title") == r"a $model^$ \u0007"


@pytest.mark.parametrize("size", [3, 40, 128])
def test_a_picture_of_one_head_has_its_words_and_its_whole_title(size, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra `viz`")
    from matplotlib.image import imread

    words = tuple(f"word{number}" for number in range(size))
    found = AttentionMap(words, words, np.full((1, 1, size, size), 1 / size, dtype=np.float32))
    title = "decoder attention of a-model (The first 128 of 10000 tokens are shown.)"
    draw_attention(found, tmp_path / "picture.svg", title=title, layer=1, head=1)
    assert all(f"<!-- {word} -->" in (tmp_path / "picture.svg").read_text() for word in words)
    draw_attention(found, tmp_path / "picture.png", title=title, layer=1, head=1)
    pixels = imread(tmp_path / "picture.png")
    assert (pixels[:, [0, 1, -2, -1]] == 1).all()  # nothing reaches over the edge
    assert 450 < pixels.shape[1] < 4000


@pytest.mark.parametrize(("name", "cut"), [("page.html", True), ("picture.png", False)])
def test_the_text_of_a_deep_model_is_cut_for_a_page_and_whole_in_a_picture(name, cut, folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra `viz`")
    taken: list[int] = []

    def with_small_limit(*given: Any, most_weights: int | None = 50, **more: Any) -> Any:
        found = attention_maps(*given, most_weights=most_weights, **more)
        taken.append(len(found[0]["encoder"].looking))
        return found

    monkeypatch.setattr("vaswani_transformer.viewing.attention_maps.attention_maps", with_small_limit)
    assert main(["attention", str(folder), "the cat eats its fish", "--out", str(tmp_path / name)]) == 0
    assert (taken[0] < 7) is cut
