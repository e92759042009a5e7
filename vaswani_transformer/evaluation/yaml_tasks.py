"""A task of one's own in YAML, with lm-eval's keys where they can be read without code and without a network.

    task: capitals
    output_type: multiple_choice          # or generate_until: text up to a line's end, exact match
    dataset_path: json
    dataset_kwargs: {data_files: {test: capitals.jsonl, train: more.jsonl}}   # from this file's folder
    test_split: test
    fewshot_split: train                  # shots come from the questions themselves without it
    description: "Name the capital."
    doc_to_text: "Q: {{country}}?\\nA:"     # Jinja, or the name of a field
    doc_to_choice: choices                # a field that is a list, a list, or Jinja that gives one
    doc_to_target: answer                 # the right choice's number, or its text
    metadata: {version: 1}

Ours alone: `score` and `unconditional`, see `Task`; `doc_to_tail`, as doc_to_text, `tail` of a `Question`; `content`,
the fields that hold a question's content, for contextual calibration, where the choices are the same in all questions.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from ..sections import unknown_name
from .task_rows import Row, file_rows, questions_of
from .tasks import CONTENT, Question, Task
from .text_metrics import METRICS

NEEDED = ("task", "output_type", "doc_to_text", "doc_to_target", "dataset_kwargs")
OPTIONAL = (
    "dataset_path", "test_split", "validation_split", "training_split", "fewshot_split", "doc_to_choice", "description",
    "doc_to_tail", "target_delimiter", "fewshot_delimiter", "metadata", "score", "unconditional", "content", "tag",
    "metric_list", "generation_kwargs", "num_fewshot",
)  # fmt: skip
KINDS = {"multiple_choice": "choice", "generate_until": "completion"}
TEMPLATES = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def yaml_task(path: str | Path) -> Task:
    """Returns the task that a file describes; its data is read on first use.

    Of `metric_list` those of free text are told that are ours too: `em`, `f1` (SQuAD's), `bleu` (sacreBLEU's), and
    lm-eval's `exact_match` without case and punctuation, which is `em`. The rest of it, `generation_kwargs`,
    `num_fewshot` and `tag` are read over: text ends with its line, and shots are an argument.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML mapping, a key that is missing, unknown or needs code, with the file's name.
    """
    path = Path(path)
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"a task's file must be YAML without code; got {error} in {path}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"a task's file must map keys to values; got {type(settings).__name__} in {path}")
    for key in settings:
        if key not in (*NEEDED, *OPTIONAL):
            raise ValueError(f"{unknown_name(str(key), [*NEEDED, *OPTIONAL], 'key of a task')} in {path}")
    for key in NEEDED:
        if settings.get(key) in (None, ""):
            raise ValueError(f"a task's file must have the key {key!r}; got {', '.join(settings)} in {path}")
    if settings["output_type"] not in KINDS or settings.get("dataset_path", "json") != "json":
        raise ValueError(
            f"output_type must be one of {', '.join(KINDS)}, and dataset_path json, local files; got "
            f"{settings['output_type']!r}, {settings.get('dataset_path')!r} in {path}"
        )
    return _task(path, settings)


def _task(path: Path, settings: dict[str, Any]) -> Task:
    files = (settings["dataset_kwargs"] or {}).get("data_files")
    splits = [settings.get(key) for key in ("test_split", "validation_split", "training_split") if settings.get(key)]
    asked, drawn = splits[0] if splits else None, settings.get("fewshot_split")
    if not isinstance(files, dict) or asked not in files or (drawn is not None and drawn not in files):
        raise ValueError(
            "dataset_kwargs.data_files must map the splits to files, and test_split name one; got data_files="
            f"{files!r}, {asked!r}, fewshot_split={drawn!r} in {path}"
        )
    read = partial(_questions, settings, path.parent)
    more = {key: settings[key] for key in ("description", "score", "unconditional") if key in settings}
    return Task(
        name=str(settings["task"]),
        kind=KINDS[settings["output_type"]],
        queries=partial(read, files[asked]),
        pool=None if drawn in (None, asked) else partial(read, files[drawn]),
        version=int((settings.get("metadata") or {}).get("version", 1)),
        blank=_blank(settings, path),
        metrics=_metrics(settings, path),
        delimiter=settings.get("fewshot_delimiter", "\n\n"),
        source=f"{path.name}: {files[asked]}",
        **more,
    )


def _blank(settings: dict[str, Any], path: Path) -> Question | None:
    content = settings.get("content")
    if content is None:
        return None
    if not isinstance(content, list) or KINDS[settings["output_type"]] != "choice":
        raise ValueError(f"content must be a list of the fields of a multiple_choice task; got {content!r} in {path}")
    row = Row(f"a row of {path} without content", dict.fromkeys(map(str, content), CONTENT))
    return _question(settings | {"doc_to_target": 0}, row, "blank")


def _metrics(settings: dict[str, Any], path: Path) -> tuple[str, ...]:
    listed = settings.get("metric_list") or []
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and "metric" in entry for entry in listed):
        raise ValueError(f"metric_list must be a list of {{metric: NAME}}; got {listed!r} in {path}")
    if KINDS[settings["output_type"]] != "completion":
        return ()
    found = []
    for entry in listed:
        name = entry["metric"]
        if name == "exact_match" and entry.get("ignore_case") and entry.get("ignore_punctuation"):
            name = "em"
        if name in METRICS:
            found.append(name)
    return tuple(dict.fromkeys(found))


class _Loader(yaml.SafeLoader):
    """YAML without tags that run code; lm-eval's `!function` says that there is code to run."""


def _questions(settings: dict[str, Any], folder: Path, files: str | list[str]) -> list[Question]:
    paths = files if isinstance(files, list) else [files]
    rows: Iterator[Row] = (row for path in paths for row in file_rows(folder / path))
    return questions_of(rows, partial(_question, settings))


def _question(settings: dict[str, Any], row: Row, name: str) -> Question:
    context = str(_value(settings["doc_to_text"], row))
    target = _value(settings["doc_to_target"], row)
    delimiter = settings.get("target_delimiter", " ")
    if KINDS[settings["output_type"]] == "completion":
        return Question(name, (context,), tuple(f"{delimiter}{x}" for x in (target if _listed(target) else [target])))
    choices = _value(settings.get("doc_to_choice", "choices"), row)
    if isinstance(choices, str):
        choices = _literal(choices, row)
    if not _listed(choices):
        raise ValueError(f"doc_to_choice must give a list; got {choices!r} at {row.place}")
    texts = [str(choice) for choice in choices]
    if str(target) in texts:
        gold = texts.index(str(target))
    else:
        gold = Row(row.place, {"doc_to_target": target}).number("doc_to_target", below=len(texts))
    if not all(text.strip() for text in texts):
        raise ValueError(f"doc_to_choice must give no empty choice; got {texts} at {row.place}")
    tail = str(_value(settings.get("doc_to_tail", ""), row))
    return Question(name, (context,), tuple(delimiter + text for text in texts), gold, tail)


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _value(template: Any, row: Row) -> Any:
    """A field by its name, else Jinja's rendering; what is no text stands for itself."""
    if not isinstance(template, str):
        return template
    if template in row.values:
        return row[template]
    if "{{" not in template and "{%" not in template:
        return row[template] if template.isidentifier() else template
    try:
        return TEMPLATES.from_string(template).render(**row.values)
    except jinja2.TemplateError as error:
        raise ValueError(f"the template {template!r} must fit the row; got {error} at {row.place}") from error


def _literal(text: str, row: Row) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"doc_to_choice must give a list; got {text!r} at {row.place}") from error
