"""Checkpoints are whole or passed over, whatever fails or is killed while they are written."""

import errno
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vaswani_transformer import checkpoints
from vaswani_transformer.checkpoints import (
    last_checkpoints,
    load_tensors,
    newest_checkpoint,
    newest_complete,
    prune,
    read_state,
    replace_folder,
    save_checkpoint,
    verify,
    write_state,
)
from vaswani_transformer.random_state import random_state, set_random_state

FILES = ("model.safetensors", "optimizer.pt", "state.json", "rng/0.pt")


def writer(step: int = 0):
    value = float(step)

    def write(folder: Path) -> None:
        save_file({"weight": torch.full((4, 3), value)}, folder / "model.safetensors")
        torch.save({"exp_avg": torch.full((4,), value)}, folder / "optimizer.pt")
        (folder / "rng").mkdir()
        torch.save(torch.arange(3), folder / "rng" / "0.pt")
        write_state(folder, {"step": step})

    return write


def save(folder: Path, *steps: int, keep: int = 5) -> list[Path]:
    return [save_checkpoint(folder, step, write=writer(step), keep=keep) for step in steps]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_saved_checkpoint_verifies_and_is_the_newest(tmp_path):
    first, second = save(tmp_path, 10, 20)
    assert (first.name, second.name) == ("step-00000010", "step-00000020")
    assert verify(first) is None
    assert newest_complete(tmp_path) == (second, [])
    assert newest_checkpoint(tmp_path) == second
    assert read_state(second) == {"step": 20}
    assert load_tensors(second / "optimizer.pt")["exp_avg"].tolist() == [20.0] * 4


def test_the_manifest_lists_every_file_with_size_and_sha256(tmp_path):
    (path,) = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(FILES)
    assert manifest["files"]["state.json"]["size"] == (path / "state.json").stat().st_size
    assert len(manifest["files"]["state.json"]["sha256"]) == 64


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    assert newest_complete(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "missing") is None


def test_newest_goes_by_number_and_not_by_the_letters_of_the_name(tmp_path):
    save(tmp_path, 99_999_999, 100_000_000)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-100000000"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see what is synced")
def test_every_file_and_folder_is_synced_and_the_manifest_last_before_the_name_is_given(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    save(tmp_path, 1)
    staged = tmp_path / "step-00000001.partial"
    assert set(events[: len(FILES)]) == {str(staged / name) for name in FILES}
    rest = ["manifest.json", "rng", "."]
    assert events[len(FILES) :] == [*(str(staged / name) for name in rest), "rename", str(tmp_path)]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failing_write_leaves_the_checkpoint_before_it_untouched_and_no_partial(tmp_path, error):
    (before,) = save(tmp_path, 1)
    kept = contents(before)

    def fail(folder: Path) -> None:
        writer()(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        save_checkpoint(tmp_path, 2, write=fail, keep=1)
    assert caught.value is error
    assert "is untouched" in error.__notes__[0]
    assert ("disk is full" in error.__notes__[0]) == isinstance(error, OSError)
    assert names(tmp_path) == [before.name]
    assert contents(before) == kept
    assert newest_checkpoint(tmp_path) == before


def test_a_failing_seal_leaves_the_checkpoint_before_it_and_no_partial(tmp_path, monkeypatch):
    (before,) = save(tmp_path, 1)
    monkeypatch.setattr(
        checkpoints, "sync_folder", lambda folder: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error"))
    )
    with pytest.raises(OSError, match="I/O error"):
        save(tmp_path, 2)
    assert names(tmp_path) == [before.name]


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


# Loading the one file by its path spares the children importing the package and transformers with it.
LOAD = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("checkpoints", sys.argv[1])
checkpoints = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoints)
folder = Path(sys.argv[2])
"""

BIG_SAVES = """
import torch
from safetensors.torch import save_file
big = {"weight": torch.zeros(100_000)}
for save in (torch.save, save_file):
    try:
        checkpoints.save_checkpoint(folder, 2, write=lambda staged: save(big, staged / "big"), keep=1)
    except Exception as error:
        print("failed:", type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_running_out_of_room_inside_torch_or_safetensors_leaves_the_checkpoint_before_it(tmp_path):
    (before,) = save(tmp_path, 1)
    done = subprocess.run(
        [sys.executable, "-c", LOAD + BIG_SAVES, checkpoints.__file__, str(tmp_path)],
        preexec_fn=_limit_file_size,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("failed:") == 2, done.stderr
    assert names(tmp_path) == [before.name]
    assert verify(before) is None


def test_a_partial_left_by_a_kill_is_passed_over_and_removed_at_the_next_save(tmp_path):
    (before,) = save(tmp_path, 1)
    shutil.copytree(before, tmp_path / "step-00000002.partial")
    newest, passed_over = newest_complete(tmp_path)
    assert newest == before
    assert [(path.name, why) for path, why in passed_over] == [("step-00000002.partial", "the save did not finish")]
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_only_what_this_module_left_is_cleaned_away(tmp_path):
    (tmp_path / "notes.partial").mkdir()
    (tmp_path / "step-best").mkdir()
    save(tmp_path, 1, 2, keep=1)
    assert names(tmp_path) == ["notes.partial", "step-00000002", "step-best"]


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _flip, lambda file: file.write_bytes(b"")])
def test_any_damaged_file_makes_resuming_fall_back_and_say_which_and_why(tmp_path, caplog, name, damage):
    before, newest = save(tmp_path, 1, 2)
    damage(newest / name)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == before
    assert f"passing over checkpoint step-00000002: {name}" in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_anywhere_goes_unnoticed(tmp_path, data):
    folder = tmp_path / "bits"
    if not folder.exists():
        save(folder, 1)
    path = folder / "step-00000001"
    file = path / data.draw(st.sampled_from([*FILES, "manifest.json"]))
    sound = file.read_bytes()
    position, bit = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(sound[:position] + bytes([sound[position] ^ 1 << bit]) + sound[position + 1 :])
    problem = verify(path)
    file.write_bytes(sound)
    assert problem is not None
    assert file.name in problem
    assert verify(path) is None


def test_a_checkpoint_under_another_ones_name_is_not_taken_for_it(tmp_path):
    (path,) = save(tmp_path, 1)
    path.rename(tmp_path / "step-00000009")
    assert verify(tmp_path / "step-00000009") == "manifest.json is of step 1"


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    (path,) = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 2, "sha256": "of its own kind"}))
    assert verify(path) == "manifest.json has format 2, this version reads 1"


