"""Scores of translations, the BLEU of Vaswani et al. (2017) among them, for `evaluate.load`."""

from typing import Any

from datasets import Features, Value

from vaswani_transformer.evaluation.loadable_metric import LoadableMetric
from vaswani_transformer.evaluation.translation import translation_scores


class Translation(LoadableMetric):
    """sacreBLEU, chrF and the tokenised BLEU of Vaswani et al. (2017), compounds split in German.

    Args:
        predictions: detokenised translations.
        references: as many detokenised references.
        target_language: code such as "de"; chooses the tokenisers. Given to `compute`.
        sources: the sentences translated, if given to `compute`: adds the share of copies.

    Returns:
        `bleu`, `chrf`, `paper_bleu`, 0 to 100, a `..._signature` for each, `sentences`, `target_language`, `copied`.
    """

    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})
    CITATION = (
        "@inproceedings{vaswani2017attention, title={Attention Is All You Need}, author={Vaswani, Ashish and Shazeer, "
        "Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and Gomez, Aidan N. and Kaiser, Lukasz and "
        "Polosukhin, Illia}, booktitle={NeurIPS}, year={2017}}"
    )

    def _compute(
        self,
        *,
        predictions: list[str],
        references: list[str],
        target_language: str,
        sources: list[str] | None = None,
    ) -> dict[str, Any]:
        return translation_scores(predictions, references, sources=sources, target_language=target_language)
