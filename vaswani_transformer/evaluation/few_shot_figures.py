"""What is kept of each question, and the figures that follow from it."""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .prompts import Prompt
from .scoring import Likelihood
from .tasks import SCORES, Task
from .text_metrics import RESAMPLES, bleu_figures, text_scores

logger = logging.getLogger(__name__)

RESULTS = "results.json"
Record = dict[str, Any]  # a line of questions.jsonl
Key = tuple[str, int, int, str]  # task, shots, seed, question


def key_of(record: Record) -> Key:
    """Returns what a record is of."""
    return record["task"], record["shots"], record["seed"], record["id"]


def scored_record(
    prompt: Prompt,
    scores: Sequence[Likelihood],
    task: Task,
    unconditional: Sequence[Likelihood] | None,
    *,
    bias: Sequence[float] | None = None,
) -> Record:
    """Returns the record of a question whose choices were scored.

    Args:
        prompt: what was asked.
        scores: of each choice.
        task: whose score tells the choice.
        unconditional: of each choice behind `task.unconditional`, where the task has it.
        bias: of each choice, where it is calibrated: see `calibration`. It then tells the choice.
    """
    question = prompt.question
    told: list[dict[str, Any]] = []
    for number, (text, score) in enumerate(zip(question.choices, scores, strict=True)):
        bare = text.strip()
        sizes = {"tokens": score.tokens, "chars": len(bare), "bytes": len(bare.encode())}
        told.append({"logprob": score.logprob, **sizes, "greedy": score.greedy})
        if unconditional is not None:
            told[-1]["unconditional"] = unconditional[number].logprob
        if bias is not None:
            told[-1]["bias"] = bias[number]
    record = _asked(prompt) | {"scores": told, "gold": question.gold}
    if task.kind == "last_word":
        return record | {"correct": told[0]["greedy"]}
    choice = chosen(record, task.score if bias is None else "calibrated")
    return record | {"choice": choice, "correct": choice == question.gold}


def written_record(prompt: Prompt, text: str, *, metrics: Sequence[str] = ()) -> Record:
    """Returns the record of a question that was answered with text: its first line counts, spaces around it do not."""
    text = text.lstrip(" ").partition("\n")[0].strip()
    answers = [choice.strip() for choice in prompt.question.choices]
    scores = text_scores(text, answers, metrics=metrics)
    correct = scores["em"] == 1 if "em" in scores else text in answers
    return _asked(prompt) | {"answers": answers, "text": text, "correct": correct, **scores}


def _asked(prompt: Prompt) -> Record:
    alone = len(prompt.question.contexts) == 1
    texts = [prompt.context_of(number) for number in range(len(prompt.question.contexts))]
    told = {"prompt": texts[0] if alone else texts, "shot_ids": list(prompt.shots), "dropped": prompt.dropped}
    tail = {"tail": prompt.question.tail} if prompt.question.tail else {}
    return {"id": prompt.question.id, **told, **tail}


def chosen(record: Record, score: str) -> int:
    """Returns the likeliest choice of a record; the first of several.

    Args:
        record: with `scores`.
        score: one of `SCORES`, or "calibrated": the sum less the bias.
    """
    values = [_value(told, score) for told in record["scores"]]
    return values.index(max(values))


def _value(told: dict[str, Any], score: str) -> float:
    if score == "unconditional":
        return told["logprob"] - told["unconditional"]
    if score == "calibrated":
        return told["logprob"] - told["bias"]
    return told["logprob"] / (1 if score == "sum" else told[f"{score}s"])


