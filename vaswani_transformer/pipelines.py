"""The pipeline task "seq2seq-translation", for any sequence-to-sequence model; transformers 5 dropped "translation".

This file imports transformers and nothing of ours: `pipeline.save_pretrained` copies it into the folder it writes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

TASK = "seq2seq-translation"
MAX_SOURCE_TOKENS = 1024  # as in evaluation/translation.py, where the reason stands


class Seq2SeqTranslationPipeline(Pipeline):
    """Translates text: `pipeline("seq2seq-translation", model=folder)("Hello.")` -> `[{"translation_text": "Hallo."}]`.

    A list of texts gives a list of such dictionaries, or of lists of them under `num_return_sequences=n`; a generator
    or a data set gives an iterator of lists. A blank text gives "". Sources beyond `max_source_tokens` are cut.

    Keyword arguments, when the pipeline is made or called: `batch_size`, `max_source_tokens`, and anything
    `model.generate` takes; what is not given comes from the model's generation config. Lists are translated in order of
    length, so that batches hold little padding.

    A folder that `save_pretrained` of the pipeline wrote holds this file and its name, so transformers asks for
    `trust_remote_code=True` to read it, and needs nothing of ours installed.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    # False: transformers would prepare generation settings of its own, in a way that changed between its releases.
    _pipeline_calls_generate = False

    def __call__(self, inputs: str | list[str] | Iterable[str], **kwargs: Any) -> Any:
        """Translates one text, a list of texts, or an iterator of them."""
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if not isinstance(inputs, list):
            return super().__call__(inputs, **kwargs)
        for text in inputs:
            _check_text(text)
        if not inputs:
            return []
        # By characters: near enough to tokens, and known before tokenising.
        order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index]))
        found: Any = super().__call__([inputs[index] for index in order], **kwargs)
        results: list[Any] = [None] * len(inputs)
        for index, records in zip(order, found, strict=True):
            results[index] = records[0] if len(records) == 1 else records
        return results

    def _sanitize_parameters(
        self, max_source_tokens: int | None = None, **generate_kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if max_source_tokens is not None and max_source_tokens < 2:
            raise ValueError(f"max_source_tokens must be at least 2 (a token and </s>); got {max_source_tokens=}")
        preprocess = {} if max_source_tokens is None else {"max_source_tokens": max_source_tokens}
        return preprocess, generate_kwargs, {}

    def preprocess(self, text: str, max_source_tokens: int = MAX_SOURCE_TOKENS) -> dict[str, Any]:  # pyright: ignore
        """Encodes one text; a blank one goes along as an end of sentence, so that batches stay whole."""
        _check_text(text)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        limit = min(max_source_tokens, positions) if isinstance(positions, int) else max_source_tokens
        special: dict[str, Any] = {"split_special_tokens": True} if self.tokenizer.is_fast else {}  # pyright: ignore
        encoded = self.tokenizer(  # pyright: ignore[reportOptionalCall]
            text if text.strip() else "", truncation=True, max_length=limit, return_tensors="pt", **special
        )
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        return {**inputs, "blank": inputs["input_ids"].new_tensor([not text.strip()])}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        blank = model_inputs.pop("blank")
        ids = self.model.generate(**model_inputs, **generate_kwargs)  # pyright: ignore[reportCallIssue]
        return {"translation_ids": ids.reshape(len(blank), -1, ids.shape[-1]), "blank": blank}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, str]]:  # pyright: ignore
        """Decodes the translations of one text, best first."""
        rows = model_outputs["translation_ids"][0]
        if bool(model_outputs["blank"][0]):
            return [{"translation_text": ""} for _ in rows]
        texts: Iterator[str] = iter(self.tokenizer.batch_decode(rows, skip_special_tokens=True))  # pyright: ignore
        return [{"translation_text": text} for text in texts]


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{TASK} translates strings; got {type(text).__name__}")


def register_pipelines() -> None:
    """Makes the task known to `transformers.pipeline`; a second call changes nothing."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=Seq2SeqTranslationPipeline, pt_model=AutoModelForSeq2SeqLM, type="text"
        )
