"""What was measured of a model, as the commands left it in the model's folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.few_shot_figures import RESULTS
from ..run_folder import RUN
from .local_names import without_places

ENOUGH = ("*.json", "*/*.json", "*/*/*.json")  # results lie no deeper
NOT_RESULTS = ("checkpoints", "best", "tensorboard")
# Of the model and its tokenizer, some of them large.
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")


@dataclass
class Results:
    """What the commands measured, every place on this machine left out of it.

    Args:
        translations: what `vaswani evaluate-translation` wrote.
        perplexities: what `vaswani perplexity` wrote.
        few_shot: what `vaswani evaluate` wrote, its place below the model's folder under `folder`; under `finetuned`
            the same of a model fine-tuned on the tasks, where it was given one.
        finetunings: `run.json` of each fine-tuning of this model that lies below its folder.
    """

    translations: list[dict[str, Any]] = field(default_factory=list)
    perplexities: list[dict[str, Any]] = field(default_factory=list)
    few_shot: list[dict[str, Any]] = field(default_factory=list)
    finetunings: list[dict[str, Any]] = field(default_factory=list)


def read_results(folder: Path) -> Results:
    """Finds results in a model's folder, whatever their files are called, and up to two folders below it.

    What lies in a folder with another model is that one's; of it, only that it was fine-tuned counts here.

    Raises:
        ValueError: a file that is no JSON.
    """
    found = Results()
    for path in _files(folder):
        value = read_json(path)
        if not isinstance(value, dict):
            continue
        if _anothers(folder, path):
            found.finetunings += [value] if path.name == RUN and _finetunes_a_model(value) else []
        elif {"scores", "language_pair", "table2"} <= set(value):
            found.translations.append(without_places(value))
        elif {"nats_per_token", "per_word", "bits_per_byte"} <= set(value):
            found.perplexities.append(without_places(value))
        elif path.name == RESULTS and {"results", "settings"} <= set(value):
            _take_few_shot(found, folder, path, value)
    return found


def _anothers(folder: Path, path: Path) -> bool:
    """Whether a file lies with a model of its own below the folder."""
    between = [parent for parent in path.parents if parent != folder and parent.is_relative_to(folder)]
    return any((parent / "config.json").is_file() for parent in between)


def _finetunes_a_model(run: dict[str, Any]) -> bool:
    """Not one of random weights, which `compare_pretraining.py` trains beside it."""
    recipe = run.get("recipe", {})
    return "task" in recipe.get("data", {}) and "from" in recipe.get("model", {})


def _take_few_shot(found: Results, folder: Path, path: Path, value: dict[str, Any]) -> None:
    other = path.parent.name == "finetuned" and (path.parent.parent / RESULTS).is_file()  # of another model
    if value["results"] and not other:  # none yet where the asking was stopped
        found.few_shot.append({**without_places(value), "folder": path.parent.relative_to(folder).as_posix()})


def _files(folder: Path) -> Iterator[Path]:
    for pattern in ENOUGH:
        for path in sorted(folder.glob(pattern)):
            if path.relative_to(folder).parts[0] not in NOT_RESULTS and path.name not in MODEL_FILES:
                yield path


def read_json(path: Path) -> Any:
    """Returns what a JSON file in a model's folder holds; ValueError, with its name, where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"what lies in a model's folder must be whole; got {path}, which is no JSON ({error}): remove it, or write "
            "it again"
        ) from error
