"""`vaswani recipes`: the recipes that ship, a line each."""

import argparse

EPILOG = """examples:
  vaswani recipes
  vaswani recipes transformer-demo
  vaswani recipes transformer-demo --out my-recipe.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani recipes`."""
    parser.description = "List the recipes that ship, or print one, comments and all, as the start of your own."
    parser.epilog = EPILOG
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="print this recipe's file")
    parser.add_argument("--out", metavar="FILE", help="write the recipe there; a file that is there is not touched")


def run(arguments: argparse.Namespace) -> int:
    """Prints the list, or one file."""
    from vaswani_transformer.recipe import recipe_path, recipe_summaries

    if arguments.recipe is None:
        if arguments.out is not None:
            raise ValueError(f"--out needs the name of one recipe; got --out {arguments.out} alone")
        for name, summary in recipe_summaries().items():
            print(f"{name}\n    {summary}")
        return 0
    text = recipe_path(arguments.recipe).read_text(encoding="utf-8")
    if arguments.out is None:
        print(text, end="")
    else:
        with open(arguments.out, "x", encoding="utf-8") as file:
            file.write(text)
    return 0
