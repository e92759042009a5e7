"""`vaswani convert`: another library's model as a folder of ours."""

import argparse

EPILOG = """examples:
  vaswani convert wmt14.en-fr.joined-dict.transformer.tar.bz2 --from fairseq --out converted
  vaswani convert opus-mt-en-de --from marian --out converted
  vaswani convert wmt19-ru-en --from fsmt --out converted
  vaswani convert model_step_100000.pt --from opennmt-py --out converted
  vaswani convert my-model --from torch --out converted
  vaswani convert uncased_L-2_H-128_A-2 --from google-bert --out converted
  vaswani convert bert-base-cased --from bert --out converted
  vaswani convert gpt2-medium --from gpt2 --out converted
  vaswani convert openai-gpt --from openai-gpt --out converted
  vaswani convert finetune-transformer-lm/model --from gpt1 --out converted
  vaswani convert out-shakespeare-char/ckpt.pt --from nanogpt --out converted

Nothing in the source is run: pickles are read by an allow-list. Every weight must find its place, and what is written
is compared with the source's own code where that is installed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani convert`."""
    parser.description = "Make a folder of ours of another library's model, with its tokenizer and settings."
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SOURCE", help="the model's file or folder")
    parser.add_argument("--from", dest="format", metavar="FORMAT", required=True, help="the library that wrote it")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder for the model")


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints what was mapped, what was not, and how near the logits are."""
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.convert import convert

    disable_progress_bar()  # what is told at the end is enough
    found = convert(arguments.source, format=arguments.format, out=arguments.out)
    print(f"{found.weights} weights mapped, none missing, none unused")
    if found.dropped:
        print(f"no weights of the model, left out: {', '.join(found.dropped)}")
    if found.difference is None:
        print(f"not compared: {found.absent}")
    else:
        print(f"logits equal to the source's own code to {found.difference:.1e}")
    print(found.out)
    return 0
