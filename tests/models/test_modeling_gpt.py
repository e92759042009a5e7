"""GPT against transformers' GPT-2 (norms before) and OpenAI-GPT (norms after): outputs, gradients, weights."""

import copy
import logging
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, GPT2Config, OpenAIGPTConfig

import vaswani_transformer
from vaswani_transformer import VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.models import FAMILIES

HEADS = ["Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
PEERS = {"post": (OpenAIGPTConfig, "OpenAIGPT"), "pre": (GPT2Config, "GPT2")}
# transformers' GPT-1 has no classifier of tokens and none of answers.
PAIRS = [(order, head) for order in PEERS for head in HEADS if order == "pre" or head in HEADS[:3]]
SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "n_embd": 16,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 40,
    "pad_token_id": 0,
}
NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"), 0.0)


def ours(head: str) -> Any:
    return getattr(vaswani_transformer, f"VaswaniGPT{head}")


def make_peer(order: str, head: str = "ForCausalLM", **fields: Any) -> Any:
    """transformers' model of random weights, none of them near zero."""
    torch.manual_seed(0)
    config, name = PEERS[order]
    tokens = {"bos_token_id": None, "eos_token_id": None}
    model_class = getattr(transformers, name + {"ForCausalLM": "LMHeadModel"}.get(head, head))
    model = model_class(config(**{**SIZES, **tokens, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def loaded(tmp_path):
    """Ours, loaded from the folder that a model of transformers wrote, in a given head."""

    def load(peer: Any, head: str = "ForCausalLM", **options: Any) -> Any:
        peer.save_pretrained(tmp_path / "theirs")
        return ours(head).from_pretrained(tmp_path / "theirs", **options)

    return load


def ids_of(texts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: texts[name] for name in ("input_ids", "attention_mask")}


def labels_of(head: str, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = texts["attention_mask"].bool()
    return {
        "Model": {},
        "ForCausalLM": {"labels": texts["input_ids"].masked_fill(~mask, -100)},
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 1, 0])},
        "ForTokenClassification": {"labels": (texts["input_ids"] % 2).masked_fill(~mask, -100)},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([0, 3, 0, 2]),
            "end_positions": torch.tensor([8, 4, 0, 3]),
        },
        "ForMultipleChoice": {"labels": torch.tensor([1, 0])},
    }[head]


def assert_same_outputs(got: Any, expected: Any, mask: Tensor) -> None:
    """Every tensor agrees, those of tokens where there is a token."""
    for name, value in expected.items():
        if isinstance(value, Tensor) and name != "loss":
            mine = got[name]
            if value.shape[:2] == mask.shape:
                value, mine = value[mask.bool()], mine[mask.bool()]
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-5, msg=name)


def their_gradient(peer: Any, name: str) -> Tensor:
    """The peer's gradient of one of our weights, in our layout, worked out by hand."""
    old = name.replace("out_proj", "c_proj").replace("down_proj", "c_proj").replace("up_proj", "c_fc")
    old = old.replace("qkv_proj", "c_attn")
    if peer.config.model_type == "openai-gpt":
        old = old.replace("wte", "tokens_embed").replace("wpe", "positions_embed")
    gradient = peer.get_parameter(old).grad
    if old == name or ".c_" not in old:
        return gradient
    rows = gradient.T if gradient.dim() == 2 else gradient
    if "c_attn" not in old:
        return rows
    heads = [part.chunk(4) for part in rows.chunk(3)]
    return torch.cat([heads[part][head] for head in range(4) for part in range(3)])