def test_pruning_keeps_the_last_n(tmp_path):
    save(tmp_path, *range(1, 7), keep=3)
    assert names(tmp_path) == ["step-00000004", "step-00000005", "step-00000006"]


def test_a_damaged_checkpoint_does_not_count_among_the_kept(tmp_path):
    _, _, damaged = save(tmp_path, 1, 2, 3)
    _truncate(damaged / "optimizer.pt")
    save(tmp_path, 4, keep=3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000004"]


def test_pruning_never_removes_the_newest_complete_one(tmp_path):
    one, two, three = save(tmp_path, 1, 2, 3)
    _flip(three / "model.safetensors")  # same size, so only reading it tells
    _flip(two / "model.safetensors")
    assert prune(tmp_path, 1) == []
    assert newest_checkpoint(tmp_path) == one


def test_checkpoints_with_a_higher_number_than_the_one_just_saved_are_left_alone(tmp_path):
    save(tmp_path, 8, 9)
    save(tmp_path, 1, 2, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000008", "step-00000009"]


def test_saving_a_step_again_replaces_it(tmp_path):
    (path,) = save(tmp_path, 7)
    save_checkpoint(tmp_path, 7, write=writer(70), keep=2)
    assert names(tmp_path) == [path.name]
    assert read_state(path) == {"step": 70}
    assert verify(path) is None


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    save(tmp_path, 6)
    (path,) = save(tmp_path, 7)
    path.rename(path.with_name(path.name + ".replaced"))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000007.replaced"
    save(tmp_path, 7)
    assert names(tmp_path) == ["step-00000006", "step-00000007"]


def test_best_is_replaced_whole(tmp_path):
    for value in (1, 2):
        replace_folder(tmp_path / "best", write=writer(value))
    assert names(tmp_path) == ["best"]
    assert read_state(tmp_path / "best") == {"step": 2}
    assert verify(tmp_path / "best") is None


@pytest.mark.parametrize(("step", "keep", "message"), [(-1, 1, "step=-1"), (1, 0, "keep=0")])
def test_a_senseless_step_or_keep_is_refused(tmp_path, step, keep, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, step, write=writer(), keep=keep)


# A child saves without end and is killed at a random moment, 25 times.
KILLS = """
import logging, os, random, signal, time
logging.disable()
chance = random.Random(1)

def write(step):
    def fill(partial):
        for name in ("a", "b"):
            with open(partial / name, "wb") as file:
                for _ in range(8):
                    file.write(step.to_bytes(8, "big") * 8192)
        (partial / "state.json").write_text('{"step": %d}' % step)
    return fill

newest_step = 0
for trial in range(25):
    child = os.fork()
    if child == 0:
        for step in range(newest_step + 1, newest_step + 10_000):
            checkpoints.save_checkpoint(folder, step, write=write(step), keep=2)
            if step % 3 == 0:
                checkpoints.save_checkpoint(folder, step, write=write(step), keep=2)
        os._exit(0)
    time.sleep(chance.uniform(0.005, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    newest, _ = checkpoints.newest_complete(folder)
    before = newest_step
    newest_step = 0 if newest is None else checkpoints.read_state(newest)["step"]
    assert newest_step >= before, (trial, before, newest_step)
    assert len([p for p in folder.iterdir() if p.name.endswith(".partial")]) <= 1
print("saved", newest_step)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_a_loadable_newest_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD + KILLS, checkpoints.__file__, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0


def test_a_state_that_is_missing_or_broken_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"state\.json"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text("[1]")
    with pytest.raises(ValueError, match="list"):
        read_state(tmp_path)


class Harmful:
    def __reduce__(self):
        return (os.system, ("true",))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save(Harmful(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt"):
        load_tensors(tmp_path / "x.pt")


def test_random_states_round_trip_through_a_file(tmp_path):
    torch.save(random_state(), tmp_path / "rng.pt")
    drawn = (random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), torch.rand(3).tolist())
    set_random_state(load_tensors(tmp_path / "rng.pt"))
    assert drawn == (random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), torch.rand(3).tolist())


def test_random_states_of_other_gpus_are_refused():
    with pytest.raises(ValueError, match="as many GPUs"):
        set_random_state({**random_state(), "cuda": [torch.zeros(1)] * 99})


def test_last_checkpoints_are_complete_and_oldest_first(tmp_path, caplog):
    paths = save(tmp_path, 1, 2, 3, 4)
    _truncate(paths[2] / "model.safetensors")
    assert last_checkpoints(tmp_path, 2) == [paths[1], paths[3]]
    assert last_checkpoints(tmp_path, 9) == [paths[0], paths[1], paths[3]]
    assert "last 9 checkpoints" in caplog.text
    with pytest.raises(ValueError, match="at least one"):
        last_checkpoints(tmp_path / "none", 2)
