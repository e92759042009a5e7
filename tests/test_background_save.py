"""Checkpoints that are written beside the training: the same files, and no error lost."""

# ruff: noqa: F811  (fixtures of another file)
import threading
import time

import pytest
import torch

from vaswani_transformer import checkpoints
from vaswani_transformer.background_save import BackgroundSave, snapshot
from vaswani_transformer.train import Training, train

from .test_train import (  # noqa: F401
    files,
    identical,
    own_accelerator,
    own_cache,
    step_folder,
    toy,
)

SAVES = {"every_steps": 2, "background": True}


def test_a_snapshot_has_memory_of_its_own_and_keeps_tied_weights_tied():
    weight = torch.ones(3)
    copy = snapshot({"a": weight, "state": [{"b": weight}, (torch.zeros(2), 7)]})
    weight += 1.0
    assert copy["a"].tolist() == [1.0, 1.0, 1.0]
    assert copy["state"][0]["b"] is copy["a"]
    assert copy["state"][1][1] == 7


def test_checkpoints_written_in_the_background_are_those_written_at_once(toy):
    at_once = train(toy("at-once", steps=6, ema_decay=0.9, save={"every_steps": 2}))
    beside = train(toy("beside", steps=6, ema_decay=0.9, save=SAVES))
    for step in (2, 4, 6):
        assert checkpoints.verify(step_folder(beside, step)) is None
        assert identical(step_folder(at_once, step), step_folder(beside, step))


def test_a_run_resumed_from_a_checkpoint_of_the_background_ends_with_the_same_weights(toy):
    straight = train(toy("straight", steps=6, save=SAVES))
    train(toy("halves", steps=4, save=SAVES))
    assert identical(straight, train(toy("halves", steps=6, save=SAVES), resume=True))


def test_the_training_goes_on_while_a_checkpoint_is_written(toy, monkeypatch):
    training, went_on, save = Training(toy(steps=4, save=SAVES)), threading.Event(), checkpoints.save_checkpoint
    update = training.update

    def updated(*arguments):
        if training.progress.step == 2:
            went_on.set()
        return update(*arguments)

    def slow(folder, step, **how):
        assert step != 2 or went_on.wait(60.0), "the loop waited for the checkpoint"
        return save(folder, step, **how)

    monkeypatch.setattr(training, "update", updated)
    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    assert checkpoints.verify(step_folder(training.run(), 2)) is None


def test_an_error_of_the_background_stops_the_run_at_the_next_save(toy, monkeypatch):
    def full(folder, step, **how):
        raise OSError(f"disk full at step {step}")

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    training = Training(toy(steps=8, save=SAVES))
    with pytest.raises(OSError, match="disk full at step 2"):
        training.run()
    assert training.progress.step == 4


def test_a_run_that_ends_by_an_error_waits_for_the_save_that_was_begun(toy, monkeypatch):
    training, save = Training(toy(steps=8, save=SAVES)), checkpoints.save_checkpoint
    update = training.update

    def slow(folder, step, **how):
        time.sleep(2.0)
        return save(folder, step, **how)

    def failing(*arguments):
        if training.progress.step == 2:
            raise ZeroDivisionError
        return update(*arguments)

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    monkeypatch.setattr(training, "update", failing)
    with pytest.raises(ZeroDivisionError):
        training.run()
    assert checkpoints.verify(step_folder(training.output, 2)) is None


def test_waiting_raises_an_error_once():
    background = BackgroundSave()
    background.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.wait()
    background.wait()
