"""The training loop at toy size: what it computes and what it writes."""

import json
import logging
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import datasets.config
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vaswani_transformer.data.token_batches import EpochBatches
from vaswani_transformer.recipe import Recipe
from vaswani_transformer.run_log import flops_per_token, read_metrics
from vaswani_transformer.train import Training, train

WORDS = ["man", "hat", "dog", "grass", "white", "fence", "boy", "street"]
SIZES = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}


def write_corpus(folder: Path, split: str, size: int) -> dict[str, str]:
    rng = np.random.default_rng(size)
    lines = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(size)]
    source, target = folder / f"{split}.en", folder / f"{split}.de"
    source.write_text("\n".join(lines) + "\n")
    target.write_text("\n".join(line.upper() for line in lines) + "\n")
    return {"source": str(source), "target": str(target)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("corpus")
    return {split: write_corpus(folder, split, size) for split, size in {"train": 150, "validation": 30}.items()}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Text and tokens are kept in a folder of this file's own, read by subprocesses too."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", folder)
        yield


@pytest.fixture(autouse=True)
def own_accelerator():
    """Accelerate keeps the first precision a process asks for; each test may ask for its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def toy(files, tmp_path):
    """Makes the recipe of a toy run."""

    def make(output: str | Path = "run", *, model: dict | None = None, **changes) -> Recipe:
        values = {
            "model": {"family": "transformer", **SIZES, **(model or {})},
            "tokenizer": {"kind": "bpe", "vocab_size": 300},
            "data": {"files": files, "source": "en", "target": "de"},
            "batch": {"source_tokens": 250, "target_tokens": 250},
            "schedule": {"name": "noam", "warmup_steps": 20},
            "steps": 10,
            "log_every": 1,
            "output": str(tmp_path / output),
            **changes,
        }
        return Recipe.from_dict({key: value for key, value in values.items() if value is not None})

    return make


def weights(folder: Path | str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def step_folder(output: Path | str, step: int) -> Path:
    return Path(output) / "checkpoints" / f"step-{step:08d}"


def identical(first: Path | str, second: Path | str) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def furthest(first: Path | str, second: Path | str) -> float:
    one, other = weights(first), weights(second)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def train_records(output: Path | str) -> list[dict]:
    return [record for record in read_metrics(Path(output) / "metrics.jsonl") if record["kind"] == "train"]


def losses(output: Path | str) -> list[float]:
    return [record["loss"] for record in train_records(output)]


def interrupt_after(monkeypatch, step: int, action) -> None:
    """Calls `action` once, during update number `step`."""
    update, fired = Training.update, []

    def wrapped(self, *arguments):
        if self.progress.step + 1 == step and not fired:
            fired.append(step)
            action()
        return update(self, *arguments)

    monkeypatch.setattr(Training, "update", wrapped)


# ---------------------------------------------------------------------------------------------------- what it computes


def test_the_loss_falls_and_the_output_folder_is_a_model_with_its_tokenizer(toy):
    recipe = toy(steps=60, schedule={"name": "constant", "warmup_steps": 5}, optimizer={"learning_rate": 0.005})
    output = train(recipe)
    found = losses(output)
    assert found[-1] < found[0] - 2.0
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    batch = tokenizer(["white dog"], text_target=["WHITE DOG"], return_tensors="pt")
    assert model.eval()(**batch).nll_loss < found[-1] + 1.0
    assert len(model.generate(batch["input_ids"], max_new_tokens=8)) == 1


def test_the_first_update_has_the_papers_learning_rate_of_step_one(toy):
    output = train(toy(steps=2))
    assert [record["learning_rate"] for record in train_records(output)] == pytest.approx(
        [16**-0.5 * step * 20**-1.5 for step in (1, 2)], rel=1e-12
    )


def test_accumulation_gives_the_same_losses_and_weights(toy):
    plain, split = (
        train(toy(f"by-{n}", model={"dropout": 0.0}, steps=8, batch=toy().to_dict()["batch"] | {"accumulation": n}))
        for n in (1, 3)
    )
    assert losses(plain) == pytest.approx(losses(split), abs=1e-5)
    assert furthest(plain, split) < 1e-4


def test_gradient_checkpointing_changes_nothing(toy):
    plain, saving = (train(toy(f"{on}", steps=3, gradient_checkpointing=on)) for on in (False, True))
    assert losses(plain) == pytest.approx(losses(saving), abs=1e-6)


def test_the_loop_stops_exactly_at_its_last_step(toy):
    output = train(toy(steps=7))
    saved = torch.load(step_folder(output, 7) / "optimizer.pt", weights_only=True)["optimizer"]
    assert {int(state["step"]) for state in saved["state"].values()} == {7}
    assert [record["step"] for record in train_records(output)] == list(range(1, 8))


@pytest.fixture
def slow_updates(monkeypatch):
    """A clock that only updates move: the first three take two seconds each, later ones what the list's item says."""
    now, later, update = [0.0], [2.0], Training.update

    def timed(training, *batch):
        now[0] += 2.0 if training.progress.step < 3 else later[0]
        return update(training, *batch)

    monkeypatch.setattr("vaswani_transformer.train.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Training, "update", timed)
    return later


def test_with_minutes_a_run_takes_the_updates_they_hold_and_its_schedule_ends_with_them(toy, slow_updates):
    cosine = {"name": "cosine", "warmup_steps": 0}
    output = train(toy(steps=500, minutes=0.2, schedule=cosine, optimizer={"learning_rate": 0.01}))
    rates = [record["learning_rate"] for record in train_records(output)]
    assert len(rates) == 6
    # The pace of the first update decides the rate of the third.
    assert rates[2:] == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(3, 7)])


