"""How well a causal language model foretells texts, over windows that overlap, for `evaluate.load`."""

from typing import Any

from datasets import Features, Value

from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.loadable_metric import LoadableMetric
from vaswani_transformer.evaluation.perplexity import perplexity


class Perplexity(LoadableMetric):
    """Perplexity of a token and of a word, bits a byte; windows overlap, and every token is foretold once.

    Args:
        predictions: texts, none seeing another.
        model_id: a model's folder, or its name on the Hub. Given to `compute`, as are the rest.
        device: "cpu", "cuda:1"; the GPU where there is one.
        window: tokens read together; the model's context where left out.
        stride: tokens between two windows; half the window where left out.
        batch_tokens: most tokens of a batch.
        detokenize: "wikitext" undoes WikiText's spacing first.

    Returns:
        `per_token`, `per_word`, `bits_per_byte`, `nats_per_token`, and what they follow from.
    """

    FEATURES = Features({"predictions": Value("string")})
    CITATION = (
        "@techreport{radford2019language, title={Language Models are Unsupervised Multitask Learners}, "
        "author={Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and Sutskever, "
        "Ilya}, institution={OpenAI}, year={2019}}"
    )

    def _compute(
        self, *, predictions: list[str], model_id: str, device: str | None = None, **settings: Any
    ) -> dict[str, Any]:
        model, tokenizer = load_causal_lm(model_id, device=device)
        return perplexity(model, tokenizer, predictions, **settings).as_dict()
