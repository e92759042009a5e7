"""The one training loop, for every family, on Accelerate: data, model, update, validation, checkpoint, result."""

import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from . import checkpoints
from .averaging import average_checkpoints
from .background_save import BackgroundSave, snapshot
from .data.token_batches import EpochBatches
from .engines import OPTIMIZER, engine_for
from .families import build_model, checkpoint_activations, family_of
from .number_watch import watch_for
from .optim import EMA, build_optimizer, build_schedule
from .peers import Peers
from .phases import Phase, check_lengths, phase_at, phases_of, prepare_data, saved_phase
from .progress import Progress
from .random_state import random_state, set_random_state
from .recipe import Recipe
from .run_folder import RUN, UNDER_WAY, starting_point
from .run_log import RunLog, environment, flops_per_token
from .shared_save import save_together
from .stop_requests import leave_stopping_to_the_parent, stop_requests
from .world import describe_world, start_world

logger = logging.getLogger(__name__)

BEFORE_ENGINES = {"split": "one device", "processes": 1}  # of a checkpoint that does not say who wrote it
AGREE_EVERY = 10  # updates; agreeing makes the CPU wait for the GPU


class Training:
    """One run: what is prepared once, and the steps of the loop as methods.

    Args:
        recipe: the run.
        resume: go on from the newest complete checkpoint in the recipe's output folder.

    Raises:
        ValueError: a recipe that the model, the data or the folder contradicts.
    """

    def __init__(self, recipe: Recipe, *, resume: bool = False) -> None:
        self.recipe, self.output = recipe, Path(recipe.output)
        self.checkpoint = starting_point(self.output, resume=resume)
        self.family = family_of(recipe.model, self.checkpoint)
        self._check_metrics()
        self.accelerator = start_world(recipe)
        self.peers = Peers.of(self.accelerator)
        accumulation = max(one.batch.accumulation for one in recipe.by_phase())
        self.engine = engine_for(self.accelerator, recipe, accumulation=accumulation)
        set_seed(recipe.seed)
        with self.accelerator.main_process_first():  # the others find its cache
            self.data_by_phase = prepare_data(self.family, recipe, checkpoint=self.checkpoint)
        self.data = self.data_by_phase[0]
        self.fingerprint = " ".join(data.fingerprint for data in self.data_by_phase)
        model = build_model(self.family, recipe.model, self.data.tokenizer, checkpoint=self.checkpoint)
        check_lengths(self.data_by_phase, model.config)
        model.to(self.accelerator.device)  # pyright: ignore[reportArgumentType] (its stub wants one fixed signature)
        self.progress = self._saved_progress()
        self.phases = phases_of(recipe, recipe.steps)
        self.phase = saved_phase(self.phases, self.progress.phase)
        self.data = self.data_by_phase[self.phase.number - 1]
        self.watch = watch_for(recipe, self.accelerator, self.data_by_phase)
        if recipe.gradient_checkpointing:
            checkpoint_activations(model)
        if recipe.compile:
            model.compile(dynamic=True)
        self.parameters = model.num_parameters()
        self.flops_per_token = flops_per_token(model, self.data.source_share)
        self.engine.prepare(model, build_optimizer(model, recipe.optimizer))
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.schedule = self._build_schedule(self.engine.base, model.config)
        self.ema = EMA(self.bare_model, recipe.ema_decay) if recipe.ema_decay else None
        self.background = BackgroundSave()
        self.averaged: dict[str, Tensor] | None = None  # the last checkpoints' mean, at the end
        if self.checkpoint is not None:
            self._load_state(self.checkpoint)
        self._set_random_state()

    @property
    def bare_model(self) -> PreTrainedModel:
        """The model without the wrappers of data parallelism."""
        return self.engine.bare_model

    # ------------------------------------------------------------------------------------------------ preparation

    def _check_metrics(self) -> None:
        unknown = [name for name in self.recipe.validate.metrics if name != "loss" and name not in self.family.metrics]
        if unknown:
            known = ["loss", *self.family.metrics]
            raise ValueError(f"validate.metrics of this model family are {', '.join(known)}; got {unknown}")

    def _saved_progress(self) -> Progress:
        if self.checkpoint is None:
            return Progress(steps=self.recipe.steps)
        state = checkpoints.read_state(self.checkpoint)
        self._tell_changes(state)
        progress = Progress(**state["progress"])
        if self.recipe.minutes is None:
            progress.steps = self.recipe.steps
        return progress

    def _build_schedule(self, optimizer: Any, config: Any) -> LambdaLR:
        recipe = self.phase.recipe
        steps = self.phase.schedule_steps if recipe.minutes is None else lambda: self.progress.steps
        return build_schedule(optimizer, recipe.schedule, recipe.optimizer, d_model=config.hidden_size, steps=steps)

    def _load_state(self, checkpoint: Path) -> None:
        """Takes optimiser, schedule and average from the checkpoint; weights and progress are there already."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.engine.base.param_groups]
        self.engine.load(checkpoint, checkpoints.read_state(checkpoint).get("engine", BEFORE_ENGINES))
        self.schedule.load_state_dict(checkpoints.load_tensors(checkpoint / OPTIMIZER)["schedule"])
        for group, setting in zip(self.engine.base.param_groups, settings, strict=True):  # the recipe's, if it changed
            group.update(setting, lr=self.schedule.lr_lambdas[0](self.schedule.last_epoch))
        if self.ema is not None:
            self.ema.load_state_dict(checkpoints.load_tensors(checkpoint / "ema.pt"))
        logger.info("going on from %s", checkpoint)
        if self.progress.step >= self.progress.steps:
            logger.warning("nothing left to train: saved at step %d, steps=%d", self.progress.step, self.progress.steps)

    def _set_random_state(self) -> None:
        if self.checkpoint is None:
            set_seed(self.recipe.seed, device_specific=True)  # dropout differs between processes
            return
        states = checkpoints.load_tensors(self.checkpoint / "random.pt")
        here = self.accelerator.num_processes
        try:
            if len(states) != here:
                raise ValueError(f"saved by {len(states)} processes, resumed by {here}")
            set_random_state(states[self.accelerator.process_index])
        except ValueError as error:
            logger.warning("dropout starts anew, the order of the data does not: %s", error)
            set_seed(self.recipe.seed + self.progress.step, device_specific=True)

    def _tell_changes(self, state: dict[str, Any]) -> None:
        saved, now = state["recipe"], json.loads(json.dumps(self.recipe.to_dict()))
        for key in sorted(now.keys() | saved.keys()):
            if now.get(key) != saved.get(key):
                logger.warning("resuming with another %s: saved with %s, now %s", key, saved.get(key), now.get(key))
        if state.get("data", self.fingerprint) != self.fingerprint:
            logger.warning("resuming on other data: its text, or what is left out of it, has changed")

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> Path:
        """Trains to the last step (or until validation stops improving), and writes the result.

        Returns:
            The output folder: a model that `from_pretrained` loads, `run.json`, `metrics.jsonl`, `loss.png`.
        """
        recipe, progress = self.recipe, self.progress
        if self.accelerator.is_main_process:
            (self.output / RUN).unlink(missing_ok=True)  # of a finished run that is to go on for more steps
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / UNDER_WAY).touch()
        log = RunLog(
            self.output,
            total_steps=progress.steps,
            enabled=self.accelerator.is_main_process,
            log_every=recipe.log_every,
            flops_per_token=self.flops_per_token,
            start_step=progress.step,
        )
        saved_at, began = time.monotonic(), time.monotonic() - progress.seconds
        with log, stop_requests() as stop, self.peers.named(), self.background:
            for micro_batches, target_tokens, real_tokens in self.updates():
                log.phase = progress.phase if len(self.phases) > 1 else None
                skipped = progress.skipped
                losses, grad_norm, rate = self.update(micro_batches, target_tokens)
                progress.step += 1
                progress.position += 1
                progress.tokens += target_tokens
                progress.real_tokens += real_tokens
                progress.seconds = time.monotonic() - began
                stopping, minutes_over, progress.steps = self._agree(bool(stop), self._minutes_over(saved_at))
                log.total_steps = progress.steps
                if progress.skipped == skipped:
                    log.train(
                        progress.step, losses[0], losses[1], target_tokens, rate, grad_norm, real_tokens=real_tokens
                    )
                with log.paused():
                    if self._due(recipe.validate.every_steps):
                        log.validation(progress.step, self.validate())
                    if stopping or minutes_over or self._due(recipe.save.every_steps):
                        self.save(background=recipe.save.background and not stopping)
                        saved_at = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt(f"stopped after step {progress.step}; --resume goes on from there")
                if self._out_of_patience():
                    logger.info("no better %s for %d validations: stopping", recipe.validate.best, progress.stale)
                    break
            self.finish(log)
        return self.output

    def updates(self) -> Iterator[tuple[list[dict[str, Tensor]], int, int]]:
        """One update after another, from where the run stands to its last step: this process's micro batches, and the
        target and real tokens of all processes.
        """
        progress = self.progress
        while progress.step < progress.steps and not self._out_of_patience():
            self._enter(phase_at(self.phases, progress.step))
            batches = self._epoch_batches(progress.epoch)
            for update in DataLoader(
                batches,
                batch_size=None,
                sampler=range(progress.position, len(batches)),
                num_workers=self.recipe.loader_workers,
                worker_init_fn=leave_stopping_to_the_parent,
                pin_memory=self.accelerator.device.type == "cuda",
                # A generator of its own: drawing the workers' seed from the global one would change dropout.
                generator=torch.Generator(),
            ):
                yield update
                if progress.step >= min(progress.steps, self.phase.end):
                    break
            if progress.position == len(batches):  # else a longer run goes on inside the epoch
                progress.epoch, progress.position = progress.epoch + 1, 0

    def _enter(self, phase: Phase) -> None:
        """Goes on in a phase, where the run is not there yet: with its data in a new epoch, and its schedule."""
        progress = self.progress
        if phase.number == progress.phase:
            return
        self.phase, progress.phase, self.data = phase, phase.number, self.data_by_phase[phase.number - 1]
        progress.epoch, progress.position = progress.epoch + (progress.position > 0), 0
        progress.best = progress.best_step = None
        progress.stale = 0
        if phase.starts_schedule:
            self.schedule = self._build_schedule(self.engine.base, self.bare_model.config)
        logger.info("phase %d of %d, updates %d to %d", phase.number, len(self.phases), phase.start + 1, phase.end)

    def _epoch_batches(self, epoch: int) -> EpochBatches:
        world, accumulation = self.accelerator.num_processes, self.phase.recipe.batch.accumulation
        wanted = range(self.accelerator.process_index, world * accumulation, world)
        return EpochBatches(self.data, self.data.epoch(epoch), world * accumulation, wanted)

    def update(
        self, micro_batches: list[dict[str, Tensor]], target_tokens: int
    ) -> tuple[Tensor, float | Tensor | None, float]:
        """One update of the weights: the gradient of the mean loss over the target tokens of the whole world.

        Args:
            micro_batches: this process's share.
            target_tokens: targets of the update in all processes; the denominator of every micro batch's loss.

        Returns:
            Loss and negative log-likelihood per target token [2], the gradient's norm before clipping, and the
            learning rate that was used.

        Raises:
            ValueError: a number that is not finite, see `NumberWatch`.
        """
        losses = self._sum(self._gradients(micro_batches, target_tokens))
        rate = float(self.engine.base.param_groups[0]["lr"])
        grad_norm = self.engine.clip()
        if self.watch.passes(self.progress, losses, grad_norm):
            grad_norm = self.engine.step(grad_norm)
            if not self.accelerator.optimizer_step_was_skipped:  # fp16 skips an update whose gradient overflowed
                self.schedule.step()
                if self.ema is not None:
                    self.ema.update(self.bare_model)
        self.optimizer.zero_grad(set_to_none=True)
        return losses, grad_norm, rate

    def _gradients(self, micro_batches: list[dict[str, Tensor]], target_tokens: int) -> Tensor:
        """Computes an update's gradients; returns this process's share of loss and negative log-likelihood [2]."""
        self.model.train()
        losses = torch.zeros(2, device=self.accelerator.device)
        for number, batch in enumerate(micro_batches, 1):
            with self.engine.micro_batch(last=number == len(micro_batches)):
                outputs = self.model(**self._to_device(batch), num_items_in_batch=target_tokens)
                self.engine.backward(outputs.loss)
            losses += torch.stack((outputs.loss.detach(), outputs.nll_loss.detach()))
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measures the recipe's metrics on the validation text, keeps the best model, counts the stale ones."""
        recipe, progress = self.recipe.validate, self.progress
        averaged = self.ema.swapped(self.bare_model) if self.ema is not None else nullcontext()
        # A search has another shape at every token: compiling them all would take longer than validating.
        with averaged, torch.compiler.set_stance("force_eager" if self.recipe.compile else "default"):
            metrics = self._validation_loss() if "loss" in recipe.metrics else {}
            for name in recipe.metrics:
                if name != "loss":
                    metrics |= self.family.metrics[name](self.model, self.data, recipe.limit)
            value = metrics["nll" if recipe.best == "loss" else recipe.best]
            sign = -1.0 if recipe.best == "loss" else 1.0
            better = math.isfinite(value) and (progress.best is None or sign * value > sign * progress.best)
            progress.stale = 0 if better else progress.stale + 1
            progress.validation = metrics
            if better:
                progress.best, progress.best_step = value, progress.step
                self._write_best()
        return metrics

    def _validation_loss(self) -> dict[str, float]:
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        batches, world = self.data.validation_batches(), self.accelerator.num_processes
        rounds = -(-len(batches) // world)  # as many forwards on every process: split weights are gathered by all
        for number in range(self.accelerator.process_index, rounds * world, world):
            batch = self._to_device(self.data.validation_micro_batch(batches[min(number, len(batches) - 1)]))
            outputs = self.bare_model(**batch, num_items_in_batch=1, return_logits=False)
            targets = batch["shift_labels"] if "shift_labels" in batch else batch["labels"]
            if number < len(batches):
                sums += torch.stack((outputs.loss, outputs.nll_loss, targets.ne(-100).sum())).double()
        loss, nll, tokens = self._sum(sums).tolist()
        return {"loss": loss / tokens, "nll": nll / tokens, "perplexity": math.exp(min(nll / tokens, 700.0))}

    def _out_of_patience(self) -> bool:
        patience = self.recipe.validate.patience
        return patience is not None and self.progress.stale >= patience

    # ------------------------------------------------------------------------------------------------ saving

    def save(self, *, background: bool = False) -> None:
        """Writes a checkpoint from which the run goes on to the same weights.

        Args:
            background: copy the state and return; it is written beside the training. No part of it may lie in other
                processes.

        Raises:
            ValueError: a weight is not finite; the earlier checkpoints stay as they are. Of a save in the background
                the next one raises it.
        """
        self.watch.look(self.progress)
        step, states, weights = self.progress.step, gather_object([random_state()]), self.engine.weights()
        tensors: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            tensors = {OPTIMIZER: self.engine.state_dict() | {"schedule": self.schedule.state_dict()}}
            tensors |= {"random.pt": states} | ({} if self.ema is None else {"ema.pt": self.ema.state_dict()})
            weights, tensors = snapshot((weights, tensors)) if background else (weights, tensors)
        state = {"progress": dataclasses.asdict(self.progress), "recipe": self.recipe.to_dict()}
        state |= {"data": self.fingerprint, "engine": self.engine.description()}

        def rest(folder: Path) -> None:
            self._check_finite(weights.values(), "every weight", step)
            self._write_model(folder, weights)
            for name, value in tensors.items():
                torch.save(value, folder / name)
            checkpoints.write_state(folder, state)

        def stage(write: Callable[[Path], None]) -> None:
            whole = functools.partial(
                checkpoints.save_checkpoint, self.output / "checkpoints", step, keep=self.recipe.save.keep
            )
            if background:
                self.background.start(lambda: whole(write=rest))
                return
            self.background.wait()
            whole(write=write)

        save_together(self.accelerator, stage=stage, part=self.engine.save_shard, rest=rest)

    def _write_best(self) -> None:
        weights = self._final_weights()
        if self.accelerator.is_main_process:

            def write(folder: Path) -> None:
                self._write_model(folder, weights)

            checkpoints.replace_folder(self.output / "best", write=write, step=self.progress.step)

    def _final_weights(self) -> dict[str, Tensor]:
        return self.engine.weights() if self.averaged is None else self.averaged

    def _write_model(self, folder: Path, weights: Mapping[str, Any]) -> None:
        self.bare_model.save_pretrained(folder, state_dict=dict(weights))  # it empties the dictionary it is given
        self.data.tokenizer.save_pretrained(folder)

    def finish(self, log: RunLog) -> None:
        """Writes the last checkpoint, the final model (averaged where the recipe asks) and, last of all, `run.json`.

        A kill before its end loses nothing: `--resume` goes on from the last checkpoint and comes here again.
        """
        self.save()
        if self.ema is not None:
            self.ema.copy_to(self.bare_model)
        elif self.recipe.average_last > 1:
            self._average()
        if self.data.validation_batches():
            log.validation(self.progress.step, self.validate())
        weights = self._final_weights()
        if self.accelerator.is_main_process:
            self._write_model(self.output, weights)
            (self.output / RUN).write_text(json.dumps(self.summary(), indent=1) + "\n", encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (self.output / UNDER_WAY).unlink()

    def _average(self) -> None:
        """Loads the mean of the last checkpoints' weights into the model, section 6.1."""
        if self.accelerator.is_main_process:
            last = checkpoints.last_checkpoints(self.output / "checkpoints", self.recipe.average_last)
            average_checkpoints(last, self.output)
        self.accelerator.wait_for_everyone()
        averaged = self.family.model.from_pretrained(self.output, dtype=torch.float32)
        self.averaged = dict(averaged.state_dict())
        self.engine.load_weights(self.averaged)

    def summary(self) -> dict[str, Any]:
        """What `run.json` holds: the resolved recipe, the data, the machine and the results."""
        return {
            "recipe": self.recipe.to_dict(),
            "data": {"fingerprint": self.fingerprint, "counts": self.data.counts},
            "phases": [
                {"start": phase.start, "end": phase.end, "counts": data.counts}
                for phase, data in zip(self.phases, self.data_by_phase, strict=True)
            ],
            "parameters": self.parameters,
            "training_flops": self.flops_per_token * self.progress.real_tokens,
            "processes": self.accelerator.num_processes,
            "world": describe_world(self.accelerator, self.recipe),
            "environment": environment(),
            "results": dataclasses.asdict(self.progress),
        }

    # ------------------------------------------------------------------------------------------------ small things

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def _sum(self, mine: Tensor) -> Tensor:
        total = self.accelerator.reduce(mine, "sum")
        assert isinstance(total, Tensor)
        return total

    def _check_finite(self, values: Iterable[Tensor], what: str, step: int) -> None:
        if not all(bool(value.isfinite().all()) for value in values):
            raise ValueError(
                f"{what} must stay finite; got nan or inf at step {step}: lower the learning rate "
                "(schedule.scale) or set optimizer.max_grad_norm; nothing was saved over the last checkpoint"
            )

    def _due(self, every_steps: int | None) -> bool:
        return (
            every_steps is not None
            and self.progress.step % every_steps == 0
            and self.progress.step < self.progress.steps
        )

    def _minutes_over(self, saved_at: float) -> bool:
        minutes = self.recipe.save.every_minutes
        return minutes is not None and time.monotonic() - saved_at >= 60.0 * minutes

    def _planned_steps(self) -> int:
        """The recipe's steps, or as many as its minutes hold at the pace so far: the schedule ends with the time."""
        recipe, progress = self.recipe, self.progress
        if recipe.minutes is None:
            return progress.steps
        seconds = max(progress.seconds, 1e-9)  # a coarse clock may not have moved
        return max(progress.step, min(recipe.steps, int(progress.step * 60.0 * recipe.minutes / seconds)))

    def _agree(self, stopping: bool, saving: bool) -> tuple[bool, bool, int]:
        """Whether any process is to stop, and the main one's wish to save and plan of steps, in every process; between
        two agreements of several GPUs no to both, and the plan as it was.
        """
        answers = (stopping, saving, self._planned_steps())
        if self.accelerator.num_processes == 1:
            return answers
        if self.accelerator.device.type != "cpu" and self.progress.step % AGREE_EVERY:
            return False, False, self.progress.steps
        mine = answers if self.accelerator.is_main_process else (stopping, 0, 0)
        stop, save, steps = self._sum(torch.tensor(mine, dtype=torch.float64, device=self.accelerator.device)).tolist()
        return stop > 0, save > 0, int(steps)


def train(recipe: Recipe, *, resume: bool = False) -> Path:
    """Trains what a recipe describes; under `accelerate launch`, on all its processes.

    Args:
        recipe: from `recipe.load_recipe`.
        resume: go on from the newest complete checkpoint of the recipe's output folder, if there is one.

    Returns:
        The output folder.

    Raises:
        ValueError: a setting, a file or a folder that does not fit; the message says which and what would.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    return Training(recipe, resume=resume).run()