def test_with_minutes_a_run_that_becomes_slower_takes_fewer_updates(toy, slow_updates):
    slow_updates[0] = 4.0
    assert len(train_records(train(toy(steps=500, minutes=0.2)))) == 4  # 10 of 12 seconds; a fifth would take 14


def test_with_minutes_a_run_never_takes_more_than_its_steps(toy, slow_updates):
    assert len(train_records(train(toy(steps=4, minutes=0.2)))) == 4


def test_a_resumed_run_has_the_minutes_that_are_left(toy, slow_updates, monkeypatch):
    recipe = toy(steps=500, minutes=0.2)
    interrupt_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    assert len(train_records(train(recipe, resume=True))) == 6


def test_an_epoch_of_the_loop_takes_every_example_once(toy, monkeypatch):
    training = Training(toy(steps=12))
    seen, collated = [], training.data.micro_batches

    def noting(indices, parts, *, wanted=None):
        seen.append(indices)
        return collated(indices, parts, wanted=wanted)

    monkeypatch.setattr(training.data, "micro_batches", noting)
    training.run()
    updates = len(training.data.epoch(0))
    assert sorted(np.concatenate(seen[:updates]).tolist()) == list(range(150))
    assert training.progress.epoch >= 1


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (3, 2)])
def test_the_processes_shares_of_an_epoch_hold_every_example_once(toy, world, accumulation):
    data = Training(toy()).data
    plan, parts = data.epoch(0), world * accumulation
    seen, targets = [], 0
    for rank in range(world):
        share = EpochBatches(data, plan, parts, range(rank, parts, world))
        for micro_batches, target_tokens, real_tokens in (share[number] for number in range(len(share))):
            assert len(micro_batches) == accumulation
            assert real_tokens > target_tokens
            targets += target_tokens if rank == 0 else 0
            seen += [tuple(row) for batch in micro_batches for row in batch["labels"].tolist() if max(row) != -100]
    everything = [tuple(row) for b in plan for row in data.micro_batches(b, 1)[0]["labels"].tolist()]
    strip = lambda rows: sorted(tuple(i for i in row if i != -100) for row in rows)  # noqa: E731
    assert strip(seen) == strip(everything)
    assert targets == sum(len(row) for row in strip(everything))


