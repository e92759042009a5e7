"""The training loop with the model split over two processes: ZeRO-1, 2 and 3 and FSDP2, at toy size on CPUs.

One launch runs all that is asked of a kind of split, `several_runs.py`; the tests then look at the folders.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from vaswani_transformer.recipe import Recipe
from vaswani_transformer.run_log import read_metrics
from vaswani_transformer.train import train

from .several_runs import spoilt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HERE = Path(__file__).resolve().parent
WORDS = ["the", "cat", "dog", "saw", "a", "tree", "and", "ran", "home", "again"]
STAGES = [1, 2, 3]
STILL = {
    "transformer": {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "bert": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "gpt": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16},
}
NO_DROPOUT = {
    "transformer": {"dropout": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt": {"hidden_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0},
}
TOKENIZERS = {
    "transformer": {"kind": "bpe", "vocab_size": 300},
    "bert": {"kind": "wordpiece", "vocab_size": 60},
    "gpt": {"kind": "byte-bpe", "vocab_size": 290},
}


class Runs:
    """A folder of text and of runs, and the recipes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        texts = {"train": 60, "validation": 12}
        lines = {
            split: [
                " ".join(WORDS[(rng.integers(10) + place) % 10] for place in range(rng.integers(3, 9)))
                for _ in range(n)
            ]
            for split, n in texts.items()
        }
        for split, found in lines.items():
            (folder / f"{split}.en").write_text("\n".join(found) + "\n")
            (folder / f"{split}.de").write_text("\n".join(line.upper() for line in found) + "\n")
            documents = ["\n".join(found[start : start + 6]) for start in range(0, len(found), 6)]
            (folder / f"{split}.txt").write_text("\n\n".join(documents) + "\n")

    def recipe(self, output: str, family: str = "transformer", **changes) -> dict:
        pairs = {
            s: {k: str(self.folder / f"{s}.{k2}") for k, k2 in (("source", "en"), ("target", "de"))} for s in SPLITS
        }
        documents = {split: str(self.folder / f"{split}.txt") for split in SPLITS}
        data = {
            "transformer": {"files": pairs, "source": "en", "target": "de"},
            "bert": {"files": documents, "max_seq_length": 24},
            "gpt": {"files": documents, "max_seq_length": 16},
        }[family]
        batch = {"source_tokens": 120, "target_tokens": 120} if family == "transformer" else {"sequences": 6}
        values = {
            "model": {"family": family, **STILL[family], **NO_DROPOUT[family], **changes.pop("model", {})},
            "tokenizer": TOKENIZERS[family],
            "data": data,
            "batch": batch | changes.pop("batch", {}),
            "optimizer": {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.01, "max_grad_norm": 1.0},
            "schedule": {"name": "constant", "warmup_steps": 5},
            "validate": {"every_steps": 8},
            "steps": 20,
            "log_every": 1,
            "output": str(self.folder / output),
        }
        return values | changes

    def alone(self, output: str, **changes) -> Path:
        """The same run in this process."""
        found = train(Recipe.from_dict(self.recipe(output, **changes)))
        AcceleratorState._reset_state(reset_partial_state=True)
        return found

    def launch(self, kind: list[str], jobs: list[dict]) -> str:
        """Runs the jobs in two processes; returns what they told."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", "2"]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", port, str(HERE / "several_runs.py"), str(file)]
        environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent), "DS_ACCELERATOR": "cpu"}
        environment["HF_DATASETS_CACHE"] = str(self.folder / "cache")
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=1700, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stderr


SPLITS = ("train", "validation")


def losses(output: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(output / "metrics.jsonl") if record["kind"] == "train"]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def identical(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def furthest(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def stage(number: int) -> dict[str, str]:
    return {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(number)}


def halves(runs: Runs, output: str, first: dict[str, str], then: dict[str, str], **changes) -> list[dict]:
    """A run to step 10, and on from there."""
    return [
        {"recipe": runs.recipe(output, **changes, steps=10), "environment": first},
        {"recipe": runs.recipe(output, **changes), "environment": then, "resume": True},
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Runs:
    """The runs of one process that all others are held against."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(runs.folder / "cache"))
        for family in STILL:
            runs.alone(f"{family}-alone", family=family)
        runs.alone("from-alone", steps=10)
    return runs


