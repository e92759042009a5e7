"""Models that were fine-tuned with a task head, asked the questions of few-shot tasks: the fourth setting of GPT-3's
figure 2.1 as BERT and GPT-1 have it, a classifier of texts or of choices instead of a prompt.

A model is read with the inputs of its fine-tuning (Devlin et al. 2018, section 4; Radford et al. 2018, section 3.3): by
the recipe in its folder's run.json where `vaswani finetune` wrote it, else as its tokenizer makes texts and pairs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.classification import ClassificationData, text_of
from ..data.gpt_inputs import GPTClassificationData, GPTMultipleChoiceData
from ..data.labelled_rows import Row
from ..data.multiple_choice import MultipleChoiceData, sequences_of
from ..models import VaswaniGPTConfig
from ..run_folder import RUN
from ..sections import read_section
from .bounded_batches import BATCH_TOKENS, BoundedBatches, batches
from .causal_lm import context_of
from .few_shot import Settings, ask_all, told_of
from .few_shot_figures import Record, chosen
from .head_inputs import CHOICES, CLASSES, ROLES, Reading, reading_of
from .scorers import load_as
from .task_catalogue import find_tasks
from .tasks import Question, Task
from .together import Processes, shared_log
from .translation import evaluating

AUTO = {CLASSES: AutoModelForSequenceClassification, CHOICES: AutoModelForMultipleChoice}
DATA: dict[str, tuple[Any, Any]] = {
    CLASSES: (ClassificationData, GPTClassificationData),
    CHOICES: (MultipleChoiceData, GPTMultipleChoiceData),
}
TASKS = {CLASSES: "classification", CHOICES: "multiple-choice"}
OTHERS = ("TokenClassification", "QuestionAnswering", "NextSentencePrediction")
LONGEST = 512  # tokens, where neither recipe nor model nor tokenizer says


def head_named(name: str | Path) -> str | None:
    """Returns the kind of head that a folder's or Hub repository's model has; None for language models.

    Raises:
        ValueError: a head that no task can be asked of.
    """
    try:
        architectures = AutoConfig.from_pretrained(str(name)).architectures or [""]
    except (OSError, ValueError):
        return None  # the loader of language models tells
    kind = architectures[0].rpartition("For")[2]
    if kind in OTHERS:
        raise ValueError(
            f"a fine-tuned model must be a language model, or have a head of {', '.join(f'For{k}' for k in AUTO)}; got "
            f"{architectures[0]} in {name}"
        )
    return kind if kind in AUTO else None


def load_head(
    name: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a model with a task head, in evaluation mode on its device, and its tokenizer.

    Args:
        name: a folder, or a name on the Hub.
        dtype: of the weights; as they were saved where left out.
        device: the GPU where there is one, where left out.

    Raises:
        ValueError: no model there, or none with a head that tasks can be asked of; weights that are missing.
    """
    kind = head_named(name)
    if kind is None:
        raise ValueError(f"a model must have a head of {', '.join(f'For{k}' for k in AUTO)}; got none in {name}")
    return load_as(AUTO[kind], str(name), part="task head", dtype=dtype, device=device)


def recipe_of(name: str | Path) -> dict[str, Any] | None:
    """Returns the `data` section of the recipe that `vaswani finetune` made a folder with; None in other folders."""
    path = Path(name) / RUN
    if not path.is_file():
        return None
    found: Any = json.loads(path.read_text(encoding="utf-8")).get("recipe", {}).get("data")
    return found if isinstance(found, dict) and "columns" in found else None


def evaluate_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | Task],
    *,
    recipe: Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    data: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """Asks a model with a task head the questions of tasks, without prompts.

    Args:
        model: a classifier of texts whose classes are called as a task's labels, or one of choices; ours or
            transformers'.
        tokenizer: its tokenizer.
        tasks: as for `evaluate_few_shot`; those with fixed labels, or with choices, whose questions are made of rows.
        recipe: the `data` section that it was fine-tuned with, from `recipe_of`.
        limit: first questions of each task; all where left out.
        batch_tokens: most tokens of a batch with padding.
        data: local files of public tasks, see `find_tasks`.
        out: folder for results.json and questions.jsonl.
        resume: go on with what `out` holds.
        progress: as for `evaluate_few_shot`.

    Returns:
        What `evaluate_few_shot` returns, under no shots.

    Raises:
        ValueError: a task that the head cannot be asked, see `reading_of`; a head of values or of several labels.
    """
    settings = Settings(shots=(0,), limit=limit, batch_tokens=batch_tokens)
    found = find_tasks(tasks, data=data)
    asker = _HeadAsker(model, tokenizer, found, settings, recipe)
    processes = Processes()
    told = told_of(model, found, settings) | {"scorer": "head", "pll": None, "head": asker.told}
    log = shared_log(processes, out, settings=told, resume=resume)
    how: dict[str, Any] = {"settings": settings, "processes": processes, "log": log, "out": out}
    return ask_all(found, asker.answers, **how, progress=progress)


