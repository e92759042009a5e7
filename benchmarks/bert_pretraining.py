"""BERT's pre-training against transformers' BertForPreTraining: claims speed-mini, speed-small, memory-mini and
memory-small, on pairs of sentences of the embedded novels, masked by our builder.

    python benchmarks/bert_pretraining.py --quick

Both sides train on the same examples, 16 an update, from the same weights, with the same fused AdamW; the peer's
batches are padded to 128 tokens, as usual. `speed` is in real tokens a second of forward, backward and update. `memory`
is the most a process held beyond what it held before its first step, on one batch of 16 sequences of all 128 tokens,
each side in a fresh process: the ratio is the peer's over ours. A step of a toy model comes first, so that the
libraries' own code counts for neither.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from bert import bert_like, real_tokens
from pairs import rates, report
from torch import Tensor, nn
from updates import Stepper, memory_of, print_memory

import vaswani_transformer
from vaswani_transformer import VaswaniBertConfig, VaswaniBertForPreTraining
from vaswani_transformer.data.bert_pretraining import BertPretrainingData

CORPUS = Path(vaswani_transformer.__file__).parent / "embedded" / "austen.jsonl.xz"
PEER = "transformers BertForPreTraining"
SIZES = ("mini", "small")
ROWS, LENGTH = 16, 128
VOCABULARY, LEARNT = 30522, 14000  # Google's number of outputs; what the novels have words for
TOY: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def prepared(folder: Path) -> BertPretrainingData:
    """The novels as examples of at most 128 tokens, 16 an update."""
    options = BertPretrainingData.Options(files={"train": str(CORPUS)}, sentences="split", max_seq_length=LENGTH)
    section = {"kind": "wordpiece", "vocab_size": LEARNT}
    return BertPretrainingData.prepare(options, section, {"sequences": ROWS}, seed=1, cache_dir=str(folder))


def batches(data: BertPretrainingData, count: int) -> list[dict[str, Tensor]]:
    """The first updates of an epoch, each one batch."""
    plan = data.epoch(0)
    return [data.micro_batches(plan[number], 1)[0] for number in range(count)]


def for_peer(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same examples in rows of 128, without the counts that only ours takes."""
    return {
        name: nn.functional.pad(x, (0, LENGTH - x.shape[1]), value=-100 if name == "labels" else 0)
        if x.dim() == 2
        else x
        for name, x in batch.items()
        if name != "num_sequences_in_batch"
    }


def new_model(size: str) -> VaswaniBertForPreTraining:
    """Ours of a published size, freshly initialised."""
    torch.manual_seed(0)
    return VaswaniBertForPreTraining(VaswaniBertConfig.preset(size, vocab_size=VOCABULARY))


def speed_claim(size: str, made: list[dict[str, Tensor]], updates: int, pairs: int) -> None:
    """Real tokens a second of our update over the peer's."""
    model = new_model(size)
    peer, ours = Stepper(bert_like(model)), Stepper(model)
    padded = [for_peer(batch) for batch in made]

    def turn(stepper: Stepper, given: list[dict[str, Tensor]], pair: int) -> float:
        own = given[pair * updates : (pair + 1) * updates]
        for batch in own:
            stepper.update(batch)
        return sum(map(real_tokens, own))

    found = rates(lambda pair: turn(ours, made, pair), lambda pair: turn(peer, padded, pair), pairs=pairs)
    share = sum(map(real_tokens, made)) / sum(batch["input_ids"].numel() for batch in padded)
    report(f"speed-{size}", *found, unit="real tokens/s", peer=PEER, real_share=round(share, 3))


def memory_turn(side: str, size: str, path: Path) -> None:
    """Runs in a process of its own: prints the most that a few updates held beyond what was held before them."""
    batch: Any = torch.load(path)
    toy: Any = VaswaniBertForPreTraining(VaswaniBertConfig(**TOY))
    model: Any = new_model(size)
    if side == "theirs":
        toy, model, batch = bert_like(toy), bert_like(model), for_peer(batch)
    Stepper(toy).update({name: x % TOY["vocab_size"] for name, x in batch.items()})
    print_memory(Stepper(model), batch)


def memory_claim(size: str, batch: dict[str, Tensor], folder: Path) -> None:
    """What the peer's updates held at most over what ours held."""
    path = folder / "batch.pt"
    torch.save(batch, path)
    found = {side: memory_of(__file__, side, size, str(path)) for side in ("ours", "theirs")}
    report(f"memory-{size}", [found["ours"]], [found["theirs"]], unit="MiB", peer=PEER, less_is_better=True)


def whole_rows(data: BertPretrainingData) -> dict[str, Tensor]:
    """One batch whose sequences all have 128 tokens."""
    numbers = (number for batch in data.epoch(0) for number in batch)
    whole = [number for number in numbers if data.real_tokens(number[None]) == LENGTH]
    return data.micro_batches(torch.tensor(whole[:ROWS]).numpy(), 1)[0]


def main() -> None:
    """Runs the claims asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = [f"{kind}-{size}" for kind in ("speed", "memory") for size in SIZES]
    parser.add_argument("claims", nargs="*", default=claims, help=f"{', '.join(claims)} (all)")
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.memory_of:
        side, size, path = arguments.memory_of
        memory_turn(side, size, Path(path))
        return
    updates, pairs = (1, 10) if arguments.quick else (4, 15)
    with tempfile.TemporaryDirectory() as name:
        data = prepared(Path(name))
        for claim in arguments.claims:
            kind, _, size = claim.partition("-")
            if kind == "speed":
                speed_claim(size, batches(data, updates * (pairs + 1)), updates, pairs)
            else:
                memory_claim(size, whole_rows(data), Path(name))


if __name__ == "__main__":
    main()
