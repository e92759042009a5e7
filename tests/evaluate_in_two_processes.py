"""One of two processes that answer questions together: evaluate_in_two_processes.py MODEL FOLDER; it says what it saw.

In one go: a run that process 1 is asked to stop in, the rest of it, the same folder once more, a question that does
not fit.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation import evaluate_few_shot
from vaswani_transformer.evaluation.tasks import Question, Task
from vaswani_transformer.evaluation.together import launched

QUESTIONS = [
    Question(str(i), (f"the cat {'sat ' * (i % 4)}on",), (" the mat", " a dog", " it"), i % 3) for i in range(11)
]
PICK = Task(name="pick", kind="choice", queries=lambda: QUESTIONS, delimiter="\n")
WRITTEN = Task(name="written", kind="completion", queries=lambda: QUESTIONS, delimiter="\n")
LONG = Task(
    name="long", kind="choice", queries=lambda: [*QUESTIONS[:3], Question("far", ("the cat " * 200,), (" a", " b"))]
)
HOW: dict[str, Any] = {"shots": (0, 2), "seeds": 2, "batch_tokens": 60}


def load(folder: str) -> tuple[Any, Any]:
    return VaswaniGPTForCausalLM.from_pretrained(folder).eval(), VaswaniGPT2Tokenizer.from_pretrained(folder)


def ask(model: str, out: Path, rank: int) -> dict[str, Any]:
    loaded, seen = load(model), {}

    def attempt(name: str, tasks: list[Task], **more: Any) -> None:
        try:
            seen[name] = evaluate_few_shot(*loaded, tasks, **HOW | more)["results"]
        except (KeyboardInterrupt, ValueError, RuntimeError) as error:
            seen[name] = f"{type(error).__name__}: {error}"

    if rank == 1:
        signalled = iter(range(3))
        forward = loaded[0].forward

        def forward_and_signal(*args: Any, **kwargs: Any) -> Any:
            if next(signalled, None) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return forward(*args, **kwargs)

        loaded[0].forward = forward_and_signal
    attempt("stopped", [WRITTEN, PICK], out=out / "few")
    torch.distributed.barrier()  # process 1 knows of the stop before process 0 has written what was answered
    seen["then"] = len((out / "few" / "questions.jsonl").read_text().splitlines())
    attempt("resumed", [WRITTEN, PICK], out=out / "few", resume=True)
    attempt("again", [WRITTEN, PICK], out=out / "few")
    attempt("long", [LONG], shots=(0,))
    return seen


if __name__ == "__main__":
    with launched() as processes:
        found = ask(sys.argv[1], Path(sys.argv[2]), processes.rank)
    (Path(sys.argv[2]) / f"seen-{processes.rank}.json").write_text(json.dumps(found))
