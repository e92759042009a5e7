"""`vaswani translate`: lines of text in, one translation a line out, in the same order."""

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .models import add_model

EPILOG = """examples:
  vaswani translate runs/demo < english.txt > german.txt
  vaswani translate runs/demo english.txt.gz --out german.txt --batch-tokens 16000
  vaswani translate runs/demo english.txt --n-best 4 --scores
  vaswani translate runs/a english.txt --ensemble runs/b runs/c
  echo "A small house." | vaswani translate runs/demo --prefix "Ein kleines"
  vaswani translate runs/demo english.txt --engine ctranslate2

An empty line stays an empty line; a line ends at a newline and nowhere else. --n-best and --scores write tab-separated
columns: the number of the line from 1 (with --n-best), the score (with --scores), the translation."""

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TORCH_ONLY = ("ensemble", "baselines")  # options that --engine ctranslate2 does not have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani translate`."""
    parser.description = "Translate lines of text: sorted and batched by tokens window by window, order kept."
    parser.epilog = EPILOG
    add_model(parser, default="demo-transformer")
    parser.add_argument("file", metavar="FILE", nargs="?", help="text to translate; standard input without it")
    parser.add_argument("--out", metavar="FILE", help="where the translations go; standard output without it")
    add_search_arguments(parser)
    parser.add_argument("--n-best", metavar="N", type=positive, help="write the N best translations of each line")
    parser.add_argument("--scores", action="store_true", help="write each translation's score before it")
    parser.add_argument("--prefix", metavar="TEXT", help="start every translation with this text")
    parser.add_argument(
        "--window",
        metavar="N",
        type=positive,
        help="lines read, sorted and translated at a time (1000; 1 at a terminal)",
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares how to search and where: shared with `vaswani evaluate-translation`."""
    search = parser.add_argument_group("search", "what is not given comes from the model (the paper's: 4, 0.6, 50)")
    search.add_argument("--beams", metavar="N", type=positive, help="width of the beam; 1 is greedy")
    search.add_argument("--length-penalty", metavar="ALPHA", type=float, help="exponent of the length penalty")
    search.add_argument(
        "--max-extra-tokens", metavar="N", type=int, help="most tokens of a translation beyond those of its source"
    )
    search.add_argument("--ensemble", metavar="MODEL", nargs="+", help="more models, whose probabilities are averaged")
    search.add_argument(
        "--batch-tokens", metavar="N", type=positive, default=4096, help="source tokens of a batch with padding (4096)"
    )
    search.add_argument(
        "--max-source-tokens", metavar="N", type=positive, default=1024, help="a longer line is cut, and told (1024)"
    )
    search.add_argument(
        "--engine",
        choices=("torch", "ctranslate2"),
        default="torch",
        help="what computes (torch); ctranslate2 takes what `vaswani export --to ctranslate2` wrote, or exports MODEL "
        "for this run",
    )
    search.add_argument("--device", help="cpu, cuda, cuda:1 ...; the GPU where there is one")
    search.add_argument("--precision", choices=PRECISIONS, help="of the weights; as they were saved without it")


def run(arguments: argparse.Namespace) -> int:
    """Translates window by window and writes each window before it reads the next."""
    if arguments.file and arguments.out and _same_file(arguments.file, arguments.out):
        raise ValueError(f"--out must not be the file that is read; got {arguments.out} for both")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --out must exist; got {arguments.out}")
    with contextlib.ExitStack() as stack:
        source = _open_source(arguments.file, stack)
        from tqdm import tqdm

        from vaswani_transformer.evaluation import translate_nbest

        model, tokenizer = load_model(arguments.model, arguments)
        sink = open_sink(arguments.out, stack)
        typed = arguments.file is None and sys.stdin.isatty()
        if typed:
            print("vaswani: type a line to translate; Ctrl-D ends", file=sys.stderr)
        window = arguments.window or (1 if typed else 1000)
        bar = stack.enter_context(tqdm(unit=" lines", disable=typed or not sys.stderr.isatty(), file=sys.stderr))
        results = translate_nbest(
            model,
            tokenizer,
            _lines(source),
            n=arguments.n_best or 1,
            scores=arguments.scores,
            prefix=arguments.prefix,
            window=window,
            batch_tokens=arguments.batch_tokens,
            max_source_tokens=arguments.max_source_tokens,
            progress=bar.update,
            **search_options(model, arguments),
        )
        for number, hypotheses in enumerate(results, start=1):
            for hypothesis in hypotheses:
                sink.write(_row(arguments, number, hypothesis) + "\n")
            if number % window == 0:
                sink.flush()
    return 0


def load_model(name: str, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the model, on its device, and its tokenizer.

    Raises:
        ValueError: neither a model's folder nor a name the Hub knows, a folder without a tokenizer, or a device that is
            not here.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    import vaswani_transformer  # noqa: F401  # its classes become known to the Auto classes
    from vaswani_transformer.evaluation.devices import device_named

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"a model's folder has a config.json; got {name} without one")
    if arguments.engine == "ctranslate2":
        return _load_ctranslate2(name, arguments)
    if (Path(name) / "model.bin").is_file():
        raise ValueError(f"a folder of CTranslate2 needs --engine ctranslate2; got {name} with --engine torch")
    device = device_named(arguments.device)
    disable_progress_bar()  # a model is read in a moment; the bar to look at is that of the lines
    options = {"dtype": getattr(torch, PRECISIONS[arguments.precision])} if arguments.precision else {}
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, **options)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"MODEL must be a folder with a model and its tokenizer, or a Hub name; got {name}: {error}"
        ) from error
    return model.to(device).eval(), tokenizer


def _load_ctranslate2(name: str, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """An exported folder as a model and its tokenizer; another one is exported for this run.

    Raises:
        ValueError: an option that CTranslate2 does not serve, a folder without a tokenizer.
    """
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from vaswani_transformer.convert import export_to_ctranslate2
    from vaswani_transformer.evaluation.ctranslate2_model import CTranslate2Transformer

    if refused := [flag for flag in TORCH_ONLY if getattr(arguments, flag, None)]:
        raise ValueError(
            f"--{' and --'.join(refused)} must be left out with --engine ctranslate2, or --engine torch taken"
        )
    disable_progress_bar()
    settings = {"device": arguments.device, "compute_type": PRECISIONS.get(arguments.precision, "default")}
    with tempfile.TemporaryDirectory() as folder:
        exported = name
        if not (Path(name) / "model.bin").is_file():
            exported = str(export_to_ctranslate2(name, Path(folder) / "exported"))
        model = CTranslate2Transformer(exported, **settings)
        try:
            return model, AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"MODEL must be a folder with a model and its tokenizer; got {name}: {reason}") from error


def search_options(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user set, as keyword arguments of `model.generate`."""
    names = {"beams": "num_beams", "length_penalty": "length_penalty", "max_extra_tokens": "max_extra_tokens"}
    options = {new: getattr(arguments, old) for old, new in names.items() if getattr(arguments, old) is not None}
    ours = [name for name in ("max_extra_tokens", "ensemble") if getattr(arguments, name) is not None]
    if ours and model.config.model_type != "vaswani-transformer":
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in ours)
        raise ValueError(f"{flags} need a Vaswani Transformer's search; got a model of type {model.config.model_type}")
    if arguments.ensemble:
        options["ensemble"] = [load_model(name, arguments)[0] for name in arguments.ensemble]
    return options


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text}")
    return int(text)


