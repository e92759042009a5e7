"""The bytes that are told of each way to spread a model against those that its processes really hold."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_transformer import VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.optim import build_optimizer
from vaswani_transformer.planning import sizes_of
from vaswani_transformer.recipe import OptimizerSection
from vaswani_transformer.sharding import STRATEGIES, Sizes

# That of zero_bytes.py, which imports DeepSpeed. One tensor is large enough for ZeRO-3 to take it apart; the sizes are
# odd, so that two processes cannot share them evenly.
TOY: dict[str, Any] = {"vocab_size": 3001, "hidden_size": 45, "num_hidden_layers": 2, "num_attention_heads": 3}
TOY |= {"max_position_embeddings": 16}
BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}


def toy_sizes(*, gpus: int, half: bool) -> Sizes:
    with torch.device("meta"):
        model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**TOY))
    return sizes_of(model, gpus=gpus, half=half, ema=False)


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> list[dict[str, dict[str, int]]]:
    """What each of two processes held, by ZeRO stage and precision."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed, which is not installed")
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    script = Path(__file__).with_name("zero_bytes.py")
    command = [sys.executable, str(script), json.dumps(TOY), str(folder)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(script.parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        for one in started:
            told, _ = one.communicate(timeout=500)
            assert one.returncode == 0, told
    finally:
        for one in started:
            one.kill()
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_gradients_and_states_are_the_bytes_that_deepspeed_holds(held, stage, precision):
    strategy, sizes = BY_NAME[f"zero{stage}"], toy_sizes(gpus=2, half=precision == "bf16")
    told = {name: getattr(strategy, name)(sizes) for name in ("weights", "gradients", "optimizer")}
    found = [process[f"zero{stage}-{precision}"] for process in held]
    assert told == {name: max(process[name] for process in found) for name in told}


def test_without_zero_they_are_the_bytes_that_torch_holds():
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**TOY))
    optimizer = build_optimizer(model, OptimizerSection(name="adamw", learning_rate=1e-3))
    ids = torch.arange(16)[None]
    model(input_ids=ids, shift_labels=ids, num_items_in_batch=16).loss.backward()
    optimizer.step()
    strategy, sizes = BY_NAME["ddp"], toy_sizes(gpus=2, half=True)
    assert strategy.weights(sizes) == sum(weight.nbytes for weight in model.parameters())
    assert strategy.gradients(sizes) == sum(w.grad.nbytes for w in model.parameters() if w.grad is not None)
    states = [value.nbytes for state in optimizer.state.values() for value in state.values()]
    assert strategy.optimizer(sizes) == sum(states)


def test_the_groups_are_those_of_the_loops_optimizer():
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**TOY))
    optimizer = build_optimizer(model, OptimizerSection(name="adamw", learning_rate=1e-3))
    groups = tuple(tuple(weight.numel() for weight in group["params"]) for group in optimizer.param_groups)
    assert sizes_of(model, gpus=1, half=False, ema=False).groups == groups


def test_an_average_of_the_weights_takes_four_bytes_each():
    with torch.device("meta"):
        model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**TOY))
    without, ema = (sizes_of(model, gpus=2, half=True, ema=asked) for asked in (False, True))
    ddp = BY_NAME["ddp"]
    assert ddp.optimizer(ema) - ddp.optimizer(without) == 4 * without.parameters


def test_each_stage_takes_less_of_the_weights_gradients_and_states_than_the_one_before():
    sizes = toy_sizes(gpus=8, half=True)
    taken = [one.weights(sizes) + one.gradients(sizes) + one.optimizer(sizes) for one in STRATEGIES]
    assert taken == sorted(taken, reverse=True)
    assert len(set(taken)) == len(taken)


def test_offloaded_states_and_gradients_are_in_the_hosts_memory():
    sizes, kept, moved = toy_sizes(gpus=8, half=True), BY_NAME["zero3"], BY_NAME["zero3_offload"]
    assert (moved.gradients(sizes), moved.optimizer(sizes), kept.host(sizes)) == (0, 0, 0)
    assert moved.host(sizes) > kept.optimizer(sizes)
    assert moved.weights(sizes) == kept.weights(sizes)


def test_the_total_is_of_the_micro_batch_or_of_the_update_whichever_is_more():
    sizes, zero1 = toy_sizes(gpus=1, half=True), BY_NAME["zero1"]
    at_rest = zero1.weights(sizes) + zero1.gradients(sizes) + zero1.optimizer(sizes)
    assert zero1.total(sizes, 10) == at_rest + zero1.buffers(sizes) + 10
    large = Sizes(((10**9,),), 10**9, 0, gpus=1, half=True, ema=False)
    at_rest = zero1.weights(large) + zero1.gradients(large) + zero1.optimizer(large)
    assert zero1.total(large, 10) == at_rest + 4 * 10**9
