"""Bad input of training: recipes, their models and tokenizers, the optimiser, checkpoints and the log."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaswani_transformer.averaging import average_checkpoints
from vaswani_transformer.checkpoints import last_checkpoints, read_state, save_checkpoint
from vaswani_transformer.families import build_model, family_of
from vaswani_transformer.number_watch import NumberWatch
from vaswani_transformer.optim import EMA, build_optimizer, learning_rate
from vaswani_transformer.progress import Progress
from vaswani_transformer.recipe import OptimizerSection, Recipe, ScheduleSection, load_recipe
from vaswani_transformer.run_log import RunLog
from vaswani_transformer.train import train

from .scene import SIZES, Cases, Scene, assert_told


class Trained(Scene):
    """A recipe of a toy run, and the model one names."""

    def recipe(self, **changes: Any) -> Recipe:
        values = {
            "model": {"family": "transformer", **SIZES},
            "tokenizer": {"kind": "bpe", "vocab_size": 300},
            "data": {"files": {"train": self.aligned()}, "source": "en", "target": "de"},
            "batch": {"source_tokens": 50, "target_tokens": 50},
            "steps": 1,
            "output": str(self.folder / "run"),
        }
        return Recipe.from_dict({key: value for key, value in (values | changes).items() if value is not None})

    def build(self, section: dict[str, Any]) -> Any:
        return build_model(family_of(section), section, self.tokenizer)


def feed_nan(folder: Path) -> bool:
    watch = NumberWatch(skip=False, at_once=True, scaled=False, keep=lambda update, found: str(folder))
    return watch.passes(Progress(steps=1), torch.tensor([np.nan, 1.0]), None)


def schedule(**values: Any) -> float:
    step = values.pop("step", 1)
    return learning_rate(ScheduleSection(**values), OptimizerSection(), d_model=16, step=step, steps=10)


CASES: Cases[Trained] = {
    # Tokenizer and model together.
    "a tokenizer larger than the model it trains": (
        lambda s: s.build({"from": s.saved(vocab_size=10)}),
        r"must hold every token of the tokenizer; got vocab_size=10, \d+ tokens",
    ),
    "a tokenizer larger than the recipe's vocabulary": (
        lambda s: s.build({"family": "transformer", **SIZES, "vocab_size": 10}),
        r"must hold every token of the tokenizer; got vocab_size=10, \d+ tokens",
    ),
    "a tokenizer of other special tokens": (
        lambda s: s.build({"from": s.saved(eos_token_id=7)}),
        "agree on eos_token_id; got 7 in the model, 1",
    ),
    "a new tokenizer for an old model": (
        lambda s: s.recipe(model={"from": "some/model"}),
        "knows one vocabulary.*some/model.*bpe",
    ),
    "a model that is not there": (
        lambda s: s.build({"from": "no/such-model"}),
        "model.from must name.*'no/such-model'",
    ),
    "a family that does not fit the model": (
        lambda s: s.build({"family": "bert", "from": s.saved()}),
        "the recipe's family.*vaswani-transformer.*family='bert'",
    ),
    "fields that do not fit the weights": (
        lambda s: s.build({"from": s.saved(), "d_ff": 48}),
        "fields must fit the weights.*'d_ff': 48",
    ),
    # The recipe.
    "an unknown recipe key": (lambda s: s.recipe(stepz=3), "unknown recipe key 'stepz'; did you mean 'steps'"),
    "an unknown key of a section": (
        lambda s: s.recipe(optimizer={"learning_rat": 1.0}),
        "unknown recipe key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'",
    ),
    "an unknown key of data": (
        lambda s: train(s.recipe(data={"embeded": "debian-en-de"})),
        "unknown recipe key 'data.embeded'; did you mean 'data.embedded'",
    ),
    "an unknown model field of a recipe": (
        lambda s: train(s.recipe(model={"family": "transformer", **SIZES, "layers": 3})),
        "unknown recipe key 'model.layers'",
    ),
    "a recipe value of the wrong type": (lambda s: s.recipe(steps="ten"), "steps must be a whole number; got 'ten'"),
    "no steps": (lambda s: s.recipe(steps=0), "steps must be at least 1; got steps=0"),
    "a batch without tokens": (
        lambda s: s.recipe(batch={"source_tokens": 0, "target_tokens": 9}),
        "source_tokens must be at least 1; got source_tokens=0",
    ),
    "a beta of one": (
        lambda s: s.recipe(optimizer={"betas": [0.9, 1.0]}),
        r"betas.*\[0, 1\); got betas=\[0\.9, 1\.0\]",
    ),
    "more checkpoints averaged than kept": (
        lambda s: s.recipe(average_last=9, save={"every_steps": 1, "keep": 5}),
        "average_last must not exceed save.keep.*average_last=9, save.keep=5",
    ),
    "two ways to the final model": (
        lambda s: s.recipe(average_last=2, save={"every_steps": 1}, ema_decay=0.9),
        "set one; got ema_decay=0.9, average_last=2",
    ),
    "patience without validation": (
        lambda s: s.recipe(validate={"patience": 3}),
        "needs validate.every_steps.*patience=3",
    ),
    "a schedule without its peak": (
        lambda s: s.recipe(schedule={"name": "cosine"}),
        "cosine needs optimizer.learning_rate.*learning_rate=None",
    ),
    "an unknown family": (
        lambda s: s.recipe(model={"family": "transfomer"}),
        "unknown model.family 'transfomer'; did you mean 'transformer'",
    ),
    "an unknown recipe": (
        lambda s: load_recipe("transformer-dem"),
        "unknown recipe 'transformer-dem'.*'transformer-demo'",
    ),
    "a recipe file that is missing": (lambda s: load_recipe("no/such.yaml"), "no recipe file at no/such.yaml"),
    "an override without a value": (lambda s: load_recipe("transformer-demo", ["steps"]), "key=value.*got 'steps'"),
    "validation without text": (
        lambda s: train(s.recipe(validate={"every_steps": 5})),
        "validate.every_steps=5 needs validation text; got none",
    ),
    "sequences beside tokens in a batch": (
        lambda s: s.recipe(batch={"source_tokens": 9, "target_tokens": 9, "sequences": 2}),
        r"or sequences \(bert, gpt\); got source_tokens and target_tokens and sequences",
    ),
    "a batch of nothing": (lambda s: s.recipe(batch={"accumulation": 2}), "got none of them"),
    "an unknown answer to a loss that is not finite": (
        lambda s: s.recipe(on_nonfinite="ignore"),
        "on_nonfinite must be one of stop, skip; got 'ignore'",
    ),
    "fewer than no restarts": (
        lambda s: s.verb("train", "transformer-demo", "--max-restarts", "-1"),
        "--max-restarts must be 0 or more; got -1",
    ),
    "a loss that is not finite": (
        lambda s: feed_nan(s.folder),
        r"loss must stay finite; got nan at step 1, whose batch is in .*on_nonfinite=skip",
    ),
    # Optimiser, checkpoints, log.
    "an unknown optimiser": (
        lambda s: build_optimizer(s.model(), OptimizerSection(name="sgd")),  # type: ignore[arg-type]
        r"one of \['adam', 'adamw', 'lamb'\]; got optimizer.name='sgd'",
    ),
    "an update numbered zero": (lambda s: schedule(step=0), "step must be 1 or more.*got step=0"),
    "no warm-up for noam": (lambda s: schedule(warmup_steps=0), "warmup_steps must be at least 1; got .*=0"),
    "a decay of one": (lambda s: EMA(s.model(), 1.0), r"ema_decay must be in \[0, 1\); got ema_decay=1\.0"),
    "no checkpoint kept": (
        lambda s: save_checkpoint(s.folder, 1, write=lambda path: None, keep=0),
        "save.keep must be 1 or more.*got keep=0",
    ),
    "nothing to average": (lambda s: average_checkpoints([], s.folder), r"at least one checkpoint; got paths=\[\]"),
    "a run without checkpoints": (
        lambda s: last_checkpoints(s.folder, 2),
        "at least one complete checkpoint.*got folder=",
    ),
    "a checkpoint without its state": (lambda s: read_state(s.folder), r"readable state\.json; got "),
    "a log that is never written": (
        lambda s: RunLog(s.folder, total_steps=1, enabled=False, log_every=0),
        "log_every and steps must be 1 or more; got log_every=0",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Trained(tmp_path, tokenizer))
