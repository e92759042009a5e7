"""The check of what was published: loaded in a process where this package is hidden, its logits compared."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .. import models
from . import clean_process
from .contents import Contents

TOLERANCE = 1e-5  # of the largest value of an output, or of 1 where none is larger
TOLD = 1500  # characters of an error in the clean process


def expected_of(folder: Path, *, export: bool) -> dict[str, Any]:
    """What the model of a folder of ours computes here, and the tokens of a text.

    Args:
        folder: the folder that is published.
        export: it is published as transformers' own class, whose tokenizer and inner order may differ: tokens are not
            compared, nor the hidden states of a translation model.

    Raises:
        ValueError: weights that do not fit the configuration.
    """
    (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    outputs = clean_process.outputs_of(clean_process.load(getattr(models, name), folder))
    if not export:
        return {"outputs": outputs, "tokens": clean_process.tokens_of(folder)}
    only = {"logits"} if "encoder_last_hidden_state" in outputs else set(outputs)
    return {"outputs": {name: outputs[name] for name in only}, "tokens": None}


def difference_elsewhere(folder: Path, expected: dict[str, Any]) -> float:
    """Loads a folder where this package is hidden, offline, and compares.

    Args:
        folder: as it came from the Hub.
        expected: of `expected_of`.

    Returns:
        How far the outputs are apart, as a share of the largest, or of 1; 0 where they are equal.

    Raises:
        ValueError: it does not load there, or computes something else.
    """
    found = _load_elsewhere(folder)
    if expected["tokens"] is not None and found["tokens"] != expected["tokens"]:
        raise ValueError(
            "a published tokenizer must give the same tokens where this package is not installed; got "
            f"{found['tokens']} instead of {expected['tokens']}"
        )
    names = expected["outputs"].keys() & found["outputs"].keys()
    assert names, f"nothing to compare in {expected['outputs'].keys()} and {found['outputs'].keys()}"
    pairs = [(expected["outputs"][name], found["outputs"][name]) for name in names]
    difference = max(float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)) for ours, theirs in pairs)
    if not difference <= TOLERANCE:  # not a number is no agreement either
        raise ValueError(
            f"a published model must compute the same where this package is not installed, to {TOLERANCE:.0e}; got "
            f"outputs that differ by {difference:.1e}"
        )
    return difference


def refuse_other_bytes(folder: Path, contents: Contents) -> None:
    """Raises ValueError where what was downloaded is not what was sent, before any of its code runs."""
    wrong = [name for name, content in contents.items() if _digest(folder / name) != _digest(content)]
    if wrong:
        raise ValueError(
            f"what comes from the Hub must be what was sent there; got other content of {', '.join(wrong)}"
        )


def _load_elsewhere(folder: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as scratch:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch}
        out = f"{scratch}/outputs.pt"
        # -P: the script's own folder, where this package's modules lie, is not looked into.
        command = [sys.executable, "-P", clean_process.__file__, str(folder.resolve()), out]
        result = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
        if result.returncode:
            raise ValueError(
                "a published model must load where this package is not installed; got the exit status "
                f"{result.returncode}: {result.stderr.strip()[-TOLD:]}"
            )
        return torch.load(out, weights_only=True)


def _digest(content: Path | bytes) -> str | None:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if not content.is_file():
        return None
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
