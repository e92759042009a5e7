"""No arithmetic on padding, and no sequence of a packed row that sees another."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vaswani_transformer.models import packing as packing_module
from vaswani_transformer.models.packing import pack_batch

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LENGTHS = (4, 1, 6, 3)
STARTS = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32)


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """What a flash kernel does with `cu_seq_lens`, in plain torch: for each sequence softmax(Q K^T) V."""
    assert attention_mask is None
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == int(kwargs["cu_seq_lens_q"].diff().max())
    assert kwargs["cu_seq_lens_q"].dtype == torch.int32
    heads = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    out = torch.zeros_like(heads[2])
    for start, end in itertools.pairwise(kwargs["cu_seq_lens_q"].tolist()):
        q, k, v = (x[start:end].transpose(0, 1) for x in heads)
        out[start:end] = (torch.softmax(q @ k.mT * kwargs["scaling"], -1) @ v).transpose(0, 1)
    return out.view(query.shape[0], query.shape[2], *out.shape[1:]), None


@pytest.fixture
def flash_like():
    """An attention implementation that transformers would call flash; its kernels need a GPU."""
    AttentionInterface.register("flash_like", varlen_attention)
    AttentionMaskInterface.register("flash_like", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    yield "flash_like"
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("flash_like")
    ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop("flash_like")


@pytest.fixture(params=["eager", "sdpa", "eager side by side", "sdpa side by side", "flash_like"])
def attention(request, flash_like, monkeypatch) -> str:
    """Each way of attending in a batch without padding; "side by side" is what other devices than a CPU do."""
    if request.param.endswith("side by side"):
        prepared = packing_module._prepared

        def elsewhere(places, starts, implementation):
            found = prepared(places, starts, implementation)
            inside = torch.arange(found.longest) < starts.diff().unsqueeze(1)
            spread = inside.flatten().nonzero().squeeze(1)
            return found._replace(lengths=None, spread_N=spread, keys_Q11L=inside[:, None, None])

        monkeypatch.setattr(packing_module, "_prepared", elsewhere)
    return request.param.split()[0]


def alone(model: Any, texts: dict[str, Tensor], row: int) -> Any:
    real = texts["attention_mask"][row].bool()
    return model(**{name: x[row : row + 1, real] for name, x in texts.items() if name != "attention_mask"})


def packed(texts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The texts one after the other in one row, told apart by their positions."""
    real = texts["attention_mask"].bool()
    positions = torch.arange(real.shape[1]).expand(real.shape)
    row = {"input_ids": texts["input_ids"], "token_type_ids": texts["token_type_ids"], "position_ids": positions}
    return {name: x[real].unsqueeze(0) for name, x in row.items()}


def starts_of(texts: dict[str, Tensor]) -> Tensor:
    return nn.functional.pad(texts["attention_mask"].sum(1).cumsum(0), (1, 0)).to(torch.int32)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# --- padding ---------------------------------------------------------------------------------------------------------


def test_padded_texts_give_what_each_gives_alone(make_bert, texts, attention) -> None:
    model = make_bert(attn_implementation=attention)
    expected = [alone(make_bert(), texts, row) for row in range(4)]
    got = model(**texts)
    for row, other in enumerate(expected):
        real = texts["attention_mask"][row].bool()
        torch.testing.assert_close(got.last_hidden_state[row, real], other.last_hidden_state[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(got.pooler_output[row], other.pooler_output[0], rtol=0, atol=1e-5)
        assert not got.last_hidden_state[row, ~real].any()


@pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
def test_the_batch_that_stays_padded_gives_the_same(make_bert, texts, asked) -> None:
    model = make_bert(attn_implementation="eager")
    got, expected = model(**texts, **{asked: True}), model(**texts)
    torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)


def test_loss_and_gradients_are_those_of_the_padded_batch(make_bert, texts, attention) -> None:
    model, plain = make_bert("ForPreTraining", attn_implementation=attention, **NO_DROPOUT).train(), None
    labels = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
    batch = {**texts, "labels": labels, "next_sentence_label": torch.tensor([0, 1, 1, 0])}
    got = gradients(model, model(**batch).loss)
    plain = make_bert("ForPreTraining", attn_implementation="eager", **NO_DROPOUT).train()
    expected = gradients(plain, plain(**batch, output_hidden_states=True).loss)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_every_layer_sees_real_tokens_only(make_bert, texts, attention) -> None:
    model = make_bert("ForMaskedLM", attn_implementation=attention).train()
    tokens = int(texts["attention_mask"].sum())
    labels = torch.full((4, 9), -100)
    labels[0, 3] = labels[3, 2] = 5
    seen: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding)):
            module.register_forward_hook(
                lambda module, args, out, name=name: (
                    seen.__setitem__(name, args[0].flatten(0, -2).shape[0])
                    if args[0].is_floating_point()
                    else seen.__setitem__(name, args[0].numel())
                )
            )
    model(**texts, labels=labels)
    assert seen.pop("bert.embeddings.word_embeddings") == tokens
    heads = {name: count for name, count in seen.items() if name.startswith("cls.")}
    assert set(heads.values()) == {2}  # the masked positions
    assert {count for name, count in seen.items() if name not in heads and "bert.encoder" in name} == {tokens}


def test_padding_may_lie_anywhere(make_bert, texts, attention) -> None:
    model = make_bert(attn_implementation=attention)
    holes = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0, 0, 0, 0], [0] * 8 + [1], [0, 1] * 4 + [0]])
    texts["attention_mask"] = holes
    plain = make_bert(attn_implementation="eager")(**texts, output_attentions=True)
    got = model(**texts)
    torch.testing.assert_close(got.last_hidden_state, plain.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooler_output, plain.pooler_output, rtol=0, atol=1e-5)
    first = got.last_hidden_state[torch.arange(4), holes.argmax(1)]
    torch.testing.assert_close(got.pooler_output, model.pooler(first))


