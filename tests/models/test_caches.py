"""transformers 5.24 gave the cache another name; our models take both, and return it under the one that is in force."""

import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMixin

from vaswani_transformer import (
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from vaswani_transformer.evaluation.packed_scoring import given_cache
from vaswani_transformer.models.caches import CACHE, one_cache


def gpt() -> tuple[Any, dict[str, torch.Tensor], Any]:
    config = VaswaniGPTConfig(
        vocab_size=11, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, max_position_embeddings=8
    )
    return VaswaniGPTForCausalLM(config).eval(), {"input_ids": torch.tensor([[3, 4]])}, DynamicCache


def transformer() -> tuple[Any, dict[str, torch.Tensor], Any]:
    config = VaswaniTransformerConfig(
        vocab_size=11, d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )
    model = VaswaniTransformerForConditionalGeneration(config).eval()
    given = {"input_ids": torch.tensor([[3, 4]]), "decoder_input_ids": torch.tensor([[0, 5]])}
    return model, given, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache())


FAMILIES = pytest.mark.parametrize("made", [gpt, transformer])


@FAMILIES
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_of_either_name_is_filled_and_returned(made, name):
    model, given, new = made()
    cache = new()
    output = model(**given, **{name: cache}, use_cache=True)
    assert cache.get_seq_length() == 2
    assert output[CACHE] is cache


@FAMILIES
def test_a_cache_by_both_names_is_refused(made):
    model, given, new = made()
    with pytest.raises(ValueError, match="by one name; got cache and past_key_values: give cache"):
        model(**given, cache=new(), past_key_values=new())


def test_the_name_is_the_one_that_generate_gives_and_returns():
    prepare = inspect.getattr_static(GenerationMixin, "prepare_inputs_for_generation")
    assert CACHE in inspect.signature(prepare).parameters
    assert CACHE in GenerateDecoderOnlyOutput.__dataclass_fields__


@FAMILIES
def test_generate_reads_each_token_once(made):
    model, given, _ = made()
    read: list[int] = []
    kept = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(kwargs[next(name for name in ("decoder_input_ids", "input_ids") if name in kwargs)].shape[1])
        return kept(*args, **kwargs)

    counted.__signature__ = inspect.signature(kept)  # type: ignore[attr-defined]
    model.forward = counted
    more = {"custom_generate": None} if made is transformer else {}
    model.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=1, **more)
    assert read == [2, 1, 1, 1]


def test_code_from_before_the_new_name_is_given_the_cache_by_the_old_one():
    class Old(PreTrainedModel):
        def forward(self, input_ids: Any = None, past_key_values: Any = None) -> None: ...

    class New(PreTrainedModel):
        def forward(self, input_ids: Any = None, past_key_values: Any = None, **more: Any) -> None: ...

    cache, model = DynamicCache(), gpt()[0]
    assert given_cache(model, cache) == {CACHE: cache}
    assert given_cache(object.__new__(Old), cache) == {"past_key_values": cache}
    assert given_cache(object.__new__(New), cache) == {"past_key_values": cache}
    assert one_cache(None, cache) is one_cache(cache, None) is cache
