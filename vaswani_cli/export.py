"""`vaswani export`: a model of ours as another library has it."""

import argparse

EPILOG = """examples:
  vaswani export runs/gpt --to transformers --out exported
  vaswani export runs/bert --to transformers --out exported
  vaswani export runs/transformer --to transformers --out exported
  vaswani export runs/transformer --to onnx --out graphs
  vaswani export runs/gpt --to gguf --out file

transformers: a folder of its own classes, which loads without this package and without its code: bert; gpt2 where norms
stand before the sub-layers, openai-gpt where they stand after them; marian for the Transformer of 2017, or an error
that names the settings in the way. What is written is read again, and its logits compared.

onnx: graphs in float32 for onnxruntime, with a cache where text is written, of free sizes (extra [onnx]); outputs are
compared in onnxruntime.

gguf: model.gguf for llama.cpp, tokenizer within, of a GPT with GPT-2's architecture (extra [gguf]); what is written is
read again, by transformers too, and its logits compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani export`."""
    parser.description = "Write a model, its tokenizer and its generation settings for another library."
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="a model's folder, or its name on the Hub")
    parser.add_argument("--to", metavar="FORMAT", required=True, help="transformers, onnx or gguf")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder for it")


def run(arguments: argparse.Namespace) -> int:
    """Exports, and prints the new folder."""
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.convert import EXPORTS
    from vaswani_transformer.sections import unknown_name

    if arguments.to not in EXPORTS:
        raise ValueError(unknown_name(arguments.to, list(EXPORTS), "export format"))
    disable_progress_bar()  # what is told at the end is enough
    print(EXPORTS[arguments.to](arguments.model, arguments.out))
    return 0