def test_a_row_of_padding_gives_finite_outputs_and_gradients(make_bert, texts, attention) -> None:
    model = make_bert("ForPreTraining", attn_implementation=attention, **NO_DROPOUT).train()
    texts["attention_mask"][1] = 0
    labels = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
    output = model(**texts, labels=labels, next_sentence_label=torch.tensor([0, -100, 1, 0]), return_logits=True)
    assert output.seq_relationship_logits.shape == (4, 2)
    assert output.prediction_logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, output.loss).values())


def test_a_mask_of_ones_is_no_padding() -> None:
    options: dict[str, Any] = {"position_ids": None, "starts": None, "implementation": "sdpa"}
    for mask in (None, torch.ones(2, 3), torch.ones(2, 3).bool()):
        assert pack_batch((2, 3), torch.device("cpu"), mask_BS=mask, **options) is None


# --- packed sequences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["position_ids", "cu_seq_lens", "both"])
def test_packed_texts_give_what_each_gives_alone(make_bert, texts, attention, told) -> None:
    model, row, starts = make_bert(attn_implementation=attention), packed(texts), starts_of(texts)
    if told == "cu_seq_lens":
        row.pop("position_ids")
    if told != "position_ids":
        longest = int(starts.diff().max())
        row |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
    got = model(**row)
    assert got.pooler_output.shape == (4, 16)
    for index, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
        other = alone(make_bert(), texts, index)
        torch.testing.assert_close(got.last_hidden_state[0, start:end], other.last_hidden_state[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(got.pooler_output[index], other.pooler_output[0], rtol=0, atol=1e-5)


def leak(model: Any, **more: Any) -> float:
    """How much the third of four packed sequences changes when all others do; exactly nothing, if they are apart."""
    torch.manual_seed(2)
    ids = torch.randint(1, 37, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    mine = slice(int(STARTS[2]), int(STARTS[3]))
    others = torch.randint(1, 37, ids.shape)
    others[:, mine] = ids[:, mine]
    with torch.no_grad():
        one, two = (model(x, position_ids=positions, **more) for x in (ids, others))
    assert not torch.equal(one.last_hidden_state, two.last_hidden_state)
    return (one.last_hidden_state[:, mine] - two.last_hidden_state[:, mine]).abs().max().item()


def test_packed_sequences_never_see_each_other(make_bert, attention) -> None:
    assert leak(make_bert(attn_implementation=attention)) == 0.0
    assert leak(make_bert(attn_implementation=attention), cu_seq_lens_q=STARTS) == 0.0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nor_where_the_batch_stays_whole(make_bert, implementation) -> None:
    model = make_bert(attn_implementation=implementation)
    assert leak(model, output_hidden_states=True) == 0.0
    assert model(
        torch.ones(1, 14, dtype=torch.long), cu_seq_lens_q=STARTS, output_hidden_states=True
    ).pooler_output.shape == (4, 16)


def test_nor_under_flash_attention_where_states_are_asked_for(make_bert, flash_like) -> None:
    assert leak(make_bert(attn_implementation=flash_like), output_hidden_states=True) == 0.0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nor_in_compiled_code(make_bert, implementation) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(make_bert(attn_implementation=implementation), backend="eager", fullgraph=True)
    assert leak(compiled) == 0.0
    assert leak(compiled, cu_seq_lens_q=STARTS) == 0.0


@pytest.mark.slow
def test_nor_under_flex_attention(make_bert) -> None:
    torch._dynamo.reset()
    model = make_bert(attn_implementation="flex_attention", hidden_size=64)
    assert leak(model) == 0.0


def test_a_compiled_model_pools_each_sequence_that_cu_seq_lens_tells(make_bert, texts) -> None:
    torch._dynamo.reset()
    model, row, starts = make_bert(), packed(texts), starts_of(texts)
    expected = model(**row)
    got = torch.compile(model, backend="eager", fullgraph=True)(**row, cu_seq_lens_q=starts)
    torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)


def test_two_packed_rows_with_padding_behind_them(make_bert, texts, attention) -> None:
    model = make_bert(attn_implementation=attention)
    ids = torch.randint(1, 37, (2, 7))
    batch = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 0, 1, 2]])}
    batch["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
    got = model(**batch)
    assert got.pooler_output.shape == (4, 16)
    alone = make_bert()(ids[1:, 4:])
    torch.testing.assert_close(got.last_hidden_state[1, 4:], alone.last_hidden_state[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooler_output[3], alone.pooler_output[0], rtol=0, atol=1e-5)


def test_packing_changes_neither_pretraining_losses_nor_gradients(make_bert, texts, attention) -> None:
    model = make_bert("ForPreTraining", attn_implementation=attention, **NO_DROPOUT).train()
    real = texts["attention_mask"].bool()
    labels = torch.where(torch.rand(4, 9) < 0.4, texts["input_ids"], -100).masked_fill(~real, -100)
    sentences = {"next_sentence_label": torch.tensor([0, 1, 1, 0])}
    expected = gradients(model, model(**texts, labels=labels, **sentences).loss)
    got = gradients(model, model(**packed(texts), labels=labels[real].unsqueeze(0), **sentences).loss)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_heads_logits_of_a_packed_batch_have_the_batchs_shape(make_bert, texts) -> None:
    row = packed(texts)
    assert make_bert("ForMaskedLM")(**row).logits.shape == (1, 22, 37)
    assert make_bert("ForTokenClassification")(**row).logits.shape == (1, 22, 2)
    assert make_bert("ForSequenceClassification")(**row).logits.shape == (4, 2)
