"""How fast BERT's pre-training data are built, and how much memory that takes as the text grows: claims plan, batches
and memory, on the English side of the embedded corpus, many times over.

    python benchmarks/bert_data.py --quick

`plan` is the pass over all documents that an epoch begins with, in two processes over one; what both are forked from
imports the package once, in the turn that is not counted;
`batches` is masking and padding ahead of the training loop, in two loader processes over one; speed is in examples a
second. `memory` runs an epoch's examples on 1, 2 and 4 times the text, each in a process of its own: the ratio is what
the first holds over what the others hold, 1 where memory does not grow. Counted is what the process holds beside pages
of files, which the system may take back at any time, after the imports.
"""

import argparse
import json
import logging
import lzma
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from pairs import rates, report
from torch.utils.data import DataLoader

import vaswani_transformer
from vaswani_transformer.data.bert_examples import write_plan
from vaswani_transformer.data.bert_pretraining import BertPretrainingData
from vaswani_transformer.data.token_batches import EpochBatches

CORPUS = Path(vaswani_transformer.__file__).parent / "embedded" / "debian-en-de.train.tsv.xz"
SENTENCES = 20  # of a document
TOKENIZER = {"kind": "wordpiece", "vocab_size": 8000}
SEQUENCES = 256


def write_text(path: Path, times: int) -> Path:
    """Writes the corpus so many times, a sentence a line, blank lines between documents."""
    with lzma.open(CORPUS, "rt", encoding="utf-8", newline="\n") as lines:
        sentences = [line.split("\t")[1] for line in lines]
    with path.open("w", encoding="utf-8") as file:
        for number in range(times):
            for start in range(number, len(sentences), SENTENCES):  # cut elsewhere each time
                file.write("\n".join(sentences[start : start + SENTENCES]) + "\n\n")
    return path


def prepared(folder: Path, times: int) -> BertPretrainingData:
    """The data of so many times the text, the tokenizer always learnt from it once."""
    if not (folder / "tokenizer").exists():
        text = {"train": str(write_text(folder / "1.txt", 1))}
        first = BertPretrainingData.Options(files=text, max_seq_length=128)
        made = BertPretrainingData.prepare(first, TOKENIZER, {"sequences": 1}, seed=1, cache_dir=str(folder))
        made.tokenizer.save_pretrained(folder / "tokenizer")
    path = folder / f"{times}.txt"
    options = BertPretrainingData.Options(
        files={"train": str(path if path.exists() else write_text(path, times))}, max_seq_length=128
    )
    section = {"from": str(folder / "tokenizer")}
    return BertPretrainingData.prepare(options, section, {"sequences": SEQUENCES}, seed=1, cache_dir=str(folder))


def plan_claim(folder: Path, times: int, pairs: int) -> None:
    """A pass over all documents in two processes over one."""
    data = prepared(folder, times)
    train = data._splits["train"]

    def turn(pair: int, processes: int) -> float:
        path = folder / "plan"
        write_plan(train.documents, train.rules, (1, pair), path, num_proc=processes)
        return path.stat().st_size / train.plan((1, 0)).itemsize

    found = rates(lambda pair: turn(pair, 2), lambda pair: turn(pair, 1), pairs=pairs)
    report("plan", *found, unit="examples/s", peer="the same in one process", documents=len(train.documents))


def batches_claim(folder: Path, times: int, updates: int, pairs: int) -> None:
    """Batches ready for the loop from two loader processes over one."""
    data = prepared(folder, times)
    plan = data.epoch(0)
    batches = EpochBatches(data, plan, 1, range(1))

    def turn(pair: int, workers: int) -> float:
        start = pair * updates % max(1, len(plan) - updates)
        loader = DataLoader(batches, batch_size=None, sampler=range(start, len(plan)), num_workers=workers)
        return SEQUENCES * sum(1 for _ in islice(iter(loader), updates))

    found = rates(lambda pair: turn(pair, 2), lambda pair: turn(pair, 1), pairs=pairs)
    report("batches", *found, unit="examples/s", peer="the same in one loader process")


def held() -> float:
    """MiB this process holds beside pages of files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def memory_turn(folder: Path, times: int) -> None:
    """Runs in a process of its own: prints what an epoch's examples take beside what the imports do."""
    before, most = held(), 0.0
    data = prepared(folder, times)
    for number in range(2):
        plan = data.epoch(number)
        for index in range(0, len(plan), max(1, len(plan) // 100)):  # from all over the text
            data.micro_batches(plan[index], 1)
            most = max(most, held())
    print(json.dumps({"mib": most - before, "examples": len(data), "text": (folder / f"{times}.txt").stat().st_size}))


def memory_claim(folder: Path, times: int) -> None:
    """What 1 times the text takes over what 2 and 4 times take."""
    prepared(folder, 1)  # a tokenizer learnt beforehand
    found = []
    for factor in (1, 2, 4):
        command = [sys.executable, __file__, "--memory-of", str(times * factor), "--folder", str(folder)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(answer.stdout.splitlines()[-1]))
        report(
            f"memory-{factor}x",
            [found[0]["mib"]],
            [found[-1]["mib"]],
            unit="MiB",
            peer=f"{factor} times the text",
            examples=found[-1]["examples"],
            text_mib=round(found[-1]["text"] / 2**20, 1),
        )


def main() -> None:
    """Runs the claims asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=["plan", "batches", "memory"], help="plan, batches, memory (all)")
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.memory_of:
        memory_turn(arguments.folder, arguments.memory_of)
        return
    times, updates, pairs = (4, 10, 3) if arguments.quick else (32, 40, 10)
    with tempfile.TemporaryDirectory() as name:
        for claim in arguments.claims:
            if claim == "plan":
                plan_claim(Path(name), times, pairs)
            elif claim == "batches":
                batches_claim(Path(name), times, updates, pairs)
            else:
                memory_claim(Path(name), times)


if __name__ == "__main__":
    main()