def figures(task: Task, seeds: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """Returns the figures of a task at one number of shots.

    Args:
        task: the task.
        seeds: the records of each seed; where one was stopped, of the questions that all have.

    Returns:
        `acc` by the task's own score, calibrated where that was asked for, its mean over seeds, `acc_stderr` and
        `acc_interval` (95%, bootstrap) over questions, `acc_seeds` and their standard deviation `acc_seeds_std` (None
        for one seed); of choices `acc_token`, `acc_char`, `acc_byte`, `acc_sum` and `acc_unconditional` where it is
        asked for, and `chance`; of a last word
        `perplexity`; of text those of the task's metrics: `em` and `f1` (0 to 1) with the same errors, `bleu` as
        `bleu_figures` says; `questions`, `shots_dropped` and `shots_mean`, those that prompts had room for.
    """
    common = set.intersection(*({record["id"] for record in records} for records in seeds))
    if not common:
        return {"questions": 0}
    kept = [sorted((r for r in records if r["id"] in common), key=lambda r: r["id"]) for records in seeds]
    correct = np.array([[record["correct"] for record in records] for records in kept], dtype=float)
    found: dict[str, Any] = {"questions": len(common)} | _means("acc", correct)
    records = [record for part in kept for record in part]
    if task.kind == "choice":
        known = SCORES if task.unconditional is not None else SCORES[:-1]
        if "tokens" not in records[0]["scores"][0]:  # of a head's classes, which have one score
            known = ()
        for score in known:
            found[f"acc_{score}"] = float(np.mean([chosen(record, score) == record["gold"] for record in records]))
        found["chance"] = float(np.mean([1 / len(record["scores"]) for record in records]))
    elif task.kind == "last_word":
        found["perplexity"] = math.exp(-float(np.mean([record["scores"][0]["logprob"] for record in records])))
    for name in task.metrics:
        if name == "bleu":
            found |= bleu_figures(kept)
        else:
            found |= _means(name, np.array([[record[name] for record in part] for part in kept]))
    found["shots_dropped"] = sum(record["dropped"] for record in records)
    found["shots_mean"] = float(np.mean([len(record["shot_ids"]) for record in records]))
    return found


def _means(name: str, values_SQ: np.ndarray) -> dict[str, Any]:
    """Figures of a value that each question has for each seed."""
    found: dict[str, Any] = {name: float(values_SQ.mean())} | spread(values_SQ.mean(0), name)
    found[f"{name}_seeds"] = [float(value) for value in values_SQ.mean(1)]
    found[f"{name}_seeds_std"] = float(values_SQ.mean(1).std(ddof=1)) if len(values_SQ) > 1 else None
    return found


def spread(values: np.ndarray, name: str = "acc") -> dict[str, Any]:
    """Returns the standard error of a mean over questions and its 95% bootstrap interval; None for one question."""
    count = len(values)
    if count < 2:
        return {f"{name}_stderr": None, f"{name}_interval": None}
    rng = np.random.default_rng(0)
    rows = max(1, 2**20 // count)  # resamples at a time, so that memory stays small
    sizes = [(min(rows, RESAMPLES - begin), count) for begin in range(0, RESAMPLES, rows)]
    means = np.concatenate([rng.choice(values, size).mean(1) for size in sizes])
    interval = [float(bound) for bound in np.quantile(means, (0.025, 0.975))]
    return {f"{name}_stderr": float(values.std(ddof=1) / math.sqrt(count)), f"{name}_interval": interval}


class QuestionLog:
    """The file questions.jsonl of a folder, a line a question, written as they are answered.

    Args:
        folder: where it is; None keeps records in memory alone.
        settings: of this run; written to results.json at once, and compared where a run goes on.
        resume: go on with what the folder holds.

    Raises:
        ValueError: a folder with answers and no `resume`, or `resume` with other settings.
    """

    FILE = "questions.jsonl"

    def __init__(self, folder: str | Path | None, *, settings: dict[str, Any], resume: bool = False) -> None:
        self.folder, self.settings = None if folder is None else Path(folder), settings
        self.records: dict[Key, Record] = {}
        if self.folder is None:
            return
        self.path, self.results = self.folder / self.FILE, self.folder / RESULTS
        if self.path.exists():
            if not resume:
                raise ValueError(f"the folder of results must be new, or --resume goes on; got answers in {self.path}")
            self._compare()
            self.records = {key_of(record): record for record in _whole_lines(self.path)}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sort(self.records)
        self.write({})

    def _compare(self) -> None:
        before = json.loads(self.results.read_text(encoding="utf-8"))["settings"] if self.results.exists() else {}
        now = json.loads(json.dumps(self.settings))
        other = [name for name in now if name not in ("versions", "batch_tokens") and before.get(name) != now[name]]
        if other:
            name = other[0]
            raise ValueError(
                f"--resume goes on with the same settings; got {name}={now[name]!r}, and {before.get(name)!r} in "
                f"{self.results}"
            )

    def sort(self, keys: Iterable[Key]) -> None:
        """Puts records in the order of the keys of all, whatever batches and processes they came from."""
        self.records = {key: self.records[key] for key in keys}
        if self.folder is not None:
            _replace(self.path, "".join(json.dumps(record) + "\n" for record in self.records.values()))

    def add(self, records: Iterable[Record]) -> None:
        """Keeps records, on disk before anything else is done."""
        new = {key_of(record): record for record in records}
        self.records |= new
        if self.folder is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(record) + "\n" for record in new.values())

    def write(self, results: dict[str, Any]) -> None:
        """Writes results.json."""
        if self.folder is not None:
            write_results(self.folder, {"results": results, "settings": self.settings})


def write_results(folder: Path, found: dict[str, Any]) -> None:
    """Writes results.json of a folder.

    Args:
        folder: which is there.
        found: from `evaluate_few_shot`; `finetuned` with the same of a fine-tuned model, where there is one.
    """
    _replace(folder / RESULTS, json.dumps(found, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _whole_lines(path: Path) -> Iterable[Record]:
    """The records of a log; a last line that a kill cut short is left out, and its question asked anew."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"every line must be a JSON object; got {error} at {path}:{number}") from error
            logger.warning("%s: the last line is not whole; its question is asked anew", path)
