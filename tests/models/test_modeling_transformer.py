import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel, StaticCache
from transformers.cache_utils import EncoderDecoderCache

from vaswani_transformer import VaswaniTransformerConfig as Config
from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model
from vaswani_transformer import VaswaniTransformerModel
from vaswani_transformer.models.configuration_transformer import PRESETS
from vaswani_transformer.models.layers import position_ids_from_mask, sinusoids

TIES = ("all", "decoder", "none")
# Every switch away from the paper, in combinations that toolkits use.
VARIANTS = {
    "paper": {},
    "rows-B": {"d_k": 3, "d_v": 5},
    "marian": {"attention_bias": True, "lm_head_bias": True, "position_layout": "half-split", "decoder_start": "token"},
    "pre-norm": {"norm_order": "pre", "final_norm": True, "activation": "gelu", "tie_embeddings": "decoder"},
    "learned": {"position_embedding": "learned", "position_offset": 2, "tie_embeddings": "none"},
}


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits[batch["labels"] != -100]


# --- parity with independent implementations -------------------------------------------------------------------------


def marian_and_ours(make_model) -> tuple[Any, Model]:
    ours = make_model(
        attention_bias=True,
        lm_head_bias=True,
        layer_norm_eps=1e-5,
        position_layout="half-split",
        decoder_start="token",
        num_decoder_layers=3,
    )
    sizes: dict[str, Any] = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), ours.config.d_ff)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), ours.config.num_heads)
    config = MarianConfig(
        vocab_size=ours.config.vocab_size,
        d_model=ours.config.d_model,
        encoder_layers=2,
        decoder_layers=3,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        **sizes,
    )
    marian = MarianMTModel(config).eval()
    weights = {name: value.clone() for name, value in ours.state_dict().items()}
    weights["final_logits_bias"] = weights.pop("lm_head.bias").unsqueeze(0)
    missing, unexpected = marian.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("embed_positions" in name for name in missing)
    return marian, ours


def test_with_marians_switches_the_logits_are_marians(make_model, batch) -> None:
    marian, ours = marian_and_ours(make_model)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(marian, batch), rtol=0, atol=1e-5)


def test_with_transformers_own_beam_search_the_translations_are_marians(make_model, batch) -> None:
    marian, ours = marian_and_ours(make_model)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = {"num_beams": 4, "max_new_tokens": 8, "length_penalty": 0.6, "bad_words_ids": [[0]]}
    translations = ours.generate(**source, custom_generate=None, **options)
    assert torch.equal(translations, marian.generate(**source, **options))


@pytest.mark.parametrize("norm_order", ["post", "pre"])
def test_with_its_switches_the_hidden_states_are_those_of_torch_nn_transformer(make_model, batch, norm_order) -> None:
    ours = make_model(attention_bias=True, layer_norm_eps=1e-5, final_norm=True, norm_order=norm_order)
    peer = nn.Transformer(16, 4, 2, 2, 24, dropout=0.0, batch_first=True, norm_first=norm_order == "pre").eval()
    copy_to_torch(ours.model, peer)
    source, target = batch["input_ids"], ours.prepare_decoder_input_ids_from_labels(batch["labels"])
    # The peer has neither embeddings nor positions: it gets ours.
    encoder_in = ours.model.encoder.add_positions(
        ours.model.encoder.embed_tokens(source), position_ids_from_mask(batch["attention_mask"])
    )
    embeds = ours.model.decoder.embed_tokens(target) * target.ne(0).unsqueeze(-1)
    decoder_in = ours.model.decoder.add_positions(embeds, torch.arange(target.shape[1]).unsqueeze(0))
    padding = source.eq(0)
    expected = peer(
        encoder_in,
        decoder_in,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
        src_key_padding_mask=padding.float().masked_fill(padding, -torch.inf),
        memory_key_padding_mask=padding.float().masked_fill(padding, -torch.inf),
    )
    got = ours.model(source, batch["attention_mask"], target).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def copy_to_torch(ours: Any, peer: Any) -> None:
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    for stack, peer_stack in ((ours.encoder, peer.encoder), (ours.decoder, peer.decoder)):
        peer_stack.norm.load_state_dict(stack.layer_norm.state_dict())
        for layer, other in zip(stack.layers, peer_stack.layers, strict=True):
            for name, peer_name in (("self_attn", "self_attn"), ("encoder_attn", "multihead_attn")):
                if (attention := getattr(layer, name, None)) is not None:
                    target = getattr(other, peer_name)
                    for kind in ("weight", "bias"):
                        packed = [getattr(getattr(attention, f"{p}_proj"), kind) for p in "qkv"]
                        getattr(target, f"in_proj_{kind}").data.copy_(torch.cat(packed))
                    target.out_proj.load_state_dict(attention.out_proj.state_dict())
            present = [getattr(layer, name) for name in norms if hasattr(layer, name)]
            for index, norm in enumerate(present, start=1):
                getattr(other, f"norm{index}").load_state_dict(norm.state_dict())
            other.linear1.load_state_dict(layer.fc1.state_dict())
            other.linear2.load_state_dict(layer.fc2.state_dict())


