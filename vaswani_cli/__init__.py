"""The `vaswani` command: one module per verb, loaded when that verb is called, so that help answers at once."""

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence

VERBS = {
    "plan": "tell what a recipe needs: memory of each GPU, time, money",
    "train": "train a model from a recipe",
    "finetune": "fine-tune a BERT or a GPT on labelled data",
    "recipes": "list the recipes that ship",
    "average": "average the weights of a run's checkpoints",
    "train-tokenizer": "train a tokenizer on text",
    "translate": "translate lines of text",
    "generate": "go on with a prompt",
    "perplexity": "score a causal language model on text: of a token, a word, a byte",
    "evaluate": "ask a model tasks with zero, one and a few examples",
    "lm-eval": "run lm-eval's tasks with the fast scorer",
    "convert": "make a folder of ours of another library's model",
    "attention": "show what each word of a text looks at",
    "demo": "try a model in a browser",
    "explain": "walk through what a model computes of a text",
    "compare": "have BERT and GPT fill the same blank",
    "export": "write a model for another library",
    "publish": "put a model on the Hub, with its card, and check that it loads anywhere",
    "evaluate-translation": "score a model on a test set: BLEU, chrF, and the paper's Table 2",
}

EPILOG = """examples:
  vaswani recipes
  vaswani train transformer-demo --out runs/demo
  vaswani translate runs/demo < english.txt

`vaswani VERB --help` tells more. VASWANI_DEBUG=1 shows the traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit status: 0, or 2 for bad input (told in one line, without a traceback), or 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return _overview(words)
    verb = words[0]
    if verb not in VERBS:
        nearest = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return _complain(f"unknown verb {verb!r}{hint} (verbs: {', '.join(VERBS)})")
    return _run(verb, words[1:])


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Returns the parser of one verb's arguments."""
    module = importlib.import_module(f"vaswani_cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"vaswani {verb}", formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return parser


def _overview(words: list[str]) -> int:
    listing = "\n".join(f"  {verb:<22}{line}" for verb, line in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="vaswani",
        usage="vaswani VERB [arguments]",
        description=f"Train, score, use, show and publish the Transformer of 2017, BERT and GPT.\n\nverbs:\n{listing}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    arguments = parser.parse_args(words)
    if arguments.version:
        from importlib.metadata import version

        print(f"vaswani-transformer {version('vaswani-transformer')}")
        return 0
    parser.print_help()
    return 0 if words else 2


def _run(verb: str, words: list[str]) -> int:
    """Parses the verb's own arguments and runs it, turning what a user can mend into one line."""
    module = importlib.import_module(f"vaswani_cli.{verb.replace('-', '_')}")
    arguments = verb_parser(verb).parse_intermixed_args(words)  # key=value may stand before and after options
    _log_to_stderr()
    try:
        return module.run(arguments)
    except KeyboardInterrupt as stop:  # the training loop says in it how to go on
        print(f"vaswani: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _mendable() as error:
        if os.environ.get("VASWANI_DEBUG") == "1":
            raise
        return _complain("; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())]))


def _mendable() -> tuple[type[Exception], ...]:
    """What a user can mend: OSError is a missing file, or a model the Hub does not know; the last a config.json."""
    loaded = sys.modules.get("huggingface_hub.errors")  # its errors exist where it was imported, later than this
    strict = (loaded.StrictDataclassError,) if loaded else ()
    return (ValueError, OSError, ImportError, *strict)


def _complain(message: str) -> int:
    print(f"vaswani: error: {message}", file=sys.stderr)
    return 2


def _log_to_stderr() -> None:
    """Our own log as plain lines on standard error; of several processes only the first speaks below a warning."""
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in ("vaswani_transformer", "vaswani_cli"):
        logging.getLogger(name).setLevel(level)
