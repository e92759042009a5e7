"""A task of one's own in Python: a file whose variables are tasks.

from vaswani_transformer.evaluation.tasks import Question, Task

def doubles(first: int, last: int) -> list[Question]:
    return [Question(str(n), (f"{n} twice is",), (f" {2 * n}", f" {2 * n + 1}")) for n in range(first, last)]

doubling = Task(name="doubling", kind="choice", queries=lambda: doubles(0, 50), pool=lambda: doubles(50, 90))
"""

import importlib.util
from pathlib import Path

from .tasks import Task


def python_tasks(path: str | Path) -> list[Task]:
    """Runs a file and returns the tasks that its variables hold, in their order; no data is read yet.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that does not run, or has no task; with the file's name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a task's file must exist; got {path}")
    spec = importlib.util.spec_from_file_location(f"tasks_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"a task's file must be Python; got {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code raises
        raise ValueError(f"a task's file must run; got {type(error).__name__}: {error} in {path}") from error
    found = list({id(value): value for value in vars(module).values() if isinstance(value, Task)}.values())
    if not found:
        raise ValueError(f"a task's file must have a variable that is a Task; got none in {path}")
    return found