class HeadScorer(BoundedBatches):
    """The log-probability of each class of texts, or of each choice.

    Args:
        model: with a task head; it is in evaluation mode while it scores.
        collate: makes a batch of features, from their data module.
        batch_tokens: most tokens of a batch with padding; a longer row is alone. Halved, for good, where memory does
            not hold a batch.
    """

    def __init__(self, model: PreTrainedModel, collate: Any, *, batch_tokens: int = BATCH_TOKENS) -> None:
        super().__init__(batch_tokens)
        self.model, self.collate = model, collate

    def __call__(self, features: Sequence[dict[str, Any]]) -> Iterator[tuple[int, list[float]]]:
        """Yields the number of each row and its log-probabilities, batch by batch, the longest first."""
        sizes = [_size(feature["input_ids"]) for feature in features]  # sequences of a row, tokens of its longest

        def fits(batch: Sequence[int]) -> bool:
            sequences = [sizes[number][0] for number in batch]
            tokens = sum(sequences) * max(sizes[number][1] for number in batch)
            return tokens <= self.batch_tokens and len(set(sequences)) == 1

        for batch in batches(sorted(range(len(features)), key=lambda number: sizes[number], reverse=True), fits):
            with evaluating(self.model):
                scores = self.in_halves(self._forward, [features[number] for number in batch])
            yield from zip(batch, scores, strict=True)

    @torch.inference_mode()
    def _forward(self, features: Sequence[dict[str, Any]]) -> list[list[float]]:
        inputs = self.collate([{**feature, "labels": 0} for feature in features])  # collators want labels
        given = {name: values.to(self.model.device) for name, values in inputs.items() if name != "labels"}
        found: list[list[float]] = self.model(**given).logits.float().log_softmax(-1).tolist()
        return found


def _size(ids: Any) -> tuple[int, int]:
    nested = bool(ids) and isinstance(ids[0], list)
    return (len(ids), max(map(len, ids))) if nested else (1, len(ids))


class _HeadAsker:
    """Answers questions by a head."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[Task],
        settings: Settings,
        recipe: Mapping[str, Any] | None,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.kind, config = _kind_of(model), cast(Any, model.config)
        names = [str(config.id2label[number]) for number in range(config.num_labels)] if self.kind == CLASSES else []
        columns = None if recipe is None else recipe["columns"]
        self.readings = {
            task.name: reading_of(task, self.kind, names=names, columns=columns, limit=settings.limit) for task in tasks
        }
        self.sections = {
            task.name: dict(recipe) if recipe is not None else self._section(task.name, self.readings[task.name])
            for task in tasks
        }
        self.names = names

    @property
    def told(self) -> dict[str, Any]:
        """Returns what a head reads, for the settings."""
        return {
            "class": type(self.model).__name__,
            "classes": self.names,
            "inputs": {
                name: {
                    "columns": {role: list(places) for role, places in reading.columns.items()},
                    "choices": list(reading.choices),
                    "max_length": self.sections[name].get("max_length"),
                }
                for name, reading in self.readings.items()
            },
        }

    def _section(self, name: str, reading: Reading) -> dict[str, Any]:
        """A recipe's data section for a head that came without one."""
        most = min(self.tokenizer.model_max_length, context_of(self.model) or LONGEST)
        columns = {role: role for role in (*reading.columns, "label")}
        found = {"task": TASKS[self.kind], "name": name, "columns": columns, "max_length": most}
        return found | ({"both_orders": True} if getattr(self.model.config, "both_orders", False) else {})

    def answers(self, task: Task, questions: Sequence[Question], shots: int, seed: int) -> Iterator[list[Record]]:
        """Yields the records of questions, one at a time."""
        reading = self.readings[task.name]
        rows = [reading.inputs(question) for question in questions]
        data = self._data(task.name, rows[0])
        features = [self._features(data, row) for row in rows]
        score = HeadScorer(self.model, data.collator(self.tokenizer), batch_tokens=self.settings.batch_tokens)
        for number, found in score(features):
            question = questions[number]
            by_choice = found if not reading.choices else [found[reading.choices.index(c)] for c in range(len(found))]
            record: Record = {"id": question.id, "inputs": rows[number], "shot_ids": [], "dropped": 0}
            record |= {"scores": [{"logprob": value} for value in by_choice], "gold": question.gold}
            choice = chosen(record, "sum")
            yield [record | {"choice": choice, "correct": choice == question.gold}]

    def _data(self, name: str, row: Row) -> Any:
        """The data module that makes a head's inputs."""
        module = DATA[self.kind][self.model.config.model_type == VaswaniGPTConfig.model_type]
        return module(read_section(module.Options, self.sections[name], where="data"), [row], self.names)

    def _features(self, data: Any, row: Row) -> dict[str, Any]:
        """The inputs of a row as fine-tuning has them, without its label."""
        if self.kind == CHOICES:
            given = data.encode(*sequences_of(row), self.tokenizer)
            return {name: [one[name] for one in given] for name in given[0]}
        texts = {role: [text_of(row, role)] for role in ROLES[CLASSES] if role in row}
        (found,) = data.encode(texts["text"], texts.get("pair"), self.tokenizer)
        return found


def _kind_of(model: PreTrainedModel) -> str:
    """The kind of a model's head.

    Raises:
        ValueError: another head, or one of values or of several labels.
    """
    name, problem = type(model).__name__, getattr(model.config, "problem_type", None)
    kind = name.rpartition("For")[2]
    if kind not in AUTO or (kind == CLASSES and problem not in (None, "single_label_classification")):
        raise ValueError(
            f"a model must have a head of {', '.join(f'For{k}' for k in AUTO)}, of one class a text; got {name} with "
            f"problem_type={problem!r}"
        )
    return kind
