"""What is made of few-shot results: a picture of accuracy over the number of shots, entries of a model card."""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

logger = logging.getLogger(__name__)
MARKERS = "os^Dv"

PICTURE, ENTRIES = "shots.png", "model-index.yaml"
METRICS = {"acc": "accuracy", "perplexity": "perplexity"}  # the Hub's names of ours


def model_index(found: dict[str, Any]) -> str:
    """Returns YAML for the head of a model card, an entry of `model-index` for each task and number of shots.

    Args:
        found: from `evaluate_few_shot`.
    """
    settings = found["settings"]
    name = Path(settings["model"]).name or settings["model_type"]
    return ModelCardData(model_name=name, eval_results=entries(found)).to_yaml() + "\n"


def entries(found: dict[str, Any]) -> list[EvalResult]:
    """Returns the entries of a model-index: see `model_index`."""
    settings = found["settings"]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type=metric,
            metric_name=f"{metric}, {shots}-shot",
            metric_value=figures[name],
            metric_args={
                "shots": int(shots),
                "draw": settings["draw"],
                "seeds": settings["seeds"],
                "questions": figures["questions"],
                "stderr": figures["acc_stderr"] if name == "acc" else None,
            },
        )
        for task, by_shots in found["results"].items()
        for shots, figures in by_shots.items()
        for name, metric in METRICS.items()
        if name in figures
    ]


def draw_accuracy(found: dict[str, Any], path: Path, *, finetuned: dict[str, Any] | None = None) -> bool:
    """Draws accuracy over the number of shots, a line for each task with its standard errors; chance is dashed.

    Args:
        found: from `evaluate_few_shot`.
        path: of the image.
        finetuned: the same of a fine-tuned model without shots, drawn as dotted lines.

    Returns:
        Whether it was drawn: not where matplotlib is missing (one info line), or no task has two numbers of shots.
    """
    lines = {task: _points(by_shots) for task, by_shots in found["results"].items()}
    lines = {task: points for task, points in lines.items() if len(points) > 1}
    if not lines:
        return False
    try:
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError:
        logger.info("no %s: matplotlib is not installed (pip install 'vaswani-transformer[viz]')", path.name)
        return False
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="shots", ylabel="accuracy in %", xscale="symlog")
    for number, (task, points) in enumerate(lines.items()):
        style: dict[str, Any] = {"color": f"C{number % 10}"}
        shots, values, errors = zip(*points, strict=True)
        marker = MARKERS[number // 10 % len(MARKERS)]  # ten colours; the next ten tasks have another mark
        axes.errorbar(shots, values, yerr=errors, marker=marker, markersize=4, capsize=2, label=task, **style)
        chance = next(iter(found["results"][task].values())).get("chance")
        if chance is not None:
            axes.axhline(100 * chance, linestyle="--", linewidth=0.8, alpha=0.5, **style)
        for _, value, _ in _points(finetuned["results"][task]) if finetuned else ():
            axes.axhline(value, linestyle=":", label=f"{task}, fine-tuned", **style)
    ticks = sorted({point[0] for points in lines.values() for point in points})
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks], minor=False)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path)
    return True


def _points(by_shots: dict[str, Any]) -> list[tuple[int, float, float]]:
    """Shots, accuracy and its standard error in percent."""
    return [
        (int(shots), 100 * figures["acc"], 100 * (figures["acc_stderr"] or 0))
        for shots, figures in by_shots.items()
        if "acc" in figures
    ]
