"""torch.nn.Transformer comes in: state dicts that torch wrote, in the tutorial's names, compute what torch computes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vaswani_transformer.convert import convert

from .of_translators import assert_same_probabilities, converted, shaken

IDS = {"unk_token_id": 0, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
SOURCE = torch.tensor([[4, 5, 10, 3], [6, 3, 1, 1]])
TARGET = torch.tensor([[2, 6, 8, 4], [2, 5, 7, 9]])


class Embedding(nn.Module):
    """A matrix, its rows multiplied by the root of their size, as the tutorial does."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * 4.0


class Positions(nn.Module):
    """Sinusoids in a buffer [length, 1, D], written one by one from section 3.5."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(12, 1, 16)
        for position in range(12):
            for i in range(8):
                angle = position / 10000 ** (2 * i / 16)
                table[position, 0, 2 * i], table[position, 0, 2 * i + 1] = math.sin(angle), math.cos(angle)
        self.register_buffer("pos_embedding", table)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.pos_embedding[: states.shape[1], 0]  # type: ignore[index]


class Translator(nn.Module):
    """A user's model, of the names that PyTorch's translation tutorial gives."""

    def __init__(self, source: int, target: int, **options: Any) -> None:
        super().__init__()
        self.transformer = nn.Transformer(16, 4, 2, 1, 24, 0.0, batch_first=True, **options)
        self.generator = nn.Linear(16, target)
        self.src_tok_emb = Embedding(source)
        self.tgt_tok_emb = Embedding(target)
        self.positional_encoding = Positions()

    def forward(self, source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        states = self.transformer(
            self.positional_encoding(self.src_tok_emb(source)),
            self.positional_encoding(self.tgt_tok_emb(target)),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
            src_key_padding_mask=~mask,
            memory_key_padding_mask=~mask,
        )
        return self.generator(states)


def made(*sizes: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return shaken(Translator(*sizes, **options))


def write(folder: Path, weights: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir()
    torch.save(weights, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"nhead": 4, **IDS, **settings}))
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_first": True}, {"activation": "gelu", "layer_norm_eps": 1e-3}],
    ids=["post", "pre", "gelu"],
)
def test_a_model_of_the_tutorial_computes_what_torch_does_bit_for_bit(tmp_path, options):
    model = made(17, 17, **options)
    found, ours = converted(write(tmp_path / "torch", model.state_dict(), **options), "torch")
    assert found.difference is not None
    assert found.dropped == ("positional_encoding.pos_embedding",)
    assert (ours.config.final_norm, ours.config.tie_embeddings, ours.config.attention_bias) == (True, "none", True)
    assert_same_probabilities(ours, model, source=SOURCE, target=TARGET)
    own, layer = ours.state_dict(), model.transformer.decoder.layers[0]
    packed = [own[f"model.decoder.layers.0.encoder_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(torch.cat(packed), layer.multihead_attn.in_proj_weight)
    assert torch.equal(own["model.decoder.layers.0.encoder_attn_layer_norm.bias"], layer.norm2.bias)
    assert torch.equal(own["model.encoder.layer_norm.weight"], model.transformer.encoder.norm.weight)
    assert torch.equal(own["lm_head.bias"], model.generator.bias)


def test_two_vocabularies_keep_their_ids_and_probabilities(tmp_path):
    for name, sizes in (("larger", (17, 12)), ("smaller", (12, 17))):
        model = made(*sizes)
        _, ours = converted(write(tmp_path / name, model.state_dict()), "torch")
        assert ours.config.vocab_size == 17
        assert_same_probabilities(ours, model, source=SOURCE, target=TARGET)


def test_one_embedding_of_both_sides_and_the_output_is_one(tmp_path):
    model = made(17, 17)
    weights = {name.removeprefix("transformer."): tensor for name, tensor in model.transformer.state_dict().items()}
    folder = tmp_path / "torch"
    write(folder, weights | {"embedding.weight": model.src_tok_emb.embedding.weight.detach()})
    model.tgt_tok_emb = model.src_tok_emb
    model.generator = nn.Linear(16, 17, bias=False)
    model.generator.weight = model.src_tok_emb.embedding.weight
    _, ours = converted(folder, "torch")
    assert (ours.config.tie_embeddings, ours.config.lm_head_bias) == ("all", False)
    assert_same_probabilities(ours, model, source=SOURCE, target=TARGET)


def test_a_stack_without_its_last_norm_and_a_file_of_safetensors_are_read(tmp_path):
    model = made(17, 17)
    model.transformer.encoder.norm = model.transformer.decoder.norm = None
    folder = write(tmp_path / "torch", model.state_dict())
    (folder / "model.pt").unlink()
    save_file(model.state_dict(), folder / "model.safetensors")
    _, ours = converted(folder, "torch")
    assert not ours.config.final_norm
    assert_same_probabilities(ours, model, source=SOURCE, target=TARGET)


def test_other_positions_are_told_in_the_settings(tmp_path):
    model = made(17, 17)
    table = model.positional_encoding.pos_embedding
    model.positional_encoding.pos_embedding = torch.cat((table[..., 0::2], table[..., 1::2]), -1)
    folder = write(tmp_path / "torch", model.state_dict(), position_layout="half-split")
    assert_same_probabilities(converted(folder, "torch")[1], model, source=SOURCE, target=TARGET)
    folder = write(tmp_path / "wrong", model.state_dict())
    with pytest.raises(ValueError, match="must compute what the source's own code does"):
        convert(folder, format="torch", out=tmp_path / "out")


def test_weights_without_biases_are_told(tmp_path):
    folder = write(tmp_path / "torch", made(17, 17, bias=False).state_dict())
    with pytest.raises(ValueError, match=r"must have biases; got encoder\.layers\.0\.linear1 without one.*bias=False"):
        convert(folder, format="torch", out=tmp_path / "out")


def test_a_module_of_the_users_own_is_told_by_its_weights_names(tmp_path):
    folder = write(tmp_path / "torch", made(17, 17).state_dict() | {"adapter.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"every weight must have its place; got .*1 unknown \(adapter\.weight\)"):
        convert(folder, format="torch", out=tmp_path / "out")
