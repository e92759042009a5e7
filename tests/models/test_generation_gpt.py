"""GPT's generation: transformers' GPT-2 and OpenAI-GPT token for token, with every cache, over several turns."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, GPT2Config, OpenAIGPTConfig, StaticCache

from vaswani_transformer import VaswaniGPTForCausalLM
from vaswani_transformer.models.caches import CACHE

PEERS = {"gpt2": (GPT2Config, "GPT2LMHeadModel"), "openai-gpt": (OpenAIGPTConfig, "OpenAIGPTLMHeadModel")}
BANDED: dict[str, Any] = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
BANDED |= {"norm_order": "pre"}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled": {"do_sample": True, "top_k": 8, "temperature": 0.8},
}


@pytest.fixture
def both(tmp_path):
    """transformers' model of random weights, and ours loaded from its folder."""

    def make(name: str) -> tuple[Any, Any]:
        torch.manual_seed(0)
        config, model_class = PEERS[name]
        fields = {"vocab_size": 37, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 40, "pad_token_id": 0}
        peer = getattr(transformers, model_class)(config(**fields, bos_token_id=None, eos_token_id=None)).eval()
        with torch.no_grad():
            for parameter in peer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        peer.save_pretrained(tmp_path)
        return peer, VaswaniGPTForCausalLM.from_pretrained(tmp_path)

    return make


def prompts() -> dict[str, Tensor]:
    """Three prompts of 6, 3 and 1 tokens, padded on the left."""
    torch.manual_seed(4)
    mask = (torch.arange(6) >= torch.tensor([[0], [3], [5]])).long()
    return {"input_ids": torch.randint(1, 37, (3, 6)) * mask, "attention_mask": mask}


def written(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    torch.manual_seed(9)
    return model.generate(**inputs, **{"max_new_tokens": 10, "pad_token_id": 0, **options})


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", PEERS)
def test_it_writes_what_transformers_writes(both, name, search) -> None:
    peer, model = both(name)
    assert torch.equal(written(model, prompts(), **SEARCHES[search]), written(peer, prompts(), **SEARCHES[search]))


@pytest.mark.parametrize("search", SEARCHES)
def test_every_cache_and_none_write_the_same(make_gpt, search) -> None:
    model = make_gpt("ForCausalLM")
    expected = written(model, prompts(), use_cache=False, **SEARCHES[search])
    for cache in (None, "static"):
        got = written(model, prompts(), cache_implementation=cache, disable_compile=True, **SEARCHES[search])
        assert torch.equal(got, expected), cache


def test_banded_layers_write_the_same_from_their_cache(make_gpt) -> None:
    model = make_gpt("ForCausalLM", **BANDED)
    expected = written(model, prompts(), use_cache=False, do_sample=False)
    for cache in (None, "static"):
        got = written(model, prompts(), cache_implementation=cache, disable_compile=True, do_sample=False)
        assert torch.equal(got, expected), cache


@pytest.mark.parametrize("banded", [False, True])
def test_a_draft_models_help_changes_nothing(make_gpt, banded) -> None:
    model = make_gpt("ForCausalLM", **(BANDED if banded else {}))
    draft = make_gpt("ForCausalLM", seed=1, num_hidden_layers=1)
    prompt = {"input_ids": prompts()["input_ids"][:1]}
    expected = written(model, prompt, do_sample=False)
    assert torch.equal(written(model, prompt, do_sample=False, assistant_model=draft), expected)
    assert torch.equal(written(model, prompt, do_sample=False, prompt_lookup_num_tokens=2), expected)


@pytest.mark.parametrize("search", ["greedy", "sampled"])
def test_several_turns_of_one_cache_are_one_text(make_gpt, search) -> None:
    model = make_gpt("ForCausalLM")
    cache, ids = DynamicCache(config=model.config), torch.randint(1, 37, (1, 4))
    for _ in range(3):
        expected = written(model, {"input_ids": ids}, max_new_tokens=4, **SEARCHES[search])
        got = written(model, {"input_ids": ids}, max_new_tokens=4, **{CACHE: cache}, **SEARCHES[search])
        assert torch.equal(got, expected)
        ids = torch.cat((got, torch.randint(1, 37, (1, 3))), dim=1)
    assert cache.get_seq_length() == ids.shape[1] - 3 - 1


@pytest.mark.parametrize("order", ["post", "pre"])
def test_prefill_and_a_decode_step_compile_without_a_graph_break(make_gpt, order) -> None:
    torch._dynamo.reset()
    model = make_gpt("ForCausalLM", norm_order=order)
    ids = torch.randint(1, 37, (2, 7))
    step = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=12)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        first = step(ids[:, :5], cache=cache, use_cache=True).logits
        rest = [step(ids[:, at : at + 1], cache=cache, use_cache=True).logits for at in (5, 6)]
    torch.testing.assert_close(torch.cat((first, *rest), dim=1), expected)
