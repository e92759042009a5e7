"""The processes that train together: what the launcher was asked for against what it really gave.

`accelerate launch` drops settings without a word: on a CPU it starts one process where two were asked, and
ACCELERATE_USE_CPU=1 turns DeepSpeed and FSDP off. A run that is not the one asked for stops here.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, is_deepspeed_available

from . import meeting
from .recipe import Recipe

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
CPU_LAUNCH = "ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_machines 1 --num_processes"
ZERO_LAUNCH = "accelerate launch --config_file training/accelerate/zero2.yaml"
FSDP_LAUNCH = "accelerate launch --config_file training/accelerate/fsdp2.yaml"


def start_world(recipe: Recipe) -> Accelerator:
    """Joins the processes of the launch, says what they are, and refuses what is not what was asked.

    Args:
        recipe: the run's; its precision rules.

    Raises:
        ValueError: processes that do not know of each other, DeepSpeed or FSDP that was asked for and dropped, one
            process where more were asked, a precision that the launcher contradicts. Each says what to call instead.
    """
    _check_asked(recipe)
    group = InitProcessGroupKwargs(timeout=meeting.MEETING, init_method=meeting.INIT_METHOD)
    if _flag("ACCELERATE_USE_DEEPSPEED") and not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        group.backend = "gloo"  # without it: one process each, in silence
    accelerator = Accelerator(mixed_precision=PRECISIONS[recipe.precision], kwargs_handlers=[group])
    _check_got(accelerator, recipe)
    if accelerator.is_main_process:
        logger.info("training in %s", describe_world(accelerator, recipe))
    return accelerator


def describe_world(accelerator: Accelerator, recipe: Recipe) -> str:
    """One line: processes, backend, device, how the model is split, precision and the batch of the whole world."""
    processes, backend = accelerator.num_processes, accelerator.state.backend
    where = f"{processes} process{'es' if processes > 1 else ''} ({f'{backend}, ' if backend else ''}"
    batch = recipe.batch
    if batch.sequences is None:
        size = f"{batch.source_tokens} source and {batch.target_tokens} target tokens"
    else:
        size = f"{batch.sequences} sequences"
    share = f" in {batch.accumulation} micro batches a process" if batch.accumulation > 1 else ""
    kind = split_of(accelerator)
    return f"{where}{accelerator.device.type}), {kind}, {recipe.precision}, {size} an update{share}"


def split_of(accelerator: Accelerator) -> str:
    """How the model lies on the processes: "one device", "data parallel", "zero1" to "zero3" or "fsdp2"."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        return f"zero{plugin.zero_stage}"
    if accelerator.distributed_type == DistributedType.FSDP:
        return "fsdp2"
    return "data parallel" if accelerator.num_processes > 1 else "one device"


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "on")


def _check_asked(recipe: Recipe) -> None:
    """What the launcher's environment alone tells to be wrong, before a process group is waited for."""
    wanted = [name for name in ("DEEPSPEED", "FSDP") if _flag(f"ACCELERATE_USE_{name}")]
    if wanted and _flag("ACCELERATE_USE_CPU"):
        raise ValueError(
            f"ACCELERATE_USE_CPU=1 makes Accelerate drop {wanted[0]} in silence; got both. Unset it: on CPUs DeepSpeed "
            "runs with `DS_ACCELERATOR=cpu accelerate launch --use_deepspeed`; FSDP2 needs GPUs"
        )
    if "DEEPSPEED" in wanted and not is_deepspeed_available():
        raise ValueError("DeepSpeed was asked for and is not installed: pip install 'vaswani-transformer[deepspeed]'")
    if "FSDP" in wanted and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            f"FSDP is trained in its second version only; got FSDP_VERSION={os.environ.get('FSDP_VERSION', '1')}: "
            f"`{FSDP_LAUNCH}`, or --fsdp_version 2"
        )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked != "no" and asked != PRECISIONS[recipe.precision]:
        raise ValueError(
            f"the launcher's precision must be the recipe's; got mixed_precision={asked} from accelerate and "
            f"precision={recipe.precision} in the recipe: leave --mixed_precision out, or set precision={asked}"
        )


def check_processes(got: int) -> None:
    """Refuses processes that do not know of each other, and fewer than the launcher was asked for.

    Args:
        got: how many work together.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if got != world:
        raise ValueError(
            f"the processes started must work together; got WORLD_SIZE={world} and {got} in Accelerate: "
            f"on CPUs launch with `{CPU_LAUNCH} {world}`"
        )
    asked = asked_processes(_parent_words())
    if asked is not None and asked > got:
        raise ValueError(
            f"`accelerate launch` was asked for {asked} processes and started {got}: on CPUs it starts several only by "
            f"`{CPU_LAUNCH} {asked}`"
        )


def _check_got(accelerator: Accelerator, recipe: Recipe) -> None:
    check_processes(accelerator.num_processes)
    kind = accelerator.distributed_type
    if _flag("ACCELERATE_USE_DEEPSPEED") and kind != DistributedType.DEEPSPEED:
        raise ValueError(f"DeepSpeed was asked for; Accelerate made {kind.value} of it: launch with `{ZERO_LAUNCH}`")
    if _flag("ACCELERATE_USE_FSDP") and kind != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for; Accelerate made {kind.value} of it: it needs GPUs and `{FSDP_LAUNCH}`; on CPUs use "
            "ZeRO-3 instead"
        )
    if kind == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        _check_zero(plugin.deepspeed_config, recipe)


def _check_zero(config: dict[str, Any], recipe: Recipe) -> None:
    """A number in DeepSpeed's file that the recipe contradicts."""
    if config["zero_optimization"].get("stage") not in (1, 2, 3):
        raise ValueError(f"zero_optimization.stage must be 1, 2 or 3; got {config['zero_optimization'].get('stage')}")
    for name in ("bf16", "fp16"):
        enabled = config.get(name, {}).get("enabled", "auto")
        if enabled != "auto" and enabled != (recipe.precision == name):
            raise ValueError(
                f"DeepSpeed's precision must be the recipe's; got {name}.enabled={enabled} in its file and "
                f'precision={recipe.precision} in the recipe: write "auto" there'
            )
    clip = config.get("gradient_clipping", "auto")
    if clip != "auto" and float(clip) != (recipe.optimizer.max_grad_norm or 0.0):
        raise ValueError(
            f"DeepSpeed's gradient_clipping must be the recipe's; got {clip} in its file and optimizer.max_grad_norm="
            f'{recipe.optimizer.max_grad_norm} in the recipe: write "auto" there'
        )
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise ValueError(f"the recipe names optimiser and schedule; got {name!r} in DeepSpeed's file: remove it")


def _parent_words() -> list[str]:
    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:  # gone, or another user's
        return []


def asked_processes(words: Sequence[str]) -> int | None:
    """The number of processes an `accelerate launch` was asked for, on its command line or in its file.

    Args:
        words: the command line of the process that started this one.

    Returns:
        None where it is no `accelerate launch`, or does not say.
    """
    start = next((i for i, word in enumerate(words) if "accelerate" in word), None)
    if start is None or not any("launch" in word for word in words[start : start + 2]):
        return None
    options: dict[str, str] = {}
    for word, following in zip(words[start + 1 :], [*words[start + 2 :], ""], strict=True):
        name, _, value = word.partition("=")
        options.setdefault(name.lstrip("-").replace("-", "_"), value or following)
    if options.get("num_processes", "").isdigit():
        return int(options["num_processes"])
    file = Path(options.get("config_file", ""))
    if not file.is_file():
        return None
    asked = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes")
    return asked if isinstance(asked, int) else None
