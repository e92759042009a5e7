"""Zero-, one- and few-shot evaluation of language models by GPT-3's protocol; Brown et al. (2020), section 2.4.

Every setting is a prompt and a forward pass, no update: zero shots are the description and the question, one shot adds
an example, few shots K. The likeliest choice has the highest mean log-probability of a token, unless its task says
otherwise.

Departure: text is written greedily unless beams are asked for; the paper searches with four.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .beam_completion import LENGTH_PENALTY
from .bounded_batches import BATCH_TOKENS
from .calibration import QUESTIONS, Calibration
from .few_shot_figures import Key, QuestionLog, Record, figures, scored_record, written_record
from .free_text import Writer
from .masked_scoring import PLL
from .prompts import DRAWS, Prompt, draw_shots, make_prompt
from .scorers import Score, check_tasks, kind_of, scorer_of
from .scoring import Likelihood
from .task_catalogue import find_tasks
from .tasks import Question, Task
from .together import Processes, shared_log

SPARE_TOKENS = 4  # more than the longest answer has, to see that it ends
Answers = Callable[[Task, Sequence[Question], int, int], Iterator[list[Record]]]
LIBRARIES = ("vaswani-transformer", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to ask.

    Args:
        shots: numbers of shots.
        seeds: draws of shots, numbered from 0; no shots are drawn once.
        draw: "per_example", the paper's, or "shared", see `draw_shots`.
        balanced: shots of all labels in turn.
        limit: first questions of each task; all where left out.
        batch_tokens: most tokens of a batch.
        pll: what a masked language model has hidden with a token, see `MaskedTokens`.
        beams: 1 to write greedily, else the width of a beam search.
        calibrate: contextual calibration of tasks with fixed labels.

    Raises:
        ValueError: a number out of its range, a number of shots twice, an unknown draw or `pll`.
    """

    shots: tuple[int, ...] = (0, 1, 5)
    seeds: int = 1
    draw: str = "per_example"
    balanced: bool = False
    limit: int | None = None
    batch_tokens: int = BATCH_TOKENS
    pll: str = PLL[0]
    beams: int = 1
    calibrate: bool = False

    def __post_init__(self) -> None:
        shots = self.shots
        if not shots or min(shots) < 0 or len(set(shots)) < len(shots):
            raise ValueError(f"shots must be numbers from 0, each once; got shots={list(shots)}")
        for name in ("seeds", "limit", "batch_tokens", "beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {name}={value}")
        if self.draw not in DRAWS:
            raise ValueError(f"draw must be one of {', '.join(DRAWS)}; got draw={self.draw!r}")
        if self.pll not in PLL:
            raise ValueError(f"pll must be one of {', '.join(PLL)}; got pll={self.pll!r}")


def evaluate_few_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | Task],
    *,
    shots: Sequence[int] = (0, 1, 5),
    seeds: int = 1,
    draw: str = "per_example",
    balanced: bool = False,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    pll: str = PLL[0],
    beams: int = 1,
    calibrate: bool = False,
    data: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """Asks a model the questions of tasks with so many examples before them.

    Of several processes that have joined (`torch.distributed`) each asks its part, and all return the same.

    Args:
        model: any causal language model; an encoder-decoder, the original Transformer for one, whose source is all that
            stands before a choice; or a masked language model, BERT for one, asked for choices and last words alone.
        tokenizer: its tokenizer.
        tasks: names of tasks or groups, YAML files, or tasks; see `find_tasks`.
        shots: numbers of examples, 0, 1 and 5 for zero-, one- and few-shot.
        seeds: draws of examples; the figures are means over them.
        draw: "per_example", anew for each question as in the paper, or "shared", many times faster.
        balanced: examples of all labels in turn.
        limit: first questions of each task; all where left out.
        batch_tokens: most tokens of a batch; halved where memory does not hold it.
        pll: of a masked language model, "word_l2r" or "original", see `masked_scoring`.
        beams: 1 to write free text greedily, 4 for GPT-3's beam search with length penalty 0.6.
        calibrate: divide what a label gets by what it gets without a question, in tasks with fixed labels (those with
            `blank`); see `calibration`.
        data: local files of public tasks, see `find_tasks`.
        out: folder for results.json and questions.jsonl, written as questions are answered.
        resume: go on with what `out` holds.
        progress: called with a line's name, how many of its questions are answered, and how many there are.

    Returns:
        {"results": {task: {shots: figures}}, "settings": {...}}; see `few_shot_figures.figures`. Shots are keys as
        text, as in JSON.

    Raises:
        ValueError: an unknown task, a broken file, more shots than there are, a question that does not fit the model, a
            folder that holds other results, a task that the model cannot do.
        KeyboardInterrupt: after results.json is written with what is done.
    """
    settings = Settings(
        shots=tuple(shots),
        seeds=seeds,
        draw=draw,
        balanced=balanced,
        limit=limit,
        batch_tokens=batch_tokens,
        pll=pll,
        beams=beams,
        calibrate=calibrate,
    )
    found = find_tasks(tasks, data=data)
    check_tasks(kind_of(model), found)
    if calibrate and not any(task.blank for task in found):
        raise ValueError(
            "calibration needs a task with fixed labels and `blank`, sst2 for one; got "
            f"{', '.join(task.name for task in found)}"
        )
    for task in found:
        draw_shots(task, task.questions[0], shots=max(shots))  # before hours of work
    processes = Processes()
    asker = _Asker(model, tokenizer, settings)
    told = told_of(model, found, settings) | {"scorer": asker.how.kind, "pll": asker.how.pll}
    log = shared_log(processes, out, settings=told, resume=resume)
    how: dict[str, Any] = {"settings": settings, "processes": processes, "log": log, "out": out}
    return ask_all(found, asker.answers, **how, progress=progress)


