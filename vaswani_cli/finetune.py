"""`vaswani finetune`: a recipe and labelled rows, with a pre-trained model, to a model of a task."""

import argparse

EPILOG = """examples:
  vaswani finetune bert-sst2 model.from=runs/bert-tiny-books
  vaswani finetune bert-sst2 model.from=FOLDER data.train_rows=1000 seed=2 --out runs/sst2
  vaswani finetune bert-squad model.from=FOLDER batch.accumulation=4 precision=bf16
  vaswani finetune gpt-stsb model.from=openai-community/gpt2 model.lm_loss_weight=0.5
  vaswani finetune my-recipe.yaml --out runs/mine --resume
  accelerate launch --num_processes 4 --module vaswani_cli finetune bert-squad model.from=FOLDER

FOLDER is a BERT (for a GPT's recipe a GPT) that `vaswani train` or transformers saved, or a name on the Hub. A value is
read as YAML.
The data of a recipe are changed like any other key: data.files.train=mine.tsv, data.columns={text: 0, label: 1}."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani finetune`."""
    parser.description = (
        "Fine-tune a BERT (classification, regression, named entities, questions, multiple choice) or a GPT "
        "(classification, entailment, similarity, multiple choice)."
    )
    parser.epilog = EPILOG
    parser.add_argument("recipe", metavar="NAME|PATH", help="a recipe's name, or the path of a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change, dotted")
    parser.add_argument("--out", metavar="DIR", help="the run's folder, in place of the recipe's `output`")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint (save.every_steps)")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tunes, and prints the folder of the finished model."""
    import dataclasses

    from vaswani_transformer.finetune_recipe import FinetuneRecipe
    from vaswani_transformer.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides, kind=FinetuneRecipe)
    if arguments.out is not None:
        recipe = dataclasses.replace(recipe, output=arguments.out)

    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.finetune import finetune  # after the recipe, so that a mistake there is told at once

    disable_progress_bar()
    print(finetune(recipe, resume=arguments.resume))
    return 0
