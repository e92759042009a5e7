"""What the commands that measure write, and ways to read a card."""

import re
from typing import Any

from huggingface_hub import ModelCard

from vaswani_transformer.evaluation import table2

SCORES = {
    "sentences": 3003,
    "bleu": 26.1234,
    "bleu_signature": "nrefs:1|tok:13a",
    "bleu_interval": [25.1, 27.2],
    "chrf": 55.0,
    "chrf_signature": "nrefs:1|nc:6",
    "paper_bleu": 25.9,
    "paper_bleu_signature": "nrefs:1|smooth:none",
}
TRANSLATION = {
    "model": "/home/alice/model",
    "test_set": "newstest2014",
    "language_pair": "en-de",
    "seconds": 9.0,
    "sentences_per_second": 300.0,
    "scores": SCORES,
    "table2": table2(
        "model", 25.9, language_pair="en-de", test_set="newstest2014", sentences=3003, training_flops=3.5e13
    ),
}
PERPLEXITY = {"model": "model", "data": ["/home/alice/novel.txt"], "config": None, "split": None, "column": "text"}
PERPLEXITY |= {"nats_per_token": 3.8, "per_token": 46.3, "per_word": 342.1, "bits_per_byte": 1.515, "tokens": 309834}


def few_shot(accuracy: float) -> dict[str, Any]:
    figures = {"questions": 500, "acc": accuracy, "acc_stderr": 0.019, "chance": 0.25}
    settings = {"model": "/home/alice/model", "model_type": "vaswani-gpt", "shots": [0, 5], "seeds": 2}
    settings |= {"draw": "per_example", "limit": 500, "scorer": "causal", "tasks": {"hellaswag": {"metrics": []}}}
    five = {**figures, "acc": 0.3, "shots_dropped": 2100, "shots_mean": 0.8}
    return {"results": {"hellaswag": {"0": figures, "5": five}}, "settings": settings}


def head(text: str) -> Any:
    """The metadata of a card, as huggingface_hub reads them."""
    return ModelCard(text).data


def section(text: str, name: str) -> str:
    found = re.search(rf"<!-- vaswani:{name} -->\n(.*?)<!-- /vaswani:{name} -->", text, flags=re.DOTALL)
    assert found is not None, name
    return found.group(1)
