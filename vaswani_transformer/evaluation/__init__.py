"""Scoring trained models: translations against references, and the table of published results."""

from .table2 import render_table2, table2
from .translation import Hypothesis, bleu_metric, translate, translate_nbest, translate_stream, translation_scores

__all__ = [
    "Hypothesis",
    "bleu_metric",
    "render_table2",
    "table2",
    "translate",
    "translate_nbest",
    "translate_stream",
    "translation_scores",
]
