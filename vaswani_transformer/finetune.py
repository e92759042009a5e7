"""Fine-tuning of a BERT or a GPT on labelled rows, through transformers' Trainer.

BERT's is section 3.2 of Devlin et al. (2018), GPT's section 3.2 of Radford et al. (2018).
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from . import models
from .data.classification import ClassificationData
from .data.gpt_inputs import GPTClassificationData, GPTMultipleChoiceData, add_special_tokens
from .data.hold_out import split_rows
from .data.labelled_rows import Row, read_labelled_rows
from .data.multiple_choice import MultipleChoiceData
from .data.question_answering import QuestionAnsweringData
from .data.token_labels import TokenLabelsData
from .data.tokenizer_cache import digest, load_tokenizer
from .evaluation.finetuning import check_metrics, score_of
from .families import FAMILIES, build_model
from .finetune_recipe import FinetuneRecipe
from .loss_parts import PartsTrainer
from .models import VaswaniGPTTokenizer
from .models.losses import span_loss
from .optim import build_optimizer, build_schedule
from .run_folder import RUN, check_unused
from .run_log import METRICS as METRICS_FILE
from .run_log import environment
from .sections import read_section, unknown_name

logger = logging.getLogger(__name__)

TASKS: dict[str, dict[str, Any]] = {
    "bert": {
        "classification": ClassificationData,
        "regression": ClassificationData,
        "multi-label": ClassificationData,
        "token-labels": TokenLabelsData,
        "question-answering": QuestionAnsweringData,
        "multiple-choice": MultipleChoiceData,
    },
    "gpt": {
        "classification": GPTClassificationData,
        "regression": GPTClassificationData,
        "multi-label": GPTClassificationData,
        "multiple-choice": GPTMultipleChoiceData,
    },
}
MODEL_TYPES = {"vaswani-bert": "bert", "bert": "bert", "vaswani-gpt": "gpt", "gpt2": "gpt", "openai-gpt": "gpt"}
# Trainer passes over a missing one of these in silence and goes on with another optimiser, or other dropout.
CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors")


class Features(Dataset):
    """A list of features as the data set that Trainer wants."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


@dataclass(frozen=True)
class LabelledData:
    """The rows of a recipe and the data module of its task."""

    module: Any
    train: list[Row]
    validation: list[Row]


def load_data(section: Mapping[str, Any], family: str = "bert") -> LabelledData:
    """Reads the rows that a recipe's `data` section names, and holds some back where it says so.

    Args:
        section: the recipe's `data`.
        family: whose inputs the data module makes of them.

    Raises:
        ValueError: a task that the family does not have, what its options and the rows' reader refuse.
    """
    task, known = section.get("task"), TASKS[family]
    if task not in known:
        raise ValueError(unknown_name(str(task), list(known), f"data.task of {family}"))
    options = read_section(known[task].Options, section, where="data")
    rows, declared = read_labelled_rows(options, "train")
    train, held = split_rows(rows, options, whole_sentences=getattr(options, "whole_sentences", None))
    if "validation" in (options.files or options.splits or {}):
        held, _ = read_labelled_rows(options, "validation")
    return LabelledData(known[task](options, train, declared), train, held)


def model_type_of(section: Mapping[str, Any]) -> str:
    """The model type that a recipe's `model` starts from, or that of its family: a key of MODEL_TYPES.

    Raises:
        ValueError: a `from` that is no BERT and no GPT, ours or transformers'.
    """
    source = section.get("from")
    if source is None:
        return FAMILIES[section["family"]].config.model_type
    try:
        model_type = AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"model.from must name a model's folder or Hub repository; got {source!r}") from error
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"model.from must be a BERT or a GPT ({', '.join(MODEL_TYPES)}); got {model_type!r} in {source!r}"
        )
    return model_type


