"""The checkout as a whole: who imports whom, what the README says, what the wheel holds."""

import ast
import lzma
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaswani_cli import VERBS, verb_parser

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vaswani_transformer"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL_FILES = sorted(path for path in (PACKAGE / "models").glob("*.py") if path.name != "__init__.py")

# vaswani_cli -> these -> everything else of ours but models -> models
TOP = {
    "train",
    "phases",
    "families",
    "planning",
    "finetune",
    "evaluation",
    "publishing",
    "convert",
    "pipelines",
    "viewing",
}
# What a stranger who loads a pushed repo has anyway.
MODEL_IMPORTS = {"torch", "transformers", "tokenizers", "huggingface_hub"}
DISTRIBUTIONS = {"liger_kernel": "liger-kernel", "yaml": "pyyaml", "sklearn": "scikit-learn", "lm_eval": "lm-eval"}
STANDARD = sys.stdlib_module_names | {"compression"}  # of Python 3.14, tried and done without


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import of a file with the dotted name it asks for, relative ones made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            if module == ["vaswani_transformer"]:  # from vaswani_transformer import train
                yield from ((node, f"vaswani_transformer.{alias.name}") for alias in node.names)
            else:
                yield node, ".".join(module)


def layer(dotted: str) -> int:
    """0 models, 1 what serves training, 2 what trains and scores, 3 the command."""
    parts = dotted.split(".")
    if parts[0] == "vaswani_cli":
        return 3
    noun = parts[1] if len(parts) > 1 else ""
    return 0 if noun == "models" or noun.startswith("Vaswani") else 2 if noun in TOP else 1


