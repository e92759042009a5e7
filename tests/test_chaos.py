"""Runs that are killed without end, checkpoints that are damaged, hosts that lose each other: the same weights."""

# ruff: noqa: F811  (fixtures of another file)
import logging
import random
import shutil
import time
from pathlib import Path

import pytest

from vaswani_transformer.train import train

from .launching import Run
from .test_train import (  # noqa: F401
    files,
    identical,
    own_accelerator,
    own_cache,
    step_folder,
    toy,
    train_records,
)

KILLS = 20


def kill_at_some_moment(run: Run, chance: random.Random, kind: str) -> bool:
    """Kills inside a save, some time after one, or while the run starts; returns whether a save was cut short."""
    if kind == "start":
        time.sleep(chance.uniform(0.0, 5.0))
    else:
        run.wait_for_step(run.saved() + 1)  # or the kills would keep it from coming any further
    before = run.saving()
    if kind == "save":
        run.wait_for(lambda: run.saving() - before, "save")
    elif kind == "train":
        time.sleep(chance.uniform(0.0, 0.3))
    run.kill(chance)
    return bool(run.saving() - before)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("processes", "background"), [(1, False), (2, False), (2, True)])
def test_a_run_killed_at_twenty_random_moments_goes_on_by_itself_to_the_same_weights(
    toy, tmp_path, processes, background
):
    save = {"every_steps": 5, "keep": 3, "background": background}
    settings = {"steps": 400, "save": save, "validate": {"every_steps": 50}}
    straight, recipe = toy("straight", **settings), toy("killed", **settings)
    Run(straight, tmp_path, processes=processes).finish()
    chance = random.Random(processes)
    kinds = [("save", "train", "save", "start")[number % 4] for number in range(KILLS)]
    chance.shuffle(kinds)
    # Processes that are killed while they look for each other may fail once more on their own.
    run = Run(recipe, tmp_path, processes=processes, restarts=KILLS if processes == 1 else 2 * KILLS)
    try:
        cut = sum(kill_at_some_moment(run, chance, kind) for kind in kinds)
        told = run.finish()
    finally:
        run.end()
    assert cut >= KILLS // 4, "too few kills fell into saves to tell anything"
    assert told.count("going on from") >= KILLS // 2
    assert [record["step"] for record in train_records(recipe.output)] == list(range(1, 401))
    assert identical(straight.output, recipe.output)
    assert identical(step_folder(straight.output, 400), step_folder(recipe.output, 400))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.slow
def test_any_file_damaged_in_any_way_falls_back_to_the_checkpoint_before_and_the_same_weights(toy, tmp_path, caplog):
    settings = {"save": {"every_steps": 2}, "ema_decay": 0.9, "log_every": 100}
    straight = train(toy("straight", steps=6, **settings))
    halves = train(toy("halves", steps=4, **settings))
    names = sorted(path.name for path in step_folder(halves, 4).iterdir())
    kinds = {"model.safetensors", "optimizer.pt", "random.pt", "ema.pt", "state.json", "manifest.json", "config.json"}
    assert kinds | {"tokenizer.json", "modeling_transformer.py"} <= set(names)
    for name in names:
        for number, damage in enumerate((Path.unlink, _truncate, _flip)):
            output = tmp_path / f"damaged-{name}-{number}"
            shutil.copytree(halves, output)
            damage(step_folder(output, 4) / name)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                train(toy(output.name, steps=6, **settings), resume=True)
            assert f"passing over checkpoint step-00000004: {name}" in caplog.text
            assert identical(straight, output), (name, damage)
            shutil.rmtree(output)
