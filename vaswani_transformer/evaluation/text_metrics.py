"""How written answers are scored: exact match and F1 as SQuAD's script, BLEU as sacreBLEU, with their errors."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

METRICS = ("em", "f1", "bleu")
RESAMPLES = 1000


def normalized(text: str) -> str:
    """An answer as SQuAD compares it: lower case, without punctuation, articles and more than one blank."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same once normalized."""
    return float(normalized(answer) == normalized(gold))


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over words, as bags; of nothing: 1 where both are nothing."""
    found, wanted = normalized(answer).split(), normalized(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2.0 * shared / (len(found) + len(wanted))


def text_scores(text: str, answers: Sequence[str], *, metrics: Sequence[str]) -> dict[str, float]:
    """Returns `em` and `f1` of a text, each that of the accepted answer it is best for.

    Args:
        text: what was written.
        answers: all that are accepted, aliases included.
        metrics: some of `METRICS`; BLEU is of all texts together, see `bleu_figures`.
    """
    of_pairs = {"em": exact_match, "f1": f1}
    return {name: max(of_pairs[name](text, gold) for gold in answers) for name in metrics if name in of_pairs}


def bleu_figures(seeds: Sequence[Sequence[dict[str, Any]]], *, target_language: str = "") -> dict[str, Any]:
    """Returns sacreBLEU's BLEU of written answers, 0 to 100, against all accepted ones.

    Args:
        seeds: for each seed the records of the same questions, with `text` and `answers`.
        target_language: a code that chooses sacreBLEU's tokeniser.

    Returns:
        `bleu`, its mean over seeds; `bleu_seeds` and their standard deviation `bleu_seeds_std` (None for one seed);
        `bleu_stderr` and `bleu_interval` (95%), from resampling questions (Koehn 2004), None for one question; and
        sacreBLEU's `bleu_signature`: its defaults, tokeniser 13a where the language has no other.
    """
    from sacrebleu import BLEU

    counting, metric = BLEU(effective_order=True, trg_lang=target_language), BLEU(trg_lang=target_language)

    def counts(record: dict[str, Any]) -> list[int]:
        found = counting.sentence_score(record["text"], record["answers"])
        return [*found.counts, *found.totals, found.sys_len, found.ref_len]

    def score(sums: np.ndarray) -> float:
        correct, total = ([int(x) for x in part] for part in (sums[:4], sums[4:8]))
        return metric.compute_bleu(correct, total, int(sums[8]), int(sums[9])).score

    counts_SQN = np.array([[counts(record) for record in records] for records in seeds], dtype=np.int64)
    accepted = list(zip_longest(*(record["answers"] for record in seeds[0])))
    alone = [metric.corpus_score([record["text"] for record in part], accepted).score for part in seeds]  # type: ignore[arg-type]
    told = {"bleu_signature": str(metric.get_signature())}
    found = {"bleu": float(np.mean(alone)), "bleu_seeds": alone}
    found["bleu_seeds_std"] = float(np.std(alone, ddof=1)) if len(alone) > 1 else None
    questions = counts_SQN.shape[1]
    if questions < 2:
        return found | {"bleu_stderr": None, "bleu_interval": None} | told
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(questions, size=questions)
        means.append(np.mean([score(sums) for sums in counts_SQN[:, drawn].sum(1)]))
    interval = [float(bound) for bound in np.quantile(means, (0.025, 0.975))]
    return found | {"bleu_stderr": float(np.std(means, ddof=1)), "bleu_interval": interval} | told
