"""Folders of models as training leaves them, made of the kept checkpoints and records of the loop's form."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.recipe import load_recipe

from .hub_scene import gpt, hub, no_waiting, pristine, sharded, unchecked  # noqa: F401

CHECKPOINTS = Path(__file__).resolve().parents[1] / "fixtures" / "v1"
RECIPES = {"transformer": "transformer-demo", "bert": "bert-demo", "gpt": "gpt-demo"}
ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux x86_64",
    "versions": {"vaswani-transformer": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
    "commit": "8409723448056d983dfea34646262e57887c2beb",
    "cpu": "AMD EPYC",
    "cpu_count": 2,
    "threads": 2,
    "memory_gib": 23.5,
    "gpus": [],
    "cuda": None,
}
VALIDATION = {
    "transformer": {"loss": 2.73, "nll": 1.79, "perplexity": 5.99, "bleu": 22.5772, "chrf": 54.49},
    "bert": {"nll": 4.49, "perplexity": 89.9, "masked_accuracy": 0.2598, "next_sentence_accuracy": 0.6871},
    "gpt": {"loss": 3.6378, "nll": 3.6378, "perplexity": 38.01},
}
COUNTS = {"train": {"documents": 256, "tokens": 916564, "empty": 0}, "validation": {"documents": 13, "tokens": 42461}}
PAIRS = {"train": {"read": 39717, "kept": 20955}, "validation": {"read": 1000, "kept": 542}}
MakeRun = Callable[..., Path]


def run_record(family: str, *overrides: str) -> dict[str, Any]:
    """What `vaswani train` writes as run.json."""
    return {
        "recipe": load_recipe(RECIPES[family], overrides).to_dict(),
        "data": {"fingerprint": "95c5", "counts": PAIRS if family == "transformer" else COUNTS},
        "phases": [{"start": 0, "end": 20000, "counts": {}}],
        "parameters": 1178624,
        "training_flops": 35304475544017.0,
        "processes": 1,
        "environment": ENVIRONMENT,
        "results": {
            "steps": 6012,
            "tokens": 5285530,
            "real_tokens": 9760976,
            "seconds": 7200.0,
            "validation": VALIDATION[family],
        },
    }


def finetuning_record(recipe: str, validation: dict[str, float], *overrides: str, rows: int = 872) -> dict[str, Any]:
    """What `vaswani finetune` writes as run.json."""
    return {
        "recipe": load_recipe(recipe, overrides, kind=FinetuneRecipe).to_dict(),
        "data": {"train": 1000, "validation": rows, "labels": ["0", "1"]},
        "fingerprint": "d458",
        "parameters": 4274944,
        "training_flops": 1.5e12,
        "processes": 1,
        "environment": ENVIRONMENT,
        "results": {"steps": 189, "seconds": 157.9, "validation": {"loss": 0.5, **validation}},
    }


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def finetuned(folder: Path, record: dict[str, Any]) -> Path:
    """Puts a fine-tuned model where `vaswani finetune --out` does."""
    write(folder / "config.json", {"model_type": "vaswani-bert"})
    write(folder / "run.json", record)
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a model's folder of a family: with a record, with that of `train`, or with None."""

    def make(family: str = "transformer", record: Any = "train", *, name: str = "model") -> Path:
        folder = tmp_path / "home" / "alice" / name
        unwanted = shutil.ignore_patterns("expected.*")
        shutil.copytree(CHECKPOINTS / family, folder, ignore=unwanted)
        (folder / "loss.png").write_bytes(b"a picture")
        if record is not None:
            write(folder / "run.json", run_record(family) if record == "train" else record)
        return folder

    return make