# --- parity with transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("order", "head"), PAIRS)
def test_padded_texts_give_the_outputs_of_transformers(loaded, texts, order, head, attention) -> None:
    peer = make_peer(order, head)
    model = loaded(peer, head, attn_implementation=attention)
    with torch.no_grad():
        assert_same_outputs(model(**ids_of(texts)), peer(**ids_of(texts)), texts["attention_mask"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("order", "head"), [pair for pair in PAIRS if pair[1] != "Model"])
def test_the_loss_and_its_gradients_are_those_of_transformers(loaded, texts, order, head, attention) -> None:
    if head == "ForQuestionAnswering":  # whose padding takes part in transformers' loss
        texts = {"input_ids": torch.randint(1, 37, (4, 9)), "attention_mask": torch.ones(4, 9).long()}
    peer = make_peer(order, head, **NO_DROPOUT).train()
    model = loaded(peer, head, attn_implementation=attention).train()
    batch = ids_of(texts) | labels_of(head, texts)
    loss, expected = model(**batch).loss, peer(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, their_gradient(peer, name), rtol=0, atol=1e-4, msg=name)


def test_states_and_attentions_are_those_of_transformers(loaded, texts) -> None:
    peer = make_peer("pre", "Model")
    peer.set_attn_implementation("eager")
    model = loaded(peer, "Model", attn_implementation="eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    got, expected = model(**ids_of(texts), **asked), peer(**ids_of(texts), **asked)
    mask = texts["attention_mask"].bool()
    for mine, other in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[mask], other[mask], rtol=0, atol=1e-5)
    for mine, other in zip(got.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(mine.transpose(1, 2)[mask], other.transpose(1, 2)[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", PEERS)
def test_positions_segments_and_embeddings_may_be_given(loaded, texts, order) -> None:
    peer = make_peer(order, "Model")
    model = loaded(peer, "Model")
    given = {"position_ids": torch.arange(5, 14).unsqueeze(0), "token_type_ids": texts["token_type_ids"]}
    expected = peer(texts["input_ids"], **given).last_hidden_state
    embeds = model.get_input_embeddings()(texts["input_ids"])
    torch.testing.assert_close(model(texts["input_ids"], **given).last_hidden_state, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(inputs_embeds=embeds, **given).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_choices_are_those_of_the_double_heads(loaded, texts) -> None:
    peer = transformers.GPT2DoubleHeadsModel(GPT2Config(**SIZES, bos_token_id=None, eos_token_id=None)).eval()
    model = loaded(peer, "ForMultipleChoice")
    ids = texts["input_ids"].view(2, 2, -1)
    ends = texts["attention_mask"].sum(1).view(2, 2) - 1
    choices = {"input_ids": ids, "attention_mask": texts["attention_mask"].view(2, 2, -1)}
    with torch.no_grad():
        torch.testing.assert_close(model(**choices).logits, peer(ids, mc_token_ids=ends).mc_logits, rtol=0, atol=1e-5)


def test_a_folder_with_its_embeddings_as_output_matrix_alone_loads_right_or_not_at_all(tmp_path) -> None:
    fields: Any = {**SIZES, "num_labels": 1}
    peer = transformers.OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**fields))
    peer.save_pretrained(tmp_path)
    for name, options in (("CausalLM", {}), ("MultipleChoice", {"lm_loss_weight": 0.5})):
        model = getattr(vaswani_transformer, f"VaswaniGPTFor{name}").from_pretrained(tmp_path, **options)
        assert torch.equal(model.get_input_embeddings().weight, peer.transformer.tokens_embed.weight)
    for name in ("Model", "ForMultipleChoice", "ForTokenClassification"):
        with pytest.raises(ValueError, match=r"must hold .*wte.weight .* got lm_head.weight alone"):
            getattr(vaswani_transformer, f"VaswaniGPT{name}").from_pretrained(tmp_path)


@pytest.mark.parametrize("labels", [torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([[1.0], [2.0], [0.0], [-3.0]])])
def test_regression_is_that_of_transformers(loaded, texts, labels) -> None:
    peer = make_peer("pre", "ForSequenceClassification", num_labels=1)
    model = loaded(peer, "ForSequenceClassification")
    expected = peer(**ids_of(texts), labels=labels).loss
    torch.testing.assert_close(model(**ids_of(texts), labels=labels).loss, expected)
    assert model.config.problem_type == "regression"


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "head"), PAIRS)
def test_a_folder_of_transformers_loads_as_it_is_and_saves_as_ours(tmp_path, texts, caplog, order, head) -> None:
    peer = make_peer(order, head)
    peer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, told = ours(head).from_pretrained(tmp_path, output_loading_info=True)
    assert caplog.records == []
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.model_type, model.config.norm_order) == ("vaswani-gpt", order)
    model.save_pretrained(tmp_path / "again")
    config = AutoConfig.from_pretrained(tmp_path / "again")
    assert (type(config), config.architectures) == (VaswaniGPTConfig, [ours(head).__name__])
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == make_ours(head, order).keys()
    again = ours(head).from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert_same_outputs(again(**ids_of(texts)), peer(**ids_of(texts)), texts["attention_mask"])


