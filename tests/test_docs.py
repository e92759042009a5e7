"""The pages under docs/: what they name is there, and nothing that they promise to name is left out."""

import ast
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers

from vaswani_cli import VERBS, verb_parser
from vaswani_transformer.convert import EXPORTS, SOURCES
from vaswani_transformer.convert.fsmt import FIXED
from vaswani_transformer.families import FAMILIES, planned_config
from vaswani_transformer.finetune import TASKS
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.models import VaswaniBertConfig, VaswaniGPTConfig, VaswaniTransformerConfig
from vaswani_transformer.models.configuration_transformer import CHOICES, SWITCHES
from vaswani_transformer.models.tokenization_transformer import EOS, SPECIAL_TOKENS
from vaswani_transformer.recipe import TOKENIZER_KEYS, OptimizerSection, Recipe, ScheduleSection, load_recipe
from vaswani_transformer.sections import parse_yaml, read_section

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
SYMBOL = re.compile(r"\[`([\w.-]+)`\]\(\.\./([\w/.-]+\.(?:py|yaml))\)")
CONFIGS = {config.__name__: config for config in (VaswaniTransformerConfig, VaswaniBertConfig, VaswaniGPTConfig)}
# The numbered sections of the papers that describe a model, its training or its evaluation.
SECTIONS = {
    "Vaswani et al. (2017)": "3.1 3.2.1 3.2.2 3.2.3 3.3 3.4 3.5 4 5.1 5.2 5.3 5.4 6.1 6.2 6.3",
    "Devlin et al. (2018)": "3 3.1 3.2 4.1 4.2 4.3 4.4 5.1 5.2 5.3 A.1 A.2 A.3 A.4 A.5 B.1 C.1 C.2",
    "Radford et al. (2018)": "3.1 3.2 3.3 4.1 4.2 5",
    "Radford et al. (2019)": "2.1 2.2 2.3 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8 4",
    "Brown et al. (2020)": "2.1 2.2 2.3 2.4 3.1.1 3.1.2 3.1.3 3.1.4 3.2 3.3 3.4 3.5 3.6 3.7 3.8 3.9.1 3.9.2 3.9.3 "
    "3.9.4 3.9.5 3.9.6 4",
}
EQUATIONS = {"Vaswani et al. (2017)": 3, "Radford et al. (2018)": 5}


def symbols(page: str) -> list[tuple[str, str]]:
    """(file, dotted symbol) of each link of a page to a symbol."""
    return [(path, name) for name, path in SYMBOL.findall(PAGES[page])]


@cache
def parsed(path: str) -> Any:
    text = (ROOT / path).read_text(encoding="utf-8")
    return parse_yaml(text, where=path) if path.endswith(".yaml") else ast.parse(text)


def names_in(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))


def is_there(path: str, symbol: str) -> bool:
    """Whether a file has the symbol: a class, function, method, field or constant, a key of a recipe, or itself."""
    if not (ROOT / path).is_file():
        return False
    found = parsed(path)
    if path.endswith(".py") and symbol == Path(path).stem:
        return True
    for part in symbol.split("."):
        inside = found if isinstance(found, dict) else dict(names_in(getattr(found, "body", [])))
        if part not in inside:
            return False
        found = inside[part]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_symbol_that_a_page_links_to_is_in_its_file(page):
    assert [f"{path}: {symbol}" for path, symbol in symbols(page) if not is_there(path, symbol)] == []


def test_a_symbol_that_is_not_there_is_found_out():
    path = "vaswani_transformer/models/attention.py"
    assert is_there(path, "attend")
    assert not is_there(path, "attended")
    assert not is_there("vaswani_transformer/models/layers.py", "OutputHead.backward")
    assert not is_there("training/recipes/bert-sst2.yaml", "optimizer.beta")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#:]+)\)", PAGES[page])
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_the_readme_links_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"](docs/{page})" not in readme] == []


