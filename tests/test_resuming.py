"""Runs that are stopped, killed and resumed, and runs of several processes."""

# ruff: noqa: F811  (fixtures of another file)
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from vaswani_transformer.recipe import Recipe
from vaswani_transformer.stop_requests import stop_requests
from vaswani_transformer.train import Training, train

from .launching import ROOT, free_port
from .test_train import (  # noqa: F401
    files,
    furthest,
    identical,
    interrupt_after,
    losses,
    own_accelerator,
    own_cache,
    step_folder,
    toy,
    train_records,
    weights,
    write_corpus,
)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [-2, 0, 2], ids=["inside an epoch", "at its end", "in the next"])
def test_a_run_in_two_sittings_ends_with_the_very_same_weights(toy, stop, workers):
    settings = {"loader_workers": workers, "ema_decay": 0.9, "validate": {"every_steps": 3}}
    epoch = len(Training(toy()).data.epoch(0))
    straight = train(toy("straight", steps=epoch + 4, **settings))
    train(toy("halves", steps=epoch + stop, **settings))
    halves = train(toy("halves", steps=epoch + 4, **settings), resume=True)
    assert identical(step_folder(straight, epoch + 4), step_folder(halves, epoch + 4))
    assert identical(straight, halves)
    assert losses(straight) == losses(halves)


def test_ctrl_c_saves_after_the_update_and_resuming_ends_with_the_same_weights(toy, monkeypatch):
    straight = train(toy("straight"))
    interrupt_after(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGINT))
    recipe = toy("stopped")
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4; --resume"):
        train(recipe)
    assert not (Path(recipe.output) / "run.json").exists()
    assert identical(straight, train(recipe, resume=True))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once_but_a_launchers_echo_of_the_first_does_not(monkeypatch):
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop == [signal.SIGINT]
        monkeypatch.setattr("vaswani_transformer.stop_requests.ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_training_in_another_thread_leaves_signals_alone():
    found = []

    def body():
        with stop_requests() as stop:
            found.append(stop)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [[]]


def test_the_newest_whole_checkpoint_is_resumed_and_the_damaged_one_named(toy, caplog):
    recipe = toy(steps=4, save={"every_steps": 2})
    output = train(recipe)
    (step_folder(output, 4) / "optimizer.pt").write_bytes(b"torn")
    Training(recipe, resume=True)
    assert "passing over checkpoint step-00000004: optimizer.pt" in caplog.text


def test_resuming_with_only_damaged_checkpoints_stops_with_the_reasons(toy):
    recipe = toy(steps=2)
    output = train(recipe)
    (step_folder(output, 2) / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"needs a whole checkpoint.*step-00000002: optimizer.pt has 4 bytes"):
        train(recipe, resume=True)
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(ValueError, match="finished run without one"):
        train(recipe, resume=True)


def test_a_first_save_cut_short_starts_anew(toy, caplog):
    recipe = toy(steps=1)
    partial = step_folder(recipe.output, 1).with_suffix(".partial")
    partial.mkdir(parents=True)
    output = train(recipe, resume=True)
    assert "the save did not finish" in caplog.text
    assert (output / "run.json").exists()
    assert not partial.exists()


def test_resuming_a_finished_run_trains_nothing_and_says_so(toy, caplog):
    recipe = toy(steps=3, save={"every_steps": 1, "keep": 3}, average_last=2)
    output = train(recipe)
    before = weights(output)
    train(recipe, resume=True)
    assert "nothing left to train" in caplog.text
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(output).items())
    assert [record["step"] for record in train_records(output)] == [1, 2, 3]


def test_resuming_with_changed_settings_follows_the_recipe_and_tells_the_change(toy, caplog):
    train(toy(steps=2))
    changed = {"name": "noam", "warmup_steps": 40}
    output = train(toy(steps=3, schedule=changed, optimizer={"betas": [0.8, 0.9]}), resume=True)
    assert "resuming with another schedule" in caplog.text
    assert "other data" not in caplog.text
    assert train_records(output)[-1]["learning_rate"] == pytest.approx(16**-0.5 * 3 * 40**-1.5, rel=1e-12)
    group = torch.load(step_folder(output, 3) / "optimizer.pt", weights_only=True)["optimizer"]["param_groups"][0]
    assert list(group["betas"]) == [0.8, 0.9]


