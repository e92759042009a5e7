"""What the Transformer's classes promise whatever the sizes: padding, outputs, caches, compiling, ties, saving."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import StaticCache
from transformers.cache_utils import EncoderDecoderCache

from vaswani_transformer import VaswaniTransformerConfig as Config
from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model
from vaswani_transformer import VaswaniTransformerModel
from vaswani_transformer.models.caches import CACHE

from .conftest import logits_of

TIES = ("all", "decoder", "none")
# Every switch away from the paper, in combinations that toolkits use.
VARIANTS = {
    "paper": {},
    "rows-B": {"d_k": 3, "d_v": 5},
    "marian": {"attention_bias": True, "lm_head_bias": True, "position_layout": "half-split", "decoder_start": "token"},
    "pre-norm": {"norm_order": "pre", "final_norm": True, "activation": "gelu", "tie_embeddings": "decoder"},
    "learned": {"position_embedding": "learned", "position_offset": 2, "tie_embeddings": "none"},
}

# --- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sources_padded_left_or_right_give_the_same_logits(make_model, batch, attention, variant) -> None:
    model = make_model(**VARIANTS[variant])
    model.set_attn_implementation(attention)
    left = copy.deepcopy(batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for name in ("input_ids", "attention_mask"):
            left[name][row] = batch[name][row].roll(6 - length)
    assert not torch.equal(left["input_ids"], batch["input_ids"])
    torch.testing.assert_close(logits_of(model, left), logits_of(model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_does_not_change_the_logits(make_model, batch, variant) -> None:
    model = make_model(**VARIANTS[variant])
    logits = model(**batch).logits
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()].unsqueeze(0)
        labels = batch["labels"][row][batch["labels"][row] != -100].unsqueeze(0)
        alone = model(source, labels=labels).logits[0]
        torch.testing.assert_close(logits[row, : alone.shape[0]], alone, rtol=0, atol=1e-5)


def test_without_a_mask_the_pad_id_tells_the_padding(make_model, batch) -> None:
    model = make_model()
    unmasked = {name: batch[name] for name in ("input_ids", "labels")}
    assert torch.equal(logits_of(model, unmasked), logits_of(model, batch))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_of_padding_gives_finite_logits_and_gradients(make_model, batch, attention) -> None:
    model = make_model(dropout=0.0).train()
    model.set_attn_implementation(attention)
    batch["attention_mask"][1] = 0
    batch["labels"][1] = -100
    output = model(**batch, return_logits=True)
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- inputs, outputs, attention implementations ----------------------------------------------------------------------


def test_embeddings_in_place_of_ids_give_the_same_logits(make_model, batch) -> None:
    model = make_model()
    target = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    table = model.get_input_embeddings()
    embeds = model(
        attention_mask=batch["attention_mask"],
        inputs_embeds=table(batch["input_ids"]),
        decoder_inputs_embeds=table(target) * target.ne(0).unsqueeze(-1),
        labels=batch["labels"],
    )
    torch.testing.assert_close(embeds.logits, model(**batch).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_and_sdpa_attention_agree(make_model, batch, variant) -> None:
    model = make_model(**VARIANTS[variant])
    model.set_attn_implementation("eager")
    eager = logits_of(model, batch)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits_of(model, batch), eager, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_flex_attention_agrees_with_eager(make_model, batch) -> None:
    model = make_model(d_model=64)
    model.set_attn_implementation("eager")
    eager = logits_of(model, batch)
    model.set_attn_implementation("flex_attention")
    try:
        flex = logits_of(model, batch)
    except Exception as error:
        pytest.skip(f"flex attention does not run on this machine: {type(error).__name__}")
    torch.testing.assert_close(flex, eager, rtol=0, atol=1e-4)


def test_attention_weights_of_every_layer_sum_to_one_and_ignore_padding(make_model, batch) -> None:
    model = make_model(num_decoder_layers=3)
    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True)
    assert (len(output.encoder_attentions), len(output.decoder_attentions), len(output.cross_attentions)) == (2, 3, 3)
    for weights in (*output.encoder_attentions, *output.decoder_attentions, *output.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    padding = batch["attention_mask"].eq(0)[:, None, None]
    for weights in (*output.encoder_attentions, *output.cross_attentions):
        assert (weights * padding).max() == 0
    assert output.decoder_attentions[0].triu(1).max() == 0


def test_hidden_states_are_the_embedding_and_one_for_each_layer(make_model, batch) -> None:
    output = make_model(num_decoder_layers=3)(**batch, output_hidden_states=True)
    assert [x.shape for x in output.encoder_hidden_states] == [(3, 6, 16)] * 3
    assert [x.shape for x in output.decoder_hidden_states] == [(3, 5, 16)] * 4
    assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)


def test_in_training_logits_are_computed_only_when_asked_for(make_model, batch) -> None:
    model = make_model(dropout=0.0)
    full = model(**batch)
    model.train()
    assert model(**batch).logits is None
    asked = model(**batch, return_logits=True)
    assert torch.equal(asked.logits, full.logits)
    torch.testing.assert_close(asked.loss, model(**batch).loss)
    assert model.eval()(**batch, return_logits=False).logits is None


def test_logits_to_keep_gives_the_last_positions_only(make_model, batch) -> None:
    model = make_model()
    target = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    every = model(batch["input_ids"], decoder_input_ids=target).logits
    assert torch.equal(model(batch["input_ids"], decoder_input_ids=target, logits_to_keep=2).logits, every[:, -2:])
    chosen = torch.tensor([0, 3])
    assert torch.equal(
        model(batch["input_ids"], decoder_input_ids=target, logits_to_keep=chosen).logits, every[:, chosen]
    )


def test_return_dict_false_gives_a_tuple(make_model, batch) -> None:
    model = make_model()
    as_tuple, output = model(**batch, return_dict=False), model(**batch)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.loss)
    assert torch.equal(as_tuple[1], output.logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_dropout_lets_no_target_see_the_future(make_model, batch, attention, padded) -> None:
    model = make_model(attention_dropout=0.3)
    model.set_attn_implementation(attention)
    model.train()
    target = torch.tensor([[0, 12, 13, 14], [0, 15, 16, 17], [0, 18, 19, 20]])
    changed = target.clone()
    changed[:, -1] = 21
    mask = torch.ones_like(target)
    mask[0, 1] = 0 if padded else 1
    states = []
    for ids in (target, changed):
        torch.manual_seed(3)
        inputs = {"decoder_input_ids": ids, "decoder_attention_mask": mask if padded else None}
        states.append(model.model(batch["input_ids"], batch["attention_mask"], **inputs).last_hidden_state)
    torch.testing.assert_close(states[0][:, :-1], states[1][:, :-1], rtol=0, atol=1e-6)
    assert not torch.allclose(states[0][:, -1], states[1][:, -1])


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_with_a_cache_gives_the_logits_of_one_pass(make_model, batch, variant) -> None:
    model = make_model(num_decoder_layers=3, **VARIANTS[variant])
    target = batch["labels"].clamp(min=2)
    every = model(batch["input_ids"], decoder_input_ids=target).logits
    cache, steps = None, []
    for part in (target[:, :2], target[:, 2:3], target[:, 3:]):
        output = model(batch["input_ids"], decoder_input_ids=part, cache=cache, use_cache=True)
        cache = getattr(output, CACHE)
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), every, rtol=0, atol=1e-5)


def test_a_static_cache_gives_the_logits_of_one_pass(make_model, batch) -> None:
    model = make_model(d_k=3, d_v=5)
    target = batch["labels"].clamp(min=2)
    encoded = model.get_encoder()(batch["input_ids"])
    cache = static_cache(model.config)
    for t in range(5):
        step = model(
            attention_mask=batch["attention_mask"],
            encoder_outputs=encoded,
            decoder_input_ids=target[:, t : t + 1],
            cache=cache,
        )
    every = model(batch["input_ids"], decoder_input_ids=target).logits
    torch.testing.assert_close(step.logits[:, 0], every[:, -1], rtol=0, atol=1e-5)


def static_cache(config: Config) -> EncoderDecoderCache:
    return EncoderDecoderCache(StaticCache(config, max_cache_len=8), StaticCache(config, max_cache_len=6))


@pytest.mark.parametrize("variant", ["paper", "rows-B", "learned"])
def test_greedy_search_with_a_static_cache_equals_the_dynamic_one(make_model, batch, variant) -> None:
    model = make_model(**VARIANTS[variant])
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    dynamic = model.generate(**source, num_beams=1, max_new_tokens=7)
    static = model.generate(
        **source, num_beams=1, max_new_tokens=7, cache_implementation="static", disable_compile=True
    )
    assert torch.equal(static, dynamic)


@pytest.mark.parametrize("depths", [(1, 3), (3, 1)])
def test_stacks_of_unequal_depth_generate_with_and_without_caches(make_model, batch, depths) -> None:
    model = make_model(num_encoder_layers=depths[0], num_decoder_layers=depths[1])
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for beams in (1, 4):
        options = {"num_beams": beams, "max_new_tokens": 7}
        uncached = model.generate(**source, use_cache=False, **options)
        assert torch.equal(model.generate(**source, **options), uncached)
    static = {"num_beams": 1, "cache_implementation": "static", "disable_compile": True, "max_new_tokens": 7}
    assert torch.equal(model.generate(**source, **static), model.generate(**source, num_beams=1, max_new_tokens=7))


# --- training machinery ----------------------------------------------------------------------------------------------


def gradients(model: Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("variant", ["paper", "pre-norm"])
def test_gradient_checkpointing_gives_the_same_gradients(make_model, batch, variant) -> None:
    model = make_model(**VARIANTS[variant]).train()
    torch.manual_seed(5)
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable()
    torch.manual_seed(5)
    torch.testing.assert_close(gradients(model, batch), plain)


@pytest.mark.parametrize(
    ("variant", "training"), [("paper", False), ("paper", True), ("pre-norm", True), ("learned", True)]
)
def test_a_forward_pass_with_labels_compiles_without_graph_breaks(make_model, batch, variant, training) -> None:
    torch._dynamo.reset()
    model = make_model(dropout=0.0, **VARIANTS[variant]).train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss)


def test_a_training_step_compiles_without_graph_breaks_to_the_same_gradients(make_model, batch) -> None:
    torch._dynamo.reset()
    model = make_model(dropout=0.0).train()
    eager = gradients(model, batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    compiled(**batch).loss.backward()
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters()}, eager, rtol=1e-4, atol=1e-5)


def test_a_decoding_step_with_a_static_cache_compiles_without_graph_breaks(make_model, batch) -> None:
    torch._dynamo.reset()
    model = make_model()
    encoded = model.get_encoder()(batch["input_ids"])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    caches = [static_cache(model.config), static_cache(model.config)]
    with torch.no_grad():
        for t in range(3):
            step = {
                "attention_mask": batch["attention_mask"],
                "encoder_outputs": encoded,
                "decoder_input_ids": batch["labels"][:, t : t + 1].clamp(min=2),
            }
            expected = model(cache=caches[0], **step).logits
            torch.testing.assert_close(compiled(cache=caches[1], **step).logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_and_translates(make_model, batch, dtype) -> None:
    model = make_model().to(dtype).train()
    loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(make_model().train(False)(**batch).loss.item(), rel=0.5)
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval().generate(batch["input_ids"], max_new_tokens=4).shape[0] == 3


@pytest.mark.parametrize("tie", TIES)
def test_the_tensor_parallel_plan_names_modules_that_exist(make_model, tie) -> None:
    model = make_model(tie_embeddings=tie)
    names = {".".join("*" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_modules()}
    assert set(model.tp_plan) <= names
    planned = {name for name in names if name.endswith(("_proj", "fc1", "fc2", "lm_head", "embed_tokens"))}
    assert planned <= set(model.tp_plan)


@pytest.mark.slow
def test_a_model_split_over_two_processes_computes_the_same(make_model, batch, in_two_processes, tmp_path) -> None:
    model = make_model(dropout=0.0, vocab_size=30)
    model.save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes("tensor")
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    torch.testing.assert_close(result["logits"], model(**batch).logits)
    torch.testing.assert_close(result["gradients"], gradients(model, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result["loss"], model(**batch).loss)
    assert torch.equal(result["sequences"], model.generate(batch["input_ids"], max_new_tokens=6))
    assert result["sharded"] == 15


# --- embeddings, saving ----------------------------------------------------------------------------------------------


def assert_tied(model: Model, tie: str) -> None:
    source, target = model.model.encoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight
    assert (source is target) == (tie == "all")
    assert (model.lm_head.weight is target) == (tie != "none")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("size", [33, 20])
def test_resizing_the_vocabulary_keeps_every_table_and_tie(make_model, tmp_path, tie, bias, size) -> None:
    model = make_model(tie_embeddings=tie, lm_head_bias=bias)
    rows = {name: value.clone() for name, value in model.state_dict().items() if value.shape[0] == 29}
    model.resize_token_embeddings(size)
    kept = min(size, 29)
    assert model.config.vocab_size == size
    for name, value in model.state_dict().items():
        if name in rows:
            assert value.shape[0] == size, name
            assert torch.equal(value[:kept], rows[name][:kept]), name
    assert_tied(model, tie)
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path).eval()
    source = torch.tensor([[3, 4, 5, 1]])
    assert torch.equal(loaded(source, labels=source).logits, model(source, labels=source).logits)
    assert loaded(source, labels=source).loss.isfinite()


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_saved_model_loads_bit_equal_with_its_ties(make_model, batch, tmp_path, tie, bias) -> None:
    model = make_model(tie_embeddings=tie, lm_head_bias=bias, norm_order="pre", final_norm=True)
    model.save_pretrained(tmp_path)
    pair: Any = Model.from_pretrained(tmp_path, output_loading_info=True)
    loaded, report = pair
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_tied(loaded, tie)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(logits_of(loaded.eval(), batch), logits_of(model, batch))


@pytest.mark.parametrize(("tie", "tables"), [("all", 1), ("decoder", 2), ("none", 3)])
def test_a_tied_matrix_is_stored_once(make_model, tmp_path, tie, tables) -> None:
    make_model(tie_embeddings=tie).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(value.shape[0] == 29 for value in stored.values()) == tables
    assert not any("positions" in name for name in stored)


def test_the_model_without_its_head_loads_from_the_translation_models_folder(make_model, batch, tmp_path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    base = VaswaniTransformerModel.from_pretrained(tmp_path).eval()
    target = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    expected = model.model(batch["input_ids"], decoder_input_ids=target).last_hidden_state
    assert torch.equal(base(batch["input_ids"], decoder_input_ids=target).last_hidden_state, expected)


def test_setting_the_source_embedding_of_an_untied_model_leaves_the_targets(make_model) -> None:
    model = make_model(tie_embeddings="none")
    target, new = model.model.decoder.embed_tokens, nn.Embedding(29, 16)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert model.model.decoder.embed_tokens is target
