"""Folders that transformers wrote, and weights under the names of its models: what their readers share.

How those names become ours is said once, where `from_pretrained` of our models says it too: models/pretrained_gpt.py
(BERT's are ours). Of a folder's settings only fields that the models declare are taken: others may name code.
"""

import copy
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..evaluation.whole_weights import quiet_reports
from ..models import VaswaniBertTokenizer, VaswaniGPT2Tokenizer
from ..models.configuration_gpt import FIXED
from .incoming import Inputs, Source, logits_of, precision
from .tokenizer_of_2018 import tokenizer_of_2018
from .untrusted import load_json

logger = logging.getLogger(__name__)
T = TypeVar("T")

LABELS = ("id2label", "label2id", "problem_type")
SWITCHES = ("position_embedding_type", "afn", *FIXED)  # not fields of ours, but read by our configurations
FORMATS = ("bert", "fsmt", "gpt2", "marian", "openai-gpt")  # of these model types
# Of generation_config.json: no settings, and those that are objects of transformers'.
OBJECTS = ("_from_model_config", "transformers_version", "watermarking_config", "compile_config", "cache_config")
SETTINGS_RULE = "config.json must be that of a model of ours"
TOKENIZERS: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "BertTokenizer": lambda folder: VaswaniBertTokenizer.from_pretrained(folder, local_files_only=True),
    "GPT2Tokenizer": lambda folder: VaswaniGPT2Tokenizer.from_pretrained(folder, local_files_only=True),
    "OpenAIGPTTokenizer": tokenizer_of_2018,
    "PreTrainedTokenizer": lambda folder: PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
    "TokenizersBackend": lambda folder: PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


def read_settings(folder: Path, model_type: str) -> dict[str, Any]:
    """Returns what config.json says.

    Raises:
        ValueError: no folder, no config.json, or that of another model.
    """
    if not folder.is_dir():
        raise ValueError(f"the source must be a folder that transformers wrote; got the file {folder}")
    settings = load_json(folder / "config.json")
    if (got := settings.get("model_type")) != model_type:
        hint = f": it is of --from {got}" if got in FORMATS else ""
        raise ValueError(
            f"the source must be of the format named, model_type {model_type!r} in config.json; got {got!r} in "
            f"{folder}{hint}"
        )
    names = settings.get("architectures")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"architectures must name the class of the weights; got {names!r} in {folder}/config.json")
    return settings


def read_folder(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor],
    stock: str,
    ours: type[PreTrainedModel],
    drop: Iterable[str] = (),
    **fields: Any,
) -> Source:
    """Returns what a folder of transformers holds.

    Args:
        folder: with tokenizer files and settings for generation where it has any.
        settings: what config.json says.
        weights: what `load_weights` found.
        stock: transformers' class whose weights they are.
        ours: our class for it.
        drop: patterns of names that hold no weight of `ours`.
        **fields: of our configuration, beside those of `settings`.

    Raises:
        ValueError: files that are missing, broken or of another model, a setting that our model has not.
    """
    check_layers(settings.get("n_layer", settings.get("num_hidden_layers", 0)), weights)
    weights, dropped = without(weights, [*drop, *(ours._keys_to_ignore_on_load_unexpected or ())])
    made: Any = ours.config_class
    known = {*made.__annotations__, *made.attribute_map, *LABELS, *SWITCHES, "model_type"}
    fields = {name: value for name, value in settings.items() if name in known} | fields
    config = whole(folder, lambda: made.from_dict(fields), rule=SETTINGS_RULE)
    return Source(
        model=ours,
        config=config,
        weights=as_ours(ours, config, weights),
        dropped=dropped,
        tokenizer=read_tokenizer(folder, settings["model_type"]),
        generation=_generation(folder),
        reference=whole(folder, lambda: reference(stock, settings, weights), rule=SETTINGS_RULE),
    )


def _generation(folder: Path) -> dict[str, Any]:
    """What generation_config.json says of settings that transformers has: others would overwrite its functions."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    found, known = load_json(path), GenerationConfig().to_dict()
    found = {name: value for name, value in found.items() if name in known and name not in OBJECTS}
    rule = "generation_config.json must be one that transformers writes again (mend it, or convert a copy without it)"
    whole(folder, lambda: GenerationConfig(**found).validate(strict=True), rule=rule)
    return found


def without(weights: Mapping[str, Tensor], patterns: Iterable[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the weights whose names match no pattern, and the names of the rest."""
    found = re.compile("|".join(patterns) or "(?!)")
    dropped = tuple(name for name in weights if found.search(name))
    return {name: tensor for name, tensor in weights.items() if name not in dropped}, dropped


