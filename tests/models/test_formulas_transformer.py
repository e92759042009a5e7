"""The Transformer is the paper's and its peers': formulas, positions, first weights, sizes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from vaswani_transformer import VaswaniTransformerConfig as Config
from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model
from vaswani_transformer import VaswaniTransformerModel
from vaswani_transformer.models.configuration_transformer import PRESETS
from vaswani_transformer.models.layers import position_ids_from_mask, sinusoids

from .conftest import logits_of

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