class Formulas:
    """The paper's equations for one sentence pair without padding, one head and one position after the other."""

    def __init__(self, model: Model) -> None:
        self.config = model.config
        self.w = {name.removeprefix("model."): value for name, value in model.state_dict().items()}

    def positions(self, length: int) -> Tensor:
        size = self.config.d_model
        table = torch.zeros(length, size)
        for position in range(length):
            for i in range(size // 2):
                angle = position / 10000 ** (2 * i / size)
                table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
        return table

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x: Tensor, memory: Tensor, name: str, *, causal: bool) -> Tensor:
        K, W, heads = self.config.d_k, self.config.d_v, []
        for h in range(self.config.num_heads):
            q = x @ self.w[f"{name}.q_proj.weight"][h * K : (h + 1) * K].T
            k = memory @ self.w[f"{name}.k_proj.weight"][h * K : (h + 1) * K].T
            v = memory @ self.w[f"{name}.v_proj.weight"][h * W : (h + 1) * W].T
            rows = []
            for t in range(len(x)):
                seen = t + 1 if causal else len(memory)
                rows.append(torch.softmax(k[:seen] @ q[t] / math.sqrt(K), 0) @ v[:seen])
            heads.append(torch.stack(rows))
        return torch.cat(heads, -1) @ self.w[f"{name}.out_proj.weight"].T

    def layer(self, x: Tensor, name: str, memory: Tensor | None = None) -> Tensor:
        attended = self.attention(x, x, f"{name}.self_attn", causal=memory is not None)
        x = self.norm(x + attended, f"{name}.self_attn_layer_norm")
        if memory is not None:
            attended = self.attention(x, memory, f"{name}.encoder_attn", causal=False)
            x = self.norm(x + attended, f"{name}.encoder_attn_layer_norm")
        inner = torch.relu(x @ self.w[f"{name}.fc1.weight"].T + self.w[f"{name}.fc1.bias"])
        return self.norm(
            x + inner @ self.w[f"{name}.fc2.weight"].T + self.w[f"{name}.fc2.bias"], f"{name}.final_layer_norm"
        )

    def logits(self, source: list[int], target: list[int]) -> Tensor:
        E, size = self.w["shared.weight"], self.config.d_model
        x = E[source] * math.sqrt(size) + self.positions(len(source))
        for i in range(self.config.num_encoder_layers):
            x = self.layer(x, f"encoder.layers.{i}")
        shifted = torch.cat((torch.zeros(1, size), E[target[:-1]]))  # the decoder starts from a zero vector
        y = shifted * math.sqrt(size) + self.positions(len(target))
        for i in range(self.config.num_decoder_layers):
            y = self.layer(y, f"decoder.layers.{i}", memory=x)
        return y @ E.T


@pytest.mark.parametrize("sizes", [{}, {"d_k": 3, "d_v": 5}, {"num_heads": 1, "d_k": 2, "d_v": 7}])
def test_the_papers_model_computes_the_papers_formulas(make_model, batch, sizes) -> None:
    model = make_model(**sizes)
    logits = model(**batch).logits
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        target = batch["labels"][row][batch["labels"][row] != -100].tolist()
        expected = Formulas(model).logits(source, target)
        torch.testing.assert_close(logits[row, : len(target)], expected, rtol=0, atol=1e-5)


def test_the_decoder_starts_from_zeros_whatever_the_pad_row_holds(make_model, batch) -> None:
    model = make_model()
    before = logits_of(model, batch)[:, 1:]
    with torch.no_grad():
        model.model.shared.weight[0] += 1.0
    torch.testing.assert_close(logits_of(model, batch)[:, 1:], before)


def test_with_a_start_token_the_decoder_starts_from_its_embedding(make_model, batch) -> None:
    model = make_model(decoder_start="token")
    before = logits_of(model, batch)[:, 1:]
    with torch.no_grad():
        model.model.shared.weight[0] += 1.0
    assert (logits_of(model, batch)[:, 1:] - before).abs().max() > 1e-2


# --- positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["interleaved", "half-split"])
@pytest.mark.parametrize("frequency", ["paper", "tensor2tensor"])
def test_each_form_of_the_sinusoids_is_its_formula(layout: str, frequency: str) -> None:
    size, half = 12, 6
    table = sinusoids(torch.arange(50), size, layout=layout, frequency=frequency)
    for position in (0, 1, 7, 49):
        for i in range(half):
            exponent = 2 * i / size if frequency == "paper" else i / (half - 1)
            angle = position / 10000**exponent
            sine, cosine = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, half + i)
            assert table[position, sine].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, cosine].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_sinusoids_are_those_of_tensor2tensor_and_fairseq() -> None:
    from transformers.models.fsmt.modeling_fsmt import SinusoidalPositionalEmbedding

    table = SinusoidalPositionalEmbedding.get_embedding(20, 16, padding_idx=1)  # half-split, the first token at 2
    ours = sinusoids(torch.arange(2, 20), 16, layout="half-split", frequency="tensor2tensor")
    torch.testing.assert_close(ours, table[2:20], rtol=0, atol=1e-5)


