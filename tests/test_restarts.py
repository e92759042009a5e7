"""Training processes that die and are started again, by `--max-restarts` and by `accelerate launch`."""

# ruff: noqa: F811  (fixtures of another file)
import random
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from vaswani_cli import main
from vaswani_cli.restarts import supervise
from vaswani_transformer import checkpoints
from vaswani_transformer.run_folder import starting_point
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


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Has `supervise` run a script, which finds the number of its start in `number`; returns the starts it made."""

    def install(script: str) -> Path:
        package = tmp_path / "vaswani_cli"
        package.mkdir()
        (package / "__init__.py").touch()
        begin = "import os, sys, signal, time\nnumber = int(os.environ['VASWANI_RESTART'])\n"
        begin += "print(number, *sys.argv[1:], file=open('starts', 'a'), flush=True)\n"
        (package / "__main__.py").write_text(begin + script)
        monkeypatch.chdir(tmp_path)
        return tmp_path / "starts"

    return install


def test_a_child_that_dies_is_started_again_and_told_so(child, capfd):
    starts = child("if number < 2: os.kill(os.getpid(), signal.SIGKILL)")
    assert supervise(["train", "x"], 3) == 0
    assert starts.read_text() == "0 train x\n1 train x\n2 train x\n"
    assert "training died (SIGKILL); restart 2 of 3" in capfd.readouterr().err


def test_the_last_restarts_end_is_the_end(child):
    starts = child("os.kill(os.getpid(), signal.SIGKILL)")
    assert supervise([], 2) == 128 + signal.SIGKILL
    assert len(starts.read_text().splitlines()) == 3


@pytest.mark.parametrize("status", [2, 130])
def test_bad_input_and_ctrl_c_are_not_tried_again(child, status):
    starts = child(f"sys.exit({status})")
    assert supervise([], 5) == status
    assert len(starts.read_text().splitlines()) == 1


def test_an_exception_nobody_expected_is_a_death(child):
    starts = child("if number == 0: raise RuntimeError\nsys.exit(0)")
    assert supervise([], 1) == 0
    assert len(starts.read_text().splitlines()) == 2


def test_restarts_under_accelerate_launch_are_its_own(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["train", "transformer-demo", "--max-restarts", "2"]) == 2
    assert "give it --max_restarts 2 before --module" in capsys.readouterr().err


def test_a_negative_number_of_restarts_is_refused(capsys):
    assert main(["train", "transformer-demo", "--max-restarts", "-1"]) == 2
    assert "--max-restarts must be 0 or more; got -1" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "VASWANI_RESTART"])
def test_a_restarted_process_resumes_without_being_told_where_the_first_had_begun(toy, tmp_path, monkeypatch, variable):
    output = train(toy(steps=2))
    (output / "under-way").touch()
    monkeypatch.setenv(variable, "1")
    assert starting_point(output, resume=False) == step_folder(output, 2)


def test_a_restarted_process_is_refused_where_the_first_was(toy, monkeypatch):
    output = train(toy(steps=2))
    assert not (output / "under-way").exists()
    (output / "under-way").touch()  # of a run that its launcher gave up
    for number in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", number)
        with pytest.raises(ValueError, match="already holds a run"):
            starting_point(output, resume=False)


@pytest.mark.slow
def test_a_killed_run_goes_on_by_itself_and_a_killed_parent_stops_it(toy, tmp_path):
    settings = {"steps": 60, "save": {"every_steps": 5}}
    straight, recipe = train(toy("straight", **settings)), toy("killed", **settings)
    run = Run(recipe, tmp_path, restarts=2)
    try:
        run.wait_for_step(10)
        run.kill(random.Random(0))
        run.wait_for_step(25)
        (child,) = run.trainers()
        run.process.kill()
        child.wait(timeout=120)
    finally:
        run.end()
    assert "training died (SIGKILL); restart 1 of 2" in run.told
    assert "SIGTERM: saving after this update" in run.told
    Run(recipe, tmp_path, words=["--resume"]).finish()
    assert identical(straight, recipe.output)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["the launcher", "the second process"])
def test_sigterm_in_two_processes_saves_within_the_grace_period(toy, tmp_path, to):
    settings = {"steps": 400, "save": {"every_minutes": 60.0}}
    straight, recipe = toy("straight", **settings), toy("stopped", **settings)
    Run(straight, tmp_path, processes=2).finish()
    run = Run(recipe, tmp_path, processes=2)
    try:
        run.wait_for(lambda: len(train_records(recipe.output)) > 5, "update")
        victim = psutil.Process(run.process.pid) if to == "the launcher" else run.trainers()[1]
        victim.send_signal(signal.SIGTERM)
        run.process.wait(timeout=120)
    finally:
        run.end()
    assert "--resume goes on from there" in run.told
    (saved,) = (Path(recipe.output) / "checkpoints").iterdir()
    assert checkpoints.verify(saved) is None
    Run(recipe, tmp_path, processes=2, words=["--resume"]).finish()
    assert identical(straight.output, recipe.output)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit (util-linux) to limit the size of files")
def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_to_go_on_from(toy, tmp_path):
    settings = {"steps": 6, "save": {"every_steps": 3}}
    straight, recipe = train(toy("straight", **settings)), toy("full", **settings)
    train(toy("full", steps=3, save={"every_steps": 3}))
    limit = ["prlimit", f"--fsize={step_folder(recipe.output, 3).joinpath('optimizer.pt').stat().st_size // 2}"]
    told = Run(recipe, tmp_path, before=limit, words=["--resume"]).process
    assert told.wait(timeout=300) != 0
    (log,) = tmp_path.glob("*.log")
    assert "what was saved before it in" in log.read_text()
    assert checkpoints.verify(step_folder(recipe.output, 3)) is None
    Run(recipe, tmp_path, words=["--resume"]).finish()
    assert identical(straight, recipe.output)
