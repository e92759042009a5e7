"""`vaswani perplexity`: how well a causal language model foretells a text, of a token, a word and a byte."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .imports import collector_paused
from .models import add_model
from .translate import PRECISIONS, positive

WIKITEXT = "EleutherAI/wikitext_document_level --config wikitext-2-raw-v1 --split test --column page"

EPILOG = f"""examples:
  vaswani perplexity runs/gpt novel.txt
  vaswani perplexity runs/gpt a.jsonl.xz b.parquet --column body --out figures.json
  vaswani perplexity runs/gpt FOLDER --split "train[98%:]"
  vaswani perplexity gpt2 {WIKITEXT} --detokenize wikitext

A text file is one document, a row of a .jsonl or .parquet file another (.gz, .xz, .bz2, .zst too). No document sees
another, and each stands behind the model's bos (or eos) token. Words are what white space separates. Windows overlap by
half: every token is foretold once, from at least --window less --stride tokens where its document has so many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani perplexity`."""
    parser.description = "Foretell every token of a text once: nats, perplexity of a token and a word, bits per byte."
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument("data", metavar="DATA", nargs="+", help="files; with --split a folder or data set of the Hub")
    parser.add_argument("--split", help="the part of a data set, in datasets' own words: test, train[98%%:]")
    parser.add_argument("--config", metavar="NAME", help="the data set's configuration; goes with --split")
    parser.add_argument("--column", metavar="NAME", default="text", help="where the text stands in rows (text)")
    parser.add_argument(
        "--detokenize", choices=["wikitext"], help="undo WikiText's spacing first, as GPT-2's authors and lm-eval do"
    )
    parser.add_argument("--window", metavar="N", type=positive, help="tokens read together (the model's context)")
    parser.add_argument("--stride", metavar="N", type=positive, help="tokens between two windows (half the window)")
    parser.add_argument("--out", metavar="FILE", help="write the figures here too, as JSON")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares how to run a causal language model: shared with `vaswani generate`."""
    parser.add_argument(
        "--batch-tokens", metavar="N", type=positive, default=4096, help="tokens of a batch with padding (4096)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; the GPU where there is one")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the weights; as they were saved without it")


def run(arguments: argparse.Namespace) -> int:
    """Scores the text and prints the figures."""
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --out must exist; got {arguments.out}")
    pieces = _open(arguments)
    from tqdm import tqdm

    from vaswani_transformer.evaluation.perplexity import perplexity

    model, tokenizer = load_model(arguments)
    with tqdm(unit=" tokens", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        found = perplexity(
            model,
            tokenizer,
            _documents(pieces),
            window=arguments.window,
            stride=arguments.stride,
            batch_tokens=arguments.batch_tokens,
            detokenize=arguments.detokenize,
            progress=bar.update,
        )
    print(f"{found.nats_per_token:.4f} nats a token, perplexity {found.per_token:.2f} of {found.tokens:,} tokens")
    print(f"perplexity {found.per_word:.2f} of {found.words:,} words")
    print(f"{found.bits_per_byte:.4f} bits a byte of {found.bytes:,} bytes")
    if arguments.out:
        told = {name: getattr(arguments, name) for name in ("model", "data", "config", "split", "column", "detokenize")}
        Path(arguments.out).write_text(json.dumps(told | found.as_dict(), indent=2) + "\n", encoding="utf-8")
    return 0


def load_model(arguments: argparse.Namespace, load: Callable[..., tuple[Any, Any]] | None = None) -> tuple[Any, Any]:
    """Returns the model that the arguments name, on its device, and its tokenizer; without `load` a causal one."""
    with collector_paused():
        import torch
        from transformers.utils.logging import disable_progress_bar

        from vaswani_transformer.evaluation.causal_lm import load_causal_lm

        disable_progress_bar()  # a model is read in a moment; the bar to look at is that of the tokens
        dtype = getattr(torch, PRECISIONS[arguments.precision]) if arguments.precision else None
        return (load or load_causal_lm)(arguments.model, dtype=dtype, device=arguments.device)


def _open(arguments: argparse.Namespace) -> Iterator[tuple[str, int, Any]]:
    """The lines of the documents; a place that is not there is told before a model is loaded."""
    from vaswani_transformer.data.document_sources import open_document_files, open_document_set

    if arguments.split is not None:
        if len(arguments.data) != 1:
            raise ValueError(f"--split is of one data set; got {len(arguments.data)}: {' '.join(arguments.data)}")
        where = arguments.data[0], arguments.config, None, arguments.split
        return open_document_set(*where, column=arguments.column, verbatim=True)[1]
    if arguments.config is not None:
        raise ValueError(f"--config goes with --split, the part of the data set; got --config {arguments.config} alone")
    for path in arguments.data:
        if Path(path).is_dir():
            raise ValueError(f"a folder of data needs --split, train or 'train[98%:]' for one; got {path} without it")
    return open_document_files(arguments.data, column=arguments.column, verbatim=True)[1]


def _documents(pieces: Iterator[tuple[str, int, Any]]) -> Iterator[str]:
    lines: list[str] = []
    for place, number, piece in pieces:
        if piece is None:
            yield "\n".join(lines)
            lines = []
        elif isinstance(piece, str):
            lines.append(piece)
        else:
            raise ValueError(f"{place}:{number}: malformed line: {piece.reason}")