def as_ours(ours: type[PreTrainedModel], config: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights under our names and in our layout, in their precision.

    Args:
        ours: our class.
        config: its configuration.
        weights: under transformers' names, those of old too.

    Returns:
        What our class takes; what it does not know stays as it is, what has another shape has its own.

    Raises:
        ValueError: several precisions, no weights, a configuration that asks for far more than the weights are.
    """
    check_layers(config.num_hidden_layers, weights)
    held, dtype = sum(tensor.numel() for tensor in weights.values()), precision(weights)
    with torch.device("meta"):
        asked = sum(parameter.numel() for parameter in ours(config).parameters())
    if asked > 2 * held + 2**20:  # weights that are merely missing are told by their names, later
        raise ValueError(f"the weights must be those of the configuration; got {held} numbers for its {asked}")
    apart = copy.deepcopy(config)
    apart.tie_word_embeddings = False  # the two names of a tied weight are compared later, as every other reader's
    try:
        with quiet_reports():  # what is missing is told later, too
            found: tuple[Any, Any] = ours.from_pretrained(  # type: ignore[assignment]
                None,
                config=apart,
                state_dict=dict(weights),
                dtype=dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except RuntimeError as error:
        raise ValueError(f"weights must be laid out as transformers has them; got others: {error}") from error
    model, told = found
    made = {name: tensor for name, tensor in model.state_dict().items() if name not in told["missing_keys"]}
    made |= {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape, _ in told["mismatched_keys"]}
    unknown = torch.empty(0, dtype=dtype, device="meta")
    return made | {name: weights.get(name, unknown) for name in told["unexpected_keys"]}


def check_layers(layers: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuses more layers than there are weights: some configurations keep a list of them.

    Raises:
        ValueError: more, or what is no number.
    """
    if not isinstance(layers, int) or layers > len(weights):
        raise ValueError(f"every layer must have its weights; got {layers} layers, {len(weights)} weights")


def reference(stock: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Callable[[Inputs], Tensor]:
    """Returns transformers' own logits, in float32.

    Args:
        stock: the name of its class.
        settings: fields of its configuration, and others.
        weights: under its names.
    """
    theirs: Any = getattr(transformers, stock)
    made = theirs.config_class
    known = {*made.__annotations__, *made.attribute_map, *LABELS}
    config = made(**{name: value for name, value in settings.items() if name in known})

    def logits(inputs: Inputs) -> Tensor:
        model = theirs.from_pretrained(None, config=config, state_dict=dict(weights), dtype=torch.float32).eval()
        output = model(input_ids=inputs["input_ids"])
        return output["mc_logits"] if "mc_logits" in output else logits_of(output)

    return logits


def read_tokenizer(folder: Path, model_type: str) -> PreTrainedTokenizerBase | None:
    """Returns a folder's tokenizer, of our class where we have one, None where there are no files of any.

    Raises:
        ValueError: broken files, or a tokenizer of another class.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        logger.warning("%s has no tokenizer, so that what is made of it has none", folder)
        return None
    path = folder / "tokenizer_config.json"
    settings = load_json(path) if path.is_file() else {}
    usual = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "openai-gpt": "OpenAIGPTTokenizer"}[model_type]
    name = settings.get("tokenizer_class") or usual
    if not isinstance(name, str) or name.removesuffix("Fast") not in TOKENIZERS:
        raise ValueError(
            f"tokenizer_class must be one of {', '.join(TOKENIZERS)}; got {name!r} in {folder}: convert a copy of the "
            "folder without its tokenizer files"
        )
    if outside := [key for key, value in settings.items() if key.endswith("_file") and isinstance(value, str)]:
        raise ValueError(f"a tokenizer's files must lie in its folder; got {outside[0]} in {path}")
    tokenizer = whole(folder, lambda: TOKENIZERS[name.removesuffix("Fast")](folder))
    tokenizer.init_kwargs.pop("auto_map", None)  # the place of code, which does not come along
    return tokenizer


def whole(folder: Path, make: Callable[[], T], *, rule: str = "a tokenizer's files must be whole") -> T:
    """Returns what `make` makes of a folder's files.

    Raises:
        ImportError: its own.
        ValueError: any other error, which broken files lead to, behind the rule.
    """
    try:
        return make()
    except ImportError:
        raise
    except Exception as error:  # tokenizers, in Rust, raises this very class, checks of configurations several
        raise ValueError(f"{rule}; got {folder}: {' '.join(str(error).split())}") from error
