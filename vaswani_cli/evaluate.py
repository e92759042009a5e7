"""`vaswani evaluate`: zero-, one- and few-shot evaluation of a language model, GPT-3's protocol."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .imports import collector_paused
from .models import add_model
from .perplexity import add_model_arguments, load_model
from .translate import positive

DEFAULT_LIMIT = 50

EPILOG = """examples:
  vaswani evaluate runs/gpt-demo
  vaswani evaluate gpt2 --tasks hellaswag,lambada_openai,arc_easy --shots 0,1,5 --seeds 3 --out runs/few
  vaswani evaluate runs/gpt --tasks hellaswag --data hellaswag=dev.jsonl.xz hellaswag.shots=train.jsonl.xz
  vaswani evaluate gpt2 --tasks nq_open,wmt14-en-fr --beams 4
  vaswani evaluate gpt2 --tasks sst2,rte --calibrate
  vaswani evaluate runs/bert --tasks austen_cloze --pll original
  vaswani evaluate runs/gpt --tasks arithmetic_2da --finetuned runs/gpt-arithmetic --out runs/settings
  vaswani evaluate runs/gpt --tasks sst2 --finetuned runs/bert-sst2 --out runs/settings
  accelerate launch --num_processes 8 --module vaswani_cli evaluate gpt2 --tasks hellaswag --out runs/hellaswag
  vaswani evaluate runs/gpt --tasks mine.yaml,mine.py --draw shared --out runs/mine --resume

DIR also gets model-index.yaml, for the head of a model card, and shots.png, accuracy over the number of examples (extra
`viz`); of tasks from the Hub DIR/.eval_results, which a model's repository takes as it is, for the page and the
leaderboard of the benchmark; DIR/finetuned what MODEL2 answered, whose figures stand in DIR/results.json too.
MODEL2 is a language model, or has a task head: a classifier whose classes are called as the labels of the tasks (sst2,
rte, cb, boolq, wic, your YAML), or a multiple choice (hellaswag, piqa, commonsense_qa, arc_easy, ...). It reads the
fields that its recipe of `vaswani finetune` reads, or those of the task where it has none.

Without --tasks: arithmetic, word scrambling and a cloze of the embedded novels, 50 questions of each, offline.
The shots of a question are drawn from its name, the task's and a seed: they stay the same with any subset and batch.
--draw per_example, the paper's way, draws them for each question; shared, the same for all, is many times faster.
Several processes share the questions; the results are those of one.
A causal model scores from left to right, an encoder-decoder choices behind the prompt as their source, a masked model
by pseudo-log-likelihood: --pll word_l2r hides the rest of a token's word with it, original the token alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani evaluate`."""
    parser.description = (
        "Accuracy of a language model on tasks, with zero, one and a few examples before each question."
    )
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument(
        "--finetuned", metavar="MODEL2", help="one fine-tuned on the tasks, asked without examples: a column of its own"
    )
    parser.add_argument("--tasks", metavar="A,B", type=_names, help="tasks, groups, YAML or Python files (embedded)")
    parser.add_argument("--shots", metavar="K,K", type=_numbers, default=[0, 1, 5], help="numbers of examples (0,1,5)")
    parser.add_argument("--seeds", metavar="N", type=positive, default=1, help="draws of the examples (1)")
    parser.add_argument("--draw", choices=["per_example", "shared"], default="per_example", help="(per_example)")
    parser.add_argument("--balanced", action="store_true", help="examples of all labels in turn")
    parser.add_argument(
        "--pll", choices=["word_l2r", "original"], default="word_l2r", help="of a masked model (word_l2r)"
    )
    parser.add_argument("--beams", metavar="N", type=positive, default=1, help="beams of free text, GPT-3's 4 (1)")
    parser.add_argument("--calibrate", action="store_true", help="contextual calibration of tasks with fixed labels")
    parser.add_argument("--limit", metavar="N", type=positive, help="first questions of each task (all)")
    parser.add_argument(
        "--data", metavar="TASK=PATH", nargs="+", action="extend", default=[], help="local files; task.shots=PATH too"
    )
    parser.add_argument("--out", metavar="DIR", help="write results.json, questions.jsonl and more here")
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    add_model_arguments(parser)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be numbers from 0 with commas between them; got {text!r}")
    return [int(part) for part in parts]