def make_ours(head: str, order: str) -> dict[str, Tensor]:
    """The weights that a model of ours keeps in a file: the tied output matrix is there once."""
    model = ours(head)(VaswaniGPTConfig(**SIZES, norm_order=order))
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


@pytest.mark.parametrize("order", PEERS)
@pytest.mark.parametrize("head", HEADS[2:])
def test_a_bare_model_of_transformers_loads_into_a_head(tmp_path, order, head) -> None:
    peer = make_peer(order, "Model")
    peer.save_pretrained(tmp_path)
    model, told = ours(head).from_pretrained(tmp_path, output_loading_info=True)
    assert told["missing_keys"]
    assert all(name.split(".")[0] in ("score", "classifier", "qa_outputs") for name in told["missing_keys"])
    table = peer.wte if order == "pre" else peer.tokens_embed
    assert torch.equal(model.transformer.wte.weight, table.weight)


def test_a_language_model_of_transformers_loads_into_a_bare_model(tmp_path) -> None:
    peer = make_peer("pre")
    peer.save_pretrained(tmp_path)
    model, told = ours("Model").from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert torch.equal(model.h[1].mlp.down_proj.weight, peer.transformer.h[1].mlp.c_proj.weight.T)


def test_buffers_of_old_files_are_passed_over(tmp_path, caplog) -> None:
    make_peer("pre").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {f"transformer.h.{n}.attn.{name}": torch.ones(1) for n in (0, 1) for name in ("bias", "masked_bias")}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        _, told = ours("ForCausalLM").from_pretrained(tmp_path, output_loading_info=True)
    assert caplog.records == []
    assert not told["missing_keys"] | told["unexpected_keys"]


def square_weights(model: Any) -> dict[str, Tensor]:
    return {n: w for n, w in model.state_dict().items() if w.dim() == 2 and w.shape[0] == w.shape[1]}


def routes(model: Any, folder: Any) -> dict[str, Any]:
    """Every way in which weights of ours are written and read again."""
    model.save_pretrained(folder / "a")
    model.save_pretrained(folder / "shards", max_shard_size="4KB")
    torch.save(model.state_dict(), folder / "weights.pt")
    plain = VaswaniGPTForCausalLM(copy.deepcopy(model.config))
    plain.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    VaswaniGPTForCausalLM.from_pretrained(folder / "a").save_pretrained(folder / "twice")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(folder / "dict", state_dict=state)
    load = VaswaniGPTForCausalLM.from_pretrained
    read = {name: load(folder / name) for name in ("a", "shards", "twice", "dict")}
    auto = transformers.AutoModelForCausalLM.from_pretrained(folder / "a")
    given = load(None, config=model.config, state_dict={n: w.clone() for n, w in model.state_dict().items()})
    return {**read, "auto": auto, "state dict": plain, "given": given}


def test_a_square_weight_survives_every_route_untransposed(make_gpt, tmp_path) -> None:
    # Inner width and heads are such that every projection but the fused one is square.
    model = make_gpt("ForCausalLM", intermediate_size=16, norm_order="pre")
    before = square_weights(model)
    assert len(before) == 2 * 3
    for route, again in routes(model, tmp_path).items():
        for name, weight in before.items():
            assert torch.equal(again.state_dict()[name], weight), (route, name)


