"""sacreBLEU of texts with any number of accepted ones, for `evaluate.load`."""

from typing import Any

from vaswani_transformer.evaluation.loadable_metric import ANSWERS, LoadableMetric, check_answers
from vaswani_transformer.evaluation.text_metrics import bleu_figures


class Bleu(LoadableMetric):
    """Corpus BLEU by sacreBLEU's defaults, tokeniser 13a, with its standard error; each text has its own number of
    references.

    Args:
        predictions: a detokenised text a question.
        references: for each all texts that are accepted.

    Returns:
        `bleu`, 0 to 100, `bleu_stderr` and `bleu_interval`, 95%, from resampled questions, `bleu_signature`.
    """

    FEATURES = ANSWERS
    CITATION = (
        "@inproceedings{post2018call, title={A Call for Clarity in Reporting {BLEU} Scores}, author={Post, Matt}, "
        "booktitle={WMT}, year={2018}}"
    )

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        check_answers(references)
        pairs = zip(predictions, references, strict=True)
        found = bleu_figures([[{"text": text, "answers": answers} for text, answers in pairs]])
        return {name: found[name] for name in ("bleu", "bleu_stderr", "bleu_interval", "bleu_signature")}
