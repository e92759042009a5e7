"""The files one launches with: they parse, and hold no name that Accelerate or DeepSpeed would drop in silence."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser

TRAINING = Path(__file__).resolve().parent.parent / "training"
ACCELERATE = sorted((TRAINING / "accelerate").glob("*.yaml"))
DEEPSPEED = sorted((TRAINING / "deepspeed").glob("*.json"))
SLURM = sorted((TRAINING / "slurm").glob("*.sbatch"))


def test_there_is_a_file_for_every_way_to_launch():
    names = {"cpu2", "single_gpu", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"}
    assert {path.stem for path in ACCELERATE} == names | {"multinode_zero2", "multinode_fsdp2"}
    assert {path.stem for path in DEEPSPEED} == {"zero1", "zero2", "zero3", "zero3_offload"}


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_knows_every_name_of_its_files(path):
    config = ClusterConfig.from_yaml_file(str(path))
    known = {action.dest for action in launch_command_parser()._actions}
    for section, prefix in (("fsdp_config", "fsdp_"), ("deepspeed_config", "")):
        for name in getattr(config, section):
            assert prefix + name.removeprefix(prefix) in known, f"{path.name}: {section}.{name}"
    assert config.mixed_precision in (None, "no")  # the recipe's rules


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_a_launch_file_names_a_deepspeed_file_that_ships(path):
    values = yaml.safe_load(path.read_text())
    assert ("deepspeed_config" in values) == (values["distributed_type"] == "DEEPSPEED")
    if "deepspeed_config" in values:
        assert TRAINING.parent / values["deepspeed_config"]["deepspeed_config_file"] in DEEPSPEED


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_a_deepspeed_file_leaves_to_the_recipe_what_the_recipe_says(path):
    values = json.loads(path.read_text())
    assert values["zero_optimization"]["stage"] == int(re.findall(r"\d", path.stem)[0])
    assert not values.keys() & {"optimizer", "scheduler"}
    ruled = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu")
    assert {values[name] for name in ruled} == {"auto"}
    assert values["bf16"] == values["fp16"] == {"enabled": "auto"}


@pytest.mark.slow
@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_knows_every_name_of_its_files(path):
    pytest.importorskip("deepspeed", reason="needs the extra [deepspeed]")
    from deepspeed.runtime import config, constants  # pyright: ignore[reportMissingImports]
    from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION, DeepSpeedZeroConfig  # pyright: ignore

    values = json.loads(path.read_text())
    known = {value for module in (config, constants) for value in vars(module).values() if isinstance(value, str)}
    assert values.keys() <= known | {ZERO_OPTIMIZATION}
    fields = DeepSpeedZeroConfig.model_fields
    fields_and_aliases = fields.keys() | {field.alias for field in fields.values()}
    for name, value in values["zero_optimization"].items():
        assert name in fields_and_aliases, name
        if isinstance(value, dict):
            DeepSpeedZeroConfig(stage=3, **{name: value})


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.stem)
def test_a_slurm_script_is_valid_and_launches_with_a_file_that_ships(path):
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    named = re.findall(r"training/accelerate/\w+\.yaml", path.read_text())
    assert named
    assert {TRAINING.parent / name for name in named} <= set(ACCELERATE)