def test_positions_stay_exact_in_a_bfloat16_model(make_model) -> None:
    model = make_model(dropout=0.0).to(torch.bfloat16)
    zeros = torch.zeros(1, 400, 16, dtype=torch.bfloat16)
    position_ids = torch.arange(400).unsqueeze(0)
    expected = sinusoids(position_ids, 16).to(torch.bfloat16)
    assert torch.equal(model.model.encoder.add_positions(zeros, position_ids), expected)


def test_the_position_offset_shifts_every_position(make_model) -> None:
    model = make_model(position_offset=2)
    got = model.model.encoder.add_positions(torch.zeros(1, 5, 16), torch.arange(5).unsqueeze(0))
    torch.testing.assert_close(got, sinusoids(torch.arange(2, 7), 16).unsqueeze(0))


def test_sinusoids_have_no_maximum_length(make_model) -> None:
    model = make_model(max_position_embeddings=8)
    source = torch.randint(3, 29, (1, 1500))
    assert model(source, labels=source[:, :1200]).logits.isfinite().all()


def test_positions_count_tokens_and_not_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    positions = position_ids_from_mask(mask)
    assert positions[0, 2:].tolist() == positions[1, :3].tolist() == [0, 1, 2]


def test_learned_positions_are_one_table_for_each_stack(make_model) -> None:
    model = make_model(position_embedding="learned", max_position_embeddings=10, position_offset=2)
    assert model.model.encoder.embed_positions.weight.shape == (12, 16)
    assert model.model.decoder.embed_positions.weight is not model.model.encoder.embed_positions.weight


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


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_with_a_cache_gives_the_logits_of_one_pass(make_model, batch, variant) -> None:
    model = make_model(num_decoder_layers=3, **VARIANTS[variant])
    target = batch["labels"].clamp(min=2)
    every = model(batch["input_ids"], decoder_input_ids=target).logits
    cache, steps = None, []
    for part in (target[:, :2], target[:, 2:3], target[:, 3:]):
        output = model(batch["input_ids"], decoder_input_ids=part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
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
            past_key_values=cache,
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
            expected = model(past_key_values=caches[0], **step).logits
            torch.testing.assert_close(compiled(past_key_values=caches[1], **step).logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_and_translates(make_model, batch, dtype) -> None:
    model = make_model().to(dtype).train()
    loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(make_model().train(False)(**batch).loss.item(), rel=0.5)
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval().generate(batch["input_ids"], max_new_tokens=4).shape[0] == 3


# --- initialisation and size -----------------------------------------------------------------------------------------


def test_projections_start_glorot_uniform_and_embeddings_normal_of_variance_one_over_d() -> None:
    torch.manual_seed(0)
    model = Model(
        Config(
            vocab_size=997,
            d_model=128,
            d_ff=256,
            num_heads=4,
            num_encoder_layers=1,
            num_decoder_layers=1,
            attention_bias=True,
            lm_head_bias=True,
            tie_embeddings="none",
            position_embedding="learned",
        )
    )
    for name, parameter in model.named_parameters():
        if "embed" in name or name == "lm_head.weight":
            assert parameter.std().item() == pytest.approx(128**-0.5, rel=0.05), name
            assert parameter.abs().max() > 3 * 128**-0.5, name  # a normal has tails
        elif parameter.dim() == 2:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        else:
            assert (parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name


def test_loading_a_file_without_some_weights_initialises_them_as_new(tmp_path: Path) -> None:
    config = Config(vocab_size=499, d_model=64, d_ff=64, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    VaswaniTransformerModel(config).save_pretrained(tmp_path)
    config.num_decoder_layers = 2
    model = Model.from_pretrained(tmp_path, config=config)
    weight = model.get_parameter("model.decoder.layers.1.fc1.weight")
    assert weight.abs().max() <= math.sqrt(6 / 128)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_parameters_are_those_of_the_closed_formula(name: str) -> None:
    config = Config.preset(name)
    with torch.device("meta"):
        model = Model(config)
    D, F, N = config.d_model, config.d_ff, config.num_encoder_layers
    attention = 2 * D * config.num_heads * (config.d_k + config.d_v)
    feed_forward, norm = 2 * D * F + F + D, 2 * D
    stacks = N * (attention + feed_forward + 2 * norm) + N * (2 * attention + feed_forward + 3 * norm)
    positions = 2 * config.max_position_embeddings * D if config.position_embedding == "learned" else 0
    assert model.num_parameters() == config.vocab_size * D + stacks + positions


@pytest.mark.parametrize(("name", "millions"), [("base", 63.05), ("big", 214.17), ("B-d_k-16", 63.05 - 7.08)])
def test_the_known_presets_have_the_known_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert Model(Config.preset(name)).num_parameters() / 1e6 == pytest.approx(millions, abs=0.01)


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
