"""GPT's training against transformers' GPT2LMHeadModel: claims speed and memory.

    python benchmarks/gpt_training.py --quick

Both sides, 6 layers of 256 with 50,257 words and the same weights, take the same updates of 8 rows of 256 tokens with
the same fused AdamW and GPT-2's dropout. `speed` is in tokens a second of forward, backward and update; `memory` is the
most a process held beyond what it held before its first update, each side in a fresh process: the ratio is the peer's
over ours. A step of a toy model comes first, so that the libraries' own code counts for neither.
"""

import argparse
import tempfile
from typing import Any

import torch
from gpt import both
from pairs import rates, report
from torch import Tensor
from transformers.utils.logging import disable_progress_bar
from updates import Stepper, memory_of, print_memory

ROWS, LENGTH, VOCABULARY = 8, 256, 50257
PEER = "transformers GPT2LMHeadModel"


def batch_of(number: int, vocabulary: int = VOCABULARY) -> dict[str, Tensor]:
    """One update's rows; the labels are the ids, as transformers' models take them."""
    ids = torch.randint(vocabulary, (ROWS, LENGTH), generator=torch.Generator().manual_seed(number))
    return {"input_ids": ids, "labels": ids}


def models(vocabulary: int = VOCABULARY, **fields: Any) -> tuple[Any, Any]:
    """Ours and the peer."""
    with tempfile.TemporaryDirectory() as folder:
        return both("gpt2", folder, vocab_size=vocabulary, n_positions=LENGTH, **fields)


def speed_claim(pairs: int) -> None:
    """Tokens a second of our update over the peer's."""
    ours, theirs = map(Stepper, models())

    def turn(stepper: Stepper, pair: int) -> float:
        stepper.update(batch_of(pair))
        return ROWS * LENGTH

    found = rates(lambda pair: turn(ours, pair), lambda pair: turn(theirs, pair), pairs=pairs)
    report("speed", *found, unit="tokens/s", peer=PEER)


def memory_turn(side: str) -> None:
    """Runs in a process of its own: prints the most that a few updates held."""
    place = ("ours", "theirs").index(side)
    Stepper(models(vocabulary=64)[place]).update(batch_of(0, 64))
    print_memory(Stepper(models()[place]), batch_of(0))


def main() -> None:
    """Runs both claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute on two cores")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    disable_progress_bar()
    if arguments.memory_of:
        memory_turn(arguments.memory_of)
        return
    speed_claim(10 if arguments.quick else 30)
    found = [memory_of(__file__, side) for side in ("ours", "theirs")]
    report("memory", found[:1], found[1:], unit="MiB", peer=PEER, less_is_better=True)


if __name__ == "__main__":
    main()
