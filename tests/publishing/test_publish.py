"""What was published comes back from a Hub on this machine, and loads where this package is hidden."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from datasets import Dataset
from huggingface_hub import snapshot_download
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from vaswani_cli import main
from vaswani_transformer.publishing import contents, reload
from vaswani_transformer.publishing import publish as publishing
from vaswani_transformer.publishing.clean_process import TEXT, outputs_of
from vaswani_transformer.publishing.publish import planned, publish
from vaswani_transformer.publishing.reload import difference_elsewhere, expected_of

from .. import local_hub
from ..local_hub import TOKEN, USER
from .hub_scene import (
    NAME,
    TEXTS,
    TRAVELS,
    bert_and_tokenizer,
    gpt_and_tokenizer,
    gpt_of_2018_and_tokenizer,
    saved,
    transformer_and_tokenizer,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("make", [transformer_and_tokenizer, bert_and_tokenizer, gpt_and_tokenizer])
def test_a_published_model_loads_elsewhere_with_its_logits(make, hub, tmp_path):
    found = publish(saved(make(), tmp_path / "run"), NAME)
    assert (found.repo, found.commit) == (NAME, hub.repos[NAME].commits[-1][0])
    assert found.difference <= 1e-6
    assert len(hub.repos[NAME].commits) == 2  # its making, and one of all files


@pytest.mark.slow
def test_the_tokenizer_of_2018_is_published_with_its_code_and_gives_the_same_tokens_elsewhere(hub, tmp_path):
    publish(saved(gpt_of_2018_and_tokenizer(tmp_path), tmp_path / "run"), NAME)
    assert "tokenization_gpt.py" in hub.repos[NAME].files


@pytest.mark.parametrize(("make", "kind"), [(gpt_and_tokenizer, "gpt2"), (transformer_and_tokenizer, "marian")])
def test_an_export_is_published_without_code_and_loads_in_plain_transformers(make, kind, hub, tmp_path):
    assert publish(saved(make(), tmp_path / "run"), NAME, export="transformers").difference <= 1e-5
    files = hub.repos[NAME].files
    assert json.loads(files["config.json"])["model_type"] == kind
    assert not [name for name in files if name.endswith(".py")]


@pytest.mark.slow
def test_the_command_publishes_by_the_environment_alone_and_says_so_at_the_end(hub, gpt, tmp_path):
    changed = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    changed |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vaswani_cli", "publish", str(gpt), "model", "--private"]
    result = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"published {NAME}, commit \w{{8}}: .*\n", result.stdout)
    assert hub.repos[NAME].private


def computed_by(model: Any, tokenizer: Any) -> dict[str, Any]:
    return {"outputs": outputs_of(model.eval()), "tokens": tokenizer(TEXT)["input_ids"]}


def test_model_push_to_hub_gives_a_repository_that_loads_without_this_package(hub, tmp_path):
    model, tokenizer = bert_and_tokenizer()
    model.push_to_hub("pushed")
    tokenizer.push_to_hub("pushed")
    fetched = Path(snapshot_download(f"{USER}/pushed", local_dir=tmp_path / "fetched"))
    assert difference_elsewhere(fetched, computed_by(model, tokenizer)) <= 1e-6


def test_trainers_push_to_hub_gives_a_repository_that_loads_without_this_package(hub, tmp_path):
    model, tokenizer = gpt_and_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    settings: Any = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "max_steps": 2, "save_strategy": "no"}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "trained"), push_to_hub=True, hub_model_id="trained", **settings),
        train_dataset=Dataset.from_list([tokenizer(text) for text in TEXTS]),  # type: ignore[arg-type]
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.push_to_hub()
    fetched = Path(snapshot_download(f"{USER}/trained", local_dir=tmp_path / "fetched"))
    assert difference_elsewhere(fetched, computed_by(model, tokenizer)) <= 1e-6


def test_a_copy_that_needs_this_package_is_not_published(hub, gpt, monkeypatch):
    whole = contents.contents_of(gpt)
    code = (contents.MODELS / "layers.py").read_bytes() + b"\nimport vaswani_transformer.optim\n"
    monkeypatch.setattr(publishing, "contents_of", lambda folder: whole | {"layers.py": code})
    with pytest.raises(
        ValueError, match=r"must load where this package is not installed; got [^$]*vaswani_transformer"
    ):
        publish(gpt, NAME)


def test_a_copy_that_computes_something_else_is_not_published(hub, gpt, monkeypatch):
    def off_by_a_tenth(folder: Path) -> dict[str, Any]:
        found = expected_of(gpt, export=False)
        return found | {"outputs": {"logits": found["outputs"]["logits"] + 0.1}}

    monkeypatch.setattr(reload, "_load_elsewhere", off_by_a_tenth)
    with pytest.raises(
        ValueError, match=r"must compute the same where .* not installed, to 1e-05; got .* differ by 1"
    ) as e:
        publish(gpt, NAME)
    assert re.fullmatch(f"{NAME} holds the files as commit .* no model to announce", e.value.__notes__[0])


def test_a_copy_with_other_tokens_is_not_published(hub, gpt, monkeypatch):
    expected = expected_of(gpt, export=False)
    monkeypatch.setattr(reload, "_load_elsewhere", lambda folder: expected | {"tokens": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"must give the same tokens .*; got \[1, 2, 3\] instead of"):
        publish(gpt, NAME)


def test_a_download_of_other_bytes_is_not_run(hub, gpt, monkeypatch):
    def spoilt(sent: Any, repo: str, commit: str, folder: Path) -> None:
        download(sent, repo, commit, folder)
        (folder / "layers.py").write_text("raise SystemExit")

    download = publishing.download
    monkeypatch.setattr(publishing, "download", spoilt)
    monkeypatch.setattr(publishing, "difference_elsewhere", lambda *given: pytest.fail("its code was run"))
    with pytest.raises(ValueError, match=r"must be what was sent there; got other content of layers.py"):
        publish(gpt, NAME)


def test_the_card_of_a_published_model_passes_the_hubs_validation(hub, gpt, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"].decode()
    assert local_hub.card_problems(card) == ([], [])
    assert hub.asked("POST", "/api/validate-yaml") == 1


def test_hand_written_text_of_a_card_is_kept(hub, gpt, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"] + b"\n## Thanks\n\nTo my cat.\n"
    hub.repos[NAME].commit(hub.repos[NAME].files | {"README.md": card})
    publish(gpt, NAME)
    assert hub.repos[NAME].files["README.md"].decode().count("To my cat.") == 1


def test_the_card_of_an_export_tells_of_the_run_and_of_no_code(make_run):
    with planned(make_run("bert"), NAME, export="transformers") as found:
        card = found["README.md"].decode()  # type: ignore[union-attr]
        assert not [name for name in found if name.endswith(".py")]
    assert "6,012" in card
    assert "![" in card
    assert "loss.png" in found
    assert "trust_remote_code" not in card
    assert "custom_code" not in card


def test_a_dry_run_shows_files_with_sizes_and_the_card_and_asks_no_one(hub, gpt, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["publish", str(gpt), NAME, "--dry-run"]) == 0
    listing, _, card = capsys.readouterr().out.partition("\n\n")
    rows = dict(line.split()[::-1] for line in listing.splitlines())
    assert set(rows) == TRAVELS
    assert rows["model.safetensors"] == f"{(gpt / 'model.safetensors').stat().st_size:,}"
    assert rows["README.md"] == f"{len(card.removesuffix(chr(10)).encode()):,}"
    assert card.startswith("---\n")
    assert not hub.requests
