"""Table 1 of Devlin et al. (2018): the published GLUE scores, and fine-tuned models of ours beside them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

TASKS = ("MNLI-m", "MNLI-mm", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE")


@dataclass(frozen=True)
class GlueTask:
    """One column: its name in data sets of the Hub, its metric in ours."""

    column: str
    config: str
    metric: str


KNOWN = (
    GlueTask("MNLI-m", "mnli", "accuracy"),
    GlueTask("QQP", "qqp", "f1"),
    GlueTask("QNLI", "qnli", "accuracy"),
    GlueTask("SST-2", "sst2", "accuracy"),
    GlueTask("CoLA", "cola", "matthews_correlation"),
    GlueTask("STS-B", "stsb", "spearmanr"),
    GlueTask("MRPC", "mrpc", "f1"),
    GlueTask("RTE", "rte", "accuracy"),
)
# arXiv 1810.04805, Table 1: on the test sets, by the GLUE server; F1 for QQP and MRPC, Spearman's correlation for
# STS-B, Matthews' for CoLA, accuracy elsewhere.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "OpenAI GPT": (82.1, 81.4, 70.3, 87.4, 91.3, 45.4, 80.0, 82.3, 56.0),
    "BERT base": (84.6, 83.4, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4),
    "BERT large": (86.7, 85.9, 72.1, 92.7, 94.9, 60.5, 86.5, 89.3, 70.1),
}


def glue_task(data: Mapping[str, Any]) -> GlueTask | None:
    """The task that a fine-tuning recipe's `data` section is of; None where it is none of GLUE.

    It is told by the configuration of a data set called glue, or by a folder of GLUE's own name around a file.
    """
    if re.split(r"[/\\]", str(data.get("name") or ""))[-1].lower() == "glue":
        return next((task for task in KNOWN if task.config == data.get("config")), None)
    files = (data.get("files") or {}).get("train") or []
    folders = {part for file in ([files] if isinstance(files, str) else files) for part in PurePosixPath(file).parts}
    return next((task for task in KNOWN if task.column.removesuffix("-m") in folders), None)


def glue_table(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The published rows, and one of the runs' validation rows.

    Args:
        runs: `run.json` of fine-tunings; of several of one task the mean counts.

    Returns:
        JSON-ready: `columns`; `rows`, each `model`, `published`, `scores` by column in points (None where there is
        none), `errors` by column, the standard error over validation rows of an accuracy; `tests`, by column how many
        rows and how many runs ours was measured on. None where no run has a metric of the table.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for run in runs:
        task = glue_task(run["recipe"]["data"])
        value = None if task is None else run["results"]["validation"].get(task.metric)
        if task is not None and value is not None:
            found.setdefault(task.column, []).append((100.0 * value, run["data"]["validation"]))
    if not found:
        return None
    metrics = {task.column: task.metric for task in KNOWN}
    scores = {column: sum(value for value, _ in values) / len(values) for column, values in found.items()}
    errors = {
        column: accuracy_error(scores[column] / 100, found[column][0][1]) if metrics[column] == "accuracy" else None
        for column in found
    }
    rows = [
        {"model": name, "published": True, "scores": dict(zip(TASKS, values, strict=True)), "errors": {}}
        for name, values in PUBLISHED.items()
    ]
    rows.append({"model": "this model", "published": False, "scores": scores, "errors": errors})
    tests = {column: {"rows": values[0][1], "runs": len(values)} for column, values in found.items()}
    return {"columns": list(TASKS), "rows": rows, "tests": tests}


def accuracy_error(share: float, rows: int) -> float | None:
    """The standard error in points of a share of right answers; None for one row."""
    return None if rows < 2 else 100 * math.sqrt(share * (1 - share) / (rows - 1))
