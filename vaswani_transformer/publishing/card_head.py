"""The YAML at the head of a model card: what the Hub lists and searches by, and a person's own keys beside it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..evaluation.few_shot_reports import entries
from .run_results import Results

logger = logging.getLogger(__name__)

LISTS = ("language", "datasets", "tags", "metrics")
NOT_FOR_THE_HEAD = ("watts", "data_license")
UNKNOWN_LICENSE = "unknown"  # the Hub's own word
PIPELINES = {
    "ConditionalGeneration": "translation",
    "PreTraining": "fill-mask",
    "MaskedLM": "fill-mask",
    "NextSentencePrediction": "text-classification",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
    "CausalLM": "text-generation",
}
FAMILY_PIPELINES = {"transformer": "translation", "bert": "fill-mask", "gpt": "text-generation"}
# The Hub's names of metrics, where they are other than ours.
METRICS = {"pearson": "pearsonr", "nll": None, "loss": None, "masked_loss": None, "next_sentence_loss": None}
METRICS = {**METRICS, "masked_accuracy": "accuracy", "next_sentence_accuracy": "accuracy"}
NAMED_FOR = {"masked_accuracy": "accuracy of masked tokens", "next_sentence_accuracy": "accuracy of the next sentence"}


def card_head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys that a model's folder tells, as the Hub names them.

    What `card.yaml` says goes first. A licence is never guessed: without one there, it is the Hub's "unknown".

    Args:
        facts: from `read_facts`.
    """
    results = eval_results(facts)
    data = facts["data"] or {"datasets": [], "languages": []}
    head = {
        "library_name": "transformers",
        "pipeline_tag": pipeline_tag(facts),
        "license": UNKNOWN_LICENSE,
        "language": data["languages"],
        "datasets": data["datasets"],
        "base_model": facts["base"]["hub"] if facts["base"] else None,
        "tags": ["custom_code", facts["config"].model_type] if facts["custom"] else [],
        "metrics": list(dict.fromkeys(result.metric_type for result in results)),
        "eval_results": results or None,
        "model_name": facts["name"] if results else None,
    }
    by_hand = {key: value for key, value in facts["by_hand"].items() if key not in NOT_FOR_THE_HEAD}
    for key, value in by_hand.items():
        known = key in LISTS and key != "language"
        head[key] = list(dict.fromkeys([*head.get(key, []), *as_list(value)])) if known else value
    for key in ("license", "language"):
        if head[key] in ([], UNKNOWN_LICENSE):
            logger.warning("the card has no %s: say it in card.yaml in the model's folder", key)
    told = ModelCardData(**head).to_dict()
    return {key: value for key, value in told.items() if value not in ([], "")}


def pipeline_tag(facts: Mapping[str, Any]) -> str:
    """The Hub's task of a model's head; feature-extraction of a model without one."""
    architecture = facts["architecture"]
    if architecture.endswith(("MTModel", "LMHeadModel")):
        return FAMILY_PIPELINES[facts["family"]]
    if not architecture or "For" in architecture:
        return PIPELINES.get(architecture.rpartition("For")[2], FAMILY_PIPELINES[facts["family"]])
    return "feature-extraction"


def eval_results(facts: Mapping[str, Any]) -> list[EvalResult]:
    """Every number that the card has, as entries of its model-index."""
    results: Results = facts["results"]
    return [
        *_validation_entries(facts),
        *(entry for report in results.translations for entry in _translation_entries(report)),
        *(entry for report in results.perplexities for entry in _perplexity_entries(report)),
        *(entry for found in results.few_shot for entry in entries(found)),
    ]


def _validation_entries(facts: Mapping[str, Any]) -> list[EvalResult]:
    if facts["run"] is None:
        return []
    task, data = facts["glue_task"], facts["data"]
    kind = (data["datasets"] or [data["sources"][0]["name"].replace("`", "")])[0]
    where: dict[str, Any] = {"task_type": pipeline_tag(facts), "dataset_type": kind, "dataset_split": "validation"}
    where["dataset_name"] = f"{task.column}, rows held out" if task else "validation rows of the run"
    where["dataset_config"] = task.config if task else None
    return [
        EvalResult(
            **where,
            metric_type=METRICS.get(line["metric"], line["metric"]),
            metric_name=NAMED_FOR.get(line["metric"], line["label"].removesuffix(" in %")),
            metric_value=round(line["value"] / line["scale"], 4),
            metric_args=None if line["error"] is None else {"stderr": round(line["error"] / line["scale"], 6)},
        )
        for line in facts["validation"]
        if METRICS.get(line["metric"], line["metric"]) is not None
    ]


