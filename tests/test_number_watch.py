"""Losses and gradients that are not finite, or jump: what stops, what is skipped, what is kept for replay."""

# ruff: noqa: F811  (fixtures of another file)
import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file

from vaswani_transformer import checkpoints
from vaswani_transformer.number_watch import LOOK_EVERY, NumberWatch, gradient_norm, watch_for
from vaswani_transformer.progress import Progress
from vaswani_transformer.run_log import read_metrics
from vaswani_transformer.train import Training, train

from .test_train import (  # noqa: F401
    files,
    identical,
    own_accelerator,
    own_cache,
    step_folder,
    toy,
    train_records,
)


def spoil(monkeypatch, *steps: int) -> None:
    """Makes the gradient of some updates infinite in one place, their losses nan."""
    gradients = Training._gradients

    def spoilt(self, micro_batches, target_tokens):
        losses = gradients(self, micro_batches, target_tokens)
        if self.progress.step + 1 in steps:
            next(self.bare_model.parameters()).grad.view(-1)[0] = math.inf
            return losses * math.nan
        return losses

    monkeypatch.setattr(Training, "_gradients", spoilt)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change_and_keeps_the_batch(toy, monkeypatch):
    spoil(monkeypatch, 4)
    training = Training(
        toy(save={"every_steps": 3}, log_every=100, batch=toy().to_dict()["batch"] | {"accumulation": 2})
    )
    with pytest.raises(ValueError, match=r"loss must stay finite; got nan at step 4, whose batch is in .*00000004\.pt"):
        training.run()
    now = {name: tensor for name, tensor in training.bare_model.state_dict().items() if name != "lm_head.weight"}
    saved = checkpoints.newest_complete(training.output / "checkpoints")[0]
    assert saved is not None
    assert saved == step_folder(training.output, 3)
    assert all(torch.equal(tensor, now[name]) for name, tensor in load_file(saved / "model.safetensors").items())
    kept = torch.load(training.output / "nonfinite-00000004.pt", weights_only=True)
    assert (kept["step"], kept["epoch"], kept["position"], kept["phase"]) == (4, 0, 3, 1)
    assert kept["examples"].tolist() == training.data.epoch(0)[3].tolist()
    wanted = training.data.micro_batches(training.data.epoch(0)[3], 2)
    assert len(kept["micro_batches"]) == 2
    for found, batch in zip(kept["micro_batches"], wanted, strict=True):
        assert all(torch.equal(found[name], batch[name]) for name in batch)
    assert math.isnan(kept["loss"])
    assert kept["grad_norm"] == math.inf


def test_a_run_that_a_bad_number_stopped_goes_on_once_it_is_gone(toy, monkeypatch):
    straight = train(toy("straight"))
    recipe = toy("stopped", save={"every_steps": 3})
    with monkeypatch.context() as patch:
        spoil(patch, 5)
        with pytest.raises(ValueError, match="at step 5"):
            train(recipe)
    assert identical(straight, train(recipe, resume=True))


def test_skip_leaves_weights_optimiser_schedule_and_average_as_they_were(toy, monkeypatch, caplog):
    spoil(monkeypatch, 5)
    output = train(toy(on_nonfinite="skip", save={"every_steps": 1, "keep": 10}, ema_decay=0.9))
    before, after = step_folder(output, 4), step_folder(output, 5)
    assert identical(before, after)
    states = [checkpoints.load_tensors(folder / "optimizer.pt") for folder in (before, after)]
    assert states[0]["schedule"] == states[1]["schedule"]
    for one, other in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    averages = [checkpoints.load_tensors(folder / "ema.pt")["weights"] for folder in (before, after)]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    assert not identical(after, step_folder(output, 6))
    progress = [checkpoints.read_state(folder)["progress"] for folder in (before, after)]
    assert [p["skipped"] for p in progress] == [0, 1]
    assert [p["position"] for p in progress] == [4, 5]
    assert "skipping update 5: the loss is nan; its batch is in" in caplog.text
    assert [record["step"] for record in train_records(output)] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert (output / "nonfinite-00000005.pt").exists()


def test_skip_has_a_limit(toy, monkeypatch):
    spoil(monkeypatch, *range(2, 30))
    with pytest.raises(ValueError, match=r"at most 10 updates, or one in 100; got 11 by step 12"):
        train(toy(steps=30, on_nonfinite="skip"))


def test_skipped_updates_count_over_a_resume(toy, monkeypatch):
    spoil(monkeypatch, *range(2, 30))
    train(toy(steps=6, on_nonfinite="skip"))
    with pytest.raises(ValueError, match=r"got 11 by step 12"):
        train(toy(steps=30, on_nonfinite="skip"), resume=True)


def watch(**changes) -> tuple[NumberWatch, list]:
    kept: list = []

    def keep(place, found):
        kept.append((place.step, found))
        return "the file"

    settings = {"skip": False, "at_once": True, "scaled": False} | changes
    return NumberWatch(**settings, keep=keep), kept


def feed(watch: NumberWatch, *norms: float, loss: float = 1.0) -> None:
    progress = Progress(steps=1000)
    for norm in norms:
        assert watch.passes(progress, torch.tensor([loss, loss]), torch.tensor(norm))
        progress.step += 1


def test_a_gradient_that_is_not_finite_stops_the_run_though_its_loss_is():
    watched, kept = watch()
    with pytest.raises(
        ValueError, match="the gradient's norm must stay finite; got inf at step 1, whose batch is in the"
    ):
        feed(watched, math.inf)
    assert kept == [(1, {"loss": 1.0, "nll": 1.0, "grad_norm": math.inf})]


def test_an_overflow_of_fp16_is_left_to_its_scaler():
    watched, kept = watch(scaled=True)
    feed(watched, math.inf, 1.0)
    assert kept == []


def test_on_a_gpu_numbers_are_looked_at_together_and_the_first_bad_one_is_named():
    watched, kept = watch(at_once=False)
    feed(watched, *[1.0] * 3, math.nan, *[1.0] * (LOOK_EVERY - 5))
    assert kept == []
    with pytest.raises(ValueError, match="at step 4"):
        watched.look(Progress(steps=1000))


def test_a_jump_of_the_gradients_norm_is_told_once_and_a_slow_rise_is_not(caplog):
    watched, _ = watch()
    with caplog.at_level(logging.WARNING):
        feed(watched, *np.linspace(1.0, 8.0, 200))
        assert caplog.text == ""
        feed(watched, *[2.0] * 100, 20.0, 2.0)
    assert "gradient norm 20 at step 101, 10.0 times the usual 2 (epoch 0, batch 0)" in caplog.text
    assert len(caplog.records) == 1


def test_the_norm_of_an_unclipped_gradient_is_that_of_clipping(toy):
    norms = []
    for number, clip in enumerate((None, 1e9)):
        optimizer = {} if clip is None else {"max_grad_norm": clip}
        output = train(toy(f"run-{number}", steps=3, optimizer=optimizer))
        norms.append([record["grad_norm"] for record in read_metrics(output / "metrics.jsonl") if record["step"] < 3])
    assert norms[0] == norms[1]


def test_skip_is_refused_where_it_cannot_be_kept(toy):
    accelerator: Any = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="DeepSpeed takes it with the gradient; got DeepSpeed"):
        watch_for(toy(on_nonfinite="skip"), accelerator, [])


def test_there_is_no_norm_where_there_are_no_gradients():
    assert gradient_norm([torch.ones(2)]) is None