def tables(page: str) -> list[list[str]]:
    """The cells of each row of a page's tables, headers included."""
    lines = [line for line in PAGES[page].splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def chapter(paper: str) -> str:
    return PAGES["paper-to-code.md"].partition(f"## {paper}")[2].partition("\n## ")[0]


@pytest.mark.parametrize("paper", SECTIONS)
def test_every_section_of_a_paper_stands_beside_its_code(paper):
    places = [line.split("|")[1] for line in chapter(paper).splitlines() if line.startswith("| ")]
    told = {number for place in places for number in re.findall(r"(?<![\w.])[A-C\d](?:\.\d+)*(?![\w.])", place)}
    assert [section for section in SECTIONS[paper].split() if section not in told] == []
    assert [
        number + 1 for number in range(EQUATIONS.get(paper, 0)) if f"equation {number + 1} " not in chapter(paper)
    ] == []


def test_every_row_of_the_papers_names_a_symbol_or_says_why_there_is_none():
    rows = [row for row in tables("paper-to-code.md") if row[0] != "where"]
    assert [row for row in rows if not SYMBOL.search(row[2]) and not re.match(r"n(ot|o code)\b", row[2])] == []


def departing(path: Path) -> Iterator[str]:
    """Symbols whose docstring, as far as it is no field's, tells a departure; the file's stem for its own docstring."""

    def walk(node: Any, name: str) -> Iterator[str]:
        text = (ast.get_docstring(node) or "").partition("Args:\n")
        if re.search("[Dd]eparture", text[0] + ("" if name.endswith("Config") else text[2])):
            yield name or path.stem
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from walk(child, f"{name}.{child.name}" if name else child.name)

    yield from walk(parsed(str(path.relative_to(ROOT))), "")


def test_every_departure_of_a_docstring_is_on_the_page():
    told = set(symbols("departures.md"))
    files = sorted((ROOT / "vaswani_transformer").rglob("*.py"))
    found = [(str(path.relative_to(ROOT)), name) for path in files for name in departing(path)]
    assert len(found) > 15
    assert [place for place in found if place not in told] == []


def described_fields(config: type) -> dict[str, str]:
    """Each argument of a configuration's docstring, with its description."""
    arguments = (config.__doc__ or "").partition("Args:\n")[2].partition("Raises:")[0]
    parts = re.split(r"^        (\w+): ", arguments, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_field_of_a_configuration_that_departs_is_on_the_page(config):
    fields = {name for name, text in described_fields(config).items() if re.search("[Dd]eparture", text)}
    assert fields
    if config is VaswaniTransformerConfig:
        fields |= {*CHOICES, *SWITCHES} - {"use_cache"}
    told = {name for _, name in symbols("departures.md")}
    assert [name for name in sorted(fields) if f"{config.__name__}.{name}" not in told] == []


def test_the_defaults_on_the_page_are_those_of_the_classes():
    compared = 0
    for row in tables("departures.md"):
        found = SYMBOL.fullmatch(row[0])
        config, _, field = found[1].partition(".") if found else ("", "", "")
        if config in CONFIGS and field in CONFIGS[config].__dataclass_fields__:
            default = CONFIGS[config].__dataclass_fields__[field].default
            assert parse_yaml(row[1].strip("`"), where=row[0]) == default, row
            compared += 1
    assert compared > 20


def test_the_defaults_told_in_words_are_those_of_the_classes():
    kinds = [Recipe, OptimizerSection, ScheduleSection, *(family.data.Options for family in FAMILIES.values())]
    fields = {f"{kind.__name__}.{item.name}": item for kind in kinds for item in dataclasses.fields(kind)}
    compared = 0
    for row in tables("departures.md"):
        found, told = SYMBOL.fullmatch(row[0]), re.match(r"`?([\w.]+)`? by default", row[-1])
        if found and told:
            assert parse_yaml(told[1], where=row[0]) == fields[found[1]].default, row
            compared += 1
    assert compared > 5


def test_the_values_told_of_a_recipe_are_in_it():
    compared = 0
    for row in tables("departures.md"):
        found, told = SYMBOL.fullmatch(row[0]), re.match(r"(`[\w.]+`|[\d.]+)[:,] ", row[-1])
        if found and told and found[2].endswith(".yaml"):
            value = parsed(found[2])
            for key in found[1].split("."):
                value = value[key]
            assert parse_yaml(told[1].strip("`"), where=row[0]) == value, row
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_departure_of_a_recipe_is_on_the_page(path):
    told = {name.rpartition(".")[2] for file, name in symbols("departures.md") if file.endswith(f"/{path.name}")}
    lines = path.read_text(encoding="utf-8").splitlines()
    departs = [line.partition(":")[0].strip() for line in lines if re.search(r"#.*departure", line)]
    assert [key for key in departs if key not in told] == []


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the page of other programs: the recipe that its part starts from, what is theirs, what is ours."""

    part: str
    recipe: str
    theirs: str
    ours: str
    note: str

    @property
    def spans(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.ours)


def rows_of_others() -> Iterator[Row]:
    part = recipe = ""
    for line in PAGES.get("coming-from.md", "").splitlines():
        if line.startswith("#"):
            part = line.lstrip("# ")
        if found := re.match(r"Start from `([\w-]+)`", line):
            recipe = found[1]
        if line.startswith("| ") and "| here |" not in line:
            yield Row(part, recipe, *(cell.strip() for cell in line.strip("|").split("|")))


OTHERS = list(rows_of_others())
PLACES = ("name", "config", "splits", "files", "embedded")  # of text: one read from takes the others' place
OVERRIDE, KEY = (
    re.compile(r"[a-z_]+(\.[a-z_]+)*="),
    re.compile(r"(model|data|batch|optimizer|schedule|save|validate|tokenizer)\.\w+"),
)


def kind_of(recipe: str) -> type:
    return FinetuneRecipe if "task" in parsed(f"training/recipes/{recipe}.yaml")["data"] else Recipe


def family_and_options(recipe: str) -> tuple[str, type]:
    """The model family of a shipped recipe, and the options of its data."""
    values = parsed(f"training/recipes/{recipe}.yaml")
    family = values["model"].get("family", recipe.partition("-")[0])
    task = values["data"].get("task")
    return family, (TASKS[family][task] if task else FAMILIES[family].data).Options


def read_with(recipe: str, overrides: list[str]) -> None:
    """Reads a shipped recipe with keys changed, its data's options and its model's configuration, as a run would."""
    given = {override.partition("=")[0] for override in overrides}
    family, options = family_and_options(recipe)
    kept = {item.name for item in dataclasses.fields(options)}
    cleared = []
    if given & {f"data.{place}" for place in PLACES}:
        cleared = [f"data.{key}=null" for key in (*PLACES, "hold_out", "whole_sentences") if key in kept]
        cleared += ["data.more=[]"] if "more" in kept else []
    found: Any = load_recipe(recipe, [*cleared, *overrides], kind=kind_of(recipe))
    if "task" in found.data:
        options = TASKS[family][found.data["task"]].Options
    read_section(options, found.data, where="data")
    if "from" not in found.model:
        planned_config(FAMILIES[family], found.model, None)


def parse_command(command: str) -> None:
    """Parses a command of ours, behind a launcher too; ends the program, as argparse does, where it is wrong."""
    words = shlex.split(command)
    assert [word for word in words if word.startswith("training/") and not (ROOT / word).is_file()] == []
    start = next(index for index, word in enumerate(words) if word in VERBS)
    parsed_words = verb_parser(words[start]).parse_intermixed_args(words[start + 1 :])
    if words[start] == "convert":
        assert parsed_words.format in SOURCES
    if words[start] == "export":
        assert parsed_words.to in EXPORTS
    if words[start] in ("train", "finetune"):
        load_recipe(
            parsed_words.recipe, parsed_words.overrides, kind=Recipe if words[start] == "train" else FinetuneRecipe
        )


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: f"{row.part}: {row.theirs}")
def test_what_stands_for_another_programs_flag_is_read_by_ours(row):
    if re.match(r"not here: .|always$", row.ours):
        return
    overrides = [span for span in row.spans if OVERRIDE.match(span)]
    commands = [span for span in row.spans if span.startswith(("vaswani ", "accelerate "))]
    assert overrides or commands or SYMBOL.search(row.ours)
    if overrides:
        read_with(row.recipe, overrides)
    for command in commands:
        parse_command(command)


def keys_of(recipe: str) -> set[str]:
    """Every dotted key that a recipe of this kind, family and task may have, one level down."""
    family, options = family_and_options(recipe)
    config = FAMILIES[family].config
    keys = {f"data.{item.name}" for item in dataclasses.fields(options)}
    keys |= {f"model.{name}" for name in (*config.__dataclass_fields__, *config.attribute_map, "preset", "from")}
    keys |= {f"tokenizer.{name}" for name in TOKENIZER_KEYS}
    for item in dataclasses.fields(kind_of(recipe)):
        section = next((kind for kind in (item.default_factory, item.type) if dataclasses.is_dataclass(kind)), None)
        keys |= {f"{item.name}.{one.name}" for one in dataclasses.fields(section)} if section else set()
    return keys


def test_every_key_named_on_the_page_of_other_programs_is_one_of_the_recipes():
    known = {recipe: keys_of(recipe) for recipe in {row.recipe for row in OTHERS}}
    named = [
        (row, key)
        for row in OTHERS
        for span in re.findall(r"`([^`]+)`", row.ours + row.note)
        for key in [KEY.match(span)]
        if key
    ]
    assert len(named) > 100
    assert [f"{row.part}, {row.theirs}: {key[0]}" for row, key in named if key[0] not in known[row.recipe]] == []


def test_a_key_that_no_recipe_has_is_found_out():
    with pytest.raises(ValueError, match="unknown recipe key"):
        read_with("transformer-base-wmt14-en-de", ["optimizer.momentum=0.9"])
    with pytest.raises(ValueError, match="unknown recipe key"):
        read_with("gpt-demo", ["model.bias=false"])
    with pytest.raises(ValueError, match="unknown recipe key"):
        read_with("bert-squad", ["data.doc_stride=128"])


def test_what_every_fairseq_transformer_has_is_what_a_converted_one_gets():
    (row,) = (row for row in OTHERS if row.theirs == "what every fairseq Transformer has")
    told = {key: parse_yaml(value, where=key) for key, _, value in (span.partition("=") for span in row.spans)}
    assert {f"model.{name}": value for name, value in FIXED.items()}.items() <= told.items()
    assert told["model.decoder_start_token_id"] == SPECIAL_TOKENS.index(EOS)


@pytest.mark.parametrize(
    ("config", "part"),
    [(transformers.BertConfig, "BertConfig and run_mlm.py"), (transformers.GPT2Config, "GPT-2 of transformers")],
)
def test_every_field_of_transformers_configuration_has_a_row(config, part):
    told = {name for row in OTHERS if row.part == part for name in re.findall(r"\w+", row.theirs)}
    fields = [name for name in config.__annotations__ if name in config.__dataclass_fields__]
    assert len(fields) > 15
    assert [
        name for name in fields if name not in told | {"model_type", "attribute_map", "keys_to_ignore_at_inference"}
    ] == []


def test_every_key_of_the_trainer_that_has_a_row_is_one_of_transformers():
    rows = [row for row in OTHERS if row.part == "TrainingArguments"]
    named = [name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row.theirs)]
    assert len(named) > 40
    # a value, and the name since transformers 5.23
    known = {*transformers.TrainingArguments.__dataclass_fields__, "group_by_length", "activation_checkpointing"}
    assert [name for name in named if name not in known] == []


TEXTS = [*PAGES.values(), *((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "training/README.md"))]


def commands_in_texts() -> set[str]:
    """The commands of ours that stand inside a sentence or a table, those of the README's table of verbs left out."""
    lines = [line for text in TEXTS for line in text.splitlines() if not line.startswith("| `vaswani ")]
    found = {command for line in lines for command in re.findall(r"`(vaswani [a-z-]+ [^`]+)`", line)}
    return {command for command in found if command.split()[1] in VERBS}


@pytest.mark.parametrize("command", sorted(commands_in_texts()))
def test_every_command_inside_a_text_parses(command):
    verb, *arguments = shlex.split(command)[1:]
    verb_parser(verb).parse_intermixed_args(arguments)


BASH = re.findall(r"```bash\n(.*?)```", PAGES["tutorial.md"], flags=re.DOTALL)
REHEARSED = re.search(r'REHEARSE="(.*)"', "".join(BASH))


def tutorial_commands() -> list[str]:
    """The commands of ours, each on one line, at the size that the tutorial rehearses them."""
    assert REHEARSED
    lines = "".join(BASH).replace("\\\n", " ").replace("$REHEARSE", REHEARSED[1]).splitlines()
    return [line for line in lines if line.startswith("vaswani ")]


@pytest.mark.parametrize("command", tutorial_commands())
def test_every_command_of_the_tutorial_parses_and_its_keys_are_read(command):
    words = shlex.split(command.replace("my-recipe.yaml", "gpt-demo"))  # a copy, a command before
    parse_command(shlex.join(words))
    if words[1] in ("train", "finetune"):
        read_with(words[2], [word for word in words if OVERRIDE.match(word)])


def test_the_tutorial_tells_of_all_it_promises():
    verbs = [command.split()[1] for command in tutorial_commands()]
    assert list(dict.fromkeys(verbs)) == [
        "attention",
        "train-tokenizer",
        "recipes",
        "train",
        "perplexity",
        "evaluate",
        "generate",
        "explain",
        "compare",
        "finetune",
        "export",
        "publish",
    ]


def test_the_tutorial_runs_as_it_stands(tmp_path):
    programs = {"python": sys.executable, "vaswani": f"{sys.executable} -m vaswani_cli"}
    (tmp_path / "bin").mkdir()
    for name, command in programs.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    folder = tmp_path / "tutorial"
    folder.mkdir()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
    }
    command = ["bash", "-eu", "-c", "".join(BASH)]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "GPT2LMHeadModel torch.Size([1, 7])" in result.stdout
    assert "It is a truth universally acknowledged" in result.stdout
    assert "license: cc0-1.0" in result.stdout  # the card, last of all
    for name in (
        "first.html",
        "perplexity.json",
        "attention.html",
        "explain.html",
        "compare.html",
        "runs/gpt/loss.png",
        "runs/few-shot/results.json",
        "runs/novels/run.json",
    ):
        assert (folder / name).is_file(), name