def test_clipping_reports_the_norm_before_it_and_limits_the_gradient(toy):
    free = train(toy("free", steps=4))
    clipped = train(toy("clipped", steps=4, optimizer={"max_grad_norm": 1e-12}, model={"dropout": 0.0}))
    norms = [record["grad_norm"] for output in (free, clipped) for record in train_records(output)]
    assert all(norm > 0.01 for norm in norms)
    assert furthest(step_folder(clipped, 4), free) > 1e-4
    moments = torch.load(step_folder(clipped, 4) / "optimizer.pt", weights_only=True)["optimizer"]["state"]
    assert max(float(state["exp_avg"].abs().max()) for state in moments.values()) <= 1e-12


def test_bf16_trains_near_float32_and_keeps_float32_weights(toy):
    exact = train(toy("fp32", steps=4, model={"dropout": 0.0}))
    AcceleratorState._reset_state(reset_partial_state=True)
    rounded = train(toy("bf16", steps=4, model={"dropout": 0.0}, precision="bf16"))
    assert losses(exact) == pytest.approx(losses(rounded), rel=0.02)
    assert losses(exact) != losses(rounded)
    assert {tensor.dtype for tensor in weights(rounded).values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU, and there is none")
def test_compiling_changes_no_loss_and_no_name(toy):
    settings = {"steps": 2, "model": {"dropout": 0.0}, "validate": {"metrics": ["loss", "bleu"], "limit": 2}}
    plain, compiled = train(toy("plain", **settings)), train(toy("compiled", compile=True, **settings))
    assert losses(plain) == pytest.approx(losses(compiled), abs=1e-4)
    assert weights(plain).keys() == weights(compiled).keys()


def test_model_flops_count_each_weight_where_a_token_passes_it(toy):
    model = Training(toy(model={"num_encoder_layers": 2})).bare_model
    d, d_ff, vocabulary = 16, 32, model.config.vocab_size
    encoder, decoder = 2 * (4 * d * d + 2 * d * d_ff), 8 * d * d + 2 * d * d_ff
    assert flops_per_token(model, 1.0) == 6 * encoder
    assert flops_per_token(model, 0.0) == 6 * (decoder + d * vocabulary)  # the tied head once
    assert flops_per_token(model, 0.5) == 3 * (encoder + decoder + d * vocabulary)


# ---------------------------------------------------------------------------------------------------- what it writes


def test_run_json_says_what_was_trained_on_what_and_how_well(toy):
    recipe = toy(steps=6, validate={"every_steps": 3})
    notes = json.loads((train(recipe) / "run.json").read_text())
    assert notes["recipe"] == json.loads(json.dumps(recipe.to_dict()))
    assert notes["recipe"]["data"]["source"] == "en"
    assert notes["data"]["counts"]["train"]["kept"] == 150
    assert len(notes["data"]["fingerprint"]) == 64
    assert notes["environment"]["versions"]["torch"]
    results = notes["results"]
    assert results["step"] == 6
    assert results["validation"].keys() == {"loss", "nll", "perplexity"}
    assert results["tokens"] < results["real_tokens"]
    assert notes["training_flops"] > 6 * results["real_tokens"] * 1000


def test_metrics_hold_every_logged_step_and_every_validation(toy):
    output = train(toy(steps=6, log_every=2, validate={"every_steps": 3}))
    records = [(record["kind"], record["step"]) for record in read_metrics(output / "metrics.jsonl")]
    steps = [step for kind, step in records if kind == "train"]
    assert steps == [1, 2, 4, 6]
    assert [step for kind, step in records if kind == "validation"] == [3, 6]


def test_the_final_model_is_the_mean_of_the_last_checkpoints(toy):
    output = train(toy(steps=6, save={"every_steps": 2, "keep": 5}, average_last=2))
    means = {name: tensor.double() for name, tensor in weights(step_folder(output, 4)).items()}
    for name, tensor in weights(step_folder(output, 6)).items():
        means[name] = (means[name] + tensor.double()) / 2
    final = weights(output)
    assert all(torch.allclose(final[name].double(), means[name], atol=1e-7, rtol=0) for name in final)


def test_the_final_model_is_the_moving_average_where_one_is_kept(toy):
    output = train(toy(steps=2, ema_decay=0.9, save={"every_steps": 1}))
    before = torch.load(step_folder(output, 1) / "ema.pt", weights_only=True)["weights"]
    decay = min(0.9, 2 / 11)
    now, final = weights(step_folder(output, 2)), weights(output)
    for name, tensor in final.items():
        assert torch.allclose(tensor, decay * before[name] + (1 - decay) * now[name], atol=1e-6)
    assert not identical(output, step_folder(output, 2))


def scripted_validation(monkeypatch, values):
    left = iter(values)
    monkeypatch.setattr(Training, "_validation_loss", lambda self: {"loss": 9.0, "nll": next(left)})


def test_training_stops_when_validation_no_longer_improves_and_best_is_kept(toy, monkeypatch):
    scripted_validation(monkeypatch, [3.0, 2.0, float("nan"), 2.5, 2.1])
    settings = {"save": {"every_steps": 1}, "validate": {"every_steps": 1, "patience": 2}}
    recipe = toy(**settings)
    output = train(recipe)
    results = json.loads((output / "run.json").read_text())["results"]
    assert (results["step"], results["best_step"], results["best"]) == (4, 2, 2.0)
    assert identical(output / "best", step_folder(output, 2))
    assert len(AutoTokenizer.from_pretrained(output / "best")) == 300
    scripted_validation(monkeypatch, [2.2])
    train(recipe, resume=True)
    assert json.loads((output / "run.json").read_text())["results"]["step"] == 4


def test_bleu_is_better_when_it_rises(toy, monkeypatch):
    training = Training(
        toy(steps=3, save={"every_steps": 1}, validate={"every_steps": 1, "metrics": ["bleu"], "best": "bleu"})
    )
    left = iter([1.0, 5.0, 2.0])
    monkeypatch.setitem(training.family.metrics, "bleu", lambda model, data, limit: {"bleu": next(left)})
    training.run()
    assert (training.progress.best, training.progress.best_step) == (5.0, 2)


@pytest.mark.parametrize("left_there", ["run.json", "config.json", "checkpoints/step-00000001/state.json"])
def test_a_used_output_folder_is_refused(toy, left_there):
    recipe = toy()
    file = Path(recipe.output) / left_there
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"already holds a run or a model; got output=.*--resume"):
        train(recipe)


