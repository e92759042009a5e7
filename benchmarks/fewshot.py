"""Few-shot evaluation against lm-eval's `hf` model on the same prompts: claims fresh, shared, zero, startup, memory.

    pip install "vaswani-transformer[lm-eval]"
    python benchmarks/fewshot.py --quick

A GPT-2 of 12 layers of 256 with 8,000 words and random weights scores questions of about 50 tokens with four choices of
about 7, cut from the embedded novels. `fresh` draws five shots anew for each question, `shared` has the same five for
all, `zero` none; speed is in questions a second. Ours makes its prompts and figures in that time, theirs gets ready
prompts; `apart` is the largest difference of a log-likelihood. `startup` is the whole command of one question, ours
`vaswani evaluate`, theirs `lm_eval run`; `memory` what scoring takes at most at batches of as many tokens, ours over
theirs, in processes of their own.
"""

import argparse
import functools
import json
import lzma
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pairs import rates, report
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from updates import held, memory_of

from vaswani_transformer.evaluation.few_shot import evaluate_few_shot
from vaswani_transformer.evaluation.few_shot_figures import QuestionLog
from vaswani_transformer.evaluation.tasks import Question, Task

ROOT = Path(__file__).resolve().parent.parent
NOVELS = ROOT / "vaswani_transformer" / "embedded" / "austen.jsonl.xz"
VOCABULARY, CONTEXT, SHOTS, CHOICES, ROWS = 8000, 1024, 5, 4, 16
QUESTION_WORDS, CHOICE_WORDS = 40, 5
PEER = "lm-eval HFLM.loglikelihood"
YAML = {
    "task": "bench",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
}


@functools.cache
def words() -> list[str]:
    """The words of the novels."""
    with lzma.open(NOVELS, "rt", encoding="utf-8") as stream:
        texts: list[str] = [json.loads(line)["text"] for line in stream]
    return " ".join(texts).split()


def questions(name: str, count: int) -> list[Question]:
    """Stretches of the novels, each with four others to choose from as what follows."""
    rng, found = random.Random(name), []
    for number in range(count):
        starts = [rng.randrange(len(words()) - 100) for _ in range(1 + CHOICES)]
        texts = [" ".join(words()[start : start + CHOICE_WORDS]) for start in starts[1:]]
        asked = " ".join(words()[starts[0] : starts[0] + QUESTION_WORDS])
        found.append(Question(str(number), (asked,), tuple(f" {text}" for text in texts), rng.randrange(CHOICES)))
    return found


def task(name: str, count: int) -> Task:
    """A task of so many questions, and 100 others for shots."""
    return Task(name=name, kind="choice", queries=lambda: questions(name, count), pool=lambda: questions("pool", 100))


def save(folder: Path) -> None:
    """Writes the model and its tokenizer."""
    trained = ByteLevelBPETokenizer()
    texts = (" ".join(words()[start : start + 1000]) for start in range(0, len(words()), 1000))
    trained.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=end, eos_token=end, model_max_length=CONTEXT
    ).save_pretrained(folder)
    torch.manual_seed(0)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), 0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=256, n_layer=12, n_head=8, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    """The same model for both sides."""
    return GPT2LMHeadModel.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def ours(model: Any, tokenizer: Any, asked: Task, how: dict[str, Any]) -> dict[str, Any]:
    """Asks a task's questions and returns the records, by question."""
    with tempfile.TemporaryDirectory() as out:
        evaluate_few_shot(model, tokenizer, [asked], out=out, **how)
        log = [json.loads(line) for line in (Path(out) / QuestionLog.FILE).read_text(encoding="utf-8").splitlines()]
    return {record["id"]: record for record in log}


