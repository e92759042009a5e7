"""Results on benchmarks of the Hub as the files of a model's `.eval_results`, in huggingface_hub's own form.

The Hub shows them on the model's page and the leaderboard of a data set that is registered as a benchmark.
"""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml  # in all that transformers 5.17 on allows

FOLDER = ".eval_results"
METRICS = {"acc": "accuracy in %", "em": "exact match in %", "f1": "F1 in %", "bleu": "sacreBLEU"}
NORMALISATIONS = {
    "token": "log-probability by token",
    "char": "log-probability by character",
    "byte": "log-probability by byte",
    "sum": "log-probability unnormalised",
    "unconditional": "log-probability less that without the question",
}


def eval_results(found: dict[str, Any]) -> dict[str, list[EvalResultEntry]]:
    """Returns for each task that is a benchmark of the Hub an entry for each number of shots.

    Its value is the task's main metric, on a scale of 100 and rounded to hundredths: exact match of closed-book
    questions, BLEU of translations, accuracy of all others. Its notes say what the form has no field for.

    Args:
        found: from `evaluate_few_shot`.
    """
    settings, entries = found["settings"], {}
    for name, by_shots in found["results"].items():
        task = settings["tasks"][name]
        if task["benchmark"] is None:
            continue
        dataset, part = task["benchmark"]
        metric = (*task["metrics"], "acc")[0]
        entries[name] = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=part,
                value=_hundredths(figures[metric], metric),
                notes="; ".join(_notes(name, int(shots), metric, figures, settings)),
            )
            for shots, figures in by_shots.items()
        ]
    return entries


def write_eval_results(found: dict[str, Any], folder: Path) -> list[Path]:
    """Writes `.eval_results/TASK.yaml` for each task that is a benchmark of the Hub; nothing where there is none.

    Args:
        found: from `evaluate_few_shot`.
        folder: that of the results.

    Returns:
        The files.
    """
    paths = []
    for name, entries in eval_results(found).items():
        path = folder / FOLDER / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False), encoding="utf-8")
        paths.append(path)
    return paths


def _notes(name: str, shots: int, metric: str, figures: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    task, error, spread = settings["tasks"][name], figures[f"{metric}_stderr"], figures[f"{metric}_seeds_std"]
    of_error = "standard error unknown" if error is None else f"standard error {_hundredths(error, metric)}"
    notes = [f"{shots}-shot", METRICS[metric], of_error]
    if settings["limit"] == figures["questions"]:
        notes.insert(1, f"limited to the first {figures['questions']} questions")
    if shots:
        notes.append(f"examples drawn {settings['draw']}" + (", balanced by label" if settings["balanced"] else ""))
        deviation = "" if spread is None else f" (standard deviation {_hundredths(spread, metric)})"
        notes.append(f"mean of {settings['seeds']} seeds{deviation}" if settings["seeds"] > 1 else "1 seed")
    if figures["shots_dropped"]:
        notes.append(f"{figures['shots_mean']:.2f} examples fit the model's context on average")
    notes.append(_way(task, settings))
    if settings["pll"] is not None:
        notes.append(f"pseudo-log-likelihood {settings['pll']}")
    if metric == "bleu":
        notes.append(figures["bleu_signature"])
    version = settings["versions"]["vaswani-transformer"]
    return [*notes, f"vaswani-transformer {version}, {name} version {task['version']}, {task['source']}"]


def _way(task: dict[str, Any], settings: dict[str, Any]) -> str:
    """How an answer was chosen or written."""
    if task["kind"] == "last_word":
        return "right where the greedy choice is the last word"
    if task["kind"] == "completion":
        beams, penalty = settings["beams"], settings["length_penalty"]
        return f"{beams} beams, length penalty {penalty}" if beams > 1 else "written greedily"
    return "contextual calibration" if task["calibrated"] else NORMALISATIONS[task["score"]]


def _hundredths(value: float, metric: str) -> float:
    return round(value if metric == "bleu" else 100 * value, 2)  # BLEU has 100 as its end already