def test_weights_that_are_not_finite_stop_the_run_and_spare_the_last_checkpoint(toy, monkeypatch):
    recipe = toy(log_every=100, save={"every_steps": 2})
    training = Training(recipe)

    def poison():
        with torch.no_grad():
            next(training.bare_model.parameters()).fill_(float("nan"))

    interrupt_after(monkeypatch, 3, poison)
    monkeypatch.setattr(training.watch, "passes", lambda *_: True)
    with pytest.raises(ValueError, match=r"every weight must stay finite.*at step 4.*learning rate"):
        training.run()
    assert [path.name for path in (training.output / "checkpoints").iterdir()] == ["step-00000002"]
    train(recipe, resume=True)
    assert json.loads((training.output / "run.json").read_text())["results"]["step"] == 10


def test_the_loops_log_speaks_of_steps_on_standard_error(toy, caplog):
    with caplog.at_level(logging.INFO, logger="vaswani_transformer"):
        train(toy(steps=2))
    assert any("step 2/2  loss" in message for message in caplog.messages)


# -------------------------------------------------------------------------------------------------------- fine-tuning


def test_fine_tuning_starts_from_the_folders_weights_and_tokenizer(toy):
    first = train(toy("first", steps=3))
    training = Training(toy("second", model={"from": str(first), "dropout": 0.3}, tokenizer=None))
    assert training.bare_model.config.dropout == 0.3
    assert torch.equal(training.bare_model.state_dict()["model.shared.weight"], weights(first)["model.shared.weight"])
    assert training.data.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(first).get_vocab()
