"""The argument MODEL, which embedded models have names for."""

import argparse
import os

WORDS = "a model's folder, its name on the Hub, or demo-transformer, demo-bert, demo-gpt, which ship with the package"


def add_model(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Declares MODEL.

    Args:
        parser: of a verb.
        default: the model where none is named; it must be named without one.
    """
    more = {} if default is None else {"nargs": "?", "default": default}
    told = WORDS if default is None else f"{WORDS} ({default})"
    parser.add_argument("model", metavar="MODEL", type=found_model, help=told, **more)  # type: ignore[arg-type]


def found_model(name: str) -> str:
    """Returns the folder of an embedded model, or the name as it is."""
    if not name.startswith("demo-"):  # the package is not imported for the others, so that errors are told at once
        return name
    from vaswani_transformer.embedded_models import model_folder

    return model_folder(name)


def check_text(text: str) -> None:
    """Refuses a model's name where its text is left out, and MODEL may be.

    Raises:
        ValueError: the text names an embedded model, or a folder with one.
    """
    # os.path asks of any text, where Path ends with an error on a long one
    if found_model(text) != text or os.path.isfile(os.path.join(text, "config.json")):
        raise ValueError(f"TEXT must be what the model reads; got a model's name, {text!r}: write the text behind it")
