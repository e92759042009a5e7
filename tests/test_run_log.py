import builtins
import json
import logging
import math
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vaswani_transformer import run_log
from vaswani_transformer.run_log import RunLog, draw_losses, environment, read_metrics

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _no_tensorboard(request, monkeypatch):
    """TensorBoard takes a second to import; the tests that are about it ask for it."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr(run_log, "_summary_writer", lambda folder, *, purge_step: None)


def log(folder: Path, **options) -> RunLog:
    return RunLog(folder, **{"total_steps": 20, "enabled": True, "log_every": 5, **options})


def train(journal: RunLog, *steps: int, **options) -> None:
    for step in steps:
        values = {"loss": 5 / step, "nll": 4 / step, "tokens": 100, "learning_rate": 1e-3, "grad_norm": 1.0}
        journal.train(step, **{**values, **options})


def steps(folder: Path, kind: str = "train") -> list[int]:
    return [record["step"] for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == kind]


def test_the_first_and_last_update_and_every_nth_are_recorded(tmp_path):
    with log(tmp_path, total_steps=12) as journal:
        train(journal, *range(1, 13))
    assert steps(tmp_path) == [1, 5, 10, 12]


def test_a_record_is_the_mean_over_the_tokens_since_the_last(tmp_path):
    with log(tmp_path, log_every=2) as journal:
        for step, (loss, tokens) in enumerate([(9.0, 7), (2.0, 100), (4.0, 300), (6.0, 100)], start=1):
            journal.train(step, loss, loss / 2, tokens, 1e-3, float(step))
    record = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert record["step"] == 4
    assert record["loss"] == pytest.approx((4 * 300 + 6 * 100) / 400)
    assert record["nll"] == pytest.approx(record["loss"] / 2)
    assert record["perplexity"] == pytest.approx(math.exp(record["nll"]))
    assert record["grad_norm"] == 3.5


def test_tensors_are_read_only_when_a_record_is_due(tmp_path, monkeypatch):
    reads = []
    read = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: reads.append(1) or read(tensor))
    for name in ("item", "tolist", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits for the device"))
    values = {"loss": torch.tensor(3.0, requires_grad=True), "tokens": torch.tensor(8), "grad_norm": torch.tensor(1.0)}
    with log(tmp_path, total_steps=7) as journal:
        train(journal, 2, 3, 4, **values)
        assert not reads
        train(journal, 5, **values)
        assert reads
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 3.0


def test_speed_counts_real_tokens_over_the_window_without_the_pauses(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    with log(tmp_path, flops_per_token=100.0, log_every=2) as journal:
        train(journal, 2, real_tokens=50)
        now[0] += 1.0
        train(journal, 3, real_tokens=300)
        with journal.paused():
            now[0] += 50.0
        now[0] += 3.0
        train(journal, 4, real_tokens=100)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert second["tokens_per_second"] == pytest.approx(400 / 4.0)
    assert second["flops_per_second"] == pytest.approx(100 * 400 / 4.0)
    assert second["seconds"] == 54.0
    assert first["seconds"] == 0.0


def test_a_disabled_log_writes_nothing_and_reads_no_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("a tensor was read"))
    with log(tmp_path / "run", enabled=False) as journal:
        train(journal, 1, 5, loss=torch.tensor(1.0))
        journal.validation(5, {"loss": torch.tensor(1.0)})
        with journal.paused():
            pass
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_goes_on_without_repeating_steps(tmp_path):
    with log(tmp_path) as journal:  # killed after 17, its newest checkpoint is of 11
        train(journal, *range(1, 18))
        journal.validation(10, {"loss": 1.0})
        journal.validation(15, {"loss": 2.0})
    with log(tmp_path, start_step=11) as journal:
        train(journal, *range(12, 21))
        journal.validation(15, {"loss": 3.0})
    assert steps(tmp_path) == [1, 5, 10, 15, 20]
    assert steps(tmp_path, "validation") == [10, 15]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["loss"] == 3.0


def test_a_new_run_starts_its_metrics_anew(tmp_path):
    for _ in range(2):
        with log(tmp_path) as journal:
            train(journal, 1, 5)
    assert steps(tmp_path) == [1, 5]


def test_a_line_cut_short_by_a_kill_is_dropped_on_resuming(tmp_path):
    with log(tmp_path) as journal:
        train(journal, 1, 5)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    with log(tmp_path, start_step=5) as journal:
        train(journal, 10)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 5, 10]


def test_records_are_on_disk_before_the_run_ends(tmp_path):
    journal = log(tmp_path)
    train(journal, 1)
    assert steps(tmp_path) == [1]
    journal.close()
    journal.close()


def test_values_that_are_not_finite_are_null_so_that_every_line_is_json(tmp_path):
    with log(tmp_path, total_steps=3, log_every=1) as journal:
        train(journal, 1, loss=math.nan, nll=math.inf)
        train(journal, 2, nll=1e6)
        journal.validation(2, {"loss": math.nan})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    first, second, third = read_metrics(tmp_path / "metrics.jsonl")
    assert first["loss"] is first["nll"] is first["perplexity"] is second["perplexity"] is third["loss"] is None


def test_without_a_terminal_progress_is_logged_as_lines(tmp_path, caplog):
    with caplog.at_level(logging.INFO), log(tmp_path, flops_per_token=1e9) as journal:
        train(journal, 1)
        journal.validation(1, {"loss": 2.5, "bleu": 12.3456})
    assert "step 1/20  loss 5.000 nll 4.000 ppl 54.6 " in caplog.text
    assert "tok/s" in caplog.text
    assert "FLOP/s" in caplog.text
    assert "ETA" in caplog.text
    assert "validation at step 1: loss 2.5, bleu 12.35" in caplog.text


def test_on_a_terminal_progress_is_one_live_line_on_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with log(tmp_path, start_step=3) as journal:
        train(journal, 4, 5)
        journal.validation(5, {"bleu": 1.0})
    shown = capsys.readouterr()
    assert "5/20" in shown.err
    assert "nll" in shown.err
    assert "tok/s" in shown.err
    assert "validation at step 5: bleu 1\n" in shown.err
    assert shown.out == ""


def test_losses_bleu_and_the_learning_rate_are_drawn_at_the_end(tmp_path):
    pytest.importorskip("matplotlib")
    with log(tmp_path) as journal:
        train(journal, *range(1, 21))
        for step in (5, 10, 20):
            journal.validation(step, {"loss": 6 / step, "nll": 5 / step, "bleu": step})
    image = (tmp_path / "loss.png").read_bytes()
    assert image.startswith(PNG)
    import matplotlib.image

    pixels = matplotlib.image.imread(tmp_path / "loss.png")[..., :3]
    colours = {tuple(colour) for colour in (pixels.reshape(-1, 3) * 255).round().astype(int)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44), (127, 127, 127)} <= colours  # and the learning rate


def test_every_point_lies_within_the_picture(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = []
    monkeypatch.setattr(figure, "savefig", lambda self, file: drawn.append(self))
    with log(tmp_path) as journal:
        train(journal, *range(1, 21))
        journal.validation(20, {"loss": 30.0, "bleu": 42.0})
    losses, rate, bleu = drawn[0].axes
    assert rate.get_ylim()[0] == 0
    assert losses.get_ylim()[1] >= 30
    assert bleu.get_ylim()[0] == 0
    assert bleu.get_ylim()[1] >= 42


def test_the_picture_is_drawn_also_when_the_run_is_interrupted(tmp_path):
    pytest.importorskip("matplotlib")

    def interrupted() -> None:
        with log(tmp_path) as journal:
            train(journal, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "loss.png").exists()


def test_a_run_without_records_draws_nothing(tmp_path):
    log(tmp_path).close()
    assert draw_losses(tmp_path) is None
    assert not (tmp_path / "loss.png").exists()


def test_without_matplotlib_and_tensorboard_a_run_is_logged_all_the_same(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def missing(name: str, *rest):
        if name.split(".")[0] in ("matplotlib", "tensorboard") or name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with caplog.at_level(logging.INFO), log(tmp_path) as journal:
        train(journal, 1)
    assert steps(tmp_path) == [1]
    told = [record for record in caplog.records if "[viz]" in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO", "INFO"]


def test_a_missing_tensorboard_is_told_in_one_line_with_the_extra(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO):
        log(tmp_path).close()
    told = [record.getMessage() for record in caplog.records if "tensorboard" in record.getMessage()]
    assert told == ["no TensorBoard files: tensorboard is not installed (pip install 'vaswani-transformer[viz]')"]


def test_tensorboard_holds_what_the_metrics_hold(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with log(tmp_path) as journal:
        train(journal, 1, 5, 10)
        journal.validation(10, {"bleu": 7.0})
    time.sleep(1.01)  # files are read in the order of their names, which begin with the second
    with log(tmp_path, start_step=5) as journal:
        train(journal, 10, loss=9.0)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 5, 10]
    assert board.Scalars("train/loss")[-1].value == 9.0


@pytest.mark.parametrize("options", [{"log_every": 0}, {"total_steps": 0}])
def test_a_senseless_interval_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be 1 or more"):
        log(tmp_path, **options)


def test_the_environment_has_versions_and_hardware_and_no_names_of_people_or_places():
    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["cpu"]
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text
    assert str(Path(run_log.__file__).parent) not in text


def test_the_commit_is_the_checkouts_own_and_not_that_of_a_repository_around_it(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, check=True, cwd=tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    for place, expected in (("vaswani_transformer", head), ("venv/site-packages/vaswani_transformer", None)):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.setattr(run_log, "__file__", str(tmp_path / place / "run_log.py"))
        assert run_log._commit() == expected
