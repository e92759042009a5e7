"""What was saved by an earlier version loads and computes the same: see tests/fixtures/README.md."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

import vaswani_transformer

FIXTURES = Path(__file__).resolve().parent / "fixtures"
FOLDERS = sorted(path.parent for path in FIXTURES.glob("v*/*/expected.json"))
SAVED = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(FIXTURES).as_posix())
TOLERANCE = 1e-5

# Also run where the package is hidden: it may use torch, transformers and safetensors alone.
COMPUTE = '''
def compute(model, expected, new_tokens):
    """Returns what a model makes of the recorded inputs, by the names of what was recorded."""
    import torch

    known = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")
    inputs = {name: expected[name] for name in known if name in expected}
    with torch.no_grad():
        found = model(**inputs)
        if "next_sentence" in expected:
            logits = found.prediction_logits
            return {"logits": logits, "next_sentence": found.seq_relationship_logits, "generated": logits.argmax(-1)}
        inputs.pop("decoder_input_ids", None)
        greedy = {} if model.config.is_encoder_decoder else {"do_sample": False, "pad_token_id": 0}
        generated = model.generate(**inputs, max_new_tokens=new_tokens, **greedy)
    return {"logits": found.logits, "generated": generated}
'''
HIDDEN = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
import torch, transformers
from safetensors.torch import load_file

for folder in sys.argv[1:]:
    told = json.load(open(f"{folder}/expected.json", encoding="utf-8"))
    expected = load_file(f"{folder}/expected.safetensors")
    model = getattr(transformers, told["auto"]).from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert [tokenizer(text)["input_ids"] for text in told["texts"]] == told["ids"], folder
    found = compute(model, expected, told["new_tokens"])
    assert torch.equal(found.pop("generated"), expected["generated"]), folder
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=lambda text: f"{folder}: {text}")
print(len(sys.argv) - 1)
"""


def compute(*arguments: Any) -> dict[str, torch.Tensor]:
    scope: dict[str, Any] = {}
    exec(COMPUTE, scope)
    return scope["compute"](*arguments)


def test_there_is_a_checkpoint_of_every_family() -> None:
    assert {path.name for path in FOLDERS if path.parent.name == "v1"} == {"transformer", "bert", "gpt"}


@SAVED
def test_a_saved_model_loads_through_its_auto_class_and_computes_what_was_recorded(folder: Path) -> None:
    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    expected = load_file(folder / "expected.safetensors")
    auto = getattr(transformers, told["auto"])
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    assert type(model).__module__.startswith(vaswani_transformer.__name__)
    assert not loading["missing_keys"] | loading["unexpected_keys"], loading
    found = compute(model.eval(), expected, told["new_tokens"])
    assert torch.equal(found.pop("generated"), expected["generated"])
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=TOLERANCE)


@SAVED
def test_a_saved_tokenizer_gives_the_recorded_ids(folder: Path) -> None:
    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer(text)["input_ids"] for text in told["texts"]] == told["ids"]


def test_saved_models_load_by_their_own_code_where_the_package_is_hidden(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMPUTE + HIDDEN, *map(str, FOLDERS)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(len(FOLDERS))


@pytest.mark.parametrize("root", sorted(FIXTURES.glob("v*")), ids=lambda path: path.name)
def test_no_file_of_a_fixture_has_changed_or_come_or_gone(root: Path) -> None:
    lines = (root / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    there = {name: path for name, path in files.items() if path != root / "SHA256SUMS" and "__pycache__" not in name}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == listed


def test_a_fixture_is_never_written_over(tmp_path: Path) -> None:
    script = shutil.copy(FIXTURES / "write_checkpoints.py", tmp_path)
    (tmp_path / "v1").mkdir()
    environment = os.environ | {"PYTHONPATH": str(FIXTURES.parents[1])}
    result = subprocess.run([sys.executable, script, "v1"], env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert "FileExistsError" in result.stderr
    assert list((tmp_path / "v1").iterdir()) == []


@SAVED
def test_a_changed_weight_would_be_noticed(folder: Path) -> None:
    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    expected = load_file(folder / "expected.safetensors")
    model = getattr(transformers, told["auto"]).from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():
        if "pooler" in name or "seq_relationship" in name or name.endswith("k_proj.bias") or "key.bias" in name:
            continue  # of the next sentence alone; and a bias of keys moves no attention
        with torch.no_grad():
            before = parameter.clone()
            parameter.mul_(1.1).add_(0.01 * torch.arange(parameter.numel()).reshape(parameter.shape) % 1)
            moved = (compute(model, expected, 1)["logits"] - expected["logits"]).abs().max()
            parameter.copy_(before)
        assert moved > TOLERANCE, name
