"""`vaswani explain`: what a model computes of a text, stage by stage, as a page."""

import argparse
from pathlib import Path

from .models import add_model, check_text
from .translate import positive

EPILOG = """examples:
  vaswani explain "The package contains the documentation." --out page.html
  vaswani explain demo-bert "It was a [MASK] of time." --target "He came back late." --out page.html
  vaswani explain demo-gpt "It was a pity that" --layer 3 --head 2 --out page.html

The page is one file that asks nothing of the network: tokens, embeddings, positions, queries, keys and values, scores,
mask, softmax, heads joined, norms, feed-forward, logits, probabilities, and of a Transformer the beam search, each with
its equation, its line of code, its shapes and the numbers of this model. The first 32 tokens are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani explain`."""
    parser.description = "Walk through the forward pass of a Transformer, BERT or GPT on a text."
    parser.epilog = EPILOG
    add_model(parser, default="demo-transformer")
    parser.add_argument("text", metavar="TEXT", help="what the model reads")
    parser.add_argument("--target", metavar="TEXT", help="a translation for the decoder (its own); BERT's second text")
    parser.add_argument("--layer", metavar="N", type=positive, default=1, help="whose inside is shown, from 1 (1)")
    parser.add_argument("--head", metavar="N", type=positive, default=1, help="that is shown first, from 1 (1)")
    parser.add_argument("--out", metavar="FILE", required=True, help="page.html")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page, and prints its name."""
    check_text(arguments.text)
    out = Path(arguments.out)
    if out.suffix != ".html":
        raise ValueError(f"--out must be a page, .html; got --out {out}")
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.viewing.explain_page import explain_page
    from vaswani_transformer.viewing.explained import explain_model, load_explained_model

    disable_progress_bar()  # a model is read in a moment
    model, tokenizer = load_explained_model(arguments.model)
    how = {"target": arguments.target, "layer": arguments.layer, "head": arguments.head}
    found = explain_model(model, tokenizer, arguments.text, **how)
    out.write_text(explain_page(found, model=Path(arguments.model).name), encoding="utf-8")
    print(out)
    return 0