def _translation_entries(report: Mapping[str, Any]) -> list[EvalResult]:
    scores = report["scores"]
    where = {"task_type": "translation", "dataset_type": report["test_set"], "dataset_name": report["test_set"]}
    named = {"bleu": ("bleu", "sacreBLEU"), "chrf": ("chrf", "chrF"), "paper_bleu": ("bleu", "the paper's BLEU")}
    found = []
    for key, (kind, name) in named.items():
        arguments = {"signature": scores[f"{key}_signature"], "sentences": scores["sentences"]}
        arguments |= {"interval": scores[f"{key}_interval"]} if f"{key}_interval" in scores else {}
        value = round(scores[key], 2)
        found.append(
            EvalResult(
                **where,
                dataset_config=report["language_pair"],
                metric_type=kind,
                metric_name=name,
                metric_value=value,
                metric_args=arguments,
            )
        )
    return found


def _perplexity_entries(report: Mapping[str, Any]) -> list[EvalResult]:
    data = report["data"]
    name = data if isinstance(data, str) else ", ".join(data)
    where: dict[str, Any] = {"task_type": "text-generation", "dataset_type": name, "dataset_name": name}
    where |= {"dataset_config": report.get("config"), "dataset_split": report.get("split")}
    named = {
        "per_token": ("perplexity", "perplexity of a token"),
        "per_word": ("perplexity", "perplexity of a word"),
        "bits_per_byte": ("bits_per_byte", "bits per byte"),
    }
    return [
        EvalResult(**where, metric_type=kind, metric_name=label, metric_value=round(report[key], 4))
        for key, (kind, label) in named.items()
    ]


def as_list(value: Any) -> list[Any]:
    """A value of the head as a list: several keys may hold one or many."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def digests(head: Mapping[str, Any]) -> dict[str, Any]:
    """What tells our own values from a person's the next time: a digest of each, of a list's items one by one."""
    return {
        key: [_digest(item) for item in _items(key, value)] if isinstance(value, list) else _digest(value)
        for key, value in head.items()
    }


def merge_heads(ours: Mapping[str, Any], existing: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the head of a card that has one already: a person's keys and items stay, those that we wrote are renewed.

    Args:
        ours: from `card_head`.
        existing: the card's.
        before: `digests` of what we wrote the last time; empty where we never did.
    """
    merged = {key: value for key, value in existing.items() if before.get(key) != digests({key: value})[key]}
    for key, value in ours.items():
        theirs = merged.get(key)
        if theirs in (None, "", []):
            merged[key] = value
        elif isinstance(value, list) or isinstance(theirs, list):
            old = before.get(key) or []
            kept = [item for item in _items(key, as_list(theirs)) if _digest(item) not in as_list(old)]
            merged[key] = _joined(key, as_list(value), kept)
    return merged


def _joined(key: str, ours: list[Any], kept: list[Any]) -> list[Any]:
    if key != "model-index":
        return [*kept, *(item for item in ours if item not in kept)]
    mine = _items(key, ours)
    others = [entry for entry in kept if not any(_same_measure(entry, other) for other in mine)]
    return [{"name": ours[0]["name"], "results": [*mine, *others]}]


def _items(key: str, values: list[Any]) -> list[Any]:
    """The items of a list; of a model-index each metric with its task and data set, however they are grouped."""
    if key != "model-index":
        return values
    return [
        {**result, "metrics": [metric]} for one in values for result in one["results"] for metric in result["metrics"]
    ]


def _same_measure(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def measure(entry: Mapping[str, Any]) -> Any:
        metric = {key: value for key, value in entry["metrics"][0].items() if key not in ("value", "args")}
        return entry["task"], entry["dataset"], metric

    return measure(one) == measure(other)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
