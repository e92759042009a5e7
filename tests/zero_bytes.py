"""What the test of `vaswani plan`'s bytes runs in each of two processes: python zero_bytes.py SIZES FOLDER.

Trains a GPT of these sizes (JSON) under each of DeepSpeed's ZeRO stages, in float32 and bfloat16, and writes what each
process then held to FOLDER/RANK.json.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from vaswani_transformer import VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.optim import build_optimizer
from vaswani_transformer.recipe import OptimizerSection


def storages(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of all storages behind the tensors, each counted once."""
    held = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors if one is not None}
    return sum(held.values())


def bytes_held(engine: Any, stage: int) -> dict[str, int]:
    """Weights, gradients and states of one process, read from the engine between two micro batches."""
    zero, weights = engine.optimizer, list(engine.module.parameters())
    if stage == 3:
        parts = [weight.ds_tensor for weight in weights]
        whole = [weight.data for weight in weights if weight.ds_persist]
        gradients = [zero.grad_partitions_flat_buffer]
        masters = zero.fp32_partitioned_groups_flat
    else:
        parts, whole = [weight.data for weight in weights], []
        own = [one for group in zero.all_grad_tensors.values() for one in group or []]
        gradients = [*(weight.grad for weight in weights), *own]
        masters = zero.single_partition_of_fp32_groups
    states = [value for state in zero.optimizer.state.values() for value in state.values()]
    return {
        "weights": storages(parts) + storages(whole),
        "gradients": storages(gradients),
        "optimizer": storages(masters) + storages(states),
    }


def train(sizes: dict[str, Any], stage: int, half: bool) -> dict[str, int]:
    """An update of the toy and half of the next; what was held then."""
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**sizes))
    optimizer = build_optimizer(model, OptimizerSection(name="adamw", learning_rate=1e-3))
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 200_000},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": half},
    }
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    ids = torch.arange(16)[None]
    for _ in range(3):
        loss = engine(input_ids=ids, shift_labels=ids, num_items_in_batch=32).loss
        engine.backward(loss)
        engine.step()
    return bytes_held(engine, stage)


def main(sizes: dict[str, Any], folder: Path) -> None:
    """Every stage and precision, one after another: importing DeepSpeed takes longer than all of them."""
    deepspeed.init_distributed("gloo")
    found = {
        f"zero{stage}-{'bf16' if half else 'fp32'}": train(sizes, stage, half)
        for stage in (1, 2, 3)
        for half in (False, True)
    }
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
