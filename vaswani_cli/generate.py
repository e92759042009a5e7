"""`vaswani generate`: a causal language model goes on with a prompt, as it is typed or from a file."""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .models import add_model
from .perplexity import add_model_arguments, load_model
from .translate import open_sink, positive

PROMPTS_AT_ONCE = 256

EPILOG = """examples:
  vaswani generate runs/gpt "It is a truth universally acknowledged"
  vaswani generate runs/gpt "The house" "The garden" --temperature 0.6 --seed 7
  vaswani generate gpt2 --greedy --max-new-tokens 40 < prompt.txt
  vaswani generate runs/gpt --file prompts.txt --beams 4 --out written.jsonl
  vaswani generate runs/gpt ""

Tokens are drawn, unless --greedy or --beams: at temperature 0.8 from the 40 likeliest and 0.95 of the probability, as
llama.cpp does, where the model's own settings say nothing else. Every prompt is one argument, or all of standard input;
at a terminal without one, each line typed. The text is written as it grows, its prompt first (beams: at its end).
--file has a prompt a line and gives a JSON object a line, {"prompt", "text"}. The empty prompt starts at the bos (or
eos) token."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani generate`."""
    parser.description = "Go on with a prompt: from the command line, standard input, a file, or typed line by line."
    parser.epilog = EPILOG
    add_model(parser, default="demo-gpt")
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="a text to go on with")
    parser.add_argument("--file", metavar="FILE", help="prompts, one a line, written in batches")
    parser.add_argument("--out", metavar="FILE", help="where the texts go; standard output without it")
    parser.add_argument("--max-new-tokens", metavar="N", type=positive, help="(200, or half the model's context)")
    parser.add_argument("--temperature", metavar="T", type=float, help="below 1 the likely becomes likelier")
    parser.add_argument("--top-k", metavar="K", type=int, help="draw from the K likeliest tokens; 0 for all")
    parser.add_argument("--top-p", metavar="P", type=float, help="draw from this much probability; 1 for all")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token")
    parser.add_argument("--beams", metavar="N", type=positive, help="beam search of this width")
    parser.add_argument("--seed", metavar="N", type=int, help="of what is drawn; a new one each time, told")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes a text for each prompt."""
    if arguments.file and arguments.prompts:
        raise ValueError(f"prompts come from --file or from the command line; got both, {arguments.prompts[0]!r} first")
    if arguments.seed is not None and not -(2**63) <= arguments.seed < 2**64:
        raise ValueError(f"--seed must be from -2**63 to 2**64 - 1, as torch takes it; got --seed {arguments.seed}")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --out must exist; got {arguments.out}")
    if arguments.file:
        from vaswani_transformer.data.text_files import checked_path

        checked_path(arguments.file)  # before the model is loaded
    import torch

    from vaswani_transformer.evaluation.completion import new_tokens_of, search_options

    model, tokenizer = load_model(arguments)
    names = ("greedy", "beams", "temperature", "top_k", "top_p")
    options = search_options(model, **{name: getattr(arguments, name) for name in names})
    new_tokens = new_tokens_of(model, arguments.max_new_tokens)
    seed = torch.seed() % 2**32 if arguments.seed is None else arguments.seed
    torch.manual_seed(seed)
    if arguments.seed is None and options["do_sample"]:
        print(f"vaswani: --seed {seed}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        sink = open_sink(arguments.out, stack)
        if arguments.file:
            _batches(arguments, model, tokenizer, sink, new_tokens, options)
        else:
            _one_by_one(arguments, model, tokenizer, sink, new_tokens, options)
    return 0


def _one_by_one(
    arguments: argparse.Namespace, model: Any, tokenizer: Any, sink: Any, new_tokens: int, options: dict[str, Any]
) -> None:
    typed = not arguments.prompts and sys.stdin.isatty()
    for prompt in _typed() if typed else arguments.prompts or [_standard_input()]:
        try:
            _write(model, tokenizer, prompt, sink, new_tokens, options, repeat=not typed)
        except ValueError as error:
            if not typed:
                raise
            print(f"vaswani: error: {error}", file=sys.stderr)  # the next line may be better


def _typed() -> Iterator[str]:
    print("vaswani: type a text to go on with; Ctrl-D ends", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
            return
        yield line.removesuffix("\n")


def _standard_input() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def _write(
    model: Any, tokenizer: Any, prompt: str, sink: Any, new_tokens: int, options: dict[str, Any], *, repeat: bool
) -> None:
    """Writes one text; to standard output as it grows, unless a beam search may still change its mind."""
    import torch
    from transformers import TextStreamer

    from vaswani_transformer.evaluation.completion import padding_of, prompt_ids

    ids = torch.tensor([prompt_ids(model, tokenizer, prompt, new_tokens=new_tokens)], device=model.device)
    streamer = None
    if sink is sys.stdout and options["num_beams"] == 1:
        streamer = TextStreamer(tokenizer, skip_prompt=not repeat, skip_special_tokens=True)
    settings = {"max_new_tokens": new_tokens, "pad_token_id": padding_of(model, tokenizer), "streamer": streamer}
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings, **options)
    if streamer is None:
        start = 0 if repeat else ids.shape[1]
        sink.write(tokenizer.decode(found[0, start:], skip_special_tokens=True) + "\n")
    sink.flush()


def _batches(
    arguments: argparse.Namespace, model: Any, tokenizer: Any, sink: Any, new_tokens: int, options: dict[str, Any]
) -> None:
    from tqdm import tqdm

    from vaswani_transformer.evaluation.completion import complete, prompt_ids

    lines = _lines(arguments.file)
    with tqdm(unit=" prompts", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        while some := list(itertools.islice(lines, PROMPTS_AT_ONCE)):
            ids = []
            for place, prompt in some:
                try:
                    ids.append(prompt_ids(model, tokenizer, prompt, new_tokens=new_tokens))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from error
            sizes = {"new_tokens": new_tokens, "batch_tokens": arguments.batch_tokens}
            texts = complete(model, tokenizer, ids, **sizes, progress=bar.update, **options)
            for (_, prompt), text in zip(some, texts, strict=True):
                sink.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
            sink.flush()


def _lines(file: str) -> Iterator[tuple[str, str]]:
    from vaswani_transformer.data.text_files import BadLine, read_lines

    for number, line in enumerate(read_lines(file), start=1):
        if isinstance(line, BadLine):
            raise ValueError(f"{file}:{number}: malformed line: {line.reason}")
        yield f"{file}:{number}", line
