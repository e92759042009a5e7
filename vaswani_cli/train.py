"""`vaswani train`: a recipe, with keys changed on the command line, to a trained model."""

import argparse
import os

from vaswani_cli.restarts import stop_with_the_parent, supervise

EPILOG = """examples:
  vaswani train transformer-demo
  vaswani train transformer-demo steps=60 model.d_model=64 --out runs/small
  vaswani train transformer-demo --out runs/small --resume
  vaswani train transformer-demo --max-restarts 3
  vaswani train my-recipe.yaml optimizer.learning_rate=5e-4 schedule.name=inverse_sqrt
  accelerate launch --num_processes 8 --module vaswani_cli train transformer-base-wmt14-en-de
  accelerate launch --num_processes 8 --max_restarts 3 --module vaswani_cli train transformer-base-wmt14-en-de

A value is read as YAML: steps=60, compile=true, betas as optimizer.betas=[0.9,0.98], null for none.
Ctrl-C stops the run; the same command with --resume goes on from its last checkpoint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani train`."""
    parser.description = "Train a model from a recipe that ships (`vaswani recipes`) or from one of your own."
    parser.epilog = EPILOG
    parser.add_argument("recipe", metavar="NAME|PATH", help="a recipe's name, or the path of a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change, dotted")
    parser.add_argument("--out", metavar="DIR", help="the run's folder, in place of the recipe's `output`")
    parser.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint of the run")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="when the training process dies, go on from the last checkpoint, at most N times",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, and prints the folder of the finished model."""
    if arguments.max_restarts:
        return _supervise(arguments)

    import dataclasses

    from vaswani_transformer.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.out is not None:
        recipe = dataclasses.replace(recipe, output=arguments.out)

    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.train import train  # after the recipe, so that a mistake there is told at once

    disable_progress_bar()  # one for every checkpoint written would cut through the run's own
    stop_with_the_parent()
    print(train(recipe, resume=arguments.resume))
    PartialState().destroy_process_group()  # or its threads outlive, at the end of Python, what they use
    return 0


def _supervise(arguments: argparse.Namespace) -> int:
    if arguments.max_restarts < 0:
        raise ValueError(f"--max-restarts must be 0 or more; got {arguments.max_restarts}")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(
            "under accelerate launch all processes start again together: give it --max_restarts "
            f"{arguments.max_restarts} before --module; got --max-restarts {arguments.max_restarts} behind it"
        )
    words = ["train", arguments.recipe, *arguments.overrides]
    words += ["--out", arguments.out] if arguments.out is not None else []
    return supervise([*words, *(["--resume"] if arguments.resume else [])], arguments.max_restarts)
