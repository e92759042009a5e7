"""`vaswani evaluate-translation`: BLEU and chrF of a model on a test set, and the paper's Table 2 around it."""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from vaswani_cli.translate import add_search_arguments, load_model, positive, search_options

from .models import add_model

EPILOG = """examples:
  vaswani evaluate-translation runs/demo --embedded --max-words 10 --baselines
  vaswani evaluate-translation runs/base --source newstest2014.en --target newstest2014.de --test-set newstest2014
  vaswani evaluate-translation runs/demo-int8 --data transformer-demo --engine ctranslate2
  vaswani evaluate-translation runs/tiny --data transformer-tiny-multi30k-en-de:validation --json

Three scores, each with the signature that says how it was computed: sacreBLEU, chrF, and the paper's BLEU (Moses
tokens, German compounds split, no smoothing), which is what the table compares. An untrained model babbles to the limit
of every line, so only its first 200 lines are scored."""

UNTRAINED_LINES = 200
METRICS = {"sacreBLEU": "bleu", "chrF": "chrf", "paper's BLEU": "paper_bleu"}


class TestSet(NamedTuple):
    """Lines to translate, their references, and what is known of them."""

    sources: list[str]
    references: list[str]
    name: str
    source_language: str | None
    target_language: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani evaluate-translation`."""
    parser.description = "Score a model's translations of a test set."
    parser.epilog = EPILOG
    add_model(parser)
    data = parser.add_argument_group("test set", "one of --source with --target, --data and --embedded")
    data.add_argument("--source", metavar="FILE", help="lines to translate")
    data.add_argument("--target", metavar="FILE", help="their references, as many lines")
    data.add_argument("--data", metavar="RECIPE[:SPLIT]", help="the data of a recipe; the test split unless named")
    data.add_argument("--embedded", action="store_true", help="the English-German corpus that ships")
    data.add_argument("--split", choices=("validation", "test"), default="test", help="of --embedded (test)")
    data.add_argument("--test-set", metavar="NAME", help="what it is; newstest2014 puts the model into Table 2")
    data.add_argument("--source-language", metavar="CODE", help="told by file endings or the recipe where they say it")
    data.add_argument("--target-language", metavar="CODE", help="the same; it chooses the tokenisers of the scores")
    data.add_argument("--max-words", metavar="N", type=positive, help="only sources of at most N words")
    data.add_argument("--limit", metavar="N", type=positive, help="only the first N lines")
    add_search_arguments(parser)
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also score an untrained model of the same shape, and the copied source",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.add_argument("--out", metavar="FILE", help="write that JSON object here, too")
    parser.add_argument("--translations", metavar="FILE", help="write the translations here, one a line")


def run(arguments: argparse.Namespace) -> int:
    """Translates, scores and prints."""
    _write(arguments, *evaluated(arguments))
    return 0


def evaluated(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Translates and scores: the report that `--json` prints, and the translations."""
    test = _cut(_read_test_set(arguments), arguments)
    language = test.target_language
    if language is None:
        raise ValueError(
            "the scores depend on the target language, which nothing here tells; add --target-language CODE"
        )
    from vaswani_transformer.evaluation import table2, translation_scores

    translation_scores(["a"], ["a"], target_language=language)  # tells a missing library before the long work
    model, tokenizer = load_model(arguments.model, arguments)
    options = search_options(model, arguments)
    started = time.perf_counter()
    hypotheses = _translate(arguments, model, tokenizer, test.sources, options)
    seconds = time.perf_counter() - started
    scores = translation_scores(hypotheses, test.references, sources=test.sources, target_language=language)
    pair = f"{test.source_language or 'unknown'}-{language}"
    name = Path(arguments.model).resolve().name if Path(arguments.model).is_dir() else arguments.model
    report = {
        "model": name,
        "test_set": arguments.test_set or test.name,
        "language_pair": pair,
        "engine": arguments.engine,
        "seconds": round(seconds, 2),
        "sentences_per_second": round(len(hypotheses) / seconds, 2),
        "scores": scores,
        "table2": table2(
            name,
            scores["paper_bleu"],
            language_pair=pair,
            test_set=arguments.test_set or test.name,
            sentences=len(hypotheses),
            training_flops=_run_notes(arguments.model).get("training_flops"),
        ),
    }
    if arguments.baselines:
        report["baselines"] = _baselines(arguments, model, tokenizer, test, options)
    return report, hypotheses


def _translate(
    arguments: argparse.Namespace, model: Any, tokenizer: Any, sources: list[str], options: dict[str, Any]
) -> list[str]:
    from tqdm import tqdm

    from vaswani_transformer.evaluation import translate

    with tqdm(total=len(sources), unit=" lines", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        return translate(
            model,
            tokenizer,
            sources,
            batch_tokens=arguments.batch_tokens,
            max_source_tokens=arguments.max_source_tokens,
            progress=bar.update,
            **options,
        )


def _baselines(
    arguments: argparse.Namespace, model: Any, tokenizer: Any, test: TestSet, options: dict[str, Any]
) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from vaswani_transformer.evaluation import translation_scores

    with torch.random.fork_rng():
        torch.manual_seed(1)
        untrained = AutoModelForSeq2SeqLM.from_config(model.config).to(model.device, model.dtype).eval()
    untrained.generation_config = model.generation_config
    few = slice(UNTRAINED_LINES)
    alone = {name: value for name, value in options.items() if name != "ensemble"}
    babble = _translate(arguments, untrained, tokenizer, test.sources[few], alone)
    language = test.target_language or ""
    return {
        "untrained": translation_scores(babble, test.references[few], target_language=language),
        "copied source": translation_scores(test.sources, test.references, target_language=language),
    }


def _read_test_set(arguments: argparse.Namespace) -> TestSet:
    ways = [bool(arguments.source or arguments.target), bool(arguments.data), arguments.embedded]
    if sum(ways) != 1 or bool(arguments.source) != bool(arguments.target):
        raise ValueError("give the test set as --source FILE --target FILE, or --data RECIPE[:SPLIT], or --embedded")
    if arguments.source:
        found = _aligned_files(arguments.source, arguments.target)
    elif arguments.embedded:
        options = {"embedded": "debian-en-de", "source": "en", "target": "de"}
        if (arguments.source_language, arguments.target_language) == ("de", "en"):
            options.update(source="de", target="en")
        found = _recipe_split(options, arguments.split, "debian-en-de", arguments.max_words)
    else:
        from vaswani_transformer.recipe import load_recipe

        name, _, split = arguments.data.rpartition(":")
        if split not in ("train", "validation", "test") or not name:
            name, split = arguments.data, "test"
        found = _recipe_split(load_recipe(name).data, split, Path(name).stem, arguments.max_words)
    data = _run_notes(arguments.model).get("recipe", {}).get("data", {})
    return found._replace(
        source_language=arguments.source_language or found.source_language or data.get("source"),
        target_language=arguments.target_language or found.target_language or data.get("target"),
    )


def _aligned_files(source: str, target: str) -> TestSet:
    """Every line counts here, empty ones too: a test set is scored whole."""
    from vaswani_transformer.data.text_files import BadLine, read_lines

    sides: list[list[str]] = []
    for path in (source, target):
        sides.append([])
        for number, line in enumerate(read_lines(path), start=1):
            if isinstance(line, BadLine):
                raise ValueError(f"{path}:{number}: {line.reason}")
            sides[-1].append(line)
    sources, references = sides
    if len(sources) != len(references):
        raise ValueError(
            f"source and target need as many lines; got {len(sources)} in {source}, {len(references)} in {target}"
        )
    return TestSet(sources, references, Path(source).name, _language_of(source), _language_of(target))


def _recipe_split(data: dict[str, Any], split: str, name: str, max_words: int | None) -> TestSet:
    from vaswani_transformer.data.parallel_text import TranslationOptions, read_pairs

    data = {**data, "max_words": max_words} if max_words else dict(data)
    pairs = read_pairs(TranslationOptions.from_dict(data), split)
    words = data.get("max_words")
    label = f"{name} {split}" + (f", at most {words} words" if words else "")
    return TestSet(list(pairs["source"]), list(pairs["target"]), label, data.get("source"), data.get("target"))


def _cut(test: TestSet, arguments: argparse.Namespace) -> TestSet:
    kept = [
        pair
        for pair in zip(test.sources, test.references, strict=True)
        if not arguments.max_words or len(pair[0].split()) <= arguments.max_words
    ][: arguments.limit]
    if not kept:
        raise ValueError(f"the test set must have a line; got none of {len(test.sources)} lines of {test.name}")
    return test._replace(sources=[source for source, _ in kept], references=[reference for _, reference in kept])


def _language_of(path: str) -> str | None:
    """The language a file's ending names: "de" for a.de and a.de.gz."""
    found = re.search(r"\.([a-z]{2})(\.(gz|xz|bz2|zst))?$", path)
    return found.group(1) if found and found.group(1) not in ("gz", "xz") else None


def _run_notes(model: str) -> dict[str, Any]:
    """What training left in the model's folder, {} where it left nothing."""
    path = Path(model) / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(arguments: argparse.Namespace, report: dict[str, Any], hypotheses: list[str]) -> None:
    from vaswani_cli.translate import one_line

    if arguments.translations:
        text = "".join(one_line(hypothesis) + "\n" for hypothesis in hypotheses)
        Path(arguments.translations).write_text(text, encoding="utf-8", newline="\n")
    whole = json.dumps(report, indent=2, ensure_ascii=False)
    if arguments.out:
        Path(arguments.out).write_text(whole + "\n", encoding="utf-8")
    print(whole if arguments.json else _rendered(report))


def _rendered(report: dict[str, Any]) -> str:
    from vaswani_transformer.evaluation import render_table2

    scores = report["scores"]
    lines = [
        f"{report['model']} on {report['test_set']}: {scores['sentences']:,} lines, {report['language_pair']}, "
        f"{report['seconds']:.1f} s, {report['sentences_per_second']:.1f} lines/s",
        "",
    ]
    lines += [f"{label:<14}{scores[key]:6.2f}  {scores[key + '_signature']}" for label, key in METRICS.items()]
    lines.append(f"{'copied':<14}{100 * scores['copied']:6.2f}  % of the translations are their source")
    for name, others in report.get("baselines", {}).items():
        numbers = ", ".join(f"{label} {others[key]:.2f}" for label, key in METRICS.items())
        part = "" if others["sentences"] == scores["sentences"] else f" (first {others['sentences']:,} lines)"
        lines.append(f"{name + ':':<15}{numbers}{part}")
    return "\n".join([*lines, "", render_table2(report["table2"])])