def one_line(text: str, *, tabs: bool = True) -> str:
    """A translation without what would break the lines (or, with tabs=False, the columns) of the output."""
    return re.sub(r"[\r\n]+" if tabs else r"[\r\n\t]+", " ", text)


def _row(arguments: argparse.Namespace, number: int, hypothesis: Any) -> str:
    cells = [str(number)] if arguments.n_best else []
    if arguments.scores:
        cells.append("" if hypothesis.score is None else f"{hypothesis.score:.4f}")
    return "\t".join([*cells, one_line(hypothesis.text, tabs=not cells)])


def _open_source(file: str | None, stack: contextlib.ExitStack) -> Iterable[bytes]:
    if file is None:
        return sys.stdin.buffer
    from vaswani_transformer.data.text_files import checked_path, open_bytes

    return stack.enter_context(open_bytes(checked_path(file)))


def open_sink(out: str | None, stack: contextlib.ExitStack) -> IO[str]:
    """Returns the file to write to, or standard output, both in UTF-8 with plain newlines."""
    if out is not None:
        return stack.enter_context(open(out, "w", encoding="utf-8", newline="\n"))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(encoding="utf-8", newline="\n")
    return sys.stdout


def _lines(source: Iterable[bytes]) -> Iterator[str]:
    """Lines end at the newline byte alone; what is no UTF-8 becomes U+FFFD: no line is lost, none shifts."""
    for number, raw in enumerate(source):
        if number == 0:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _same_file(first: str, second: str) -> bool:
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()
