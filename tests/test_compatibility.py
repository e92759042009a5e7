"""What was saved by an earlier version loads and computes the same: see tests/fixtures/README.md."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import vaswani_transformer

from .fixtures import reproduce, write_checkpoints

FIXTURES = Path(__file__).resolve().parent / "fixtures"
FOLDERS = sorted(path.parent for path in FIXTURES.glob("v*/*/expected.json"))
SAVED = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(FIXTURES).as_posix())
# They move no logit of the recorded ones: the next sentence's alone, and a bias that all keys share.
UNSEEN = ("pooler", "seq_relationship", "key.bias")


def test_there_is_a_checkpoint_of_every_family_of_each_version() -> None:
    families = {"transformer", "bert", "gpt"}
    assert {path.relative_to(FIXTURES).parts for path in FOLDERS} == {
        (v, name) for v in ("v1", "v2") for name in families
    }


@SAVED
def test_a_saved_model_loads_through_its_auto_class_and_computes_what_was_recorded(folder: Path) -> None:
    model = reproduce.check(folder, trust=False)
    assert type(model).__module__.startswith(vaswani_transformer.__name__)


def test_saved_models_load_by_their_own_code_where_the_package_is_hidden(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FIXTURES / "reproduce.py"), *map(str, FOLDERS)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(len(FOLDERS))


@SAVED
def test_a_weight_that_changed_would_be_noticed(folder: Path) -> None:
    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    expected = load_file(folder / "expected.safetensors")
    model = getattr(transformers, told["auto"]).from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():
        if not any(part in name for part in UNSEEN):
            before = parameter.detach().clone()
            with torch.no_grad():
                parameter.mul_(torch.linspace(1.0, 1.1, parameter.numel()).reshape(parameter.shape)).add_(0.01)
            moved = (reproduce.compute(model, expected, 1)["logits"] - expected["logits"]).abs().max()
            parameter.data.copy_(before)
            assert moved > reproduce.TOLERANCE, name


@pytest.mark.parametrize("root", sorted(FIXTURES.glob("v*")), ids=lambda path: path.name)
def test_no_file_of_a_fixture_has_changed_come_or_gone(root: Path) -> None:
    lines = (root / write_checkpoints.SUMS).read_text(encoding="utf-8").splitlines()
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    there = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    del there[write_checkpoints.SUMS]
    assert there == {name: digest for digest, name in (line.split("  ") for line in lines)}


def test_a_fixture_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["write_checkpoints.py", str(tmp_path)])
    with pytest.raises(FileExistsError):
        write_checkpoints.main()
    assert list(tmp_path.iterdir()) == []
