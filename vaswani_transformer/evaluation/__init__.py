"""Scoring trained models: translations, the table of published results, zero-, one- and few-shot tasks."""

from .few_shot import evaluate_few_shot
from .table2 import render_table2, table2
from .translation import Hypothesis, bleu_metric, translate, translate_nbest, translate_stream, translation_scores

__all__ = [
    "Hypothesis",
    "bleu_metric",
    "evaluate_few_shot",
    "render_table2",
    "table2",
    "translate",
    "translate_nbest",
    "translate_stream",
    "translation_scores",
]