@pytest.fixture(scope="module")
def zero(reference) -> Runs:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs the extra [deepspeed]")
    if shutil.which("g++") is None:
        pytest.skip("DeepSpeed on a CPU compiles its communication with g++, and there is none")
    jobs, runs = [], reference
    for number in STAGES:
        for family in STILL:
            jobs.append({"recipe": runs.recipe(f"{family}-{number}", family=family), "environment": stage(number)})
        accumulating = runs.recipe(f"accumulating-{number}", batch={"accumulation": 2})
        jobs.append({"recipe": accumulating, "environment": stage(number)})
        shaking = {"model": {"dropout": 0.1}, "loader_workers": 2 if number == 2 else 0}
        jobs.append({"recipe": runs.recipe(f"straight-{number}", **shaking), "environment": stage(number)})
        jobs += halves(runs, f"halves-{number}", stage(number), stage(number), **shaking)
        shutil.copytree(runs.folder / "from-alone", runs.folder / f"from-alone-{number}")
        resumed = runs.recipe(f"from-alone-{number}")
        jobs.append({"recipe": resumed, "environment": stage(number), "resume": True})
    for first, then in ((1, 3), (3, 1), (2, 1)):
        jobs += halves(runs, f"across-{first}-{then}", stage(first), stage(then))
    for number in (2, 3):
        rounded = {"precision": "bf16", "model": {"dropout": 0.1}}
        jobs.append({"recipe": runs.recipe(f"bf16-{number}", **rounded), "environment": stage(number)})
        jobs += halves(runs, f"bf16-halves-{number}", stage(number), stage(number), **rounded)
    saved = {"save": {"every_steps": 5, "keep": 5}, "average_last": 2}
    jobs.append({"recipe": runs.recipe("averaged", **saved), "environment": stage(3)})
    for name, changes, told in REFUSED:
        jobs.append({"recipe": runs.recipe(name, **changes), "environment": stage(3), "error": told})
    runs.launch(["--use_deepspeed", "--zero_stage", "1"], jobs)
    return runs


REFUSED = [
    ("refused-background", {"save": {"background": True}}, "leave it out, or train by data parallelism"),
    ("refused-average", {"ema_decay": 0.9}, "set average_last instead"),
    ("refused-search", {"validate": {"every_steps": 8, "metrics": ["loss", "bleu"]}}, "validate.metrics=[loss]"),
    (
        "refused-lamb",
        {"optimizer": {"name": "lamb", "learning_rate": 0.01, "bias_correction": False}},
        "LAMB needs whole matrices",
    ),
]


@pytest.mark.parametrize("number", STAGES)
@pytest.mark.parametrize("family", list(STILL))
def test_zero_has_the_losses_of_one_process(zero, family, number):
    found, alone = losses(zero.folder / f"{family}-{number}"), losses(zero.folder / f"{family}-alone")
    assert len(found) == 20
    assert found == pytest.approx(alone, abs=1e-5)
    assert weights(zero.folder / f"{family}-{number}").keys() == weights(zero.folder / f"{family}-alone").keys()


@pytest.mark.parametrize("number", STAGES)
def test_zero_accumulates_to_the_losses_of_one_process(zero, number):
    found = losses(zero.folder / f"accumulating-{number}")
    assert found == pytest.approx(losses(zero.folder / "transformer-alone"), abs=1e-5)


@pytest.mark.parametrize("number", STAGES)
def test_zero_validates_as_one_process(zero, number):
    runs = [zero.folder / name for name in (f"transformer-{number}", "transformer-alone")]
    found, alone = (json.loads((run / "run.json").read_text())["results"]["validation"]["nll"] for run in runs)
    assert found == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("number", STAGES)
def test_zero_in_two_sittings_ends_with_the_very_same_weights(zero, number):
    assert losses(zero.folder / f"straight-{number}") == losses(zero.folder / f"halves-{number}")
    assert identical(zero.folder / f"straight-{number}", zero.folder / f"halves-{number}")


@pytest.mark.parametrize("number", [2, 3])
def test_zero_in_bf16_in_two_sittings_ends_with_the_very_same_float32_weights(zero, number):
    straight = zero.folder / f"bf16-{number}"
    assert identical(straight, zero.folder / f"bf16-halves-{number}")
    assert {tensor.dtype for tensor in weights(straight).values()} == {torch.float32}
    assert losses(straight) == pytest.approx(losses(zero.folder / f"straight-{number}"), rel=0.02)


