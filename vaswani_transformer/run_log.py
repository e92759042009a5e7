"""What a run tells while it trains: a progress line, `metrics.jsonl`, TensorBoard, and `loss.png` at its end."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
LOSS_IMAGE = "loss.png"
EXTRA = "vaswani-transformer[viz]"
PACKAGES = ["torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors"]
PACKAGES += ["numpy", "sacrebleu", "deepspeed", "peft"]


class RunLog:
    """Records a run. On the processes where `enabled` is False every call does nothing.

    `train` adds to running sums on the tensors' device and reads them only once in `log_every` updates, so it does not
    make the CPU wait for the GPU in between. A record of `metrics.jsonl` is one line of JSON: `kind` ("train" |
    "validation"), `step`, and the values; one that is not finite is null there. A train record is the mean over the
    tokens since the last one.

    Args:
        folder: where the files go; made if missing.
        total_steps: updates of the whole run.
        enabled: True on one process only, the main one.
        log_every: updates between two records; the first and the last update have one too.
        flops_per_token: model FLOPs that one token of training costs, forward and backward; None leaves FLOP/s out.
        start_step: updates done before, on resuming. Records of later steps, left by the run that was killed, are
            dropped; 0 starts the files anew.

    Attributes:
        phase: number of the run's phase, told in every record and line from then on; None where it has but one.

    Raises:
        ValueError: log_every or total_steps below 1.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        total_steps: int,
        enabled: bool,
        log_every: int,
        flops_per_token: float | None = None,
        start_step: int = 0,
    ) -> None:
        if log_every < 1 or total_steps < 1:
            raise ValueError(f"log_every and steps must be 1 or more; got {log_every=}, steps={total_steps}")
        self.folder, self.enabled = Path(folder), enabled
        self.total_steps, self.log_every, self.flops_per_token = total_steps, log_every, flops_per_token
        self.phase: int | None = None
        if not enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read_metrics(self.folder / METRICS) if r["step"] <= start_step] if start_step else []
        self._file = _reopen(self.folder / METRICS, kept)
        self._board = _summary_writer(self.folder / "tensorboard", purge_step=start_step + 1)
        self._bar = None
        if sys.stderr.isatty():
            layout = "{n_fmt}/{total_fmt} {bar} [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(total=total_steps, initial=start_step, bar_format=layout, dynamic_ncols=True, leave=True)
        self._started = self._window_started = time.perf_counter()
        self._paused = 0.0
        self._step = start_step
        self._clear_window()

    def _clear_window(self) -> None:
        self._sums: dict[str, float | Tensor] = {}
        self._updates = 0
        self._window_started, self._paused = time.perf_counter(), 0.0

    def train(
        self,
        step: int,
        loss: float | Tensor,
        nll: float | Tensor | None,
        tokens: int | Tensor,
        learning_rate: float,
        grad_norm: float | Tensor | None = None,
        *,
        real_tokens: int | Tensor | None = None,
    ) -> None:
        """Takes in one update. Tensors may still be under way on their device; they are not read here.

        Args:
            step: number of the update, 1-based.
            loss: mean over the target tokens of the update, what is minimised.
            nll: negative log-likelihood in nats per target token, without label smoothing; perplexity is its exp.
            tokens: target tokens of the update over all processes, the weight of `loss` and `nll`.
            learning_rate: used by this update.
            grad_norm: before clipping.
            real_tokens: tokens that speed and FLOP/s count, source included and padding not; `tokens` by default.
        """
        if not self.enabled:
            return
        self._step = step
        self._updates += 1
        self._add("tokens", tokens)
        self._add("real_tokens", tokens if real_tokens is None else real_tokens)
        self._add("loss", loss, tokens)
        if nll is not None:
            self._add("nll", nll, tokens)
        if grad_norm is not None:
            self._add("grad_norm", grad_norm)
        if self._bar is not None:
            self._bar.update()
        if step == 1 or step % self.log_every == 0 or step == self.total_steps:
            self._record_window(step, learning_rate)

    def _add(self, name: str, value: float | Tensor, weight: float | Tensor = 1) -> None:
        if isinstance(value, Tensor):
            value = value.detach().float()
        self._sums[name] = self._sums.get(name, 0.0) + value * weight

    def _record_window(self, step: int, learning_rate: float) -> None:
        sums = {name: float(value) for name, value in self._sums.items()}  # the one wait for the device
        seconds = max(time.perf_counter() - self._window_started - self._paused, 1e-9)
        tokens = max(sums["tokens"], 1.0)
        values = {"loss": sums["loss"] / tokens}
        if "nll" in sums:
            values["nll"] = sums["nll"] / tokens
            values["perplexity"] = _exp(values["nll"])
        values["learning_rate"] = float(learning_rate)
        if "grad_norm" in sums:
            values["grad_norm"] = sums["grad_norm"] / self._updates
        values["tokens_per_second"] = sums["real_tokens"] / seconds
        if self.flops_per_token is not None:
            values["flops_per_second"] = values["tokens_per_second"] * self.flops_per_token
        eta = (self.total_steps - step) * seconds / self._updates
        self._write("train", step, values)
        line = ("" if self.phase is None else f"phase {self.phase}  ") + _progress_line(values)
        if self._bar is not None:
            self._bar.set_postfix_str(line, refresh=False)
        else:
            logger.info("step %d/%d  %s  ETA %s", step, self.total_steps, line, tqdm.format_interval(eta))
        self._clear_window()

    def validation(self, step: int, metrics: Mapping[str, float | Tensor]) -> None:
        """Records the numbers measured after `step` updates."""
        if not self.enabled:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self._write("validation", step, values)
        place = f"step {step}" if self.phase is None else f"step {step}, phase {self.phase}"
        line = f"validation at {place}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            logger.info("%s", line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it (validation, saving) the clock of tokens/s and ETA stands still."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.enabled:
                self._paused += time.perf_counter() - began

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        seconds = round(time.perf_counter() - self._started, 3)
        place: dict[str, Any] = {"kind": kind, "step": step} | ({"phase": self.phase} if self.phase else {})
        self._file.write(json.dumps({**place, **finite, "seconds": seconds}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the files and draws `loss.png`; a second call does nothing."""
        if not self.enabled or self._file.closed:
            return
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
        draw_losses(self.folder)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def flops_per_token(model: PreTrainedModel, source_share: float = 0.0) -> float:
    """Model FLOPs of training on one real token, forward and backward: 6 for each weight that multiplies it.

    A source token passes the encoder; a target token the decoder (cross-attention wholly counted there) and the output
    head, tied or not. Looking up embeddings and the products of attention scores are not counted, as usual.

    Args:
        model: without wrappers.
        source_share: the encoder's share of the tokens; 0 for a model that is no encoder-decoder.
    """

    def weights(part: nn.Module) -> int:
        return sum(module.weight.numel() for module in part.modules() if isinstance(module, nn.Linear))

    encoder = weights(model.get_encoder()) if model.config.is_encoder_decoder else 0
    return 6.0 * (source_share * encoder + (1.0 - source_share) * (weights(model) - encoder))


def read_metrics(file: Path | str) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none if it is missing; a last line cut short by a kill is left out."""
    file = Path(file)
    records = []
    for line in file.read_text(encoding="utf-8").split("\n") if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record and "kind" in record:
            records.append(record)
    return records


def _reopen(file: Path, records: list[dict[str, Any]]) -> Any:
    """Opens the file for appending after exactly these records, replaced in one go."""
    fresh = file.with_suffix(".partial")
    fresh.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.replace(fresh, file)
    return open(file, "a", encoding="utf-8")


def _summary_writer(folder: Path, *, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard files: tensorboard is not installed (pip install '%s')", EXTRA)
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


def _progress_line(values: Mapping[str, float]) -> str:
    parts = [f"loss {values['loss']:.3f}"]
    if "nll" in values:
        parts.append(f"nll {values['nll']:.3f} ppl {values['perplexity']:.4g}")
    parts += [f"{tqdm.format_sizeof(values['tokens_per_second'])} tok/s"]
    if "flops_per_second" in values:
        parts.append(f"{tqdm.format_sizeof(values['flops_per_second'])}FLOP/s")
    return " ".join(parts)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def draw_losses(folder: Path | str) -> Path | None:
    """Draws `loss.png` from a folder's `metrics.jsonl`: training and validation loss, BLEU on an axis of its own, and
    below them the learning rate.

    Returns:
        The image; None where matplotlib is missing (one info line), nothing was recorded, or drawing failed (a warning:
        a picture must not end a run).
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError:
        logger.info("no %s: matplotlib is not installed (pip install '%s')", LOSS_IMAGE, EXTRA)
        return None
    records = read_metrics(Path(folder) / METRICS)
    if not records:
        return None
    figure = Figure(figsize=(8, 5.5), dpi=120, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.set_ylabel("nats per target token")
    below.set(xlabel="updates", ylabel="learning rate")
    _draw(below, records, "train", "learning_rate", color="tab:gray", linewidth=1.5)
    drawn = [
        _draw(axes, records, "train", "loss", color="tab:blue", linewidth=1, alpha=0.5),
        _draw(axes, records, "train", "nll", color="tab:blue", linewidth=1.5),
        _draw(axes, records, "validation", "loss", color="tab:orange", marker="o", markersize=3, alpha=0.5),
        _draw(axes, records, "validation", "nll", color="tab:orange", marker="o", markersize=3),
    ]
    if any(record.get("bleu") is not None for record in records):
        right = axes.twinx()
        right.set_ylabel("BLEU")
        drawn.append(_draw(right, records, "validation", "bleu", color="tab:green", marker="s", markersize=3))
        right.set_ylim(bottom=0)  # after drawing: before it, the top would stay at 1
    lines = [line for line in drawn if line is not None]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    below.grid(alpha=0.3)
    below.set_ylim(bottom=0)
    try:
        figure.savefig(Path(folder) / LOSS_IMAGE)
    except (OSError, ValueError) as error:
        logger.warning("%s was not drawn: %s", LOSS_IMAGE, error)
        return None
    return Path(folder) / LOSS_IMAGE


def _draw(axes: Any, records: list[dict[str, Any]], kind: str, name: str, **style: Any) -> Any:
    points = [(r["step"], r[name]) for r in records if r["kind"] == kind and r.get(name) is not None]
    if not points:
        return None
    label = {"nll": "token NLL", "bleu": "BLEU"}.get(name, name.replace("_", " "))
    (line,) = axes.plot(*zip(*points, strict=True), label=f"{kind} {label}", **style)
    return line


def environment() -> dict[str, Any]:
    """Versions, commit and hardware for `run.json`; no path, host or user name.

    `commit` is the package's own checkout's ("-dirty" when files differ from it), None when it was installed.
    """
    from vaswani_transformer import __version__

    versions = {"vaswani-transformer": __version__}  # also where the checkout is not installed
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": _commit(),
        "cpu": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cuda": torch.version.cuda if gpus else None,
    }


def _commit() -> str | None:
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None  # installed in an environment that lies inside somebody's repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