@pytest.mark.parametrize(
    "path", sources("vaswani_transformer", "vaswani_cli"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_down_the_layers(path):
    if path == PACKAGE / "__init__.py":
        return  # the public names; test_cli and the import-cost test look after it
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    ours = [name for _, name in imports(path) if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli")]
    assert [name for name in ours if layer(name) > own] == []


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_a_model_file_imports_only_its_neighbours_by_name(path):
    """`from . import x`, `from ..x import y` and our absolute name all break a pushed repo."""
    for node, name in imports(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno}: more than one dot"
            assert node.module, f"line {node.lineno}: from . import"
            assert (path.parent / f"{node.module}.py").is_file(), f"line {node.lineno}: no such neighbour"
        else:
            assert name.split(".")[0] != "vaswani_transformer", f"line {node.lineno}: absolute import of ours"


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_transformers_own_scanner_finds_in_a_model_file_what_the_repo_will_carry(path):
    from transformers.dynamic_module_utils import get_imports, get_relative_imports

    neighbours = {node.module for node, _ in imports(path) if isinstance(node, ast.ImportFrom) and node.level}
    assert set(get_relative_imports(path)) == neighbours  # a docstring line that looks like an import is found too
    assert set(get_imports(path)) - set(sys.stdlib_module_names) <= MODEL_IMPORTS


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_no_model_imports_another(path):
    kind, _, family = path.stem.partition("_")
    if kind not in ("modeling", "configuration", "generation", "tokenization"):
        return
    named = [name.rpartition(".")[2] for _, name in imports(path) if ".models." in f"{name}."]
    others = [name for name in named if "_" in name and name.partition("_")[2] != family]
    assert others == []


def test_no_module_has_a_name_that_says_nothing():
    stems = {path.stem for path in sources("vaswani_transformer", "vaswani_cli", "training", "benchmarks", "tests")}
    assert not stems & {"util", "utils", "helper", "helpers", "common", "misc", "manager"}


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", item)[0].lower() for item in requirements}


def test_the_extra_all_names_every_optional_extra_that_any_machine_can_use():
    extras = PROJECT["optional-dependencies"]
    named = set(re.findall(r"[\w-]+", extras["all"][0].partition("[")[2]))
    assert named == set(extras) - {"all", "lm-eval", "test", "cuda", "deepspeed"}


@pytest.mark.parametrize(
    "path", sources("vaswani_transformer", "vaswani_cli"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_import_is_declared_and_an_optional_one_waits_until_it_is_used(path):
    extras = PROJECT["optional-dependencies"]
    always = requirement_names(PROJECT["dependencies"]) | {"huggingface_hub"}  # comes with transformers
    optional = set().union(*(requirement_names(names) for name, names in extras.items() if name not in ("all", "test")))
    at_top = set(ast.parse(path.read_text(encoding="utf-8")).body)
    at_top_lines = {node.lineno for node in at_top}
    for node, name in imports(path):
        module = name.split(".")[0]
        distribution = DISTRIBUTIONS.get(module, module)
        if module in STANDARD or module in ("vaswani_transformer", "vaswani_cli"):
            continue
        assert distribution in always | optional, f"line {node.lineno}: {module} is not in pyproject.toml"
        if distribution not in always:
            assert node.lineno not in at_top_lines, f"line {node.lineno}: {module} is optional; import it where used"


def test_constraints_pin_every_direct_dependency_to_one_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []  # no +cpu: it pins a build
    direct = requirement_names(PROJECT["dependencies"])
    for name, names in PROJECT["optional-dependencies"].items():
        direct |= requirement_names(names) if name != "all" else set()
    assert direct - {line.partition("==")[0].lower() for line in pins} == set()


def file_map() -> dict[str, str]:
    """The README's tree: path -> description, a folder's path ending in a slash."""
    block = README.partition("## Files\n")[2].partition("```\n")[2].partition("```")[0]
    entries, parents = {}, []
    for line in block.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        parents = parents[: indent // 2]
        entries["".join(parents) + name] = line.strip()[len(name) :].strip()
        parents.append(name)
    return entries


def test_the_readmes_file_map_is_the_tree():
    entries = file_map()
    opened = {path.rpartition("/")[0] + "/" for path in (entry.rstrip("/") for entry in entries) if "/" in path}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    expected = set()
    for path in listed:
        if not (ROOT / path).is_file() or path.startswith(".git") or path.endswith("__init__.py"):
            continue
        folder = ""
        for part in path.split("/")[:-1]:  # down to the first folder the map does not open
            if folder + part + "/" in opened:
                folder += part + "/"
            else:
                expected.add(folder + part + "/")
                break
        else:
            expected.add(path)
    assert set(entries) - opened == expected - opened
    assert [path for path, told in entries.items() if not told and path not in opened] == []


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def test_every_make_command_of_the_readme_is_a_target():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {word for line in commands() if line.startswith("make ") for word in line.partition("#")[0].split()[1:]}
    assert {"demo", "test"} <= {word for word in named if "=" not in word} <= targets


@pytest.mark.parametrize("line", [line for line in commands() if re.search(r"\bvaswani(_cli)? [a-z]", line)])
def test_every_vaswani_command_of_the_readme_parses(line):
    words = shlex.split(line, comments=True)
    start = next(index for index, word in enumerate(words) if word in VERBS)
    ends = [index for index, word in enumerate(words) if word[0] in "<>|&" and index > start] or [len(words)]
    verb, arguments = words[start], words[start + 1 : ends[0]]
    parsed = verb_parser(verb).parse_intermixed_args(arguments)
    if verb in ("train", "finetune"):
        from vaswani_transformer.finetune_recipe import FinetuneRecipe
        from vaswani_transformer.recipe import Recipe, load_recipe

        load_recipe(parsed.recipe, parsed.overrides, kind=Recipe if verb == "train" else FinetuneRecipe)


PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory) -> Path:
    """The folder of a demo run of two updates."""
    from vaswani_transformer.recipe import load_recipe
    from vaswani_transformer.train import train

    folder = tmp_path_factory.mktemp("toy") / "run"
    toy = ["steps=2", "model.d_model=16", "model.d_ff=16", "tokenizer.vocab_size=400", "data.max_words=3"]
    train(load_recipe("transformer-demo", [*toy, "save={every_steps: 1}", "validate={}", f"output={folder}"]))
    return folder


def test_the_readmes_quick_start_runs(toy_run):
    code = PYTHON_BLOCKS[0].replace("runs/transformer-demo", str(toy_run))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("['")


def test_the_end_of_make_demo_shows_source_translation_and_reference(toy_run):
    command = [sys.executable, "training/demo.py", str(toy_run), "--count", "2"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    assert [result.stdout.count(word) for word in ("English", "model", "reference")] == [2, 2, 2]


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_what_the_readmes_python_imports_from_us_is_there(block):
    import vaswani_transformer

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module == "vaswani_transformer":
            assert [alias.name for alias in node.names if not hasattr(vaswani_transformer, alias.name)] == []


def test_the_readme_names_every_verb():
    assert [verb for verb in VERBS if f"`vaswani {verb}" not in README] == []


def part_of_the_readme(start: str, end: str) -> str:
    return README.partition(start)[2].partition(end)[0]


def test_the_readme_tells_what_every_extra_is_for():
    told = part_of_the_readme("## Install\n", "\n## ")
    assert [name for name in PROJECT["optional-dependencies"] if name != "test" and f"`[{name}]`" not in told] == []


def test_the_ratios_of_the_readme_are_those_that_were_measured():
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"\| (\d+\.\d\d) \| (?:(\d+\.\d\d) to (\d+\.\d\d) )?\|\n", part_of_the_readme("## Results\n", "\n## ")
    )
    first = re.findall(r"(?<![\d.])\d{1,2}\.\d\d(?!\d)", part_of_the_readme("# vaswani_transformer\n", "\n## Install"))
    assert len(rows) > 15
    assert len(first) > 5
    ratios = {number for row in rows for number in row if number}
    assert sorted(number for number in ratios if f" {number} " not in measured) == []
    assert sorted(set(first) - ratios) == []


def test_every_embedded_corpus_has_its_origin_and_licence_told():
    provenance = (PACKAGE / "embedded" / "PROVENANCE.md").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for path in (PACKAGE / "embedded").glob("*.xz"):
        assert path.name in provenance
        assert path.name.partition(".")[0] in notice


def test_the_embedded_translation_corpus_is_split_by_package():
    packages = {}
    for split, pairs in (("train", 39_717), ("valid", 1_000), ("test", 878)):
        text = lzma.decompress((PACKAGE / "embedded" / f"debian-en-de.{split}.tsv.xz").read_bytes()).decode("utf-8")
        rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
        assert len(rows) == pairs
        assert {len(row) for row in rows} == {3}
        packages[split] = {row[0] for row in rows}
    assert not packages["train"] & packages["valid"]
    assert not packages["train"] & packages["test"]
    assert not packages["valid"] & packages["test"]


def test_the_wheel_holds_recipes_and_corpora_and_installs_no_other_top_level_name(tmp_path):
    pytest.importorskip("hatchling", reason="builds a wheel: needs hatchling, of the extra `test`")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"vaswani_transformer", "vaswani_cli"}
    recipes = {path.name for path in (ROOT / "training" / "recipes").glob("*.yaml")}
    assert {f"vaswani_transformer/training/recipes/{name}" for name in recipes} <= set(names)
    assert "vaswani_transformer/py.typed" in names
    assert "vaswani_transformer/evaluation/metrics/f1/f1.py" in names
    assert "vaswani_transformer/embedded/debian-en-de.train.tsv.xz" in names
    cards = {path.name for path in (ROOT / "model_cards").glob("*.md")}
    assert {"card.md", "transformer.md", "bert.md", "gpt.md"} <= cards
    assert {f"vaswani_transformer/model_cards/{name}" for name in cards} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".DS_Store"))]