@pytest.mark.parametrize("way", ["1-3", "3-1", "2-1"])
def test_a_run_goes_on_under_another_stage_with_its_optimizer_state(zero, way):
    alone = zero.folder / "transformer-alone"
    assert losses(zero.folder / f"across-{way}") == pytest.approx(losses(alone), abs=1e-5)
    assert furthest(zero.folder / f"across-{way}", alone) < 1e-5


@pytest.mark.parametrize("number", STAGES)
def test_a_run_of_one_process_goes_on_under_zero_on_two(zero, number):
    alone = zero.folder / "transformer-alone"
    assert losses(zero.folder / f"from-alone-{number}") == pytest.approx(losses(alone), abs=1e-5)
    assert furthest(zero.folder / f"from-alone-{number}", alone) < 1e-5


@pytest.mark.parametrize("number", STAGES)
def test_a_run_of_zero_on_two_processes_goes_on_in_one_without(zero, number, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(zero.folder / "cache"))
    output = zero.folder / f"to-alone-{number}"
    checkpoint = output / "checkpoints" / "step-00000010"
    shutil.copytree(zero.folder / f"across-{number}-{4 - number if number != 2 else 1}", output)
    for path in output.glob("checkpoints/*"):
        if path != checkpoint:
            shutil.rmtree(path)
    train(Recipe.from_dict(zero.recipe(output.name)), resume=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    alone = zero.folder / "transformer-alone"
    assert losses(output) == pytest.approx(losses(alone), abs=1e-5)
    assert furthest(output, alone) < 1e-5


def test_split_weights_are_averaged_over_the_last_checkpoints(zero):
    folder = zero.folder / "averaged"
    steps = [load_file(folder / "checkpoints" / f"step-000000{n}" / "model.safetensors") for n in (15, 20)]
    for name, tensor in weights(folder).items():
        assert torch.allclose(tensor, (steps[0][name] + steps[1][name]) / 2, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("name", "told"), [(name, told) for name, _, told in REFUSED])
def test_what_split_weights_cannot_do_is_refused_with_the_way_out(zero, name, told):
    assert told in (zero.folder / name / "error.txt").read_text()


@pytest.fixture(scope="module")
def fsdp2(reference) -> Runs:
    runs = reference
    jobs = [{"recipe": runs.recipe(f"{family}-fsdp2", family=family)} for family in STILL]
    jobs.append({"recipe": runs.recipe("accumulating-fsdp2", batch={"accumulation": 2})})
    jobs.append({"recipe": runs.recipe("straight-fsdp2", model={"dropout": 0.1})})
    jobs += halves(runs, "halves-fsdp2", {}, {}, model={"dropout": 0.1})
    shutil.copytree(runs.folder / "from-alone", runs.folder / "from-alone-fsdp2")
    jobs.append({"recipe": runs.recipe("from-alone-fsdp2"), "resume": True})
    jobs.append({"recipe": runs.recipe("skipping-fsdp2", on_nonfinite="skip"), "spoilt": 5})
    kind = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    runs.launch([*kind, "--fsdp_state_dict_type", "SHARDED_STATE_DICT"], jobs)
    return runs


def test_all_processes_skip_the_update_whose_loss_only_one_finds_to_be_nan(fsdp2, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(fsdp2.folder / "cache"))
    with spoilt(5):
        alone = fsdp2.alone("skipping-alone", on_nonfinite="skip")
    assert len(losses(alone)) == 19
    assert losses(fsdp2.folder / "skipping-fsdp2") == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.parametrize("name", [*STILL, "accumulating", "from-alone"])
def test_fsdp2_has_the_losses_of_one_process(fsdp2, name):
    alone = fsdp2.folder / f"{name if name in STILL else 'transformer'}-alone"
    assert losses(fsdp2.folder / f"{name}-fsdp2") == pytest.approx(losses(alone), abs=1e-5)
    assert weights(fsdp2.folder / f"{name}-fsdp2").keys() == weights(alone).keys()


def test_fsdp2_in_two_sittings_ends_with_the_very_same_weights(fsdp2):
    assert identical(fsdp2.folder / "straight-fsdp2", fsdp2.folder / "halves-fsdp2")
