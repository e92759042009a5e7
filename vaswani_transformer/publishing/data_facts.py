"""Where a model's training text came from, its licence and its counts, for a model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.document_sources import EMBEDDED
from ..evaluation.glue_table import glue_task
from .local_names import without_places

GLUE = "nyu-mll/glue"
LANGUAGES = {"de": "German", "en": "English", "fr": "French"}  # of the recipes that ship; others are told by their code
LOCAL_STARTS = (".", "/", "~", "runs/", "shared/", "data/")
# Names of one part that the Hub has had from the start.
OLD_MODELS = re.compile(r"(distil)?(bert-(base|large)-[a-z-]+|gpt2(-(medium|large|xl))?|openai-gpt)")
OLD_MODEL_OWNERS = {"bert": "google-bert", "gpt2": "openai-community", "openai": "openai-community"}


def hub_name(name: Any, *, kind: str) -> str | None:
    """The name on the Hub that a recipe gives; None for a folder of the person's own.

    Args:
        name: of `model.from` or `data.name`.
        kind: "model" or "dataset".
    """
    if not isinstance(name, str) or name.startswith(LOCAL_STARTS) or Path(name).exists():
        return None
    if kind == "model" and OLD_MODELS.fullmatch(name):
        owner = next((owner for start, owner in OLD_MODEL_OWNERS.items() if name.startswith(start)), None)
        return f"{owner}/{name}" if owner else name
    return name if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) else None


def data_facts(run: Mapping[str, Any] | None, by_hand: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the data of a run were, as far as its recipe and its counts tell.

    Returns:
        `sources`, each with `name`, `what`, `hub` (a name there, or None) and `license` (None where it is not known);
        `datasets`, those names; `languages`, ISO codes; `pair`, source and target in words; `labels` and `task` of a
        fine-tuning; `counts`, by split; `license`, what the person said of all. None without a run.
    """
    if run is None:
        return None
    data = run["recipe"]["data"]
    sources = _sources(data)
    return {
        "sources": sources,
        "datasets": [source["hub"] for source in sources if source["hub"]],
        "languages": _languages(data),
        "pair": [LANGUAGES.get(code, code) for code in _pair(data)],
        "counts": _counts(run["data"]),
        "license": by_hand.get("data_license"),
        "labels": without_places(run["data"].get("labels")),
        "task": data.get("task"),
    }


def _sources(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    if name := data.get("embedded"):
        told = provenance()[name]
        what = f", a corpus that ships with vaswani_transformer: {told['What']}"
        return [{"name": f"`{name}`", "what": what, "hub": None, "license": told["Licence"]}]
    if task := glue_task(data):
        return [{"name": f"{task.column} of GLUE", "what": ".", "hub": GLUE, "license": None}]
    if not data.get("name"):
        names = ", ".join(f"`{name}`" for name in _file_names(data.get("files") or {}))
        return [{"name": names, "what": ", files of who trained it.", "hub": None, "license": None}]
    sources = []
    for one in (data, *data.get("more", [])):
        hub = hub_name(one["name"], kind="dataset")
        config = f", configuration `{without_places(one['config'])}`" if one.get("config") else ""
        revision = f", revision `{without_places(one['revision'])}`" if one.get("revision") else ""
        what = f"{config}{revision}" + ("." if hub else ", a folder of who trained it.")
        sources.append({"name": f"`{without_places(one['name'])}`", "what": what, "hub": hub, "license": None})
    return sources


def _file_names(files: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for spec in files.values():
        for one in spec if isinstance(spec, list) else [spec]:
            paths = list(one.values()) if isinstance(one, Mapping) else [one]
            found += [Path(str(path).replace("\\", "/")).name for path in paths]
    return list(dict.fromkeys(found))


def _languages(data: Mapping[str, Any]) -> list[str]:
    if pair := _pair(data):
        return pair
    if data.get("embedded") == "austen" or glue_task(data):
        return ["en"]
    return [data["language"]] if isinstance(data.get("language"), str) else []


def _pair(data: Mapping[str, Any]) -> list[str]:
    """Source and target of a translation."""
    return [code for code in (data.get("source"), data.get("target")) if isinstance(code, str)]


def _counts(told: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """By split, what was read and what was left out; fine-tuning tells rows alone."""
    if "counts" not in told:
        return {split: {"rows": told[split]} for split in ("train", "validation") if told.get(split)}
    return {
        split: {name: number for name, number in counts.items() if number and name != "read"}
        | ({"read": counts["read"]} if "read" in counts else {})
        for split, counts in told["counts"].items()
    }


def provenance() -> dict[str, dict[str, str]]:
    """What is told of the embedded corpora, by name: What, From, Licence, Form and Split."""
    text = (EMBEDDED / "PROVENANCE.md").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        points = re.findall(r"^- \*\*(\w+)\*\*: (.*?)(?=^- \*\*|\Z)", rest, flags=re.MULTILINE | re.DOTALL)
        found[name.strip()] = {key: " ".join(value.split()) for key, value in points}
    return found
