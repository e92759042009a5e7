"""`vaswani attention`: what each word of a text looks at, as a page or a picture."""

import argparse
from pathlib import Path
from typing import Any

from .models import add_model, check_text
from .translate import positive

KINDS = ("encoder", "decoder", "cross")
PICTURES = (".png", ".svg")

EPILOG = """examples:
  vaswani attention runs/transformer-demo "The cat eats its fish." --target "Die Katze frisst." --out page.html
  vaswani attention runs/bert-demo "The cat eats its fish." --layer 2 --head 1 --out head.png
  vaswani attention gpt2 "The cat eats its fish because" --out page.html

The page is one file that asks nothing of the network: one head as lines and as a heat map, the heads of a layer, all
layers; choose a word to see what it looks at and who looks at it. A picture (.png, .svg; extra `viz`) shows one head,
the heads of --layer, or all layers. The numbers are those of the model's eager attention, however it was loaded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani attention`."""
    parser.description = "Show the attention of a Transformer, BERT, GPT or another model to a text."
    parser.epilog = EPILOG
    add_model(parser, default="demo-transformer")
    parser.add_argument("text", metavar="TEXT", help="what the model reads")
    parser.add_argument("--target", metavar="TEXT", help="a translation shown to the decoder; BERT's second text")
    parser.add_argument("--kind", choices=KINDS, help="the attention that is shown first (the first there is)")
    parser.add_argument("--layer", metavar="N", type=positive, help="from 1 (of a page the first, of a picture all)")
    parser.add_argument("--head", metavar="N", type=_head, default=None, help="from 1, or all (all)")
    parser.add_argument("--out", metavar="FILE", required=True, help="page.html, picture.png or picture.svg")


def _head(text: str) -> int | None:
    return None if text == "all" else positive(text)


def run(arguments: argparse.Namespace) -> int:
    """Writes the page or the picture, and prints its name."""
    check_text(arguments.text)
    out = Path(arguments.out)
    if out.suffix not in (".html", *PICTURES):
        raise ValueError(f"--out must be a page, .html, or a picture, .png or .svg; got --out {out}")
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.viewing.attention_maps import attention_maps, choose, load_viewed_model
    from vaswani_transformer.viewing.attention_page import attention_page
    from vaswani_transformer.viewing.attention_picture import draw_attention

    disable_progress_bar()  # a model is read in a moment
    model, tokenizer = load_viewed_model(arguments.model)
    limit = {"most_weights": None} if out.suffix in PICTURES else {}
    maps, notice = attention_maps(model, tokenizer, arguments.text, target=arguments.target, **limit)
    kind = choose(maps, kind=arguments.kind, layer=arguments.layer, head=arguments.head)
    name = Path(arguments.model).name
    how: dict[str, Any] = {"layer": arguments.layer, "head": arguments.head}
    if out.suffix in PICTURES:
        title = f"{kind} attention of {name}" + (f" ({notice})" if notice else "")
        draw_attention(maps[kind], out, title=title, **how)
    else:
        how["layer"] = arguments.layer or 1
        out.write_text(attention_page(maps, model=name, kind=kind, notice=notice, **how), encoding="utf-8")
    print(out)
    return 0
