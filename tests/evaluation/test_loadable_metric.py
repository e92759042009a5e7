"""Metrics that `evaluate.load` reads from the package, against our functions and independent ones."""

import importlib
import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vaswani_transformer import VaswaniGPT2Tokenizer
from vaswani_transformer.evaluation.perplexity import perplexity
from vaswani_transformer.evaluation.text_metrics import bleu_figures, text_scores
from vaswani_transformer.evaluation.translation import translation_scores

evaluate = pytest.importorskip("evaluate", reason="needs evaluate, of the extra [eval]")
from vaswani_transformer.evaluation.loadable_metric import FOLDER, METRICS, metric_path  # noqa: E402

TEXTS = ["The cat sat on the mat today.", "a dog ran to the old red house", "It was good!", "she saw him there"]
ANSWERS = [
    ["the cat sat on the mat", "a cat sat on the mat today"],
    ["a dog ran to the red house"],
    ["it was bad", "It was very good indeed", "good it was"],
    ["they saw him go there"],
]
SOURCES = ["die Katze", "ein Hund", "It was good!", "sie sah"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The folders that `evaluate` copies scripts to and keeps results in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


def load(name: str) -> Any:
    return evaluate.load(metric_path(name), keep_in_memory=True)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_loads_without_a_network_and_tells_of_itself(name):
    metric = load(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert metric.description.endswith(".")
    assert "Args:\n    predictions: " in metric.inputs_description
    assert metric.citation.startswith("@")


def test_every_script_has_its_name_among_the_metrics():
    assert sorted(path.parent.name for path in FOLDER.rglob("*.py")) == sorted(METRICS)
    assert all((FOLDER / name / f"{name}.py").is_file() for name in METRICS)


@pytest.mark.parametrize(("name", "ours"), [("exact_match", "em"), ("f1", "f1")])
def test_scores_of_answers_are_the_mean_of_ours_over_the_best_accepted_answer(name, ours):
    texts, answers = [*TEXTS, "Mat!"], [*ANSWERS, ["a mat", "rug"]]
    values = [text_scores(text, some, metrics=(ours,))[ours] for text, some in zip(texts, answers, strict=True)]
    found = load(name).compute(predictions=texts, references=answers)
    assert found[name] == pytest.approx(np.mean(values))
    assert found[f"{name}_stderr"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))
    assert found[f"{name}_interval"][0] < found[name] < found[f"{name}_interval"][1]


def test_scores_of_answers_have_the_values_worked_out_by_hand():
    answers = {"predictions": ["The Beatles!", "the Fab Four of Liverpool"], "references": [["beatles"], ["Fab Four"]]}
    assert load("exact_match").compute(**answers)["exact_match"] == 1 / 2
    assert load("f1").compute(**answers)["f1"] == pytest.approx((1 + 2 * 2 / (4 + 2)) / 2)


def test_accuracy_and_its_error_are_those_of_scikit_learn_and_scipy():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, of the extra [eval]")
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy, of the extra [eval]")
    rng = np.random.default_rng(0)
    choices, gold = rng.integers(3, size=(2, 40))
    found = load("accuracy").compute(predictions=choices.tolist(), references=gold.tolist())
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, choices))
    assert found["accuracy_stderr"] == pytest.approx(stats.sem(choices == gold))


def test_bleu_is_sacrebleus_with_as_many_references_as_each_text_has():
    from sacrebleu import BLEU

    streams = [[some[place] if place < len(some) else None for some in ANSWERS] for place in range(3)]
    found = load("bleu").compute(predictions=TEXTS, references=ANSWERS)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(TEXTS, streams).score)  # type: ignore[arg-type]
    assert found["bleu"] > 0
    records = [{"text": text, "answers": some} for text, some in zip(TEXTS, ANSWERS, strict=True)]
    ours = bleu_figures([records])
    assert found == {name: ours[name] for name in ("bleu", "bleu_stderr", "bleu_interval", "bleu_signature")}


def test_scores_of_translations_are_ours_and_sacrebleus():
    pytest.importorskip("sacremoses", reason="needs sacremoses, of the extra [eval]")
    from sacrebleu import BLEU, CHRF

    references = [some[0] for some in ANSWERS]
    told: dict[str, Any] = {"target_language": "de", "sources": SOURCES}
    found = load("translation").compute(predictions=TEXTS, references=references, **told)
    assert found == translation_scores(TEXTS, references, **told)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(TEXTS, [references]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(TEXTS, [references]).score)
    assert found["paper_bleu"] > 0
    assert found["copied"] == 1 / 4


def test_perplexity_is_transformers_own_loss_and_our_function(tmp_path):
    tokenizer = VaswaniGPT2Tokenizer.train(TEXTS * 3, vocab_size=300)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **sizes, **ends)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load("perplexity").compute(predictions=TEXTS[:1], model_id=str(tmp_path), device="cpu")
    row = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]])
    assert found["per_token"] == pytest.approx(math.exp(model(row, labels=row).loss.item()), rel=1e-4)
    narrow: dict[str, Any] = {"window": 6, "stride": 2}
    found = load("perplexity").compute(predictions=TEXTS, model_id=str(tmp_path), device="cpu", **narrow)
    ours = perplexity(model, tokenizer, TEXTS, **narrow).as_dict()
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in ours.items()}


def test_batches_that_pass_through_evaluates_files_have_the_score_of_all_at_once(tmp_path):
    metric = evaluate.load(metric_path("f1"), cache_dir=str(tmp_path))
    for part in (slice(0, 1), slice(1, 4)):
        metric.add_batch(predictions=TEXTS[part], references=ANSWERS[part])
    assert metric.compute() == load("f1").compute(predictions=TEXTS, references=ANSWERS)


@pytest.mark.parametrize("name", ["exact_match", "f1", "bleu"])
def test_a_prediction_that_nothing_is_accepted_for_is_named(name):
    with pytest.raises(ValueError, match=r"needs an accepted answer or more; got none in references\[1\]"):
        load(name).compute(predictions=["a", "b"], references=[["a"], []])


def test_an_unknown_metric_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="unknown metric 'exactmatch'; did you mean 'exact_match'"):
        metric_path("exactmatch")


def test_without_evaluate_the_extra_to_install_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    monkeypatch.delitem(sys.modules, "vaswani_transformer.evaluation.loadable_metric")
    with pytest.raises(ImportError, match=re.escape("pip install 'vaswani-transformer[eval]'")):
        importlib.import_module("vaswani_transformer.evaluation.loadable_metric")


def test_the_readmes_example_of_a_metric_runs(repository, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    [block] = [block for block in blocks if "metric_path" in block]
    exec(block, {})
    assert "'f1': 0.83" in capsys.readouterr().out
