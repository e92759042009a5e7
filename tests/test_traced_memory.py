"""What a step is said to take against what PyTorch's allocator was asked for in one."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from vaswani_transformer.families import FAMILIES, checkpoint_activations
from vaswani_transformer.planning import example_batch
from vaswani_transformer.traced_memory import step_memory

TOYS: dict[str, dict[str, Any]] = {
    "gpt": {"hidden_size": 64, "num_hidden_layers": 9, "num_attention_heads": 2, "attention_dropout": 0.0},
    "bert": {"hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 2, "attention_probs_dropout_prob": 0.0},
    "transformer": {"d_model": 64, "d_ff": 256, "num_heads": 2},
}
BANDED = ["full_attention", "sliding_attention"] * 4 + ["full_attention"]


def parts(name: str, *, checkpointing: bool, **fields: Any) -> tuple[Any, Any, dict[str, Any]]:
    """How a toy is built, its configuration, a micro batch."""
    family = FAMILIES[name]
    config = family.config(vocab_size=500, **TOYS[name] | fields)

    def build(one: Any) -> PreTrainedModel:
        model = family.model(one)
        if checkpointing:
            checkpoint_activations(model)
        return model

    return build, config, example_batch(family, config, rows=4, length=48, predictions=7)


def asked_of_the_allocator(model: PreTrainedModel, batch: dict[str, Any], *, autocast: bool) -> int:
    """The most bytes that were out at once in a forward and a backward pass, beside what was there before."""
    for weight in model.train().parameters():
        weight.grad = torch.zeros_like(weight)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
    profiler: Any = seen.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


# A CPU's bfloat16 attention has a workspace of its own, at this size a large share of one layer's step: that is
# what checkpointing leaves, so the two are not measured together.
@pytest.mark.parametrize(
    ("precision", "checkpointing"), [("fp32", False), ("fp32", True), ("autocast", False), ("bf16", False)]
)
@pytest.mark.parametrize("name", TOYS)
def test_the_bytes_of_a_step_are_those_asked_of_the_allocator(name, precision, checkpointing):
    build, config, batch = parts(name, checkpointing=checkpointing)
    planned = step_memory(build, config, batch=batch, precision=precision, chunk="cpu")
    model = build(config).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    taken = asked_of_the_allocator(model, batch, autocast=precision == "autocast")
    assert planned == pytest.approx(taken, rel=0.05)


def test_layers_that_alternate_are_told_from_shallow_models_too():
    build, config, batch = parts("gpt", checkpointing=False, layer_types=BANDED, sliding_window=8)
    planned = step_memory(build, config, batch=batch, precision="fp32", chunk="cpu")
    assert planned == pytest.approx(asked_of_the_allocator(build(config), batch, autocast=False), rel=0.05)


def test_memory_is_told_of_a_model_no_machine_holds():
    family = FAMILIES["gpt"]
    config = family.config.preset("gpt3-175b")
    batch = example_batch(family, config, rows=1, length=2048)
    kept_by_layers = 96 * 12288 * 2048 * 2  # checkpointing keeps what goes into each layer

    def build(one: Any) -> PreTrainedModel:
        model = family.model(one)
        checkpoint_activations(model)
        return model

    assert kept_by_layers < step_memory(build, config, batch=batch, precision="bf16") < 3 * kept_by_layers
