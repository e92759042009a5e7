"""`vaswani plan`: what a recipe needs on a given cluster, before there is one."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaswani_transformer.planning import Plan

UNITS = {"GB": 10**9, "TB": 10**12, "GiB": 2**30, "TiB": 2**40}

CLUSTER = "--gpus 1024 --memory 80GB"

EPILOG = f"""examples:
  vaswani plan transformer-big-wmt14-en-de --gpus 8 --memory 80GB
  vaswani plan bert-large-pretraining --gpus 64 --memory 40GB --flops 120e12 --price 1.50
  vaswani plan gpt3-125m model.preset=gpt3-175b batch.sequences=1536 gradient_checkpointing=true {CLUSTER}
  vaswani plan my-recipe.yaml --gpus 8 --memory 24GB --json

No weight is made and no text is read. Parameters, weights, gradients and optimiser states (of Adam, AdamW or LAMB) are
exact; activations are those of the model's own step, run on sizes alone. A tokenizer to come is taken to have as many
tokens as the recipe or the preset says. fits: a tenth of the memory is left to what is not counted. Strategies stand in
the order of how much they send and wait for: of those that fit the first is the fastest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani plan`."""
    parser.description = "Tell what a recipe of `vaswani train` needs: parameters, memory of each GPU, time, money."
    parser.epilog = EPILOG
    parser.add_argument("recipe", metavar="NAME|PATH", help="a recipe's name, or the path of a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change, dotted")
    parser.add_argument("--gpus", metavar="N", type=int, required=True, help="GPUs of the whole cluster")
    parser.add_argument("--memory", metavar="80GB", type=memory, required=True, help="of one GPU; GB, GiB")
    parser.add_argument(
        "--flops", metavar="F", type=float, help="model FLOP/s that one GPU reaches: its peak times MFU"
    )
    parser.add_argument("--price", metavar="D", type=float, help="dollars of one GPU for one hour; goes with --flops")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON, in bytes")


def memory(text: str) -> int:
    """Returns the bytes that a text like 80GB (80 x 10^9) or 80GiB (80 x 2^30) names."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number and {', '.join(UNITS)}, as 80GB; got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def run(arguments: argparse.Namespace) -> int:
    """Plans, and prints the table or the JSON."""
    from vaswani_transformer.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)

    from vaswani_transformer.planning import plan  # after the recipe, so that a mistake there is told at once

    found = plan(
        recipe,
        gpus=arguments.gpus,
        memory=arguments.memory,
        flops_per_gpu=arguments.flops,
        price=arguments.price,
    )
    if arguments.json:
        import json

        print(json.dumps(found.to_dict(), indent=2))
    else:
        print("\n".join(_lines(found)))
    return 0


def _lines(found: Plan) -> Iterator[str]:
    """The plan as one reads it."""
    yield f"{found.model}: {found.parameters:,} parameters"
    for number, one in enumerate(found.phases, 1):
        name = f"phase {number}: " if len(found.phases) > 1 else ""
        yield (
            f"{name}{one.updates:,} updates of {one.tokens:,} tokens; on each of {found.gpus} GPUs {one.accumulation} "
            f"x {one.rows} rows of {one.length}"
        )
    yield f"{found.tokens:,} tokens, {found.flops_per_token:.3g} FLOPs each, {found.flops:.3g} in all"
    if found.hours is not None:
        yield f"{found.hours:,.1f} hours" + ("" if found.dollars is None else f", {found.dollars:,.0f} dollars")
    yield ""
    recomputed = "computed again in the backward pass" if found.checkpointing else "kept"
    yield f"GB of each GPU, {found.precision}, activations {recomputed}:"
    names = ("weights", "gradients", "optimizer", "buffers", "activations", "total", "host")
    yield f"{'':<14}" + "".join(f"{name:>13}" for name in names) + "  fits"
    for row in found.rows:
        cells = "".join(f"{getattr(row, name) / 1e9:>13,.2f}" for name in names)
        yield f"{row.strategy:<14}{cells}  {'yes' if row.fits else 'no'}"
    if not any(row.fits for row in found.rows):
        yield "Nothing fits: set gradient_checkpointing=true, or raise batch.accumulation or --gpus."
