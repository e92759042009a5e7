"""The Kneser-Ney baseline against the formulas written out with dictionaries, one n-gram at a time."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation.perplexity import perplexity

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
V = 7


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("kneser_ney")
    sys.modules.pop("kneser_ney", None)


def text(length: int, seed: int = 0) -> np.ndarray:
    """Tokens that are far from equally frequent; the last of the vocabulary never occurs."""
    return np.random.default_rng(seed).choice(V - 1, length, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])


class Slow:
    """Interpolated modified Kneser-Ney, section 3 of Chen & Goodman (1998), by its formulas."""

    def __init__(self, tokens: list[int], order: int, fallback: tuple[float, ...]) -> None:
        grams = [Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in range(1, order + 1)]
        self.counts: list[Counter[Any]] = [Counter(gram[1:] for gram in longer) for longer in grams[1:]] + [grams[-1]]
        self.discounts = [self.of_order(counts, fallback) for counts in self.counts]
        self.order = order

    @staticmethod
    def of_order(counts: Counter[Any], fallback: tuple[float, ...]) -> tuple[float, ...]:
        n = [0, *(sum(1 for count in counts.values() if count == times) for times in (1, 2, 3, 4))]
        if 0 in n[1:4]:
            return (0.0, *fallback)
        y = n[1] / (n[1] + 2 * n[2])
        found = [times - (times + 1) * y * n[times + 1] / n[times] for times in (1, 2, 3)]
        return (0.0, *(found if all(0 <= d <= t for t, d in zip((1, 2, 3), found, strict=True)) else fallback))

    def probability(self, context: tuple[int, ...], token: int) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        shorter = 1 / V if not context else self.probability(context[1:], token)
        counts, discounts = self.counts[len(context)], self.discounts[len(context)]
        following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        total = sum(following.values())
        if not total:
            return shorter
        freed = sum(discounts[min(count, 3)] for count in following.values())
        count = following.get(token, 0)
        return (count - discounts[min(count, 3)]) / total + freed / total * shorter


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [12, 300])
def test_every_probability_is_that_of_the_formulas(module, order, length):
    model = module.KneserNey(text(length), vocab_size=V, order=order)
    slow = Slow(text(length).tolist(), order, module.FALLBACK)
    # The last two tokens: one never seen in training, and a context that holds it.
    probe = [*text(60, seed=1).tolist(), V - 1, 0]
    expected = [slow.probability(tuple(probe[:place]), token) for place, token in enumerate(probe)]
    np.testing.assert_allclose(model.probabilities(np.array(probe)), expected, rtol=1e-12)


def test_the_discounts_of_a_longer_text_are_its_own(module):
    slow = Slow(text(300).tolist(), 3, module.FALLBACK)
    assert slow.discounts[-1][1:] != module.FALLBACK  # so the test above does compare computed ones


@pytest.mark.parametrize("context", [[], [0], [0, 1], [2, 0, 0, 1], [V - 1, V - 1], [5, 5, 5, 5, 5]])
def test_the_whole_vocabulary_adds_up_to_one_after_seen_and_unseen_contexts(module, context):
    model = module.KneserNey(text(300), vocab_size=V, order=4)
    found = [model.probabilities(np.array([*context, token]))[-1] for token in range(V)]
    assert min(found) > 0
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_a_probability_does_not_depend_on_what_follows(module):
    model = module.KneserNey(text(300), vocab_size=V)
    probe = text(40, seed=2)
    np.testing.assert_array_equal(model.probabilities(probe)[:20], model.probabilities(probe[:20]))


@pytest.mark.parametrize(
    ("tokens", "order", "told"),
    [([1, 2], 3, "at least as many as the order.*=2.*order=3"), ([1, V], 1, r"in \[0, vocab_size=7\); got 1 to 7")],
)
def test_a_text_it_cannot_learn_from_is_told(module, tokens, order, told):
    with pytest.raises(ValueError, match=told):
        module.KneserNey(np.array(tokens), vocab_size=V, order=order)


@pytest.mark.parametrize("separate", [False, True])
def test_it_stands_beside_the_model_on_the_recipes_own_text(module, tmp_path, monkeypatch, capsys, separate):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    texts = {"train": ["a hat and a dog, a dog and a hat"] * 3, "validation": ["a hat,\n\na hat", "a dog and a hat"]}
    for split, rows in texts.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    tokenizer = VaswaniGPT2Tokenizer.train(texts["train"], vocab_size=260)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 260}
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**sizes, max_position_embeddings=16)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = {
        "model": {"family": "gpt"},
        "tokenizer": {"from": str(tmp_path / "model")},
        "data": {"files": {split: str(tmp_path / f"{split}.jsonl") for split in texts}, "separate_documents": separate},
        "batch": {"sequences": 1},
        "optimizer": {"learning_rate": 0.1},
        "schedule": {"name": "constant"},
        "steps": 1,
        "output": "run",
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(
        sys, "argv", ["kneser_ney", str(tmp_path / "model"), str(tmp_path / "toy.yaml"), "--order", "3"]
    )
    module.main()
    line = json.loads(capsys.readouterr().out)
    ids = {split: [[259, *tokenizer(row)["input_ids"]] for row in rows] for split, rows in texts.items()}
    baseline = module.KneserNey(np.concatenate(ids["train"]), vocab_size=260, order=3)
    rows = ids["validation"] if separate else [[token for row in ids["validation"] for token in row]]
    nats = -sum(np.log(baseline.probabilities(np.array(row))[1:]).sum() for row in rows)
    assert line["kneser_ney"]["nats"] == pytest.approx(nats)
    assert line["kneser_ney"]["words"] == line["model"]["words"] == 4 + 5
    assert line["kneser_ney"]["bytes"] == sum(len(text) for text in texts["validation"])
    assert line["kneser_ney"]["tokens"] == line["model"]["tokens"] == sum(len(row) - 1 for row in rows)
    if separate:
        assert line["model"]["nats"] == pytest.approx(perplexity(model, tokenizer, texts["validation"]).nats)
