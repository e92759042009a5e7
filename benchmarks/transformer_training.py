"""Training speed against MarianMTModel of the same size, on the embedded corpus: claims loop, grouped and step.

    python benchmarks/transformer_training.py --quick

Both sides see the same sentences, tokenised alike, and about as many real (unpadded) tokens in each update; speed is
real source and target tokens a second. The peer's batches are what people train with: a fixed number of shuffled
sentences padded to the longest (`loop`), or transformers' own group-by-length batches (`grouped`). `step` is forward,
backward and update alone, on one and the same batch.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator

import torch
from marian import marian_like
from pairs import rates, report
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import DataCollatorForSeq2Seq
from transformers.trainer_pt_utils import LengthGroupedSampler

from vaswani_transformer.recipe import load_recipe
from vaswani_transformer.train import Training

PEER = "transformers MarianMTModel"


class Peer:
    """MarianMTModel of the same size with the same optimiser, in the shortest loop that trains it."""

    def __init__(self, ours: Training) -> None:
        self.model = marian_like(ours.bare_model.config).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def update(self, batch: dict[str, Tensor]) -> None:
        """Forward, backward and one step of Adam."""
        self.model(**batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def real_tokens(batch: dict[str, Tensor]) -> int:
    """Source and target tokens that are no padding."""
    return int(batch["attention_mask"].sum()) + int(batch["labels"].ne(-100).sum())


def examples(training: Training) -> list[dict[str, list[int]]]:
    """All training pairs as ids, without padding."""
    found = []
    for indices in training.data.epoch(0):
        batch = training.data.micro_batches(indices, 1)[0]
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            found.append({"input_ids": ids[mask.bool()].tolist(), "labels": labels[labels != -100].tolist()})
    return found


def sentence_batches(
    training: Training, rows: list[dict[str, list[int]]], size: int, sampler: Sampler | None
) -> Iterator[dict[str, Tensor]]:
    """Batches of `size` sentences padded to the longest, as Trainer makes them, for ever."""
    collator = DataCollatorForSeq2Seq(training.data.tokenizer, padding=True)
    loader = DataLoader(rows, size, shuffle=sampler is None, sampler=sampler, collate_fn=collator, drop_last=True)  # type: ignore[arg-type]
    while True:
        for batch in loader:
            yield dict(batch)


def loop_claim(claim: str, training: Training, batches: Iterator[dict[str, Tensor]], updates: int, pairs: int) -> None:
    """Our whole loop over the peer's, `updates` a turn."""
    peer, ours = Peer(training), iter(training.updates())

    def run_ours(_: int) -> float:
        done = 0
        for _ in range(updates):
            micro_batches, target_tokens, _ = next(ours)
            training.update(micro_batches, target_tokens)
            done += sum(map(real_tokens, micro_batches))
        return done

    def run_theirs(_: int) -> float:
        done = 0
        for _ in range(updates):
            batch = next(batches)
            peer.update(batch)
            done += real_tokens(batch)
        return done

    report(claim, *rates(run_ours, run_theirs, pairs=pairs), unit="real tokens/s", peer=f"{PEER}, {claim} batches")


def step_claim(training: Training, pairs: int) -> None:
    """One update on the same batch, no loop around it."""
    peer, ours = Peer(training), iter(training.updates())
    batches = [next(ours) for _ in range(pairs + 1)]

    def run_ours(pair: int) -> float:
        micro_batches, target_tokens, _ = batches[pair]
        training.update(micro_batches, target_tokens)
        return sum(map(real_tokens, micro_batches))

    def run_theirs(pair: int) -> float:
        for batch in batches[pair][0]:
            peer.update(batch)
        return sum(map(real_tokens, batches[pair][0]))

    report("step", *rates(run_ours, run_theirs, pairs=pairs), unit="real tokens/s", peer=f"{PEER}, the same batch")


def main() -> None:
    """Runs the claims asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", default=["loop", "grouped", "step"], help="loop, grouped, step (all)")
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    parser.add_argument("--tokens", type=int, default=4000, help="real tokens of a side in an update (4000)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    updates, pairs = (2, 10) if arguments.quick else (5, 20)
    tokens = arguments.tokens
    overrides = [
        "tokenizer.vocab_size=8000",
        f"batch.source_tokens={tokens}",
        f"batch.target_tokens={tokens}",
        "data.max_words=null",
        "steps=100000",
    ]
    with tempfile.TemporaryDirectory() as folder:
        training = Training(load_recipe("transformer-demo", [*overrides, f"output={folder}/run"]))
        rows = examples(training)
        source, target = (sum(len(row[name]) for row in rows) / len(rows) for name in ("input_ids", "labels"))
        size = round(tokens / max(source, target))  # as many real tokens an update as ours
        for claim in arguments.claims:
            if claim == "step":
                step_claim(training, 2 * pairs)
            else:
                lengths = [len(row["input_ids"]) for row in rows]
                sampler = LengthGroupedSampler(size, lengths=lengths) if claim == "grouped" else None
                loop_claim(claim, training, sentence_batches(training, rows, size, sampler), updates, pairs)


if __name__ == "__main__":
    main()