def test_a_square_weight_of_transformers_comes_in_and_goes_on_the_right_way(tmp_path) -> None:
    peer = make_peer("pre", n_inner=16)
    peer.save_pretrained(tmp_path / "theirs")
    model = VaswaniGPTForCausalLM.from_pretrained(tmp_path / "theirs")
    for route, again in {"first": model, **routes(model, tmp_path)}.items():
        for number, block in enumerate(peer.transformer.h):
            other = again.transformer.h[number]
            assert torch.equal(other.attn.out_proj.weight, block.attn.c_proj.weight.T), route
            assert torch.equal(other.mlp.up_proj.weight, block.mlp.c_fc.weight.T), route
            assert torch.equal(other.mlp.down_proj.weight, block.mlp.c_proj.weight.T), route


def test_every_auto_class_loads_its_model(make_gpt, tmp_path) -> None:
    make_gpt("ForCausalLM").save_pretrained(tmp_path)
    classes = FAMILIES[VaswaniGPTConfig]
    assert len(classes) == len(HEADS) + 1
    for auto, model_class in classes.items():
        assert type(auto.from_pretrained(tmp_path)) is model_class


# --- what a first-class model can do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", PEERS)
def test_weights_are_drawn_as_openai_draws_them(order) -> None:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 8, "vocab_size": 500, "num_attention_heads": 4}
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(**fields, norm_order=order))
    block: Any = model.transformer.h[3]
    stds = {
        "words": model.transformer.wte.weight.std().item(),
        "positions": model.transformer.wpe.weight.std().item(),
        "up": block.mlp.up_proj.weight.std().item(),
        "down": block.mlp.down_proj.weight.std().item(),
        "out": block.attn.out_proj.weight.std().item(),
    }
    wanted = dict.fromkeys(stds, 0.02)
    if order == "pre":
        wanted |= {"positions": 0.01, "down": 0.005, "out": 0.005}  # 0.02 over the root of 16 additions
    assert stds == pytest.approx(wanted, rel=0.06)
    assert not block.mlp.up_proj.bias.any()
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("order", PEERS)
def test_it_compiles_without_a_graph_break(make_gpt, texts, training, order) -> None:
    torch._dynamo.reset()
    model = make_gpt("ForCausalLM", norm_order=order, **NO_DROPOUT).train(training)
    batch = ids_of(texts) | labels_of("ForCausalLM", texts)
    expected = model(**batch)
    got = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch)
    torch.testing.assert_close(got.loss, expected.loss)
    if training:
        assert got.logits is None
        (gradient,) = torch.autograd.grad(got.loss, model.transformer.wte.weight)
        (wanted,) = torch.autograd.grad(expected.loss, model.transformer.wte.weight)
        torch.testing.assert_close(gradient, wanted)
    else:
        assert_same_outputs(got, expected, texts["attention_mask"])


@pytest.mark.parametrize("head", [*HEADS[2:], "ForMultipleChoice"])
def test_the_other_heads_compile_without_a_graph_break(make_gpt, texts, head) -> None:
    torch._dynamo.reset()
    model = make_gpt(head, **NO_DROPOUT).train()
    inputs = {name: x.view(2, 2, -1) if head == "ForMultipleChoice" else x for name, x in ids_of(texts).items()}
    batch = inputs | labels_of(head, texts)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("order", PEERS)
def test_gradient_checkpointing_changes_nothing(make_gpt, texts, reentrant, order) -> None:
    model = make_gpt("ForCausalLM", norm_order=order, **NO_DROPOUT).train()
    batch = ids_of(texts) | labels_of("ForCausalLM", texts)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for each in (model, checkpointed):
        each(**batch).loss.backward()
    for parameter, other in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-6)


def test_resized_embeddings_go_on_training_and_stay_tied(make_gpt, texts, tmp_path) -> None:
    model = make_gpt("ForCausalLM")
    with torch.no_grad():
        before = model(**ids_of(texts)).logits
    model.resize_token_embeddings(41)
    with torch.no_grad():
        after = model(**ids_of(texts)).logits
    torch.testing.assert_close(after[..., :37], before)
    assert after.shape[-1] == model.config.vocab_size == 41
    assert model.lm_head.weight is model.transformer.wte.weight
    model.train()(**ids_of(texts), labels=torch.full_like(texts["input_ids"], 40)).loss.backward()
    model.save_pretrained(tmp_path)
    again = VaswaniGPTForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**ids_of(texts)).logits, model.eval()(**ids_of(texts)).logits)


