"""Recipes: one YAML file that says all a training run needs, checked before anything is loaded.

The keys are public API for every trainer of this package. A key nobody reads is an error that names the nearest right
one, so that a misspelt setting never trains a model with the default in its place.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from vaswani_transformer.sections import above_zero, at_least, parse_yaml, read_section, unknown_name

FAMILIES = ("transformer", "bert", "gpt")
AnyRecipe = TypeVar("AnyRecipe")
TOKENIZER_KEYS = ("kind", "vocab_size", "min_frequency", "from")


@dataclass(frozen=True)
class BatchSection:
    """How much one update of the whole world sees, over all processes and accumulation steps.

    Args:
        source_tokens: translation: most real source tokens, padding not counted (section 5.1 of the paper).
        target_tokens: the same for target tokens.
        sequences: BERT: examples, the paper's 256 (section A.2 of Devlin et al. 2018).
        accumulation: micro batches each process splits its share into; memory falls, the gradient stays the same.

    Raises:
        ValueError: neither both token counts nor sequences, or something of both.
    """

    source_tokens: int | None = None
    target_tokens: int | None = None
    sequences: int | None = None
    accumulation: int = 1

    def __post_init__(self) -> None:
        at_least(1, source_tokens=self.source_tokens, target_tokens=self.target_tokens, sequences=self.sequences)
        at_least(1, accumulation=self.accumulation)
        given = [key for key in ("source_tokens", "target_tokens", "sequences") if getattr(self, key) is not None]
        if not given or ("sequences" in given and len(given) > 1):
            raise ValueError(
                "batch needs source_tokens and target_tokens (transformer), or sequences (bert, gpt); "
                f"got {' and '.join(given) or 'none of them'}"
            )
        for key in ("source_tokens", "target_tokens") if given != ["sequences"] else ():
            if key not in given:
                raise ValueError(f"recipe key batch.{key} is required and missing")


@dataclass(frozen=True)
class OptimizerSection:
    """Adam with the constants of section 5.3 of the paper unless told otherwise.

    Args:
        name: "adam" (weight decay added to the gradient), "adamw" (decoupled) or "lamb" (You et al. 2020, for
            batches of tens of thousands of sequences; extra [lamb]).
        learning_rate: peak rate of every schedule but noam, which computes its own.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        bias_correction: divide the moments by 1 - beta^t, as Adam's authors do; False as in Google's BERT, whose first
            updates are thereby other. lamb has none.
        weight_decay: 0 in the paper.
        max_grad_norm: clip the gradient to this norm; null for no clipping, as in the paper.
    """

    name: Literal["adam", "adamw", "lamb"] = "adam"
    learning_rate: float | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-9
    bias_correction: bool = True
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas must be two numbers in [0, 1); got betas={self.betas}")
        above_zero(**{"optimizer.eps": self.eps, "optimizer.learning_rate": self.learning_rate})
        above_zero(**{"optimizer.max_grad_norm": self.max_grad_norm})
        at_least(0, **{"optimizer.weight_decay": self.weight_decay})
        if self.name == "lamb" and self.bias_correction:
            raise ValueError(
                "optimizer.name=lamb has no bias correction; got bias_correction=True: set "
                "optimizer.bias_correction=false"
            )


@dataclass(frozen=True)
class ScheduleSection:
    """Learning rate as a function of the update, counted from 1 (equation 3 of the paper).

    Args:
        name: "noam" is the paper's; "inverse_sqrt", "linear" (BERT's), "cosine" and "constant" warm up linearly to
            learning_rate.
        warmup_steps: updates of linear warm-up.
        power: exponent of linear's decay; 1 in BERT, 0.5 in NVIDIA's recipe for LAMB. Read by linear only.
        scale: factor on the paper's rate; read by noam only.
        minimum_ratio: floor of cosine as a share of the peak; read by cosine only.
    """

    name: Literal["noam", "inverse_sqrt", "linear", "cosine", "constant"] = "noam"
    warmup_steps: int = 4000
    power: float = 1.0
    scale: float = 1.0
    minimum_ratio: float = 0.0

    def __post_init__(self) -> None:
        at_least(1 if self.name in ("noam", "inverse_sqrt") else 0, **{"schedule.warmup_steps": self.warmup_steps})
        above_zero(**{"schedule.scale": self.scale, "schedule.power": self.power})
        if not 0 <= self.minimum_ratio <= 1:
            raise ValueError(f"schedule.minimum_ratio must be in [0, 1]; got minimum_ratio={self.minimum_ratio}")


@dataclass(frozen=True)
class SaveSection:
    """When training state is written. Both clocks may run; the last update is always saved.

    Args:
        every_minutes: wall-clock minutes between checkpoints (the paper: 10); null for never.
        every_steps: updates between checkpoints; null for never.
        keep: newest checkpoints kept on disk, `best/` not counted.
        background: write a copy of the state beside the training, which waits for the copy only; the last checkpoint,
            and one that a signal asks for, are waited for. Not with ZeRO or FSDP2.
    """

    every_minutes: float | None = None
    every_steps: int | None = None
    keep: int = 5
    background: bool = False

    def __post_init__(self) -> None:
        above_zero(**{"save.every_minutes": self.every_minutes})
        at_least(1, **{"save.every_steps": self.every_steps, "save.keep": self.keep})


@dataclass(frozen=True)
class ValidateSection:
    """What is measured on the validation split while training.

    Args:
        every_steps: updates between validations; null for the end only.
        metrics: "loss" (token negative log-likelihood), "bleu" (sacreBLEU of searched translations, slow), "accuracy"
            (BERT's, with the losses of both its tasks).
        limit: sentences translated for bleu; null for all.
        patience: stop after this many validations without a better `best` metric; null to train to the end.
        best: the metric that decides which checkpoint is kept in `best/`.
    """

    every_steps: int | None = None
    metrics: list[Literal["loss", "bleu", "accuracy"]] = field(default_factory=lambda: ["loss"])
    limit: int | None = None
    patience: int | None = None
    best: Literal["loss", "bleu"] = "loss"

    def __post_init__(self) -> None:
        at_least(1, **{"validate.every_steps": self.every_steps, "validate.limit": self.limit})
        at_least(1, **{"validate.patience": self.patience})
        if self.best not in self.metrics:
            raise ValueError(f"validate.best must be one of validate.metrics; got best={self.best!r}, {self.metrics=}")
        if self.patience is not None and self.every_steps is None:
            raise ValueError(
                f"validate.patience needs validate.every_steps; got patience={self.patience}, no every_steps"
            )


@dataclass(frozen=True)
class PhaseSection:
    """A stretch of the run with some keys of its own; all other keys are the recipe's.

    Where any phase has a learning_rate or warmup_steps, each has a schedule of its own over its own updates (NVIDIA's
    recipe for LAMB); else one schedule runs through all of them (BERT's).

    Args:
        share: of the run's updates; those of all phases add up to 1.
        data: keys of `data` that differ, {max_seq_length: 512}.
        batch: keys of `batch` that differ.
        learning_rate: peak of the phase's own schedule; the recipe's by default.
        warmup_steps: warm-up of the phase's own schedule; the recipe's by default.
    """

    share: float
    data: dict[str, Any] = field(default_factory=dict)
    batch: dict[str, int] = field(default_factory=dict)
    learning_rate: float | None = None
    warmup_steps: int | None = None

    @property
    def starts_schedule(self) -> bool:
        """Returns whether the phase asks for a schedule of its own."""
        return self.learning_rate is not None or self.warmup_steps is not None


@dataclass(frozen=True)
class Recipe:
    """One training run. The comments of the shipped files say what each key costs.

    Args:
        model: `family` with `preset` and any field of the config class, or `from`: a folder or Hub name.
        tokenizer: `kind` and `vocab_size` of one to train, or `from`; may be empty where the model has a `from`.
        data: options of the family's data module, which checks them (`read_section` with its dataclass).
        batch: see BatchSection.
        steps: updates of the whole run; with `minutes`, the most it takes.
        output: folder of the run.
        minutes: wall-clock time of the training, validation included: as many updates as it holds at the pace so far,
            so a faster machine trains longer and the schedule still ends. Not reproducible; null for `steps` alone.
        phases: stretches of the run with other data, batches or rates, in order; see PhaseSection. Each starts a new
            epoch, and `validate.best` anew: losses on other data cannot be compared.
        optimizer: see OptimizerSection.
        schedule: see ScheduleSection.
        precision: "bf16" and "fp16" are autocast over float32 weights.
        compile: torch.compile the model; pays on a GPU.
        gradient_checkpointing: recompute activations in the backward pass; less memory, about a third slower.
        ema_decay: keep an exponential mean of the weights with this decay, and save it as the model; null for none.
        seed: of initialisation, dropout and data order.
        loader_workers: processes that make batches ahead; 0 makes them in the training process.
        log_every: updates between two lines of metrics.jsonl.
        on_nonfinite: what an update does whose loss or gradient is not finite: "stop" the run, or "skip": it changes
            nothing, and the run stops where more than ten updates, and more than one in a hundred, were such. Either
            way its batch is kept in the output folder.
        save: see SaveSection.
        average_last: the final model is the mean of this many checkpoints (the paper: 5 for base, 20 for big).
        validate: see ValidateSection.

    Raises:
        ValueError: a key that is unknown, missing, of a wrong type or out of range, by its dotted name.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    batch: BatchSection
    steps: int
    output: str
    tokenizer: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    phases: list[PhaseSection] = field(default_factory=list)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    gradient_checkpointing: bool = False
    ema_decay: float | None = None
    seed: int = 1
    loader_workers: int = 0
    log_every: int = 50
    on_nonfinite: Literal["stop", "skip"] = "stop"
    save: SaveSection = field(default_factory=SaveSection)
    average_last: int = 1
    validate: ValidateSection = field(default_factory=ValidateSection)

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, log_every=self.log_every, average_last=self.average_last)
        above_zero(minutes=self.minutes)
        at_least(0, seed=self.seed, loader_workers=self.loader_workers)
        if not self.output.strip():
            raise ValueError(f"output must name a folder; got output={self.output!r}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1; got ema_decay={self.ema_decay}")
        _check_model(self.model)
        _check_tokenizer(self.tokenizer, model=self.model)
        self._check_averaging()
        self._check_schedule()
        self._check_phases()

    def _check_averaging(self) -> None:
        if self.average_last > self.save.keep:
            raise ValueError(
                "average_last must not exceed save.keep, or the checkpoints to average are gone; "
                f"got average_last={self.average_last}, save.keep={self.save.keep}"
            )
        if self.average_last > 1 and self.ema_decay is not None:
            raise ValueError(
                "ema_decay and average_last above 1 are two ways to the final model, set one; "
                f"got ema_decay={self.ema_decay}, average_last={self.average_last}"
            )
        if self.average_last > 1 and self.save.every_steps is None and self.save.every_minutes is None:
            raise ValueError(
                "average_last above 1 needs save.every_steps or save.every_minutes; "
                f"got average_last={self.average_last} and neither"
            )

    def _check_schedule(self) -> None:
        if self.schedule.name != "noam" and self.optimizer.learning_rate is None:
            raise ValueError(
                f"schedule.name={self.schedule.name} needs optimizer.learning_rate, its peak; got learning_rate=None"
            )

    def _check_phases(self) -> None:
        above_zero(**{f"phases[{number}].share": phase.share for number, phase in enumerate(self.phases)})
        total = sum(phase.share for phase in self.phases)
        if self.phases and abs(total - 1.0) > 1e-6:
            raise ValueError(f"phases must have shares that add up to 1; got {total:g}")
        if self.phases and self.minutes is not None:
            raise ValueError(f"minutes plans one phase by its pace; got {len(self.phases)} phases: set minutes=null")
        for number, phase in enumerate(self.phases):
            known = [item.name for item in dataclasses.fields(BatchSection)]
            for key in phase.batch:
                if key not in known:
                    names = [f"phases[{number}].batch.{name}" for name in known]
                    raise ValueError(unknown_name(f"phases[{number}].batch.{key}", names, "recipe key"))
        self.by_phase()

    def by_phase(self) -> "list[Recipe]":
        """Returns the recipe of each phase, its keys in place and no phases in it; of the run where it has none."""
        return [self._in_phase(phase) for phase in self.phases] or [self]

    def _in_phase(self, phase: PhaseSection) -> "Recipe":
        rate, warmup = phase.learning_rate, phase.warmup_steps
        return dataclasses.replace(
            self,
            phases=[],
            data=self.data | phase.data,
            batch=dataclasses.replace(self.batch, **phase.batch),
            optimizer=self.optimizer if rate is None else dataclasses.replace(self.optimizer, learning_rate=rate),
            schedule=self.schedule if warmup is None else dataclasses.replace(self.schedule, warmup_steps=warmup),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Returns the recipe that nested plain values describe; raises as the class does."""
        return read_section(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values, every default filled in; `from_dict` reads them back."""
        return dataclasses.asdict(self)


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, kind: type[AnyRecipe] = Recipe
) -> AnyRecipe:
    """Reads a shipped recipe by name, or a file of the user's by path.

    Args:
        name_or_path: a name of `recipe_names()`, or the path of a YAML file.
        overrides: `key=value` with a dotted key; the value is read as YAML. Later ones win.
        kind: the dataclass to read it as: Recipe, or FinetuneRecipe.

    Raises:
        ValueError: an unknown name, broken YAML, or what `kind` refuses.
        FileNotFoundError: a path that is not there.
    """
    path = recipe_path(str(name_or_path))
    values = parse_yaml(path.read_text(encoding="utf-8-sig"), where=str(path))
    if not isinstance(values, dict):
        raise ValueError(f"a recipe must be a mapping of keys; got {type(values).__name__} in {path}")
    for override in overrides:
        _apply_override(values, override)
    _check_verb(values, kind, path.name)
    try:
        return read_section(kind, values)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def recipe_path(name_or_path: str) -> Path:
    """Returns the file of a shipped recipe, or the path itself where it is one.

    Raises:
        ValueError: an unknown name, with the nearest right one.
        FileNotFoundError: a path that is not there.
    """
    shipped = _recipe_folder() / f"{name_or_path}.yaml"
    if re.fullmatch(r"[\w-]+", name_or_path) and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or path.name != name_or_path:
        raise FileNotFoundError(f"no recipe file at {name_or_path}; `vaswani recipes` lists the names that ship")
    raise ValueError(unknown_name(name_or_path, recipe_names(), "recipe"))


def recipe_names() -> list[str]:
    """Returns the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in _recipe_folder().glob("*.yaml"))


def recipe_summaries() -> dict[str, str]:
    """Returns each shipped recipe's name with the first comment line of its file."""
    folder = _recipe_folder()
    return {name: _first_line(folder / f"{name}.yaml").lstrip("# ").rstrip() for name in recipe_names()}


def _check_verb(values: Mapping[str, Any], kind: type[Any], name: str) -> None:
    """A recipe with `data.task` is for fine-tuning: read as the other kind, its first key would be called unknown."""
    data = values.get("data")
    finetunes = isinstance(data, dict) and "task" in data
    if finetunes is (kind is Recipe):
        has, verb = ("with", "finetune") if finetunes else ("without", "train")
        raise ValueError(f"{name}: a recipe {has} data.task is for `vaswani {verb}`")


def _check_model(model: Mapping[str, Any]) -> None:
    """The free-form section's own keys; config fields are checked by the config class."""
    family = model.get("family")
    if family is None and "from" not in model:
        raise ValueError(f"model needs family ({', '.join(FAMILIES)}) or from; got keys {sorted(model)}")
    if family is not None and family not in FAMILIES:
        raise ValueError(unknown_name(str(family), FAMILIES, "model.family"))
    if "preset" in model and "from" in model:
        raise ValueError(
            f"model takes preset or from, not both; got preset={model['preset']!r}, from={model['from']!r}"
        )
    for key in ("preset", "from"):
        if key in model and not isinstance(model[key], str):
            raise ValueError(f"model.{key} must be text; got {model[key]!r}")


def _check_tokenizer(tokenizer: Mapping[str, Any], *, model: Mapping[str, Any]) -> None:
    """A tokenizer to train (kind, vocab_size), one to load (from), or the model's own."""
    for key in tokenizer:
        if key not in TOKENIZER_KEYS:
            known = [f"tokenizer.{name}" for name in TOKENIZER_KEYS]
            raise ValueError(unknown_name(f"tokenizer.{key}", known, "recipe key"))
    if "from" in tokenizer:
        alone = len(tokenizer) == 1 or (len(tokenizer) == 2 and tokenizer.get("kind") == "gpt1")
        if not alone or not isinstance(tokenizer["from"], str):
            raise ValueError(
                f"tokenizer.from must be text and stand alone, or with kind: gpt1; got tokenizer={dict(tokenizer)}"
            )
        return
    if not tokenizer and "from" in model:
        return
    if "from" in model:
        raise ValueError(
            "a model with a `from` knows one vocabulary: leave tokenizer out, or give tokenizer.from; "
            f"got model.from={model['from']!r}, tokenizer={dict(tokenizer)}"
        )
    if tokenizer.get("kind") not in ("bpe", "wordpiece", "byte-bpe"):
        raise ValueError(
            f"tokenizer.kind must be bpe, wordpiece or byte-bpe, or gpt1 with from; got kind={tokenizer.get('kind')!r}"
        )
    for key, least in (("vocab_size", 1), ("min_frequency", 0)):
        value = tokenizer.get(key, least if key == "min_frequency" else None)
        if type(value) is not int or value < least:
            raise ValueError(f"tokenizer.{key} must be a whole number of at least {least}; got {key}={value!r}")


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one dotted key in nested plain values, in place."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"an override must read key=value with a dotted key; got {override!r}")
    section = values
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ValueError(f"{key} is not a key: {part} holds a value, not a section; got {override!r}")
    section[parts[-1]] = parse_yaml(text, where=override)


def _recipe_folder() -> Path:
    """The recipes: inside the package when installed from a wheel, beside it in a source checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "training" / "recipes"
    return inside if inside.is_dir() else package.parent / "training" / "recipes"


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return lines.readline()
