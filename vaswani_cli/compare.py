"""`vaswani compare`: an encoder and a decoder beside each other, at the same blank."""

import argparse
from pathlib import Path

from .models import WORDS, found_model

MODELS = ("demo-bert", "demo-gpt")

EPILOG = """examples:
  vaswani compare "It was a ___ that he had not come." --out page.html
  vaswani compare "She looked at ___ with a smile." runs/bert runs/gpt runs/gpt-larger --out page.html

The page is one file that asks nothing of the network: what each model may see, drawn as its mask, what the blank looks
at, and the words that each puts there with their probabilities. BERT reads both sides of the blank, GPT the left."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani compare`."""
    parser.description = "Have BERT and GPT fill the same blank, and show what each sees."
    parser.epilog = EPILOG
    parser.add_argument("text", metavar="TEXT", help="with one blank, ___ or [MASK]")
    parser.add_argument("models", metavar="MODEL", nargs="*", type=found_model, help=f"{WORDS} ({' '.join(MODELS)})")
    parser.add_argument("--out", metavar="FILE", required=True, help="page.html")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page, and prints its name."""
    out = Path(arguments.out)
    if out.suffix != ".html":
        raise ValueError(f"--out must be a page, .html; got --out {out}")
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.viewing.compare_page import compare_page
    from vaswani_transformer.viewing.compared import compare_models
    from vaswani_transformer.viewing.explained import load_explained_model

    disable_progress_bar()  # a model is read in a moment
    names = arguments.models or [found_model(name) for name in MODELS]
    models = [(Path(name).name, *load_explained_model(name)) for name in names]
    out.write_text(compare_page(compare_models(models, arguments.text)), encoding="utf-8")
    print(out)
    return 0