def test_untied_output_weights_are_their_own(make_gpt, tmp_path) -> None:
    model = make_gpt("ForCausalLM", tie_word_embeddings=False)
    assert model.lm_head.weight is not model.transformer.wte.weight
    model.save_pretrained(tmp_path)
    assert torch.equal(VaswaniGPTForCausalLM.from_pretrained(tmp_path).lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_bfloat16_model_stays_close(make_gpt, texts, attention) -> None:
    model = make_gpt("ForCausalLM", attn_implementation=attention)
    expected = model(**ids_of(texts)).logits
    got = model.to(torch.bfloat16)(**ids_of(texts)).logits
    assert got.dtype == torch.bfloat16
    mask = texts["attention_mask"].bool()
    assert torch.nn.functional.cosine_similarity(got[mask].float(), expected[mask], dim=-1).min() > 0.99


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("rate", ["hidden_dropout", "embedding_dropout", "attention_dropout"])
def test_dropout_is_on_in_training_and_off_in_evaluation(make_gpt, texts, attention, rate) -> None:
    rates = dict.fromkeys(("hidden_dropout", "embedding_dropout", "attention_dropout"), 0.0)
    model = make_gpt(attn_implementation=attention, **{**rates, rate: 0.5})
    inputs = ids_of(texts)
    assert torch.equal(model(**inputs).last_hidden_state, model(**inputs).last_hidden_state)
    model.train()
    assert not torch.equal(model(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_the_tensor_parallel_plan_names_layers_that_are_there(make_gpt) -> None:
    model = make_gpt("ForCausalLM")
    names = {".".join("*" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_modules()}
    plan = {name for name in model.tp_plan if not name.endswith("embed_tokens")}  # transformers 5.17 adds that one
    assert plan <= names
    planned = {name for name in names if name.endswith(("_proj", "lm_head", "wte"))}
    assert planned <= plan


@pytest.mark.slow
@pytest.mark.parametrize("order", PEERS)
def test_a_model_split_over_two_processes_computes_the_same(make_gpt, texts, in_two_processes, tmp_path, order) -> None:
    model = make_gpt("ForCausalLM", vocab_size=38, norm_order=order, **NO_DROPOUT)
    model.save_pretrained(tmp_path)
    batch = ids_of(texts) | labels_of("ForCausalLM", texts)
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes("tensor_gpt")
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    torch.testing.assert_close(result["logits"], model(**batch).logits)
    loss = model.train()(**batch).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(result["gradients"], gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result["loss"], loss)
    prompt = batch["input_ids"][:1]
    assert torch.equal(result["sequences"], model.eval().generate(prompt, max_new_tokens=6, do_sample=False))
    assert result["sharded"] == 19


def test_a_tuple_is_returned_where_it_is_asked_for(make_gpt, texts) -> None:
    model = make_gpt("ForTokenClassification")
    (logits,) = model(**ids_of(texts), return_dict=False)
    torch.testing.assert_close(logits, model(**ids_of(texts)).logits)


# --- a text's last token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["mask", "pad id"])
def test_a_class_is_read_off_the_last_token_on_whichever_side_padding_is(make_gpt, texts, told) -> None:
    model = make_gpt("ForSequenceClassification", pad_token_id=0)
    lengths = texts["attention_mask"].sum(1)
    alone = torch.cat([model(row[:n].unsqueeze(0)).logits for row, n in zip(texts["input_ids"], lengths, strict=True)])
    right = ids_of(texts)
    left = {
        name: torch.stack([row.roll(9 - int(n)) for row, n in zip(x, lengths, strict=True)])
        for name, x in right.items()
    }
    if told == "pad id":  # then attention has no mask: the texts behind the padding are not the same
        torch.testing.assert_close(model(right["input_ids"]).logits, alone, rtol=0, atol=1e-5)
        assert model(left["input_ids"]).logits.shape == alone.shape
    else:
        for batch in (right, left):
            torch.testing.assert_close(model(**batch).logits, alone, rtol=0, atol=1e-5)
