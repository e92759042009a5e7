"""What travels to a Hub repository: weights, configuration, code, tokenizer, results, by name and nothing else."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .. import models
from .run_results import NOT_RESULTS

# Names in the repository, and the file or the bytes that they will hold.
Contents = dict[str, Path | bytes]

CARD = "README.md"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = (TOKENIZER_CONFIG, "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER = (*TOKENIZER, "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja")
# Of FSMT and MarianMT, which `vaswani convert` leaves as they were.
TOKENIZER = (*TOKENIZER, "source.spm", "target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json")
SHARD = r"model-\d{5}-of-\d{5}\.safetensors"
RESULTS = r"\.eval_results/[^/]+\.yaml"
PICTURE = r"(?:[\w-][\w.-]*/){0,2}(?:loss|shots)\.png"
MODELS = Path(models.__file__).parent
CODE = tuple(sorted(path.name for path in MODELS.glob("*.py") if path.name != "__init__.py"))
FIXED = (CONFIG_NAME, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, CARD, *TOKENIZER, *CODE)


def may_travel(name: str) -> bool:
    """Whether a file of this name is one that a repository of ours has."""
    return name in FIXED or re.fullmatch(f"{SHARD}|{RESULTS}|{PICTURE}", name) is not None


def made_by_us(name: str) -> bool:
    """Whether a file of this name in a repository comes from `vaswani publish`, which may take it away again."""
    return may_travel(name) and name != CARD and not re.fullmatch(f"{RESULTS}|{PICTURE}", name)


def contents_of(folder: Path) -> Contents:
    """All that a folder of ours gives to a repository but the card.

    The weights are those of the folder, byte for byte. The configuration names the code of every head of the family,
    and that code is this package's, which reads whatever earlier versions wrote.

    Args:
        folder: of a model of ours, as `save_pretrained`, `vaswani train` or `vaswani finetune` leave it.

    Raises:
        ValueError: no configuration of ours, no safetensors, a shard that is missing, a tokenizer with code that is not
            ours.
    """
    config = _own_config(folder)
    config.auto_map = dict(sys.modules[type(config).__module__].AUTO_MAP)
    found: Contents = {CONFIG_NAME: config.to_json_string().encode()}
    found |= plain_contents(folder) | _code(config.auto_map.values())
    tokenizer = folder / TOKENIZER_CONFIG
    code = json.loads(tokenizer.read_text(encoding="utf-8")).get("auto_map") if tokenizer.is_file() else None
    return found | (_code(_references(code, folder)) if code else {})


def contents_of_export(folder: Path) -> Contents:
    """All that a folder of transformers' own classes, made by `vaswani export`, gives to a repository but the card."""
    return {CONFIG_NAME: folder / CONFIG_NAME} | plain_contents(folder)


def plain_contents(folder: Path) -> Contents:
    """Weights, tokenizer, generation settings and results of a folder.

    Raises:
        ValueError: no weights as safetensors, or not all of them.
    """
    names = [*_weights(folder), *(name for name in (GENERATION_CONFIG_NAME, *TOKENIZER) if (folder / name).is_file())]
    found: Contents = {name: folder / name for name in names}
    return found | _results(folder)


def pictures_of(card: str, folder: Path) -> Contents:
    """The pictures of a folder that its card shows."""
    names = re.findall(rf"!\[[^\]]*\]\(({PICTURE})\)", card)
    return {name: folder / name for name in names if (folder / name).is_file()}


def _results(folder: Path) -> Contents:
    """The .eval_results that `vaswani evaluate` left in a folder or up to two below, of a task the newest.

    What lies with another model is that one's.
    """
    found = [path for deeper in ("", "*/", "*/*/") for path in folder.glob(f"{deeper}.eval_results/*.yaml")]
    own = [path for path in found if not {*NOT_RESULTS, "finetuned"} & {*path.relative_to(folder).parts}]
    own = [path for path in own if path.parents[1] == folder or not (path.parents[1] / CONFIG_NAME).is_file()]
    return {f".eval_results/{path.name}": path for path in sorted(own, key=lambda path: path.stat().st_mtime)}


def _own_config(folder: Path) -> Any:
    if not folder.is_dir():
        raise ValueError(f"what is published must be the folder of a model; got {str(folder)!r}, which is none")
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"a model's folder has a config.json; got {folder} without one: name the folder that has it")
    config: Any = AutoConfig.from_pretrained(folder)
    if type(config) not in models.FAMILIES:
        raise ValueError(
            "what is published must be a model of this package, vaswani-transformer, vaswani-bert or vaswani-gpt; got "
            f"model_type {config.model_type!r} in {folder}: transformers' own push_to_hub publishes others"
        )
    named = config.architectures or []
    classes = {kind.__name__ for kind in models.FAMILIES[type(config)].values()}
    if len(named) != 1 or named[0] not in classes:
        raise ValueError(
            f"config.json must name the class of the weights in architectures; got {named} in {folder}: "
            "load the weights with that class and save them again"
        )
    return config


def _weights(folder: Path) -> list[str]:
    """The names of the weights' files, of all shards where there are several."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():  # what from_pretrained takes first
        return _whole([SAFE_WEIGHTS_NAME], folder)
    if not index.is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())) or "nothing"
        raise ValueError(
            f"what is published must hold weights as {SAFE_WEIGHTS_NAME}, or in shards; got {folder} with {there}: "
            "load the model and save it with save_pretrained, an adapter of PEFT merged into it first"
        )
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if wrong := [name for name in shards if not re.fullmatch(SHARD, name) or not (folder / name).is_file()]:
        raise ValueError(f"every shard that {index.name} names must be there; got {folder} without {', '.join(wrong)}")
    return [SAFE_WEIGHTS_INDEX_NAME, *_whole(shards, folder)]


def _whole(names: list[str], folder: Path) -> list[str]:
    for name in names:
        try:
            with safe_open(folder / name, framework="pt"):  # compares the header with the file's length
                pass
        except SafetensorError as error:
            raise ValueError(
                f"every file of weights must be whole; got {folder / name}: {error}: copy or save it again"
            ) from error
    return names


def _references(auto_map: Mapping[str, Any], folder: Path) -> list[str]:
    """The places of a tokenizer's classes, `module.Class`, which must be ours."""
    found = [place for places in auto_map.values() for place in places if place]
    for place in found:
        module, _, name = place.partition(".")
        if f"{module}.py" not in CODE or not hasattr(sys.modules.get(f"{models.__name__}.{module}"), name):
            raise ValueError(
                f"code that travels must be this package's; got {place!r} in auto_map of {folder / TOKENIZER_CONFIG}: "
                "save the tokenizer again as a stock one"
            )
    return found


def _code(references: Iterable[str]) -> Contents:
    """The files of classes, `module.Class`, and those that they import."""
    files = {MODELS / f"{place.partition('.')[0]}.py" for place in references}
    files |= {Path(needed) for path in list(files) for needed in get_relative_import_files(path)}
    return {path.name: path for path in sorted(files)}
