"""`vaswani demo`: a model to try in a browser, on this machine or as a Space of the Hub."""

import argparse
from pathlib import Path

from .models import add_model
from .translate import positive

EPILOG = """examples:
  vaswani demo
  vaswani demo runs/transformer-demo
  vaswani demo gpt2 --port 8000 --max-characters 300
  vaswani demo runs/bert --share
  vaswani demo runs/transformer-demo --space space

A Transformer translates as you type, its attention drawn beside; a BERT fills blanks; a GPT writes, each step with the
probabilities of the likeliest tokens, and answers a question with no, one and a few examples. Nothing is asked of any
network, but by --share and of a model that is not here yet. --space writes a folder and starts nothing:
`hf upload NAME DIR --repo-type space` makes a Space of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani demo`."""
    parser.description = "Try a model in a browser: a Transformer, a BERT or a GPT (extra `app`)."
    parser.epilog = EPILOG
    add_model(parser, default="demo-transformer")
    parser.add_argument("--host", metavar="NAME", help="where it is reached (127.0.0.1, this machine alone)")
    parser.add_argument("--port", metavar="N", type=positive, help="(the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="a public address too, for a week, by Gradio's servers")
    parser.add_argument(
        "--max-characters", metavar="N", type=positive, default=1000, help="a longer text is refused (1000)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; the GPU where there is one")
    parser.add_argument("--space", metavar="DIR", help="write a Space of the Hub into this new folder")


def run(arguments: argparse.Namespace) -> int:
    """Shows the demo until Ctrl-C, or writes a Space."""
    from transformers.utils.logging import disable_progress_bar

    if arguments.space:
        served = [name for name in ("host", "port", "share", "device") if getattr(arguments, name)]
        if served:
            raise ValueError(f"--space writes a folder and starts nothing; got --{' and --'.join(served)} with it")
        from vaswani_transformer.viewing.demo_space import write_space

        disable_progress_bar()
        print(write_space(arguments.model, Path(arguments.space), max_characters=arguments.max_characters))
        return 0
    from vaswani_transformer.viewing.demo_app import serve

    disable_progress_bar()
    names = ("port", "share", "max_characters", "device")
    options = {name: getattr(arguments, name) for name in names}
    serve(arguments.model, host=arguments.host or "127.0.0.1", **options, ready=lambda told: print(told, flush=True))
    return 0