def own_tokenizer(section: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that the weights were trained with; OpenAI's GPT-1 was with ours, transformers' has other ids.

    Raises:
        ImportError: GPT-1's without the extra [gpt1].
        ValueError: no tokenizer there.
    """
    if model_type_of(section) == "openai-gpt":
        return VaswaniGPTTokenizer.from_pretrained(section["from"])
    return load_tokenizer(section["from"])


def head_model(section: Mapping[str, Any], data: Any, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model of a task, in float32; a head that the checkpoint does not have is drawn anew.

    Args:
        section: the recipe's `model`.
        data: the task's data module.
        tokenizer: whose ids the model must know; for GPT it gets the tokens of its inputs here.

    Raises:
        ValueError: an unknown field, weights that do not fit the task, texts longer than the position table.
    """
    name = MODEL_TYPES[model_type_of(section)]
    family = dataclasses.replace(FAMILIES[name], model=getattr(models, data.model))
    model = build_model(family, {**section, **data.fields}, tokenizer)
    limit = model.config.max_position_embeddings
    if data.options.max_length > limit:
        raise ValueError(
            f"data.max_length must not exceed the model's max_position_embeddings={limit}; "
            f"got max_length={data.options.max_length}"
        )
    if name == "gpt":
        add_special_tokens(tokenizer, model)
    return model


def span_labels_loss(outputs: Any, labels: Tensor, num_items_in_batch: int | Tensor | None = None) -> Tensor:
    """The loss of `labels` [B, 2], start and end of each answer, right under accumulation.

    Trainer counts what it divides by in `labels`, and start and end have two names in the model. -100 is no answer.

    Args:
        outputs: of VaswaniBertForQuestionAnswering.
        labels: [B, 2].
        num_items_in_batch: labels in the whole accumulated batch, two an answer.
    """
    answers = None if num_items_in_batch is None else num_items_in_batch / 2
    starts, ends = labels.unbind(-1)
    return span_loss(outputs.start_logits, outputs.end_logits, starts, ends, answers)  # type: ignore[arg-type]


class RunRecord(TrainerCallback):
    """Writes what Trainer logs as records of `metrics.jsonl`, and a line of each to the log."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Takes in one record: of training where it has a loss, of validation where it has eval_loss."""
        values = logs or {}
        kind = "train" if "loss" in values else "validation" if "eval_loss" in values else None
        if not state.is_world_process_zero or kind is None:
            return
        named = {name.removeprefix("eval_"): value for name, value in values.items()}
        record = {"kind": kind, "step": state.global_step}
        record |= {name: value if math.isfinite(value) else None for name, value in named.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        told = " ".join(f"{name} {value:.4g}" for name, value in named.items() if name not in ("epoch",))
        logger.info("%d/%d %s: %s", state.global_step, state.max_steps, kind, told)


class RecipeTrainer(PartsTrainer):
    """Trainer with the optimiser and schedule it is given; under DeepSpeed it would make its own, in silence."""

    def __init__(self, *args: Any, optimizers: tuple[Any, Any], **kwargs: Any) -> None:
        self.given = optimizers
        super().__init__(*args, optimizers=optimizers, **kwargs)

    def create_optimizer(self, model: Any = None) -> Any:
        """The recipe's, once DeepSpeed has set it aside."""
        if self.optimizer is None:
            self.optimizer = self.given[0]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The recipe's.

        Raises:
            ValueError: the optimiser was exchanged for another, which the schedule does not reach.
        """
        if self.lr_scheduler is None:
            trained = optimizer or self.optimizer
            while hasattr(trained, "optimizer"):
                trained = trained.optimizer
            if trained is not self.given[0]:
                raise ValueError(
                    "fine-tuning keeps the recipe's own optimiser; DeepSpeed exchanged it for "
                    f"{type(trained).__name__}, as it does to offload: use training/deepspeed/zero3.json, without"
                )
            self.lr_scheduler = self.given[1]
        return self.lr_scheduler


def build_trainer(
    recipe: FinetuneRecipe, data: LabelledData, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Trainer:
    """The Trainer of a recipe: our optimiser, schedule and losses, its loop.

    Raises:
        ValueError: a batch that processes and accumulation do not divide, an unknown metric.
    """
    module, task = data.module, data.module.options.task
    check_metrics(task, recipe.validate.metrics)
    steps = recipe.steps or math.ceil((recipe.epochs or 0) * math.ceil(len(data.train) / (recipe.batch.sequences or 1)))
    optimizer = build_optimizer(model, recipe.optimizer)
    schedule = build_schedule(
        optimizer, recipe.schedule, recipe.optimizer, d_model=model.config.hidden_size, steps=steps
    )
    validation = Features(module.features(data.validation, tokenizer)) if data.validation else None
    trainer = RecipeTrainer(
        model=model,
        args=training_arguments(recipe, steps=steps, validates=validation is not None),
        train_dataset=Features(module.features(data.train, tokenizer)),
        eval_dataset=validation,
        data_collator=module.collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=score_of(module, data.validation, tokenizer, recipe.validate.metrics),
        compute_loss_func=span_labels_loss if task == "question-answering" else None,
        optimizers=(optimizer, schedule),
        callbacks=[RunRecord(Path(recipe.output) / METRICS_FILE)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output, which is for results
    trainer.remove_callback(ProgressCallback)
    return trainer


def training_arguments(recipe: FinetuneRecipe, *, steps: int, validates: bool) -> TrainingArguments:
    """What a recipe says in Trainer's words.

    Raises:
        ValueError: a batch that processes and accumulation do not divide; validations without validation rows.
    """
    every = recipe.validate.every_steps
    if every is not None and not validates:
        raise ValueError(
            f"validate.every_steps={every} needs validation rows; got none: name them in the recipe's data, or set "
            "data.hold_out"
        )
    # transformers 5.23 has a new name for it and warns of the old one.
    fields = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    recompute: dict[str, Any] = {name: True} if recipe.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(Path(recipe.output) / "checkpoints"),
        max_steps=steps,
        gradient_accumulation_steps=recipe.batch.accumulation,
        max_grad_norm=recipe.optimizer.max_grad_norm or 0.0,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        **recompute,
        seed=recipe.seed,
        dataloader_num_workers=recipe.loader_workers,
        logging_steps=recipe.log_every,
        eval_strategy="no" if every is None else "steps",
        eval_steps=every,
        save_strategy="no" if recipe.save.every_steps is None else "steps",
        save_steps=recipe.save.every_steps or 500,
        save_total_limit=recipe.save.keep,
        label_names=["labels"],
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    parts = recipe.batch.accumulation * arguments.world_size * max(1, arguments.n_gpu)
    if recipe.batch.sequences is None or recipe.batch.sequences % parts:
        raise ValueError(
            "batch.sequences must be a multiple of batch.accumulation times the processes; "
            f"got sequences={recipe.batch.sequences}, accumulation={recipe.batch.accumulation}, {parts} parts in all"
        )
    arguments.per_device_train_batch_size = recipe.batch.sequences // parts
    arguments.per_device_eval_batch_size = max(1, recipe.batch.sequences // parts)
    return arguments


def checkpoint_to_resume(output: Path) -> str | None:
    """Trainer's newest checkpoint; None where there is none yet.

    Raises:
        ValueError: a file of it is missing, which Trainer would pass over; a finished run.
    """
    if (output / RUN).exists():
        raise ValueError(f"resuming needs an unfinished run; got a finished one in output={output}")
    folder = output / "checkpoints"
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        logger.warning("nothing to resume in %s: starting anew", output)
        return None
    if missing := [name for name in CHECKPOINT_FILES if not (Path(found) / name).is_file()]:
        raise ValueError(f"resuming needs a whole checkpoint; got {found} without {', '.join(missing)}: remove it")
    return found


def last_validation(trainer: Trainer) -> dict[str, float]:
    """The results on the validation rows after the last update, measured unless Trainer just has."""
    history = [record for record in trainer.state.log_history if "eval_loss" in record]
    done = bool(history) and history[-1]["step"] == trainer.state.global_step
    results = history[-1] if done else trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in results.items() if name.startswith("eval_")}


def finetune(recipe: FinetuneRecipe, *, resume: bool = False) -> Path:
    """Fine-tunes what a recipe describes; under `accelerate launch`, on all its processes.

    Args:
        recipe: from `load_recipe(..., kind=FinetuneRecipe)`.
        resume: go on from the newest checkpoint of the output folder, if there is one.

    Returns:
        The output folder: a model that `from_pretrained` loads with its tokenizer, `run.json`, `metrics.jsonl`.

    Raises:
        ValueError: a setting, a row or a folder that does not fit; the message says which and what would.
    """
    output = Path(recipe.output)
    checkpoint = checkpoint_to_resume(output) if resume else check_unused(output)
    family = MODEL_TYPES[model_type_of(recipe.model)]
    set_seed(recipe.seed)
    data = load_data(recipe.data, family)
    named = recipe.tokenizer.get("from")
    tokenizer = load_tokenizer(named) if named else own_tokenizer(recipe.model)
    model = head_model(recipe.model, data.module, tokenizer)
    if checkpoint is None:
        (output / METRICS_FILE).unlink(missing_ok=True)
    trainer = build_trainer(recipe, data, model, tokenizer)
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - began
    results = last_validation(trainer) if data.validation else {}
    trainer.save_model(str(output))  # with the tokenizer
    if trainer.is_world_process_zero():
        summary = {
            "recipe": recipe.to_dict(),
            "data": {"train": len(data.train), "validation": len(data.validation), "labels": data.module.labels},
            "fingerprint": digest([data.train, data.validation]),
            "parameters": model.num_parameters(),
            "training_flops": trainer.state.total_flos,
            "processes": trainer.accelerator.num_processes,
            "environment": environment(),
            "results": {"steps": trainer.state.global_step, "seconds": seconds, "validation": results},
        }
        (output / RUN).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return output
