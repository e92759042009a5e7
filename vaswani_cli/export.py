"""`vaswani export`: a model of ours as another library has it."""

import argparse

from .models import add_model

EPILOG = """examples:
  vaswani export runs/gpt --to transformers --out exported
  vaswani export runs/bert --to transformers --out exported
  vaswani export runs/transformer --to transformers --out exported
  vaswani export runs/transformer --to onnx --out graphs
  vaswani export runs/gpt --to gguf --out file
  vaswani export runs/demo --to ctranslate2 --quantization int8 --out runs/demo-int8 --data transformer-demo

transformers: a folder of its own classes, which loads without this package and without its code: bert; gpt2 where norms
stand before the sub-layers, openai-gpt where they stand after them; marian for the Transformer of 2017, or an error
that names the settings in the way. What is written is read again, and its logits compared.

onnx: graphs in float32 for onnxruntime, with a cache where text is written, of free sizes (extra [onnx]); outputs are
compared in onnxruntime.

gguf: model.gguf for llama.cpp, tokenizer within, of a GPT with GPT-2's architecture (extra [gguf]); what is written is
read again, by transformers too, and its logits compared.

ctranslate2: a folder that CTranslate2 runs, several times as fast on a CPU: the original Transformer, a BERT's encoder,
a GPT; scores are compared. With --data, BLEU is printed before (this model) and after (what was written)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani export`."""
    parser.description = "Write a model, its tokenizer and its generation settings for another library."
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument("--to", metavar="FORMAT", required=True, help="transformers, ctranslate2, onnx or gguf")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder for it")
    parser.add_argument(
        "--quantization",
        choices=("float32", "int8", "float16"),
        help="what ctranslate2's weights are saved in (float32)",
    )
    parser.add_argument(
        "--data",
        metavar="RECIPE[:SPLIT]",
        help="print BLEU on this before and after (--to ctranslate2, translation; the test split unless named)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports, prints the new folder, and the scores on both sides where they are asked for."""
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.convert import EXPORTS
    from vaswani_transformer.sections import unknown_name

    if arguments.to not in EXPORTS:
        raise ValueError(unknown_name(arguments.to, list(EXPORTS), "export format"))
    options = {"quantization": arguments.quantization} if arguments.quantization else {}
    if (options or arguments.data) and arguments.to != "ctranslate2":
        raise ValueError(f"--quantization and --data belong to --to ctranslate2; got --to {arguments.to}")
    if arguments.data:
        _check_translates(arguments.model)
    disable_progress_bar()  # what is told at the end is enough
    print(EXPORTS[arguments.to](arguments.model, arguments.out, **options))
    if arguments.data:
        _print_bleu(arguments)
    return 0


def _check_translates(model: str) -> None:
    from transformers import AutoConfig

    import vaswani_transformer  # noqa: F401  # its classes become known to the Auto classes

    config = AutoConfig.from_pretrained(model)
    if config.model_type != "vaswani-transformer":
        raise ValueError(f"--data scores translations; got model_type {config.model_type!r} in {model}: leave it out")


def _print_bleu(arguments: argparse.Namespace) -> None:
    """What quantising costs: the model as it is, by this package's search, and what was written, by CTranslate2's."""
    from vaswani_cli import verb_parser
    from vaswani_cli.evaluate_translation import evaluated

    parser = verb_parser("evaluate-translation")
    for label, model, engine in (("before", arguments.model, "torch"), ("after", arguments.out, "ctranslate2")):
        options = parser.parse_args([model, "--data", arguments.data, "--engine", engine])
        report, _ = evaluated(options)
        scores, speed = report["scores"], report["sentences_per_second"]
        print(
            f"{label + ':':<8}sacreBLEU {scores['bleu']:.2f}, the paper's BLEU {scores['paper_bleu']:.2f}, "
            f"{speed:.1f} lines/s by {engine} on {report['test_set']}, {scores['sentences']:,} lines"
        )
