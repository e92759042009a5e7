"""What a launch was asked for against what it gave."""

import logging
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from vaswani_transformer.recipe import Recipe
from vaswani_transformer.world import asked_processes, describe_world, start_world


def recipe(**changes) -> Recipe:
    values = {
        "model": {"family": "bert"},
        "tokenizer": {"kind": "wordpiece", "vocab_size": 300},
        "data": {},
        "batch": {"sequences": 16, "accumulation": 2},
        "steps": 1,
        "output": "unused",
        **changes,
    }
    return Recipe.from_dict(values)


def world(kind: DistributedType, processes: int = 1, **state) -> SimpleNamespace:
    return SimpleNamespace(
        num_processes=processes,
        distributed_type=kind,
        device=torch.device("cpu"),
        is_main_process=True,
        state=SimpleNamespace(backend="gloo" if processes > 1 else None, **state),
    )


@pytest.fixture
def launched(monkeypatch):
    """Sets a launcher's environment and what Accelerate makes of it."""

    def set_up(environment: dict[str, str], got: SimpleNamespace, words: tuple[str, ...] = ()) -> None:
        for name in ("ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("vaswani_transformer.world.is_deepspeed_available", lambda: True)
        monkeypatch.setattr("vaswani_transformer.world.Accelerator", lambda **_: got)
        monkeypatch.setattr("vaswani_transformer.world._parent_words", lambda: list(words))

    return set_up


def zero(stage: int = 2, processes: int = 2, **config) -> SimpleNamespace:
    values = {"zero_optimization": {"stage": stage}, **config}
    return world(
        DistributedType.DEEPSPEED,
        processes,
        deepspeed_plugin=SimpleNamespace(zero_stage=stage, deepspeed_config=values),
    )


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_a_cpu_setting_that_drops_the_split_is_refused(launched, name):
    launched({f"ACCELERATE_USE_{name}": "true", "ACCELERATE_USE_CPU": "1"}, world(DistributedType.NO))
    with pytest.raises(ValueError, match=rf"drop {name} in silence.*DS_ACCELERATOR=cpu accelerate launch"):
        start_world(recipe())


def test_deepspeed_that_became_something_else_is_refused(launched):
    launched({"ACCELERATE_USE_DEEPSPEED": "true"}, world(DistributedType.NO))
    with pytest.raises(ValueError, match=r"DeepSpeed was asked for; Accelerate made NO of it.*zero2.yaml"):
        start_world(recipe())


def test_fsdp_that_became_something_else_is_refused(launched):
    launched({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, world(DistributedType.NO))
    with pytest.raises(ValueError, match=r"FSDP was asked for; Accelerate made NO of it: it needs GPUs"):
        start_world(recipe())


def test_the_first_version_of_fsdp_is_refused(launched):
    launched({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, world(DistributedType.FSDP))
    with pytest.raises(ValueError, match="second version only; got FSDP_VERSION=1"):
        start_world(recipe())


def test_deepspeed_that_is_not_installed_names_the_extra(launched, monkeypatch):
    launched({"ACCELERATE_USE_DEEPSPEED": "true"}, world(DistributedType.NO))
    monkeypatch.setattr("vaswani_transformer.world.is_deepspeed_available", lambda: False)
    with pytest.raises(ValueError, match=r"vaswani-transformer\[deepspeed\]"):
        start_world(recipe())


def test_one_process_where_two_were_asked_is_refused_with_the_right_command(launched):
    words = ("python", "/usr/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "train.py")
    launched({}, world(DistributedType.NO), words)
    with pytest.raises(ValueError, match=r"asked for 2 processes and started 1.*--multi_gpu .*--num_processes 2`"):
        start_world(recipe())


def test_processes_that_do_not_know_of_each_other_are_refused(launched):
    launched({"WORLD_SIZE": "2"}, world(DistributedType.NO))
    with pytest.raises(ValueError, match="WORLD_SIZE=2 and 1 in Accelerate"):
        start_world(recipe())


def test_the_processes_asked_for_are_read_from_the_command_and_from_its_file(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("num_processes: 4\n")
    assert asked_processes(["accelerate", "launch", "--num-processes=3", "x.py"]) == 3
    assert asked_processes(["python", "-m", "accelerate.commands.launch", "--num_processes", "2"]) == 2
    assert asked_processes(["accelerate", "launch", "--config_file", str(file), "x.py"]) == 4
    assert asked_processes(["accelerate", "launch", "x.py"]) is None
    assert asked_processes(["bash", "-c", "vaswani train"]) is None


def test_a_precision_that_the_launcher_contradicts_is_refused(launched, monkeypatch):
    launched({}, world(DistributedType.NO))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="mixed_precision=bf16 from accelerate and precision=fp32 in the recipe"):
        start_world(recipe(precision="fp32"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"bf16": {"enabled": True}}, "bf16.enabled=True in its file and precision=fp32"),
        ({"gradient_clipping": 0.5}, "got 0.5 in its file and optimizer.max_grad_norm=1.0"),
        ({"optimizer": {"type": "Adam"}}, "got 'optimizer' in DeepSpeed's file"),
    ],
)
def test_a_deepspeed_file_that_contradicts_the_recipe_is_refused(launched, config, told):
    launched({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, zero(**config))
    with pytest.raises(ValueError, match=told):
        start_world(recipe(precision="fp32", optimizer={"max_grad_norm": 1.0}))


def test_the_start_says_processes_backend_split_precision_and_batch(launched, caplog):
    launched({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, zero(stage=3))
    with caplog.at_level(logging.INFO, logger="vaswani_transformer"):
        start_world(recipe(precision="bf16"))
    told = "2 processes (gloo, cpu), zero3, bf16, 16 sequences an update in 2 micro batches a process"
    assert f"training in {told}" in caplog.text


def test_a_world_of_one_is_described_without_a_backend():
    batch = {"source_tokens": 100, "target_tokens": 120}
    told = describe_world(world(DistributedType.NO), recipe(batch=batch, precision="fp32"))  # type: ignore[arg-type]
    assert told == "1 process (cpu), one device, fp32, 100 source and 120 target tokens an update"