def requests(asked: Task, records: dict[str, Any]) -> list[Any]:
    """lm-eval's requests of the prompts that ours were."""
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    pairs = [(records[question.id]["prompt"], choice) for question in asked.questions for choice in question.choices]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def claim(name: str, folder: Path, *, count: int, pairs: int, bound: float, **how: Any) -> None:
    """Prints a claim's line: questions a second of both on the same prompts, and how far scores are apart."""
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    model, tokenizer = load(folder)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS, device="cpu")
    tasks = [task(f"{name} {number}", count) for number in range(pairs + 1)]
    ready = [ours(model, tokenizer, asked, how) for asked in tasks]  # the questions are made here, outside the clock
    apart = 0.0

    def mine(pair: int) -> float:
        return float(len(ours(model, tokenizer, tasks[pair], how)))

    def theirs(pair: int) -> float:
        nonlocal apart
        found = peer.loglikelihood(asked[pair], disable_tqdm=True)
        scores = [told["logprob"] for q in tasks[pair].questions for told in ready[pair][q.id]["scores"]]
        apart = max([apart, *(abs(a - b[0]) for a, b in zip(scores, found, strict=True))])
        return float(count)

    asked = [requests(*given) for given in zip(tasks, ready, strict=True)]
    found = rates(mine, theirs, pairs=pairs)
    lengths = [len(tokenizer(request.args[0])["input_ids"]) for request in asked[0]]
    report(name, *found, unit="questions/s", peer=PEER, claimed=bound, apart=apart, context=sum(lengths) / len(lengths))


def startup(folder: Path, pairs: int) -> None:
    """Prints the seconds of both commands for one question, from a start to the end."""
    rows, place = folder / "rows.jsonl", folder / "tasks"
    lines = [
        {"question": q.contexts[0], "choices": [c.strip() for c in q.choices], "gold": q.gold} for q in questions("", 9)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    place.mkdir()
    kept = YAML | {"dataset_kwargs": {"data_files": {"test": str(rows)}}, "metadata": {"version": 1}}
    (place / "bench.yaml").write_text(json.dumps(kept), encoding="utf-8")
    theirs = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={folder}", "--tasks", "bench"]
    theirs += [
        "--include_path",
        str(place),
        "--num_fewshot",
        "0",
        "--device",
        "cpu",
        "--batch_size",
        "1",
        "--limit",
        "1",
    ]
    mine = [
        "vaswani_cli",
        "evaluate",
        str(folder),
        "--tasks",
        str(place / "bench.yaml"),
        "--shots",
        "0",
        "--limit",
        "1",
    ]
    seconds: tuple[list[float], list[float]] = ([], [])

    def command(side: int, words: Sequence[str]) -> float:
        began = time.perf_counter()
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, "HF_HOME": str(folder / "cache")}
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, env=environment)
        seconds[side].append(time.perf_counter() - began)
        return 1.0

    rates(lambda pair: command(0, mine), lambda pair: command(1, theirs), pairs=pairs)
    kept_seconds = [times[1:] for times in seconds]
    report("startup", *kept_seconds, unit="s", peer="lm_eval run", less_is_better=True, claimed=3)


def memory_turn(side: str, folder: Path) -> None:
    """Prints the most that scoring held beyond what was held before it; for a process of its own."""
    model, tokenizer = load(folder)
    how: dict[str, Any] = {"shots": (SHOTS,), "batch_tokens": ROWS * 420}
    asked = task("memory", 2 * ROWS)
    if side == "ours":
        work = functools.partial(ours, model, tokenizer, asked, how)
    else:
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

        given = requests(asked, ours(model, tokenizer, asked, how | {"batch_tokens": 500}))
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS, device="cpu")
        work = functools.partial(peer.loglikelihood, given[: 2 * ROWS], disable_tqdm=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = held("VmRSS")
    work()
    print(json.dumps({"mib": held("VmHWM") - before}))


def main() -> None:
    """Runs all claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than five minutes on two cores")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        memory_turn(arguments.memory_of[0], Path(arguments.memory_of[1]))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    pairs = 3 if arguments.quick else 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder)
        claim("fresh", folder, count=20, pairs=pairs, bound=4.4, shots=(SHOTS,))
        claim("shared", folder, count=48, pairs=pairs, bound=15, shots=(SHOTS,), draw="shared")
        claim("zero", folder, count=48, pairs=pairs, bound=2, shots=(0,))
        startup(folder, 2 if arguments.quick else 4)
        sides = [[memory_of(__file__, side, name)] for side in ("ours", "theirs")]
        report("memory", *sides, unit="MiB", peer=PEER, less_is_better=True, claimed=1)


if __name__ == "__main__":
    main()
