"""What `vaswani plan` says a micro batch takes, against what one really takes on the CPU: claim activations.

    python benchmarks/planning.py --quick

For a model of each family with 500 MB of weights or more, float32: the most that a forward and a backward pass held
beyond weights and gradients that were there, in a fresh process, and what `traced_memory.step_memory` finds for the
same batch; with and without activation checkpointing. A step of a toy model comes first, so that the libraries' own
code counts for neither. Attention has no dropout: a CPU has no fused kernel with it, and the plan is that of a GPU,
which has.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from updates import held, memory_of

from vaswani_transformer.families import FAMILIES, checkpoint_activations
from vaswani_transformer.planning import example_batch
from vaswani_transformer.traced_memory import step_memory

TOY = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 50}
TOY_TRANSFORMER = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 32, "num_heads": 2, "vocab_size": 50}
# Preset, fields, rows and their length.
MODELS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "gpt": ("gpt3-125m", {"attention_dropout": 0.0}, 2, 512),
    "bert": ("base", {"num_hidden_layers": 16, "attention_probs_dropout_prob": 0.0}, 8, 128),
    "transformer": ("big", {"vocab_size": 8000}, 64, 32),
}


def build(family: str, config: Any, *, checkpointing: bool) -> PreTrainedModel:
    """The model of a configuration."""
    model = FAMILIES[family].model(config)
    if checkpointing:
        checkpoint_activations(model)
    return model


def config_and_batch(family: str, *, toy: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """A configuration and a micro batch for it."""
    preset, fields, rows, length = MODELS[family]
    if toy:
        fields, rows, length = fields | (TOY_TRANSFORMER if family == "transformer" else TOY), 2, 8
    config = FAMILIES[family].config.preset(preset, **fields)
    predictions = max(1, length * 15 // 100)
    return config, example_batch(FAMILIES[family], config, rows=rows, length=length, predictions=predictions)


def measure(family: str, *, checkpointing: bool) -> None:
    """Prints the MiB that a micro batch took; for a process of its own."""
    taken = 0.0
    for toy in (True, False):
        config, batch = config_and_batch(family, toy=toy)
        model = build(family, config, checkpointing=checkpointing).train()
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
        before = held("VmRSS")
        model(**batch).loss.backward()
        taken = held("VmHWM") - before
    print(json.dumps({"mib": taken}))


def claim(family: str, *, checkpointing: bool) -> None:
    """Prints the planned, the measured and their ratio."""
    config, batch = config_and_batch(family)

    def built(one: Any) -> PreTrainedModel:
        return build(family, one, checkpointing=checkpointing)

    with torch.device("meta"):
        weights = sum(weight.nbytes for weight in built(config).parameters())
    planned = step_memory(built, config, batch=batch, precision="fp32", chunk="cpu") / 2**20
    measured = memory_of(__file__, family, *["--checkpointing"] * checkpointing)
    found = {"claim": "activations", "model": family, "checkpointing": checkpointing, "weights_mb": weights // 10**6}
    found |= {"planned": round(planned, 1), "measured": round(measured, 1), "unit": "MiB"}
    print(json.dumps(found | {"planned_over_measured": round(planned / measured, 3)}), flush=True)


def main() -> None:
    """Runs the claim for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(MODELS), help=f"{', '.join(MODELS)} (all)")
    parser.add_argument(
        "--quick", action="store_true", help="takes a minute or two anyway; the switch of every benchmark"
    )
    parser.add_argument("--memory-of", choices=list(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure(arguments.memory_of, checkpointing=arguments.checkpointing)
        return
    for family in arguments.families:
        for checkpointing in (False, True):
            claim(family, checkpointing=checkpointing)


if __name__ == "__main__":
    main()
