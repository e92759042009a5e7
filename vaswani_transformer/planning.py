"""What a training run needs before it is started: parameters, memory of each way to spread them, time and money.

From the recipe and the model's configuration alone: no weight, no text, no tokenizer is read.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .families import FAMILIES, Family, checkpoint_activations, family_of, planned_config
from .phases import Phase, check_length, phases_of
from .recipe import Recipe
from .run_log import flops_per_token
from .sections import above_zero, at_least, read_section
from .sharding import STRATEGIES, Sizes
from .traced_memory import Precision, step_memory

SENTENCE = 32  # tokens of a translated sentence; memory and time hardly depend on it
USABLE = 0.9  # of a card's memory: CUDA's own part and the allocator's gaps are not counted here
IGNORED = -100


@dataclass(frozen=True)
class Workload:
    """What one phase of a run asks of the GPU that has most to do.

    Args:
        updates: of the phase.
        tokens: of an update, all GPUs together, source and target.
        tokens_per_gpu: of an update, on this GPU.
        accumulation: micro batches of an update.
        rows: of one micro batch; a source and a target sentence are one.
        length: tokens of a row; of each sentence for translation.
        predictions: masked words of a row (BERT).
        documents: whether rows hold documents that do not see each other (GPT).
    """

    updates: int
    tokens: int
    tokens_per_gpu: int
    accumulation: int
    rows: int
    length: int
    predictions: int = 0
    documents: bool = False


@dataclass(frozen=True)
class Row:
    """A strategy's bytes on the GPU that holds most; see `sharding.Strategy`.

    Args:
        strategy: its name.
        weights: of the model.
        gradients: what is kept of them between micro batches.
        optimizer: its states, with the float32 weights it works on and the recipe's average of them.
        buffers: of communication, and (under ZeRO-3) the layers that are whole at a time.
        activations: the most that a micro batch's forward and backward pass take beside all these.
        total: the sum, or what the optimiser's step takes where that is more.
        host: bytes in the machine's own memory, for each GPU.
        fits: whether the total is within `USABLE` of the GPU's memory.
    """

    strategy: str
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    total: int
    host: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What `plan` found; sizes in bytes.

    Args:
        model: preset, `from` or family.
        parameters: exact for the configuration; tied weights once.
        gpus: as given.
        memory: of one GPU, as given.
        precision: the recipe's.
        checkpointing: the recipe's `gradient_checkpointing`.
        phases: what each asks of a GPU.
        rows: for each strategy, in the phase whose micro batches are largest.
        tokens: of the whole run.
        flops_per_token: of training, as the loop counts them.
        flops: of the whole run.
        hours: None without the GPU's speed.
        dollars: None without a price.
    """

    model: str
    parameters: int
    gpus: int
    memory: int
    precision: str
    checkpointing: bool
    phases: list[Workload]
    rows: list[Row]
    tokens: int
    flops_per_token: float
    flops: float
    hours: float | None
    dollars: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values."""
        return dataclasses.asdict(self)


def plan(
    recipe: Recipe,
    *,
    gpus: int,
    memory: int,
    flops_per_gpu: float | None = None,
    price: float | None = None,
) -> Plan:
    """Plans a pre-training run.

    Args:
        recipe: the run's. Its `minutes` are not looked at: the run is as long as its `steps`.
        gpus: GPUs, of which each is a process.
        memory: bytes of one GPU.
        flops_per_gpu: model FLOP/s that one GPU reaches: its peak times the share of it that is used (MFU).
        price: dollars of one GPU for one hour.

    Raises:
        ValueError: a number out of range, a price without a speed, a bad model or data section, rows that are longer
            than the model's position table.
    """
    at_least(1, gpus=gpus, memory=memory)
    above_zero(flops_per_gpu=flops_per_gpu, price=price)
    if price is not None and flops_per_gpu is None:
        raise ValueError(f"price needs flops_per_gpu, or there are no hours to pay; got {price=}, flops_per_gpu=None")
    family = family_of(recipe.model)
    config = planned_config(family, recipe.model, recipe.tokenizer.get("vocab_size"))
    phases = [
        _workload(family, config, phase, gpus) for phase in phases_of(recipe, recipe.steps) if phase.end > phase.start
    ]
    with torch.device("meta"):
        model = family.model(config)
    sizes = sizes_of(model, gpus=gpus, half=recipe.precision != "fp32", ema=recipe.ema_decay is not None)
    per_token = flops_per_token(model, _source_share(recipe))
    tokens = sum(one.updates * one.tokens for one in phases)
    hours = None
    if flops_per_gpu is not None:
        hours = sum(one.updates * one.tokens_per_gpu for one in phases) * per_token / flops_per_gpu / 3600
    return Plan(
        model=str(recipe.model.get("preset") or recipe.model.get("from") or recipe.model["family"]),
        parameters=sizes.parameters,
        gpus=gpus,
        memory=memory,
        precision=recipe.precision,
        checkpointing=recipe.gradient_checkpointing,
        phases=phases,
        rows=_rows(family, config, phases, sizes, checkpointing=recipe.gradient_checkpointing, memory=memory),
        tokens=tokens,
        flops_per_token=per_token,
        flops=tokens * per_token,
        hours=hours,
        dollars=None if hours is None or price is None else hours * gpus * price,
    )


def sizes_of(model: PreTrainedModel, *, gpus: int, half: bool, ema: bool) -> Sizes:
    """Counts what is spread: all parameters, those of the largest layer, those outside of layers.

    Args:
        model: on any device, also "meta".
        gpus: that they are spread over.
        half: whether it is trained in bf16 or fp16.
        ema: whether an average of the weights is kept.
    """
    blocks = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or [])]
    counts = [sum(weight.numel() for weight in block.parameters()) for block in blocks]
    weights = list(model.parameters())
    matrices = tuple(weight.numel() for weight in weights if weight.ndim >= 2)  # as `build_optimizer` has its groups
    others = tuple(weight.numel() for weight in weights if weight.ndim < 2)
    outside = sum(matrices) + sum(others) - sum(counts)
    return Sizes((matrices, others), max(counts, default=0), outside, gpus=gpus, half=half, ema=ema)


def _workload(family: Family, config: Any, phase: Phase, gpus: int) -> Workload:
    batch, updates = phase.recipe.batch, phase.end - phase.start
    options = read_section(family.data.Options, phase.recipe.data, where="data")
    if family is FAMILIES["transformer"]:
        if batch.source_tokens is None or batch.target_tokens is None:
            raise ValueError(f"a transformer's batch needs source_tokens and target_tokens; got {batch}")
        tokens = batch.source_tokens + batch.target_tokens
        pairs = math.ceil(max(batch.source_tokens, batch.target_tokens) / SENTENCE)
        rows = math.ceil(pairs / (gpus * batch.accumulation))
        return Workload(updates, tokens, math.ceil(tokens / gpus), batch.accumulation, rows, SENTENCE)
    if batch.sequences is None:
        raise ValueError(f"a BERT's or GPT's batch needs sequences; got {batch}")
    check_length(options, config)
    length = options.max_seq_length
    share = math.ceil(batch.sequences / gpus)
    rows = math.ceil(batch.sequences / (gpus * batch.accumulation))
    return Workload(
        updates,
        batch.sequences * length,
        share * length,
        min(batch.accumulation, share),
        rows,
        length,
        predictions=getattr(options, "predictions", 0),
        documents=getattr(options, "separate_documents", False),
    )


def _source_share(recipe: Recipe) -> float:
    source, target = recipe.batch.source_tokens or 0, recipe.batch.target_tokens or 0
    return source / (source + target) if source else 0.0


def example_batch(
    family: Family, config: Any, *, rows: int, length: int, predictions: int = 0, documents: bool = False
) -> dict[str, Tensor]:
    """A micro batch as the family's data module makes it, of one token again and again.

    Args:
        family: whose.
        config: the model's; the token lies in its vocabulary and is no padding.
        rows: sequences, or pairs of sentences.
        length: tokens of each; of BERT's first, one less, as batches of its data have padding nearly always.
        predictions: masked words of a row (BERT).
        documents: whether a row holds two documents (GPT).
    """
    token = next(number for number in range(config.vocab_size) if number != config.pad_token_id)
    ids = torch.full((rows, length), token)
    batch: dict[str, Any] = {"input_ids": ids, "num_items_in_batch": ids.numel()}
    if family is FAMILIES["gpt"]:
        positions = {"position_ids": (torch.arange(length) % -(-length // 2)).expand(rows, length)}
        return batch | {"shift_labels": ids} | (positions if documents else {})
    mask = torch.ones_like(ids)
    if family is FAMILIES["transformer"]:
        return batch | {"attention_mask": mask, "labels": ids}
    mask[0, -1] = 0
    labels = torch.full_like(ids, IGNORED)
    labels[:, :predictions] = token
    batch |= {"attention_mask": mask, "token_type_ids": torch.zeros_like(ids), "labels": labels}
    return batch | {"next_sentence_label": torch.zeros(rows, dtype=torch.long), "num_sequences_in_batch": rows}


def _rows(
    family: Family, config: Any, phases: list[Workload], sizes: Sizes, *, checkpointing: bool, memory: int
) -> list[Row]:
    largest = max(phases, key=lambda one: one.rows * one.length)

    def build(one: Any) -> PreTrainedModel:
        model = family.model(one)
        if checkpointing:
            checkpoint_activations(model)
        return model

    batch = example_batch(
        family,
        config,
        rows=largest.rows,
        length=largest.length,
        predictions=largest.predictions,
        documents=largest.documents,
    )
    found: dict[Precision, int] = {}
    rows = []
    for strategy in STRATEGIES:
        precision: Precision = strategy.precision if sizes.half else "fp32"
        if precision not in found:
            found[precision] = step_memory(build, config, batch=batch, precision=precision)
        total = strategy.total(sizes, found[precision])
        rows.append(
            Row(
                strategy.name,
                strategy.weights(sizes),
                strategy.gradients(sizes),
                strategy.optimizer(sizes),
                strategy.buffers(sizes),
                found[precision],
                total,
                strategy.host(sizes),
                fits=total <= USABLE * memory,
            )
        )
    return rows
