"""Tasks by name: built in, of public sets, groups of both, and the YAML and Python files of a user."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..sections import unknown_name
from .blimp_subsets import SUBSETS
from .generated_tasks import SCRAMBLES, generated_tasks
from .phrases import PAIRS
from .public_tasks import PUBLIC, public_task
from .python_tasks import python_tasks
from .tasks import Task
from .yaml_tasks import yaml_task

ARITHMETIC = tuple(task.name for task in generated_tasks() if task.name.startswith("arithmetic_"))
GROUPS: dict[str, tuple[str, ...]] = {
    "arithmetic": tuple(name for name in ARITHMETIC if not name.endswith("released")),
    "unscramble": tuple(SCRAMBLES),
    "blimp": tuple(f"blimp_{subset}" for subset in SUBSETS),
    "translation": tuple(PAIRS),
}
GROUPS["embedded"] = (*GROUPS["arithmetic"], *GROUPS["unscramble"], "austen_cloze")


def task_names() -> list[str]:
    """Returns the names of all tasks and groups that are built in."""
    return list(dict.fromkeys([*(task.name for task in generated_tasks()), *PUBLIC, *GROUPS]))


def find_tasks(names: Sequence[str | Task], *, data: Mapping[str, str] | None = None) -> list[Task]:
    """Returns tasks by their names; no data is read yet.

    Args:
        names: of tasks or groups, paths of YAML files (see `yaml_tasks`) or Python files (see `python_tasks`), or tasks
            themselves. A group with a data file of its own is one task: all of BLiMP in a file.
        data: local files of public sets, name -> path of the questions; "name.shots" -> path of the shots'.

    Raises:
        FileNotFoundError: a task's file that is not there.
        ValueError: an unknown name, a file for a task that takes none, a task twice.
    """
    data = data or {}
    built_in = {task.name: task for task in generated_tasks()}
    found: list[Task] = []
    for name in (part for given in names for part in _members(given, data)):
        if isinstance(name, Task):
            found.append(name)
        elif name in built_in:
            found.append(built_in[name])
        elif name in PUBLIC:
            found.append(public_task(name, [data[key] for key in (name, f"{name}.shots") if key in data]))
        elif Path(name).suffix in (".yaml", ".yml"):
            found.append(yaml_task(name))
        elif Path(name).suffix == ".py":
            found += python_tasks(name)
        else:
            raise ValueError(unknown_name(name, task_names(), "task"))
    _check(found, data)
    return found


def _members(name: str | Task, data: Mapping[str, str]) -> tuple[str | Task, ...]:
    return GROUPS.get(name, (name,)) if isinstance(name, str) and name not in data else (name,)


def _check(found: Sequence[Task], data: Mapping[str, str]) -> None:
    names = [task.name for task in found]
    if len(set(names)) < len(names):
        raise ValueError(f"every task must be named once; got {', '.join(names)}")
    for key in data:
        name = key.removesuffix(".shots")
        if name not in names or name not in PUBLIC or (key != name and name not in data):
            raise ValueError(
                f"a data file must be that of a public task that is asked for, task=path, then task.shots=path; got "
                f"{key}={data[key]} with tasks {', '.join(names)}"
            )
