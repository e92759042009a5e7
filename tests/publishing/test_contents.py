"""What travels to the Hub, and what is refused because it tells of a machine or a person."""

import getpass
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import FSMTTokenizer, MarianTokenizer

from vaswani_transformer.models.configuration_gpt import AUTO_MAP
from vaswani_transformer.publishing import contents, privacy
from vaswani_transformer.publishing.publish import planned, publish

from .hub_scene import NAME, TRAVELS


def test_nothing_of_a_run_travels_but_the_model(gpt, unchecked, hub):
    for name in ("more.json", "metrics.jsonl", "training_args.bin", "optimizer.pt", "scheduler.pt", "data.tsv", ".env"):
        (gpt / name).write_text("{}")
    for name in ("optimizer.bin", "notes.py", "chart.png", "model.safetensors.tmp"):
        (gpt / name).write_bytes(b"secret")
    save_file({"exp_avg": torch.zeros(1)}, gpt / "optimizer.safetensors")
    shutil.copytree(gpt, gpt / "checkpoints" / "step-00000001")
    (gpt / "tensorboard").mkdir()
    (gpt / "tensorboard" / "events.out").write_text("log")
    publish(gpt, NAME)
    assert set(hub.repos[NAME].files) == TRAVELS | {".gitattributes"}


def test_the_curves_that_a_card_shows_travel_and_the_record_that_it_tells_of_does_not(make_run):
    with planned(make_run("gpt"), NAME) as found:
        assert set(found) == TRAVELS | {"loss.png"}


def test_the_newest_results_for_the_hubs_leaderboards_travel(gpt):
    for number, place in enumerate((".", "few/shots", "few/shots/finetuned", "checkpoints/step-1", "sst2", "few")):
        path = gpt / place / ".eval_results" / "blimp.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"- dataset: {{id: nyu-mll/blimp}}\n  value: {number}\n")
        os.utime(path, (number, number))
        (path.parent / "notes.txt").write_text("mine")
    (gpt / "sst2" / "config.json").write_text("{}")  # another model
    os.utime(gpt / "sst2" / ".eval_results" / "blimp.yaml", (99, 99))
    with planned(gpt, NAME) as found:
        assert set(found) == TRAVELS | {".eval_results/blimp.yaml"}
        assert found[".eval_results/blimp.yaml"] == gpt / "few" / ".eval_results" / "blimp.yaml"


def test_the_configuration_names_the_code_of_every_head_of_the_family(gpt):
    old = json.loads((gpt / "config.json").read_text())
    old["auto_map"] = {"AutoModel": "someone/else--modeling_gpt.VaswaniGPTModel"}  # as after a load from the Hub
    (gpt / "config.json").write_text(json.dumps(old))
    config = json.loads(contents.contents_of(gpt)["config.json"])  # type: ignore[arg-type]
    assert config["auto_map"] == AUTO_MAP


@pytest.mark.parametrize(("kind", "needs"), [(FSMTTokenizer, "sacremoses"), (MarianTokenizer, "sentencepiece")])
def test_the_files_of_a_converted_models_tokenizer_travel(kind, needs, gpt):
    pytest.importorskip(needs, reason=f"the tokenizer needs {needs}, of the extra `convert`")
    names = set(kind.vocab_files_names.values())
    for name in names - {"tokenizer_config.json"}:
        (gpt / name).write_text("{}")
    with planned(gpt, NAME) as found:
        assert names <= set(found)


