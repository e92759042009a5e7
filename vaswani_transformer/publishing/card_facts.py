"""What a model's folder tells of itself, as plain values for the body of its card. Nothing here is made up."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig

from .. import models  # noqa: F401  registers the configurations
from ..evaluation.glue_table import accuracy_error, glue_table, glue_task
from ..evaluation.table2 import render_table2
from ..run_folder import RUN
from ..run_log import LOSS_IMAGE
from .data_facts import data_facts, hub_name
from .energy import energy_of
from .local_names import without_places
from .run_command import command_of
from .run_results import Results, read_json, read_results

BY_HAND = "card.yaml"  # in a run's folder: what only a person knows
SHOTS_IMAGE = "shots.png"
FAMILIES = {
    "vaswani-transformer": "transformer",
    "marian": "transformer",
    "vaswani-bert": "bert",
    "bert": "bert",
    "vaswani-gpt": "gpt",
    "gpt2": "gpt",
    "openai-gpt": "gpt",
}
NAMES = {
    "bleu": "BLEU (sacreBLEU)",
    "chrf": "chrF",
    "loss": "loss",
    "nll": "negative log-likelihood, nats a token",
    "perplexity": "perplexity of a token",
    "masked_accuracy": "masked tokens, accuracy in %",
    "masked_loss": "masked tokens, nats each",
    "next_sentence_accuracy": "next sentence, accuracy in %",
    "next_sentence_loss": "next sentence, nats each",
    "accuracy": "accuracy in %",
    "f1": "F1 in %",
    "exact_match": "exact match in %",
    "precision": "precision in %",
    "recall": "recall in %",
    "matthews_correlation": "Matthews' correlation, times 100",
    "pearson": "Pearson's correlation, times 100",
    "spearmanr": "Spearman's correlation, times 100",
}
OF_SHARES = ("accuracy", "masked_accuracy", "next_sentence_accuracy", "precision", "recall", "f1", "exact_match")
OF_SHARES = (*OF_SHARES, "matthews_correlation", "pearson", "spearmanr")  # told in points


def read_facts(folder: Path, *, repo: str) -> dict[str, Any]:
    """Returns what a card's templates read; what is not known is None, and its section is left out.

    Args:
        folder: the model's.
        repo: OWNER/NAME on the Hub.

    Raises:
        ValueError: no configuration there, or of a model that is none of this package; a `card.yaml` or a results file
            that cannot be read.
    """
    config = _config(folder)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"a card is of a Transformer, a BERT or a GPT ({', '.join(FAMILIES)}); got model_type="
            f"{config.model_type!r} in {folder}"
        )
    run = read_json(folder / RUN) if (folder / RUN).is_file() else None
    by_hand, name = read_by_hand(folder), repo.rpartition("/")[2]
    facts = _run_facts(run, by_hand, name)
    return {
        "repo": repo,
        "name": name,
        "family": family,
        "custom": config.model_type.startswith("vaswani-"),
        "config": config,
        "architecture": (config.architectures or [""])[0],
        "auto": auto_class(config),
        "tokenizer_needs": _tokenizer_needs(folder),
        "parameters": run["parameters"] if run else _parameters(folder),
        "by_hand": by_hand,
        "picture": LOSS_IMAGE if (folder / LOSS_IMAGE).is_file() else None,
        **facts,
        **_measured(folder, read_results(folder), [run] if facts["finetunes"] else []),
    }


def _run_facts(run: Mapping[str, Any] | None, by_hand: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What `run.json` tells; None for all of it where there is none."""
    recipe = run["recipe"] if run else None
    finetunes = recipe is not None and "task" in recipe["data"]
    return {
        "run": without_places(run),
        "recipe": yaml.safe_dump(without_places(recipe), sort_keys=False).rstrip() if recipe else None,
        "command": command_of(recipe, name=name) if recipe else None,
        "base": _base(recipe, by_hand),
        "finetunes": finetunes,
        "glue_task": glue_task(recipe["data"]) if recipe is not None and finetunes else None,
        "data": data_facts(run, by_hand),
        "hardware": _hardware(run),
        "energy": energy_of(run, by_hand),
        "validation": _validation(run),
    }


def auto_class(config: PreTrainedConfig) -> str:
    """The Auto class that loads what a configuration's first architecture names."""
    name = (config.architectures or [""])[0]
    for auto, place in (getattr(config, "auto_map", None) or {}).items():
        if isinstance(place, str) and place.rpartition(".")[2] == name:
            return auto
    endings = {"ForConditionalGeneration": "Seq2SeqLM", "MTModel": "Seq2SeqLM", "LMHeadModel": "CausalLM"}
    for ending, head in endings.items():
        if name.endswith(ending):
            return f"AutoModelFor{head}"
    return f"AutoModelFor{name.rpartition('For')[2]}" if "For" in name else "AutoModel"


