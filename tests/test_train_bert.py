"""BERT's pre-training through the one loop, at toy size."""

import json
import logging
import signal

import datasets.config
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoTokenizer, BertConfig, BertForPreTraining

from vaswani_transformer import VaswaniBertForPreTraining
from vaswani_transformer.evaluation.bert_pretraining import accuracy_metric
from vaswani_transformer.recipe import Recipe
from vaswani_transformer.run_log import read_metrics
from vaswani_transformer.train import Training, train

WORDS = ["the", "cat", "dog", "saw", "a", "tree", "and", "ran", "home", "again"]
FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
FIELDS += ("max_position_embeddings", "type_vocab_size", "layer_norm_eps")
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes the recipe of a toy run over documents in which one of ten words follows another always."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng, documents = np.random.default_rng(0), []
    for _ in range(40):
        begin, sentences = rng.integers(10), []
        for length in rng.integers(3, 8, 6):
            sentences.append(" ".join(WORDS[(begin + place) % 10] for place in range(length)))
            begin += length
        documents.append("\n".join(sentences))
    files = {"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "validation.txt")}
    (tmp_path / "train.txt").write_text("\n\n".join(documents[8:]) + "\n")
    (tmp_path / "validation.txt").write_text("\n\n".join(documents[:8]) + "\n")

    def make(output: str, **changes) -> Recipe:
        values = {
            "model": {"family": "bert", "hidden_act": "gelu_pytorch_tanh", **SIZES, **changes.pop("model", {})},
            "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
            "data": {"files": files, "max_seq_length": 24, **changes.pop("data", {})},
            "batch": {"sequences": 16, **changes.pop("batch", {})},
            "optimizer": {"name": "adamw", "learning_rate": 0.005},
            "schedule": {"name": "constant", "warmup_steps": 5},
            "log_every": 1,
            "output": str(tmp_path / output),
        }
        return Recipe.from_dict(values | changes)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(output, kind: str = "train") -> list[float]:
    return [record["loss"] for record in read_metrics(output / "metrics.jsonl") if record["kind"] == kind]


def test_bert_learns_in_the_loop_and_its_folder_is_a_model_with_its_tokenizer(toy) -> None:
    output = train(toy("run", steps=150, validate={"every_steps": 50}))
    found, validation = losses(output), losses(output, "validation")
    assert np.mean(found[-10:]) < np.mean(found[:5]) - 1.0
    assert validation[-1] < validation[0]
    model, tokenizer = AutoModelForPreTraining.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert isinstance(model, VaswaniBertForPreTraining)
    outputs = model.eval()(**tokenizer("the cat dog", "saw a tree", return_tensors="pt"))
    assert outputs.seq_relationship_logits.shape == (1, 2)


def test_accumulation_gives_bert_the_same_losses_of_both_tasks(toy) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain, split = (train(toy(f"by-{n}", steps=6, model=still, batch={"accumulation": n})) for n in (1, 3))
    assert losses(plain) == pytest.approx(losses(split), abs=1e-4)


PHASES = [
    {"share": 0.6, "data": {"max_seq_length": 12}, "batch": {"sequences": 8, "accumulation": 2}},
    {"share": 0.4, "data": {"max_predictions_per_seq": 3}},
]
OWN_SCHEDULES = [
    {"share": 0.6, "data": {"max_seq_length": 12}, "learning_rate": 0.006, "warmup_steps": 2},
    {"share": 0.4, "warmup_steps": 1},
]
LINEAR = {"schedule": {"name": "linear", "warmup_steps": 4}, "steps": 10}


def records(output, name: str, kind: str = "train") -> list:
    return [record[name] for record in read_metrics(output / "metrics.jsonl") if record["kind"] == kind]


def weights(output) -> dict:
    return load_file(output / "model.safetensors")


def identical(first, second) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def longest_batches(monkeypatch) -> list[tuple[int, int, int]]:
    """Collects, for each update of a run: micro batches, sequences in them, tokens of the longest."""
    seen, update = [], Training.update

    def watched(self, micro_batches, target_tokens):
        rows = [len(batch["input_ids"]) for batch in micro_batches]
        seen.append((len(rows), sum(rows), max(batch["input_ids"].shape[1] for batch in micro_batches)))
        return update(self, micro_batches, target_tokens)

    monkeypatch.setattr(Training, "update", watched)
    return seen


def test_each_phase_has_its_lengths_and_batches_and_the_log_names_it(toy, monkeypatch, caplog) -> None:
    seen = longest_batches(monkeypatch)
    with caplog.at_level(logging.INFO):
        output = train(toy("run", phases=PHASES, validate={"every_steps": 4}, **LINEAR))
    assert [(parts, rows) for parts, rows, _ in seen] == [(2, 8)] * 6 + [(1, 16)] * 4
    assert all(longest <= 12 for _, _, longest in seen[:6])
    assert max(longest for _, _, longest in seen[6:]) > 12
    assert records(output, "phase") == [1] * 6 + [2] * 4
    assert records(output, "phase", "validation") == [1, 2, 2]
    assert "phase 2 of 2, updates 7 to 10" in caplog.text
    notes = json.loads((output / "run.json").read_text())
    assert notes["results"]["phase"] == 2
    assert [(phase["start"], phase["end"]) for phase in notes["phases"]] == [(0, 6), (6, 10)]
    assert notes["phases"][0]["counts"]["train"]["examples"] > notes["phases"][1]["counts"]["train"]["examples"]


def test_one_schedule_runs_through_phases_that_name_no_rate(toy) -> None:
    rates = records(train(toy("run", phases=PHASES, **LINEAR)), "learning_rate")
    warm_up = [0.005 * step / 4 for step in (1, 2, 3)]
    assert rates == pytest.approx(warm_up + [0.005 * (1 - step / 10) for step in range(4, 11)])


def test_phases_that_name_a_rate_have_schedules_of_their_own(toy) -> None:
    rates = records(train(toy("run", phases=OWN_SCHEDULES, **LINEAR)), "learning_rate")
    first = [0.003] + [0.006 * (1 - step / 6) for step in range(2, 7)]
    assert rates == pytest.approx(first + [0.005 * (1 - step / 4) for step in range(1, 5)])


@pytest.mark.parametrize("phases", [PHASES, OWN_SCHEDULES], ids=["one schedule", "own schedules"])
@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_run_stopped_in_any_phase_or_between_two_ends_with_the_very_same_weights(toy, monkeypatch, phases, stop):
    straight = train(toy("straight", phases=phases, **LINEAR))
    halves, update = toy("halves", phases=phases, **LINEAR), Training.update

    def stopping(self, *arguments):
        found = update(self, *arguments)
        if self.progress.step + 1 == stop:
            signal.raise_signal(signal.SIGINT)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", stopping)
        with pytest.raises(KeyboardInterrupt, match=f"step {stop}"):
            train(halves)
    output = train(halves, resume=True)
    assert identical(straight, output)
    assert losses(output) == losses(straight)
    assert records(output, "phase") == [1] * 6 + [2] * 4


def test_the_best_model_is_sought_anew_in_each_phase(toy, monkeypatch) -> None:
    values = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(Training, "_validation_loss", lambda self: {"nll": next(values)})
    output = train(toy("run", phases=PHASES, validate={"every_steps": 4}, **LINEAR))
    results = json.loads((output / "run.json").read_text())["results"]
    assert (results["best"], results["best_step"]) == (2.0, 10)


def test_processes_agree_on_the_phases(toy, monkeypatch) -> None:
    """Two processes' shares of every update of both phases are together what one process sees."""
    shares = []
    for world in (1, 2):
        for rank in range(world):
            run = Training(toy(f"world-{world}-{rank}", phases=PHASES, **LINEAR))
            for name, value in (("num_processes", world), ("process_index", rank)):
                monkeypatch.setattr(type(run.accelerator), name, value)
            seen = []
            for micro_batches, target_tokens, _ in run.updates():
                rows = [tuple(row[row != 0].tolist()) for batch in micro_batches for row in batch["input_ids"]]
                seen.append((run.progress.phase, target_tokens, sorted(rows)))
                run.progress.step += 1
                run.progress.position += 1
            shares.append(seen)
            monkeypatch.undo()
    alone, first, second = shares
    assert [(phase, tokens) for phase, tokens, _ in first] == [(phase, tokens) for phase, tokens, _ in alone]
    assert [sorted(a + b) for (*_, a), (*_, b) in zip(first, second, strict=True)] == [rows for *_, rows in alone]


def test_resuming_with_fewer_phases_than_were_begun_is_refused(toy) -> None:
    train(toy("run", phases=PHASES, **LINEAR))
    with pytest.raises(ValueError, match=r"checkpoint of phase 2 and 1 in the recipe"):
        train(toy("run", **LINEAR), resume=True)


def test_a_phase_longer_than_the_position_table_is_refused_before_the_first_update(toy) -> None:
    with pytest.raises(ValueError, match=r"max_seq_length=24, max_position_embeddings=16"):
        Training(toy("run", model={"max_position_embeddings": 16}, phases=PHASES, **LINEAR))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"phases": [{"share": 0.5}]}, "add up to 1; got 0.5"),
        ({"phases": [{"share": 1.5}, {"share": -0.5}]}, r"phases\[1\].share must be above 0"),
        ({"phases": [{"share": 1, "batch": {"sequence": 4}}]}, r"did you mean 'phases\[0\].batch.sequences'"),
        ({"phases": [{"share": 1, "steps": 4}]}, r"unknown recipe key 'phases\[0\].steps'"),
        ({"phases": [{"share": 1}], "minutes": 1.0}, "minutes=null"),
    ],
)
def test_phases_that_are_wrong_are_refused(toy, changes, told) -> None:
    with pytest.raises(ValueError, match=told):
        toy("run", **LINEAR | changes)