def test_code_that_is_not_this_packages_does_not_travel(gpt):
    change(gpt, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.MyTokenizer", None]})
    with pytest.raises(
        ValueError, match=r"code that travels must be this package's; got 'mine.MyTokenizer' in auto_map"
    ):
        contents.contents_of(gpt)


def test_all_shards_travel_and_arrive(sharded, unchecked, hub):
    publish(sharded, NAME)
    shards = {path.name for path in sharded.glob("model-*.safetensors")}
    assert len(shards) >= 2
    assert shards | {"model.safetensors.index.json"} <= set(hub.repos[NAME].files)
    assert "model.safetensors" not in hub.repos[NAME].files


def test_what_an_earlier_version_published_goes_and_other_files_stay(sharded, gpt, unchecked, hub):
    publish(sharded, NAME)
    hub.repos[NAME].commit(hub.repos[NAME].files | {"notebook.ipynb": b"{}", "chart.png": b"png"})
    publish(gpt, NAME)
    assert set(hub.repos[NAME].files) == TRAVELS | {".gitattributes", "notebook.ipynb", "chart.png"}


def change(folder: Path, name: str, **fields: Any) -> None:
    """Sets fields of a JSON file, or appends a text to another one."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


LEAKS = {
    "a home folder": ({"name_or_path": "/home/jane/runs/gpt"}, "a path, /home/jane"),
    "a Mac's home folder": ({"note": "see /Users/jane/gpt"}, "a path, /Users/jane"),
    "a home folder of Windows": ({"note": r"C:\Users\jane\gpt"}, r"a path, C:\\+Users\\+jane"),
    "a home folder as an address": ({"note": "file:///home/jane"}, "a path, /home/jane"),
    "a scratch folder": ({"note": "from /scratch/gpt"}, "a path, /scratch/gpt"),
    "any absolute path": ({"name_or_path": "/groups/nlp/gpt"}, "a path, /groups/nlp/gpt"),
    "a token of the Hub": ({"token": "hf_" + "a1B2c3" * 6}, r"a token of the Hub, hf_a1B\.\.\."),
    "the user's name": ({"author": "somebody7"}, "the user's name, somebody7"),
}


@pytest.mark.parametrize(("fields", "told"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_what_tells_of_a_machine_or_a_person_is_refused(fields, told, name, gpt, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody7")
    change(gpt, name, **fields)
    with pytest.raises(ValueError, match=rf"nothing that tells of .*; got {name}: {told}.*take it out") as caught:  # noqa: SIM117
        with planned(gpt, NAME):
            pass
    assert "a1B2c3" not in str(caught.value)


def test_a_path_in_the_header_of_the_weights_is_refused(gpt):
    save_file({"x": torch.zeros(1)}, gpt / "model.safetensors", metadata={"source": "/home/jane/gpt"})
    with pytest.raises(ValueError, match=r"got model.safetensors: a path, /home/jane"), planned(gpt, NAME):
        pass


def test_a_path_in_a_card_that_is_kept_is_refused_before_anything_is_sent(gpt, hub, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"] + b"\nTrained in /home/jane/gpt.\n"
    hub.repos[NAME].commit(hub.repos[NAME].files | {"README.md": card})
    with pytest.raises(ValueError, match=r"got README.md: a path, /home/jane"):
        publish(gpt, NAME)
    assert len(hub.repos[NAME].commits) == 3


def test_the_users_name_may_be_a_word_of_the_vocabulary_and_the_namespace(gpt, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "film")
    (gpt / "vocab.json").write_text('{"film": 0}')
    with planned(gpt, "film/model") as found:
        assert "vocab.json" in found


def test_addresses_on_the_web_are_no_paths():
    text = b"See https://example.org/home/jane/data/x, [this](../home/x) and ~/.cache/huggingface, and 3/data/4."
    privacy.refuse_private({"README.md": text}, NAME)


def test_a_file_by_another_name_than_a_models_is_refused(gpt):
    whole = contents.contents_of(gpt)
    for name in (
        "optimizer.pt",
        "run.json",
        "metrics.jsonl",
        "checkpoints/model.safetensors",
        "../config.json",
        ".env",
    ):
        with pytest.raises(ValueError, match=re.escape(f"got {name}: no file that a model's repository has")):
            privacy.refuse_private(whole | {name: b""}, NAME)


def test_weights_of_something_else_than_the_model_are_refused_before_a_repository_is_made(hub, gpt):
    save_file({"exp_avg": torch.zeros(3)}, gpt / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights and model must fit; got .*exp_avg"):
        publish(gpt, NAME)
    assert not hub.repos