def read_by_hand(folder: Path) -> dict[str, Any]:
    """Returns what `card.yaml` in a model's folder says.

    Its keys: `watts`, what the machine drew; `data_license`, a sentence; any other is for the card's head, as the Hub
    names it: license, language, datasets, base_model.

    Raises:
        ValueError: no mapping, or watts that are no number above 0.
    """
    path = folder / BY_HAND
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be valid YAML; got {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a mapping, such as license: apache-2.0; got {found!r}")
    watts = found.get("watts")
    if watts is not None and (isinstance(watts, bool) or not isinstance(watts, int | float) or not watts > 0):
        raise ValueError(f"watts must be a number above 0; got watts={watts!r} in {path}")
    return found


def _config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise ValueError(f"a card is of a model's folder, with config.json; got {folder}")
    return AutoConfig.from_pretrained(folder)


def _parameters(folder: Path) -> int | None:
    """Weights as the files hold them, a shared one once."""
    files = sorted(folder.glob("*.safetensors"))
    total = 0
    for file in files:
        with safe_open(file, framework="np") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total if files else None


def _tokenizer_needs(folder: Path) -> str | None:
    """What the tokenizer of 2018 imports, the one of ours that is no stock one."""
    path = folder / "tokenizer_config.json"
    told = read_json(path) if path.is_file() else {}
    return "ftfy spacy" if "auto_map" in told else None


def _base(recipe: Mapping[str, Any] | None, by_hand: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model that a run began from: its name on the Hub where it has one, else the name of its folder."""
    source = recipe["model"].get("from") if recipe else None
    named = by_hand.get("base_model")
    if source is None and named is None:
        return None
    hub = named or hub_name(source, kind="model")
    return {"hub": hub, "name": hub or without_places(source)}


def _hardware(run: Mapping[str, Any] | None) -> str | None:
    if run is None:
        return None
    machine, processes = run["environment"], run.get("processes")
    if machine["gpus"]:
        names = sorted({f"{gpu['name']} ({gpu['memory_gib']:g} GiB)" for gpu in machine["gpus"]})
        return f"{processes or 'on'} × {', '.join(names)}" if processes else ", ".join(names)
    memory = f", {machine['memory_gib']:g} GiB of memory" if machine.get("memory_gib") else ""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    many = f"{processes} processes of " if (processes or 1) > 1 else ""
    return f"{many}{threads} of a CPU ({machine['cpu']}, {machine['cpu_count']} cores{memory})"


def _validation(run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The last validation's numbers, shares in points, with the standard error of those that are shares of rows."""
    if run is None:
        return []
    rows, values = run["data"].get("validation"), run["results"]["validation"]
    in_points = run["recipe"]["data"].get("task") == "question-answering"  # as SQuAD's own script
    twice = {"loss"} if values.get("loss") == values.get("nll") else set()  # without smoothing it has both names
    twice |= {"nll", "perplexity"} if "masked_loss" in values else set()  # BERT's are those of its masked tokens
    lines = []
    for name, label in NAMES.items():
        value = values.get(name)
        if value is None or name in twice or not math.isfinite(value):
            continue
        scale = 1 if in_points or name not in OF_SHARES else 100
        counted = isinstance(rows, int) and name in ("accuracy", "exact_match")  # shares of rows
        error = accuracy_error(scale * value / 100, rows) if counted else None
        lines.append({"metric": name, "label": label, "value": scale * value, "scale": scale, "error": error})
    return lines


def _measured(folder: Path, results: Results, own: list[Any]) -> dict[str, Any]:
    """Tables of what the commands measured; None for a table without a number."""
    newest = next((one for one in results.translations if one["table2"]["this_model"]["comparable"]), None)
    newest = newest or next(iter(results.translations), None)
    return {
        "results": results,
        "translations": results.translations,
        "perplexities": results.perplexities,
        "few_shot": [few_shot_table(found, folder) for found in results.few_shot],
        "table2": render_table2(newest["table2"]) if newest else None,
        "glue": glue_table([*own, *results.finetunings]),
        "finetunings": [told for told in map(_finetuning, results.finetunings) if told is not None],
    }


def _finetuning(run: Mapping[str, Any]) -> str | None:
    output = run["recipe"]["output"]
    return command_of(run["recipe"], name=without_places(f"/{output}"))


def few_shot_table(found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Rows of a table of accuracy over numbers of shots, in percent, as `vaswani evaluate` prints it.

    Args:
        found: what `vaswani evaluate` wrote, with `folder`, where it lies.
        folder: the model's.
    """
    settings, shots = found["settings"], [str(number) for number in found["settings"]["shots"]]
    other = found.get("finetuned")
    rows = []
    for task, by_shots in found["results"].items():
        for metric in settings["tasks"][task].get("metrics") or ("acc",):
            cells = [_percent(by_shots.get(number, {}), metric) for number in shots]
            last = [] if other is None else [_percent(other["results"].get(task, {}).get("0", {}), metric)]
            first = by_shots[shots[0]]
            chance = None if first.get("chance") is None else 100 * first["chance"]
            label = task if metric == "acc" else f"{task} {metric}"
            rows.append({"task": label, "questions": first["questions"], "chance": chance, "cells": cells + last})
    shown = found["folder"] == "." and (folder / SHOTS_IMAGE).is_file()  # a repository has no folders
    return {
        "columns": [f"{number}-shot" for number in shots] + ([] if other is None else ["fine-tuned"]),
        "rows": rows,
        "settings": settings,
        "dropped": [
            f"{task}: {figures['shots_mean']:.1f} of {number}"
            for task, by_shots in found["results"].items()
            for number, figures in by_shots.items()
            if figures.get("shots_dropped")
        ],
        "picture": SHOTS_IMAGE if shown else None,
    }


def _percent(figures: Mapping[str, Any], metric: str) -> str:
    if metric not in figures:
        return ""
    scale, error = 1 if metric == "bleu" else 100, figures.get(f"{metric}_stderr")
    return f"{scale * figures[metric]:.1f}" + ("" if error is None else f" ± {scale * error:.1f}")


def as_words(seconds: float) -> str:
    """A time as one says it: 7 min 30 s, 2 h 10 min."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def short_power(value: float) -> str:
    """A large number as 3.5e13."""
    return re.sub(r"e\+?0*", "e", f"{value:.2g}" if value < 1e4 else f"{value:.1e}")
