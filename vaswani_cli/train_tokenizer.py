"""`vaswani train-tokenizer`: one vocabulary for source and target, BERT's or GPT-2's, learnt from text files."""

import argparse

# The kinds of each family's tokenizer, the default first.
KINDS = {"transformer": ("bpe", "wordpiece"), "bert": ("wordpiece",), "gpt": ("byte-bpe",)}
EPILOG = """examples:
  vaswani train-tokenizer train.en.gz train.de.gz --vocab-size 37000 --out tokenizer
  vaswani train-tokenizer pairs.tsv.xz --columns 1,2 --vocab-size 8000 --out tokenizer
  vaswani train-tokenizer pairs.jsonl --columns en,fr --kind wordpiece --vocab-size 32000 --out tokenizer
  vaswani train-tokenizer novels.jsonl.xz --columns text --family bert --vocab-size 30522 --out tokenizer
  vaswani train-tokenizer novels.jsonl.xz --columns text --kind byte-bpe --vocab-size 16000 --out tokenizer

The paper: 37,000 byte-pair tokens for English-German, 32,000 word pieces for English-French, both languages together.
Give the files of both languages. --family bert makes BERT's tokenizer instead: Google's word pieces of lower-cased (or
--cased) words, which do not give back spaces and capitals. --kind byte-bpe makes GPT-2's
(--family gpt), which gives back any text. AutoTokenizer loads the folder anywhere; a recipe takes it as
tokenizer.from=DIR."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani train-tokenizer`."""
    parser.description = "Train a tokenizer for translation, BERT or GPT on text and save it as a stock fast tokenizer."
    parser.epilog = EPILOG
    parser.add_argument(
        "files",
        metavar="FILES",
        nargs="+",
        help="a sentence a line, or .tsv, .jsonl, .parquet; each may be .gz, .xz, .bz2 or .zst",
    )
    parser.add_argument(
        "--family",
        choices=tuple(KINDS),
        help="whose tokenizer: of source and target over bytes (default), BERT's over characters, GPT-2's over bytes",
    )
    parser.add_argument(
        "--kind",
        choices=sorted({kind for kinds in KINDS.values() for kind in kinds}),
        help="byte pairs (transformer, the default) or word pieces (transformer, bert); byte-bpe is gpt's only kind",
    )
    parser.add_argument("--cased", action="store_true", help="bert only: keep capitals and accents")
    parser.add_argument(
        "--vocab-size", metavar="N", type=int, required=True, help="tokens in all, special ones included"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where the tokenizer goes")
    parser.add_argument(
        "--min-frequency", metavar="N", type=int, default=2, help="merge pieces seen together N times or more (2)"
    )
    parser.add_argument(
        "--columns",
        metavar="A,B",
        help="of a tsv, numbers from 0; of the others, names (default: every column, every text field)",
    )
    parser.add_argument(
        "--on-bad-line", choices=("stop", "skip"), default="stop", help="what to do at a malformed line (stop)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a tokenizer that DIR holds already")


def run(arguments: argparse.Namespace) -> int:
    """Trains, saves, and prints the folder with the number of tokens."""
    from pathlib import Path

    from vaswani_transformer.data.text_files import checked_path

    family, kind = _family_and_kind(arguments)
    out = Path(arguments.out)
    if (out / "tokenizer.json").exists() and not arguments.overwrite:
        raise ValueError(f"--out must hold no tokenizer yet; got {out}: take another folder, or --overwrite")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder; got the file {out}")
    for path in arguments.files:
        checked_path(path)
    skipped = [0]
    tokenizer = _trained(arguments, family, kind, _texts(arguments, skipped))
    tokenizer.save_pretrained(out)
    left_out = f", {skipped[0]} malformed lines skipped" if skipped[0] else ""
    print(f"{out}: {len(tokenizer)} tokens{left_out}")
    return 0


def _family_and_kind(arguments: argparse.Namespace) -> tuple[str, str]:
    """A kind that one family alone has names the family; a family's first kind is its default."""
    family = arguments.family or ("gpt" if arguments.kind in KINDS["gpt"] else "transformer")
    kind = arguments.kind or KINDS[family][0]
    if kind not in KINDS[family]:
        raise ValueError(f"--family {family} must be of --kind {' or '.join(KINDS[family])}; got --kind {kind}")
    if arguments.cased and family != "bert":
        raise ValueError(f"--cased goes with --family bert only; got --family {family}")
    return family, kind


def _trained(arguments: argparse.Namespace, family: str, kind: str, texts):
    settings = {"vocab_size": arguments.vocab_size, "min_frequency": arguments.min_frequency}
    if family == "bert":
        from vaswani_transformer.models.tokenization_bert import VaswaniBertTokenizer

        return VaswaniBertTokenizer.train(texts, do_lower_case=not arguments.cased, **settings)
    if family == "gpt":
        from vaswani_transformer.models.tokenization_gpt2 import VaswaniGPT2Tokenizer

        return VaswaniGPT2Tokenizer.train(texts, **settings)
    from vaswani_transformer.models.tokenization_transformer import VaswaniTransformerTokenizer

    return VaswaniTransformerTokenizer.train(texts, kind=kind, **settings)


def _texts(arguments: argparse.Namespace, skipped: list[int]):
    """Yields every text of every file, counting the malformed lines it skips in `skipped[0]`."""
    from vaswani_transformer.data.text_files import ROW_FORMATS, BadLine, file_format, read_lines, read_rows

    for path in arguments.files:
        if file_format(path) in ROW_FORMATS:
            lines = read_rows(path, _columns(arguments.columns, tsv=file_format(path) == ".tsv"))
        else:
            lines = ([line] if isinstance(line, str) else line for line in read_lines(path))
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, BadLine):
                yield from (text.strip() for text in line)
            elif arguments.on_bad_line == "skip":
                skipped[0] += 1
            else:
                raise ValueError(f"{path}:{number}: malformed line: {line.reason}; --on-bad-line skip leaves it out")


def _columns(text: str | None, *, tsv: bool) -> list[int | str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not tsv:
        return list(names)
    if not all(name.isdecimal() for name in names):
        raise ValueError(f"--columns of a tsv must be numbers from 0, with commas between; got {text!r}")
    return [int(name) for name in names]