def ask_all(
    tasks: Sequence[Task],
    answers: Answers,
    *,
    settings: Settings,
    processes: Processes,
    log: QuestionLog,
    out: str | Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """Asks all that a log lacks.

    Args:
        tasks: the tasks, in the order of the results.
        answers: answers questions of a task at a number of shots and a seed, a batch of records at a time.
        settings: how many shots, seeds and questions.
        processes: those that share the questions.
        log: of all of them.
        out: its folder, which the first process alone has in the log.
        progress: as for `evaluate_few_shot`.

    Returns:
        What `evaluate_few_shot` returns.

    Raises:
        KeyboardInterrupt: after results.json is written with what is done.
    """
    results: dict[str, Any] = {}
    try:
        for task in tasks:
            for number in settings.shots:
                _ask(task, number, answers, settings=settings, processes=processes, log=log, progress=progress)
                _add(results, task, number, settings, log)
                log.write(results)
    except KeyboardInterrupt as stop:
        _add(results, task, number, settings, log)
        log.write(results)
        where = f"; --resume goes on with {out}" if out is not None else ""
        raise KeyboardInterrupt(f"stopped after {len(log.records)} answers{where}") from stop
    log.sort(_keys(tasks, settings))
    return {"results": results, "settings": log.settings}


def _ask(
    task: Task,
    shots: int,
    answers: Answers,
    *,
    settings: Settings,
    processes: Processes,
    log: QuestionLog,
    progress: Callable[[str, int, int], object] | None,
) -> None:
    """Has what the log lacks of a task at a number of shots answered."""
    asked = task.questions[: settings.limit]
    for seed in range(settings.seeds if shots else 1):
        left = [q for q in asked if (task.name, shots, seed, q.id) not in log.records]
        done, name = len(asked) - len(left), f"{task.name} {shots}-shot" + (f" seed {seed}" if seed else "")
        mine = processes.share(left)
        found = answers(task, mine, shots, seed) if mine else iter(())
        for records in processes.rounds(found) if left else ():
            log.add({"task": task.name, "shots": shots, "seed": seed, **record} for record in records)
            done += len(records)
            if progress and processes.first:
                progress(name, done, len(asked))


def _keys(tasks: Sequence[Task], settings: Settings) -> Iterator[Key]:
    """What is asked, in the order of the settings."""
    for task in tasks:
        for number in settings.shots:
            for seed in range(settings.seeds if number else 1):
                yield from ((task.name, number, seed, question.id) for question in task.questions[: settings.limit])


def _add(results: dict[str, Any], task: Task, number: int, settings: Settings, log: QuestionLog) -> None:
    seeds: list[list[Record]] = [[] for _ in range(settings.seeds if number else 1)]
    for (name, shots, seed, _), record in log.records.items():
        if (name, shots) == (task.name, number):
            seeds[seed].append(record)
    results.setdefault(task.name, {})[str(number)] = figures(task, seeds)


def told_of(model: PreTrainedModel, tasks: Sequence[Task], settings: Settings) -> dict[str, Any]:
    """Returns every setting, plain values for JSON."""
    names = ("version", "kind", "score", "metrics", "description", "delimiter", "unconditional", "longest_answer")
    names += ("source", "benchmark", "licence", "citation")
    return {
        "model": model.config._name_or_path,
        "model_type": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "shots": list(settings.shots),
        "seeds": settings.seeds,
        "draw": settings.draw,
        "balanced": settings.balanced,
        "limit": settings.limit,
        "batch_tokens": settings.batch_tokens,
        "beams": settings.beams,
        "length_penalty": LENGTH_PENALTY if settings.beams > 1 else None,
        "calibrate": settings.calibrate,
        "tasks": {
            task.name: {
                **{name: getattr(task, name) for name in names},
                "calibrated": settings.calibrate and task.blank is not None,
            }
            for task in tasks
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def _version(name: str) -> str:
    if name == "vaswani-transformer":
        from vaswani_transformer import __version__

        return __version__
    return version(name)


class _Asker:
    """Answers questions behind their prompts."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.how = scorer_of(model, tokenizer, pll=settings.pll)
        self.context, self.tokens = self.how.context, self.how.tokens
        self._scorer: Score | None = None
        self._writer: Writer | None = None
        self._calibrations: dict[str, Calibration] = {}

    @property
    def scorer(self) -> Score:
        """Made when it is first needed: a model is tried with a few questions."""
        if self._scorer is None:
            self._scorer = self.how.score(self.settings.batch_tokens)
        return self._scorer

    @property
    def writer(self) -> Writer:
        """Made when it is first needed: beams look at every token for a line's end."""
        if self._writer is None:
            how = self.settings
            self._writer = Writer(self.model, self.tokenizer, beams=how.beams, batch_tokens=how.batch_tokens)
        return self._writer

    def answers(self, task: Task, questions: Sequence[Question], shots: int, seed: int) -> Iterator[list[Record]]:
        """Yields the records of questions, batch by batch."""
        how = self.settings
        drawn = [
            draw_shots(task, question, shots=shots, seed=seed, draw=how.draw, balanced=how.balanced)
            for question in questions
        ]
        if task.kind == "completion":
            yield from self._written(task, questions, drawn)
        elif how.calibrate and task.blank is not None:
            calibration = self._calibrations.setdefault(task.name, Calibration(task, self.tokens))
            for start in range(0, len(questions), QUESTIONS):
                part = slice(start, start + QUESTIONS)
                yield from self._scored(task, questions[part], drawn[part], calibration)
        else:
            yield from self._scored(task, questions, drawn)

    def _scored(
        self,
        task: Task,
        questions: Sequence[Question],
        drawn: Sequence[Sequence[Question]],
        calibration: Calibration | None = None,
    ) -> Iterator[list[Record]]:
        rows: dict[str, list[Any]] = {}

        def fits(prompt: Prompt) -> bool:
            choices, tail = enumerate(prompt.question.choices), prompt.question.tail
            row = [self.tokens(prompt.context_of(number), choice, tail) for number, choice in choices]
            rows[prompt.question.id] = row  # the last one asked about is the one that fits
            longest = max(choice.read for choice in row)
            if calibration is not None:
                longest = max(longest, calibration.longest(prompt.before))
            return self.context is None or longest <= self.context

        prompts = [make_prompt(task, q, shots, fits=fits) for q, shots in zip(questions, drawn, strict=True)]
        if calibration is not None:
            calibration.find(prompts, self.scorer)
        bare: dict[int, list[Likelihood]] = {}
        if task.unconditional is not None:
            alone = str(task.unconditional)
            bare = dict(self.scorer([[self.tokens(alone, choice, q.tail) for choice in q.choices] for q in questions]))
        for number, scores in self.scorer([rows[question.id] for question in questions]):
            bias = None if calibration is None else calibration.of(prompts[number].before)
            yield [scored_record(prompts[number], scores, task, bare.get(number), bias=bias)]

    def _written(
        self, task: Task, questions: Sequence[Question], drawn: Sequence[Sequence[Question]]
    ) -> Iterator[list[Record]]:
        answers = [choice for question in task.questions for choice in question.choices]
        lengths = [len(ids) for ids in self.tokenizer(answers, add_special_tokens=False)["input_ids"]]  # type: ignore[arg-type]
        new_tokens = min(task.longest_answer, max(lengths)) + SPARE_TOKENS

        def ids_of(prompt: Prompt) -> list[int]:
            ids: Any = self.tokenizer(prompt.context_of(0), verbose=False)["input_ids"]
            return ids

        def fits(prompt: Prompt) -> bool:
            return self.context is None or len(ids_of(prompt)) + new_tokens <= self.context

        prompts = [make_prompt(task, q, shots, fits=fits) for q, shots in zip(questions, drawn, strict=True)]
        size = self.writer.batch_size(max(len(ids_of(prompt)) + new_tokens for prompt in prompts))
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            texts = self.writer([ids_of(prompt) for prompt in part], new_tokens)
            pairs = zip(part, texts, strict=True)
            yield [written_record(prompt, text, metrics=task.metrics) for prompt, text in pairs]
