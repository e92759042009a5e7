"""A fine-tuning recipe: the keys of every recipe, as far as they fit."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .recipe import BatchSection, OptimizerSection, SaveSection, ScheduleSection
from .sections import above_zero, at_least, read_section


@dataclass(frozen=True)
class FinetuneValidateSection:
    """What is measured on the validation rows.

    Args:
        every_steps: updates between validations; null for the end only.
        metrics: of the task, see `finetune.METRICS`; empty for the loss alone.
    """

    every_steps: int | None = None
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        at_least(1, **{"validate.every_steps": self.every_steps})


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning run. The comments of the shipped files say what each key costs.

    Args:
        model: `from`, a folder or Hub name of a BERT or a GPT, with any field of the config class that is to differ; or
            `family: bert` or `gpt` with `preset` and fields, for random weights.
        data: `task`, and the options of its data module.
        batch: `sequences` of one update of the whole world, `accumulation`.
        optimizer: see OptimizerSection.
        schedule: see ScheduleSection.
        output: folder of the run.
        steps: updates of the whole run; this or `epochs`.
        epochs: passes over the training rows.
        tokenizer: `from`; by default the model's own.
        precision: "bf16" and "fp16" are autocast over float32 weights.
        gradient_checkpointing: recompute activations in the backward pass.
        seed: of new weights, dropout and data order.
        loader_workers: processes that make batches ahead.
        log_every: updates between two lines of metrics.jsonl.
        save: see SaveSection; its every_minutes is not read here. Null everywhere writes no checkpoint.
        validate: see FinetuneValidateSection.

    Raises:
        ValueError: a key that is unknown, missing, of a wrong type or out of range, by its dotted name.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    batch: BatchSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    output: str
    steps: int | None = None
    epochs: float | None = None
    tokenizer: dict[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 1
    loader_workers: int = 0
    log_every: int = 50
    save: SaveSection = field(default_factory=SaveSection)
    validate: FinetuneValidateSection = field(default_factory=FinetuneValidateSection)

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, log_every=self.log_every)
        above_zero(epochs=self.epochs)
        at_least(0, seed=self.seed, loader_workers=self.loader_workers)
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"a recipe needs one of steps and epochs; got steps={self.steps}, epochs={self.epochs}")
        if not self.output.strip():
            raise ValueError(f"output must name a folder; got output={self.output!r}")
        if self.batch.sequences is None:
            raise ValueError(f"fine-tuning needs batch.sequences; got batch={dataclasses.asdict(self.batch)}")
        if self.save.every_minutes is not None:
            raise ValueError(
                f"fine-tuning saves by updates; got save.every_minutes={self.save.every_minutes}: set save.every_steps"
            )
        if self.schedule.name != "noam" and self.optimizer.learning_rate is None:
            raise ValueError(
                f"schedule.name={self.schedule.name} needs optimizer.learning_rate, its peak; got learning_rate=None"
            )
        self._check_model()

    def _check_model(self) -> None:
        source, preset = self.model.get("from"), self.model.get("preset")
        if ("family" in self.model) == ("from" in self.model) or (source is not None and preset is not None):
            raise ValueError(
                "model needs either from, a folder or Hub name, or family (bert, gpt) with preset and fields; "
                f"got model={self.model}"
            )
        if source is not None and (not isinstance(source, str) or not source.strip()):
            raise ValueError(f"model.from must name a folder or Hub repository; got model.from={source!r}")
        if source is None and self.model["family"] not in ("bert", "gpt"):
            raise ValueError(f"fine-tuning takes the families bert and gpt; got model.family={self.model['family']!r}")
        if sorted(self.tokenizer) not in ([], ["from"]) or (source is None and not self.tokenizer):
            raise ValueError(
                "tokenizer must be left out (the model's own) or hold `from` alone, which random weights need; "
                f"got tokenizer={self.tokenizer}, model.from={source!r}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FinetuneRecipe":
        """Returns the recipe that nested plain values describe; raises as the class does."""
        return read_section(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values, every default filled in; `from_dict` reads them back."""
        return dataclasses.asdict(self)