def test_validation_tells_the_accuracy_and_the_loss_of_both_tasks(toy) -> None:
    settings = {"every_steps": 50, "metrics": ["loss", "accuracy"]}
    output = train(toy("run", steps=100, validate=settings))
    told = json.loads((output / "run.json").read_text())["results"]["validation"]
    assert told["masked_loss"] == pytest.approx(told["nll"], abs=1e-4)
    assert told["masked_loss"] + told["next_sentence_loss"] == pytest.approx(told["loss"], abs=1e-4)
    assert records(output, "masked_accuracy", "validation")[-1] == told["masked_accuracy"]
    assert records(output, "next_sentence_accuracy", "validation")[-1] == told["next_sentence_accuracy"]


def test_the_accuracies_are_those_of_transformers_berts_logits(toy) -> None:
    run = Training(toy("run", steps=1))
    found = accuracy_metric(run.bare_model, run.data)
    peer = BertForPreTraining(BertConfig(**{k: v for k, v in run.bare_model.config.to_dict().items() if k in FIELDS}))
    peer.load_state_dict(run.bare_model.state_dict(), strict=False)
    words, pairs = [], []
    for indices in run.data.validation_batches():
        batch = run.data.validation_micro_batch(indices)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        outputs, masked = peer.eval()(**inputs), batch["labels"] != -100
        words.append(outputs.prediction_logits.argmax(-1)[masked] == batch["labels"][masked])
        pairs.append(outputs.seq_relationship_logits.argmax(-1) == batch["next_sentence_label"])
    assert found["masked_accuracy"] == pytest.approx(torch.cat(words).double().mean().item())
    assert found["next_sentence_accuracy"] == pytest.approx(torch.cat(pairs).double().mean().item())


def test_without_pairs_validation_tells_of_masked_words_alone(toy) -> None:
    run = Training(toy("run", steps=1, data={"next_sentence": False}))
    assert sorted(accuracy_metric(run.bare_model, run.data)) == ["masked_accuracy", "masked_loss"]