def test_resuming_on_other_text_is_told(toy, files, tmp_path, caplog):
    train(toy(steps=1))
    other = files | {"train": write_corpus(tmp_path, "other", 80)}
    train(toy(steps=2, data={"files": other}), resume=True)
    assert "resuming on other data" in caplog.text


def test_resuming_with_another_number_of_processes_starts_dropout_anew(toy, caplog):
    output = train(toy(steps=1))
    file = step_folder(output, 1)
    states = torch.load(file / "random.pt", weights_only=True)
    torch.save(states * 2, file / "random.pt")
    from vaswani_transformer.checkpoints import seal

    seal(file, step=1)
    train(toy(steps=2), resume=True)
    assert "dropout starts anew, the order of the data does not: saved by 2 processes" in caplog.text


def test_resumed_weights_begin_where_new_ones_would_or_products_would_round_otherwise(toy):
    train(toy(steps=2))
    model = Training(toy(steps=4), resume=True).bare_model
    assert {one.data_ptr() % 64 for one in (*model.parameters(), *model.buffers())} == {0}


# -------------------------------------------------------------------------------------------------- several processes


def launch(words: list[str], recipe: Recipe, folder: Path, *, processes: int = 1, **options) -> subprocess.Popen:
    """`vaswani train` as a user starts it; with several processes through `accelerate launch`."""
    file = folder / f"{Path(recipe.output).name}.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
        start += [
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            str(free_port()),
            "--module",
        ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*start, "vaswani_cli", "train", str(file), *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def finished(process: subprocess.Popen, status: int = 0) -> str:
    _, told = process.communicate(timeout=300)
    assert process.returncode == status, told
    return told


def test_two_processes_train_as_one(toy, tmp_path):
    settings = {
        "steps": 7,
        "model": {"dropout": 0.0},
        "validate": {"every_steps": 3, "metrics": ["loss", "bleu"], "limit": 3},
    }
    pair = toy("two", **settings)
    told = finished(launch([], pair, tmp_path, processes=2))
    alone = train(toy("one", **settings))
    notes = json.loads((Path(pair.output) / "run.json").read_text())
    assert notes["processes"] == 2, told
    assert losses(pair.output) == pytest.approx(losses(alone), abs=1e-5)
    assert furthest(pair.output, alone) < 1e-4
    ours = json.loads((alone / "run.json").read_text())["results"]
    assert notes["results"]["validation"]["nll"] == pytest.approx(ours["validation"]["nll"], abs=1e-4)
    assert notes["results"]["real_tokens"] == ours["real_tokens"]
    assert told.count("step 7/7") == 1  # one process speaks


@pytest.mark.slow
def test_two_processes_resume_to_the_very_same_weights(toy, tmp_path):
    straight, halves = toy("straight"), toy("halves")
    finished(launch([], straight, tmp_path, processes=2))
    finished(launch(["steps=4"], halves, tmp_path, processes=2))
    finished(launch(["--resume"], halves, tmp_path, processes=2))
    assert identical(straight.output, halves.output)


def wait_for(file: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_stopped_or_killed_from_outside_is_finished_by_resume(toy, tmp_path, number, processes):
    settings = {"steps": 150, "save": {"every_steps": 5, "keep": 2}, "loader_workers": 2}
    straight = train(toy("straight", **settings)) if processes == 1 else None
    recipe = toy("hit", **settings)
    process = launch([], recipe, tmp_path, processes=processes, start_new_session=True)
    wait_for(step_folder(recipe.output, 10), process)
    if number == signal.SIGKILL:
        for worker in psutil.Process(process.pid).children(recursive=True):  # in sessions of their own
            worker.kill()
        process.kill()
        process.communicate(timeout=60)
    else:  # as a terminal does: the whole group, loader processes included
        os.killpg(process.pid, number)
        told = process.communicate(timeout=120)[1]
        assert "--resume goes on from there" in told
        assert processes > 1 or process.returncode == 130
    assert not (Path(recipe.output) / "run.json").exists()
    told = finished(launch(["--resume"], recipe, tmp_path, processes=processes))
    assert "going on from" in told
    steps = [record["step"] for record in train_records(recipe.output)]
    assert steps == list(range(1, 151))
    if straight is not None:
        assert identical(straight, recipe.output)
