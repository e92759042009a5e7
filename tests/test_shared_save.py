"""Two processes save one checkpoint: whole or not at all, and an error of either stops both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vaswani_transformer.checkpoints import newest_complete

HERE = Path(__file__).resolve().parent


def save(case: str, folder: Path) -> list[str]:
    """Both processes' word, after they have saved."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, str(HERE / "save_in_two_processes.py"), case, str(folder)]
    processes = [
        subprocess.Popen(
            command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        told = process.communicate(timeout=300)[1]
        assert process.returncode == 0, told
    return [(folder / f"told-{rank}").read_text() for rank in range(2)]


def test_two_processes_fill_one_checkpoint(tmp_path):
    assert save("none", tmp_path) == ["saved", "saved"]
    path, passed_over = newest_complete(tmp_path / "checkpoints")
    assert path is not None
    assert passed_over == []
    assert {file.name for file in path.iterdir()} == {"part-0", "part-1", "rest", "manifest.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "main", "other"),
    [
        ("part-1", "process 1: OSError", "OSError: [Errno 28] No space left"),
        ("part-0", "OSError: [Errno 28] No space left", "process 0: OSError"),
        ("rest", "ValueError: every weight must stay finite", "the main process could not save: ValueError: every"),
        ("stage", "OSError: [Errno 28] No space left", "the main process could not save: OSError"),
    ],
)
def test_an_error_of_one_process_is_raised_in_both_and_leaves_no_checkpoint(tmp_path, case, main, other):
    told = save(case, tmp_path)
    assert main in told[0]
    assert other in told[1]
    assert newest_complete(tmp_path / "checkpoints") == (None, [])
