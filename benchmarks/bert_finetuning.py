"""Fine-tuning steps of BERT against transformers' BertForSequenceClassification: claim speed, and one for each task.

    python benchmarks/bert_finetuning.py --quick

Sentences of SST-2 and pairs of RTE as they come, read from ../shared/data/glue, which may not ship: the script needs
it. Both sides take the same batches, padded to their longest text, from the same weights, with the same fused AdamW.
Counted are real tokens a second of forward, backward and update. `speed` is over the steps of both tasks.
"""

import argparse
import csv
import io
import logging
import lzma
import random
import sys
from pathlib import Path

import torch
from bert import bert_like, real_tokens
from pairs import rates, report
from torch import Tensor
from updates import Stepper

from vaswani_transformer import VaswaniBertConfig, VaswaniBertForSequenceClassification, VaswaniBertTokenizer

GLUE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "glue"
VOCABULARY = GLUE.parent / "vocab" / "bert-base-uncased.vocab.txt.xz"
PEER = "transformers BertForSequenceClassification"
TASKS = {"sst2": ("SST-2", ("sentence",)), "rte": ("RTE", ("sentence1", "sentence2"))}
ROWS, LENGTH = 32, 128  # of Google's run_classifier.py


def texts(task: str) -> list[tuple[str, ...]]:
    """The training texts of a task, in a fixed random order."""
    folder, columns = TASKS[task]
    with io.TextIOWrapper(lzma.open(GLUE / folder / "train.tsv.xz"), encoding="utf-8", newline="") as file:
        rows = [tuple(row[name] for name in columns) for row in csv.DictReader(file, delimiter="\t", quoting=3)]
    random.Random(0).shuffle(rows)
    return rows


def batches(task: str, tokenizer: VaswaniBertTokenizer, count: int) -> list[dict[str, Tensor]]:
    """So many batches of a task; which of the two labels is right makes no difference to the time."""
    generator, rows, made = torch.Generator().manual_seed(0), texts(task), []
    for start in range(0, count * ROWS, ROWS):
        columns = [list(column) for column in zip(*rows[start : start + ROWS], strict=True)]
        pairs = columns[1] if len(columns) > 1 else None
        encoded = tokenizer(columns[0], pairs, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        made.append({**encoded, "labels": torch.randint(0, 2, (ROWS,), generator=generator)})
    return made


def speed_claim(claim: str, size: str, made: list[list[dict[str, Tensor]]]) -> None:
    """Real tokens a second of our updates over the peer's, on the batches of each turn."""
    torch.manual_seed(0)
    model = VaswaniBertForSequenceClassification(VaswaniBertConfig.preset(size))
    peer, ours = Stepper(bert_like(model)), Stepper(model)

    def turn(stepper: Stepper, pair: int) -> float:
        for batch in made[pair]:
            stepper.update(batch)
        return sum(map(real_tokens, made[pair]))

    found = rates(lambda pair: turn(ours, pair), lambda pair: turn(peer, pair), pairs=len(made) - 1)
    batches_made = [batch for turns in made for batch in turns]
    share = sum(map(real_tokens, batches_made)) / sum(batch["input_ids"].numel() for batch in batches_made)
    report(claim, *found, unit="real tokens/s", peer=PEER, size=size, real_share=round(share, 3))


def main() -> None:
    """Runs the claims asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=["speed", *TASKS], help="speed, sst2, rte (all)")
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    parser.add_argument("--size", default="mini", help="a published size (mini)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if not GLUE.is_dir() or not VOCABULARY.is_file():
        sys.exit(f"needs {GLUE} and {VOCABULARY}, data that may not ship; they are not here")
    vocabulary = lzma.decompress(VOCABULARY.read_bytes()).decode().split("\n")[:-1]
    tokenizer = VaswaniBertTokenizer({token: number for number, token in enumerate(vocabulary)})
    updates, pairs = (1, 10) if arguments.quick else (4, 15)
    made = {task: batches(task, tokenizer, updates * (pairs + 1)) for task in TASKS}
    for claim in arguments.claims:
        tasks = list(TASKS) if claim == "speed" else [claim]
        turns = [
            [batch for task in tasks for batch in made[task][pair * updates : (pair + 1) * updates]]
            for pair in range(pairs + 1)
        ]
        speed_claim(claim, arguments.size, turns)


if __name__ == "__main__":
    main()
