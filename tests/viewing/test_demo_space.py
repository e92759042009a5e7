"""A Space of the Hub: what is in it, what is not, and that its app.py shows the model in it."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from vaswani_cli import main
from vaswani_transformer.embedded_models import FOLDER
from vaswani_transformer.evaluation.scorers import load_scored_model
from vaswani_transformer.viewing import demo_app, demo_space
from vaswani_transformer.viewing.demo_space import LONGEST_SUMMARY, PYTHON, SUMMARIES, write_space

GRADIO = "6.31.0"


@pytest.fixture(autouse=True)
def with_gradio(monkeypatch):
    """A Space is written from Gradio's version alone."""
    monkeypatch.setattr(demo_space, "version", {"gradio": GRADIO}.__getitem__)
    monkeypatch.setattr(demo_space, "gradio", lambda: None)


def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, object]]:
    """What a Space's app.py shows."""
    calls = []
    monkeypatch.setattr(demo_app, "serve", lambda name, **how: calls.append((str(name), how)))
    runpy.run_path(str(folder / "app.py"))
    (call,) = calls
    return call


def test_the_app_shows_the_model_in_the_folder_which_is_the_one_given(tmp_path, monkeypatch, capsys):
    out = tmp_path / "space"
    assert main(["demo", "demo-bert", "--space", str(out), "--max-characters", "300"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    name, how = started(out, monkeypatch)
    assert how == {"title": "demo-bert", "max_characters": 300}
    (model, tokenizer), (theirs, _) = (load_scored_model(place, device="cpu") for place in (name, FOLDER / "demo-bert"))
    ids = torch.tensor([tokenizer("the house")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(ids).logits)


def test_a_model_of_the_hub_stands_in_the_space_by_its_name(tmp_path, monkeypatch):
    # a folder under the working directory is no name of the Hub; one is given here without asking the Hub
    monkeypatch.setattr(
        demo_space, "load_scored_model", lambda *_, **how: load_scored_model(FOLDER / "demo-gpt", **how)
    )
    out = write_space("jane/small-gpt", tmp_path / "space")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "app.py", "requirements.txt"]
    assert started(out, monkeypatch) == ("jane/small-gpt", {"title": "jane/small-gpt", "max_characters": 1000})
    head = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (head["title"], head["models"]) == ("small-gpt", ["jane/small-gpt"])


def test_the_metadata_are_those_that_the_hub_asks_of_a_space(tmp_path):
    out = write_space(FOLDER / "demo-gpt", tmp_path / "space")
    head = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    expected = {"sdk": "gradio", "sdk_version": GRADIO, "app_file": "app.py", "python_version": PYTHON}
    assert {name: head[name] for name in expected} == expected
    assert (out / "requirements.txt").read_text(encoding="utf-8").startswith("vaswani-transformer[app]>=")
    assert max(map(len, SUMMARIES.values())) <= LONGEST_SUMMARY


def test_nothing_of_this_machine_or_of_the_training_is_in_a_space(tmp_path):
    out = write_space(FOLDER / "demo-transformer", tmp_path / "space")
    names = {path.name for path in out.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not names & {"run.json", "checkpoints", "loss.png", "metrics.jsonl"}
    for path in out.rglob("*"):
        if path.is_file():
            assert str(FOLDER.parent).encode() not in path.read_bytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert main(["demo", "demo-gpt", "--space", str(tmp_path)]) == 2
    assert "the folder to write a Space into must be new or empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_space_is_written_or_a_demo_started_and_not_both(tmp_path, capsys):
    assert main(["demo", "demo-gpt", "--space", str(tmp_path / "space"), "--share", "--port", "80"]) == 2
    assert "--space writes a folder and starts nothing; got --port and --share with it" in capsys.readouterr().err


def test_publish_writes_the_space_before_anything_is_sent(tmp_path, capsys):
    model = str(FOLDER / "demo-gpt")
    assert main(["publish", model, "jane/gpt", "--space", str(tmp_path / "space")]) == 2  # offline: nothing can be sent
    assert "Nothing was sent" in capsys.readouterr().err
    assert (tmp_path / "space" / "app.py").is_file()


def test_a_rehearsal_writes_no_space(tmp_path, capsys):
    words = ["publish", str(FOLDER / "demo-gpt"), "jane/gpt", "--dry-run", "--space", str(tmp_path / "space")]
    assert main(words) == 2
    assert "--dry-run writes nothing; got --space" in capsys.readouterr().err
    assert not (tmp_path / "space").exists()
