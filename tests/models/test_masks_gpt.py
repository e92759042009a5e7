"""What a token of GPT sees: no padding, no later token, no other document, no further than its band; with any cache."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vaswani_transformer.models.caches import CACHE

LENGTHS = (4, 1, 6, 3)
STARTS = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32)
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
BANDED = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3, "norm_order": "pre"}
SHAPES = {"gpt": {}, "gpt2": {"norm_order": "pre"}, "gpt3": BANDED}


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """What a flash kernel does with `cu_seq_lens` and a band, in plain torch, document by document."""
    assert attention_mask is None
    assert kwargs["max_length_q"] == kwargs["max_length_k"] >= int(kwargs["cu_seq_lens_q"].diff().max())
    assert kwargs["cu_seq_lens_q"].dtype == torch.int32
    heads = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    out = torch.zeros_like(heads[2])
    for start, end in itertools.pairwise(kwargs["cu_seq_lens_q"].tolist()):
        q, k, v = (x[start:end].transpose(0, 1) for x in heads)
        far = torch.arange(end - start).unsqueeze(1) - torch.arange(end - start)
        seen = (far >= 0) & (far < (kwargs.get("sliding_window") or end - start))
        scores = (q @ k.mT * kwargs["scaling"]).masked_fill(~seen, -torch.inf)
        out[start:end] = (torch.softmax(scores, -1) @ v).transpose(0, 1)
    return out.view(query.shape[0], query.shape[2], *out.shape[1:]), None


@pytest.fixture
def flash_like():
    """An attention implementation that transformers would call flash; its kernels need a GPU."""
    AttentionInterface.register("flash_like", varlen_attention)
    AttentionMaskInterface.register("flash_like", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    yield "flash_like"
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("flash_like")
    ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop("flash_like")


@pytest.fixture(params=["eager", "sdpa", "flash_like"])
def attention(request, flash_like) -> str:
    return request.param


@pytest.fixture(params=SHAPES)
def shape(request) -> dict[str, Any]:
    return SHAPES[request.param]


def states(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).last_hidden_state


# --- packed documents ------------------------------------------------------------------------------------------------


def leak(model: Any, **more: Any) -> float:
    """How much the third of four packed documents changes when all others do; exactly nothing, if they are apart."""
    torch.manual_seed(2)
    ids = torch.randint(1, 37, (1, sum(LENGTHS)))
    mine = slice(int(STARTS[2]), int(STARTS[3]))
    others = torch.randint(1, 37, ids.shape)
    others[:, mine] = ids[:, mine]
    one, two = (states(model, x, **more) for x in (ids, others))
    assert not torch.equal(one, two)
    return (one[:, mine] - two[:, mine]).abs().max().item()


@pytest.mark.parametrize("use_cache", [False, True, None])
@pytest.mark.parametrize("mask", [False, True])
def test_packed_documents_never_see_each_other(make_gpt, attention, shape, use_cache, mask) -> None:
    model = make_gpt(attn_implementation=attention, **shape)
    more: dict[str, Any] = {"attention_mask": torch.ones_like(POSITIONS)} if mask else {}
    assert leak(model, position_ids=POSITIONS, use_cache=use_cache, **more) == 0.0


@pytest.mark.parametrize("use_cache", [False, True])
def test_nor_where_cu_seq_lens_tells_them_apart(make_gpt, attention, use_cache) -> None:
    model = make_gpt(attn_implementation=attention)
    assert leak(model, cu_seq_lens_q=STARTS, use_cache=use_cache) == 0.0
    assert leak(model, cu_seq_lens_q=STARTS, position_ids=POSITIONS, max_length_q=6) == 0.0


def test_nor_where_a_document_goes_on_in_the_middle(make_gpt, attention) -> None:
    positions = POSITIONS.clone()
    positions[:, STARTS[2] : STARTS[3]] += 7
    assert leak(make_gpt(attn_implementation=attention), position_ids=positions) == 0.0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nor_in_a_static_cache(make_gpt, implementation) -> None:
    model = make_gpt(attn_implementation=implementation)
    caches = [StaticCache(config=model.config, max_cache_len=20) for _ in range(2)]
    torch.manual_seed(2)
    ids, others = (torch.randint(1, 37, (1, sum(LENGTHS))) for _ in range(2))
    mine = slice(int(STARTS[2]), int(STARTS[3]))
    others[:, mine] = ids[:, mine]
    one, two = (
        states(model, x, position_ids=POSITIONS, cache=cache) for x, cache in zip((ids, others), caches, strict=True)
    )
    assert torch.equal(one[:, mine], two[:, mine])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nor_in_compiled_code(make_gpt, implementation) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(make_gpt(attn_implementation=implementation), backend="eager", fullgraph=True)
    assert leak(compiled, position_ids=POSITIONS) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("use_cache", [False, True])
def test_nor_under_flex_attention(make_gpt, use_cache) -> None:
    torch._dynamo.reset()
    model = make_gpt(attn_implementation="flex_attention", hidden_size=64)
    assert leak(model, position_ids=POSITIONS, use_cache=use_cache) == 0.0


def test_packed_documents_give_what_each_gives_alone(make_gpt, attention, shape) -> None:
    model = make_gpt(attn_implementation=attention, **shape)
    torch.manual_seed(3)
    ids = torch.randint(1, 37, (2, sum(LENGTHS)))
    got = states(model, ids, position_ids=POSITIONS, use_cache=True)
    for start, end in itertools.pairwise(STARTS.tolist()):
        alone = states(make_gpt(**shape), ids[:, start:end])
        torch.testing.assert_close(got[:, start:end], alone, rtol=0, atol=1e-5)


def test_packed_rows_with_padding_on_either_side(make_gpt, attention) -> None:
    model = make_gpt(attn_implementation=attention)
    ids = torch.randint(1, 37, (2, 7))
    batch = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 0, 1, 2]])}
    batch["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1]])
    got = states(model, **batch)
    for row, part in ((0, slice(0, 3)), (0, slice(3, 5)), (1, slice(1, 4)), (1, slice(4, 7))):
        alone = states(make_gpt(), ids[row : row + 1, part])
        torch.testing.assert_close(got[row : row + 1, part], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", [False, True])
def test_the_last_packed_document_goes_on_alone_from_the_cache(make_gpt, implementation, mask) -> None:
    model = make_gpt(attn_implementation=implementation)
    ids, more = torch.randint(1, 37, (1, 16)), {}
    positions = torch.cat((POSITIONS, torch.tensor([[3, 4]])), dim=1)
    cache = DynamicCache(config=model.config)
    for part in (slice(0, 14), slice(14, 15), slice(15, 16)):
        if mask:
            more = {"attention_mask": torch.ones(1, part.stop).long()}
        got = states(model, ids[:, part], position_ids=positions[:, part], cache=cache, **more)
    torch.testing.assert_close(got[:, -1:], states(model, ids[:, 11:])[:, -1:], rtol=0, atol=1e-5)


def test_flash_attention_says_what_it_cannot_keep_apart(make_gpt, flash_like) -> None:
    model = make_gpt(attn_implementation=flash_like)
    cache = DynamicCache(config=model.config)
    states(model, torch.randint(1, 37, (1, 14)), position_ids=POSITIONS, cache=cache)
    with pytest.raises(ValueError, match=r"where a cache holds tokens.*use sdpa"):
        model(torch.tensor([[5]]), position_ids=torch.tensor([[3]]), cache=cache)
    mask = torch.tensor([[1, 1, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match="without padding inside them"):
        model(torch.ones(1, 6).long(), attention_mask=mask, position_ids=torch.tensor([[0, 1, 0, 2, 0, 1]]))


# --- padding and bands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_texts_padded_on_either_side_give_what_each_gives_alone(make_gpt, texts, shape, implementation) -> None:
    model = make_gpt(attn_implementation=implementation, **shape)
    lengths = texts["attention_mask"].sum(1).tolist()
    for side in ("right", "left"):
        shifts = [0 if side == "right" else 9 - n for n in lengths]
        ids, mask = (
            torch.stack([row.roll(shift) for row, shift in zip(texts[name], shifts, strict=True)])
            for name in ("input_ids", "attention_mask")
        )
        got = states(model, ids, mask)
        for row, length in enumerate(lengths):
            alone = states(model, texts["input_ids"][row : row + 1, :length])
            torch.testing.assert_close(got[row][mask[row].bool()], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_row_of_padding_gives_finite_states_and_gradients(make_gpt, texts, implementation) -> None:
    model = make_gpt("ForCausalLM", attn_implementation=implementation).train()
    mask = texts["attention_mask"].clone()
    mask[1] = 0
    output = model(texts["input_ids"], mask, labels=texts["input_ids"].masked_fill(mask == 0, -100))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_token_sees_a_later_one(make_gpt, shape, implementation) -> None:
    model = make_gpt(attn_implementation=implementation, **shape)
    ids = torch.randint(1, 37, (1, 9))
    other = ids.clone()
    other[:, 5:] = (ids[:, 5:] + 1) % 37
    assert torch.equal(states(model, ids)[:, :5], states(model, other)[:, :5])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_banded_layer_sees_as_far_as_its_band_is_wide(make_gpt, implementation) -> None:
    fields = {"layer_types": ["sliding_attention"], "num_hidden_layers": 1, "sliding_window": 3}
    model = make_gpt(attn_implementation=implementation, **fields)
    ids = torch.randint(1, 37, (1, 9))
    other = ids.clone()
    other[:, 2] = (ids[:, 2] + 1) % 37
    changed = (states(model, ids) != states(model, other)).any(-1)[0].tolist()
    assert changed == [False, False, True, True, True, False, False, False, False]


# --- caches ----------------------------------------------------------------------------------------------------------


def caches(model: Any) -> dict[str, Any]:
    return {
        "dynamic": DynamicCache(config=model.config),
        "plain": DynamicCache(),
        "static": StaticCache(config=model.config, max_cache_len=12),
    }


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["dynamic", "plain", "static"])
def test_cached_steps_give_the_states_of_one_pass(make_gpt, texts, shape, kind, implementation) -> None:
    model = make_gpt(attn_implementation=implementation, **shape)
    shifts = (9 - texts["attention_mask"].sum(1)).tolist()
    ids, mask = (
        torch.stack([row.roll(shift) for row, shift in zip(texts[name], shifts, strict=True)])
        for name in ("input_ids", "attention_mask")
    )
    expected, cache, got = states(model, ids, mask), caches(model)[kind], []
    for start, end in itertools.pairwise((0, 4, 5, 6, 8, 9)):  # a prompt, steps, a second turn
        got.append(states(model, ids[:, start:end], mask[:, :end], cache=cache))
    torch.testing.assert_close(torch.cat(got, 1)[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)


def test_a_banded_layers_cache_holds_no_more_than_its_band(make_gpt) -> None:
    model = make_gpt(**BANDED)
    cache = getattr(model(torch.randint(1, 37, (1, 9)), use_cache=True), CACHE)
    assert [layer.keys.shape[-2] for layer in cache.layers] == [9, 2]  # and the next token's own


def test_prefill_and_a_step_from_a_static_cache_compile_without_a_graph_break(make_gpt, shape) -> None:
    torch._dynamo.reset()
    model = make_gpt("ForCausalLM", **shape)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    ids = torch.randint(1, 37, (2, 9))
    cache = StaticCache(config=model.config, max_cache_len=12)
    with torch.no_grad():
        expected = model(ids).logits
        first = compiled(ids[:, :7], cache=cache, use_cache=True).logits
        steps = [
            compiled(ids[:, n : n + 1], cache=cache, use_cache=True, position_ids=torch.full((2, 1), n)).logits
            for n in (7, 8)
        ]
    torch.testing.assert_close(torch.cat((first, *steps), dim=1), expected, rtol=0, atol=1e-5)