def run(arguments: argparse.Namespace) -> int:
    """Asks the questions and prints the table."""
    if arguments.resume and not arguments.out:
        raise ValueError("--resume goes on with what --out holds; got --resume without --out")
    data = dict(_pair(text) for text in arguments.data)
    with collector_paused():
        from vaswani_transformer.evaluation.eval_results import write_eval_results
        from vaswani_transformer.evaluation.few_shot import evaluate_few_shot
        from vaswani_transformer.evaluation.few_shot_figures import write_results
        from vaswani_transformer.evaluation.few_shot_reports import ENTRIES, PICTURE, draw_accuracy, model_index
        from vaswani_transformer.evaluation.scorers import load_scored_model
        from vaswani_transformer.evaluation.task_catalogue import find_tasks
        from vaswani_transformer.evaluation.together import launched

    how: dict[str, Any] = {"tasks": find_tasks(arguments.tasks or ["embedded"], data=data)}
    how["limit"] = arguments.limit or (None if arguments.tasks else DEFAULT_LIMIT)
    names = ("seeds", "draw", "balanced", "batch_tokens", "pll", "beams", "calibrate", "resume")
    how |= {name: getattr(arguments, name) for name in names}
    with launched() as processes, _Bar() as bar:
        arguments.device = arguments.device or processes.device

        def ask(name: str, shots: list[int], out: Path | None, progress: Any) -> dict[str, Any]:
            model, tokenizer = load_model(argparse.Namespace(**vars(arguments) | {"model": name}), load_scored_model)
            return evaluate_few_shot(model, tokenizer, shots=shots, out=out, progress=progress, **how)

        out, second = Path(arguments.out) if arguments.out else None, None
        if arguments.finetuned:  # first: it is soon done, and a name that is wrong soon told
            place, shown = out and out / "finetuned", bar.of("fine-tuned ")
            second = _ask_head(arguments, place, shown, how) or ask(arguments.finetuned, [0], place, shown)
        found = ask(arguments.model, arguments.shots, out, bar.of(""))
    if processes.first:
        print("\n".join(table(found, second)))
        if out is not None:
            if second is not None:
                write_results(out, found | {"finetuned": second})
            (out / ENTRIES).write_text(model_index(found), encoding="utf-8")
            write_eval_results(found, out)
            draw_accuracy(found, out / PICTURE, finetuned=second)
    return 0


def _ask_head(
    arguments: argparse.Namespace, out: Path | None, progress: Any, how: dict[str, Any]
) -> dict[str, Any] | None:
    """What a fine-tuned model with a task head answers; None of a language model."""
    with collector_paused():
        from vaswani_transformer.evaluation.finetuned_heads import evaluate_head, head_named, load_head, recipe_of

    name = arguments.finetuned
    if head_named(name) is None:
        return None
    model, tokenizer = load_model(argparse.Namespace(**vars(arguments) | {"model": name}), load_head)
    more = {key: how[key] for key in ("tasks", "limit", "batch_tokens", "resume")}
    return evaluate_head(model, tokenizer, recipe=recipe_of(name), out=out, progress=progress, **more)


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"--data takes TASK=PATH; got {text!r}")
    return name, path


class _Bar:
    """A line of progress on a terminal, one bar for each task and number of shots."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def of(self, model: str) -> Callable[[str, int, int], None]:
        """Returns what shows the progress of one of two models."""
        return lambda name, done, total: self.show(model + name, done, total)

    def show(self, name: str, done: int, total: int) -> None:
        """Moves to so many questions of a line."""
        if name != self._name:
            from tqdm import tqdm

            self.__exit__()
            self._name = name
            silent = not sys.stderr.isatty()
            self._bar = tqdm(total=total, desc=name, unit="q", disable=silent, file=sys.stderr, leave=False)
        self._bar.update(done - self._bar.n)


def table(found: dict[str, Any], finetuned: dict[str, Any] | None = None) -> list[str]:
    """Returns the lines of a table, zero, one and few shots side by side: accuracy in percent, its standard error.

    Args:
        found: from `evaluate_few_shot`.
        finetuned: the same of a fine-tuned model without shots, for a last column.
    """
    settings, results = found["settings"], found["results"]
    shots = [str(number) for number in settings["shots"]]
    head = ["task", "questions", "chance", *(f"{number}-shot" for number in shots)]
    lines_of = [(name, metric) for name in results for metric in settings["tasks"][name]["metrics"] or ("acc",)]
    rows = [
        [name if metric == "acc" else f"{name} {metric}", *_cells(results[name], shots, metric)]
        for name, metric in lines_of
    ]
    if finetuned is not None:
        head.append("fine-tuned")
        for row, (name, metric) in zip(rows, lines_of, strict=True):
            row.append(_percent(finetuned["results"][name]["0"], metric))
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    lines.append(
        f"accuracy in %, ± its standard error over questions; shots: {settings['draw']}, seeds: {settings['seeds']}"
    )
    lines.append(f"scorer: {settings['scorer']}" + (f", pll {settings['pll']}" if settings["pll"] else ""))
    if finetuned is not None and "head" in finetuned["settings"]:
        lines.append(f"fine-tuned: {finetuned['settings']['head']['class']}, without a prompt")
    for name, by_shots in results.items():
        for number, figures in by_shots.items():
            if figures.get("shots_dropped"):
                lines.append(f"{name}: only {figures['shots_mean']:.2f} of {number} shots fit the model's context")
    return [line.rstrip() for line in lines]


def _cells(by_shots: dict[str, Any], shots: list[str], metric: str) -> list[str]:
    first = by_shots[shots[0]]
    chance = "" if first.get("chance") is None else f"{100 * first['chance']:.1f}"
    return [str(first["questions"]), chance, *(_percent(by_shots[number], metric) for number in shots)]


def _percent(figures: dict[str, Any], metric: str) -> str:
    if metric not in figures:
        return ""
    scale, error = 1 if metric == "bleu" else 100, figures[f"{metric}_stderr"]
    return f"{scale * figures[metric]:.1f}" + ("" if error is None else f" ± {scale * error:.1f}")
