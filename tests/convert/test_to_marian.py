"""The original Transformer as transformers' MarianMTModel: the same logits, the same translations, or what stands in
the way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel

from vaswani_transformer import (
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.convert import export_to_transformers
from vaswani_transformer.convert.to_transformers import plain_model

SIZES = {"vocab_size": 300, "d_model": 16, "d_ff": 24, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 1}
# What Marian has itself: such weights are copied.
MARIANS: dict[str, Any] = {
    "attention_bias": True,
    "decoder_start": "token",
    "layer_norm_eps": 1e-5,
    "position_layout": "half-split",
}
CASES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "Marian's": MARIANS,
    "one matrix for the target": {"tie_embeddings": "decoder"},
    "three matrices": {"tie_embeddings": "none"},
    "one matrix for the target, a start token": {"tie_embeddings": "decoder", "decoder_start": "token"},
    "another start token": {"decoder_start": "token", "decoder_start_token_id": 5},
    "a bias on the output": {"lm_head_bias": True},
    "narrow queries, narrower values": {"d_k": 3, "d_v": 2},
    "a large epsilon": {"layer_norm_eps": 2e-5},
    "no scale, another activation": {"scale_embedding": False, "activation": "gelu"},
    "interleaved, Marian's epsilon": {"layer_norm_eps": 1e-5},
}

HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
import torch, transformers
folder = sys.argv[1]
saved = torch.load(f"{folder}/saved.pt", weights_only=True)
model = transformers.AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/theirs").eval()
assert type(model) is transformers.MarianMTModel, type(model)
tokenizer = transformers.AutoTokenizer.from_pretrained(f"{folder}/theirs")
batch = tokenizer(saved["texts"], padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch, decoder_input_ids=saved["decoder_input_ids"]).logits
    written = model.generate(**batch, num_beams=1, max_new_tokens=6)
torch.testing.assert_close(logits, saved["logits"], rtol=0, atol=1e-5 * saved["logits"].abs().max().clamp(min=1))
assert tokenizer.batch_decode(written, skip_special_tokens=True) == saved["written"]
"""


def made(**fields: Any) -> Any:
    """A model whose every weight is random, biases and norms too."""
    torch.manual_seed(0)
    model = VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(**{**SIZES, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def batch() -> dict[str, torch.Tensor]:
    """Sources padded on the right, and targets behind the start token, padding in one of them."""
    torch.manual_seed(1)
    source, target = torch.randint(3, 300, (3, 7)), torch.randint(3, 300, (3, 6))
    mask = (torch.arange(7) < torch.tensor([7, 4, 1]).unsqueeze(1)).long()
    target[:, 0] = target[1, 3] = 0
    return {"input_ids": source * mask, "attention_mask": mask, "decoder_input_ids": target}


def exported(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder / "ours")
    out = export_to_transformers(folder / "ours", folder / "theirs")
    loaded: Any = MarianMTModel.from_pretrained(out, output_loading_info=True)
    theirs, told = loaded
    assert not told["unexpected_keys"], told
    return theirs.eval()


@pytest.mark.parametrize("fields", CASES.values(), ids=list(CASES))
def test_marian_computes_the_same_logits(tmp_path, fields):
    model = made(**fields)
    theirs = exported(model, tmp_path)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["model_type"] == "marian"
    assert "auto_map" not in config
    assert not list((tmp_path / "theirs").glob("*.py"))
    with torch.no_grad():
        ours = model(**batch()).logits
        found = theirs(**batch()).logits
    same_norms = model.config.layer_norm_eps == 1e-5  # else the first ones differ a little: a share of the largest
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-5 * (1 if same_norms else max(1, ours.abs().max())))


@pytest.mark.parametrize("fields", CASES.values(), ids=list(CASES))
def test_what_marian_saves_again_is_still_the_same(tmp_path, fields):
    theirs = exported(made(**fields), tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    again = MarianMTModel.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, theirs(**batch()).logits)


def test_where_nothing_differs_weights_are_copied_bit_for_bit_in_their_precision():
    model = made(**MARIANS).to(torch.bfloat16)
    theirs = plain_model(model)
    assert theirs.dtype == torch.bfloat16
    found = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name


def test_weights_that_are_only_reordered_keep_their_precision():
    assert plain_model(made(layer_norm_eps=1e-5).to(torch.bfloat16)).dtype == torch.bfloat16
    assert plain_model(made().to(torch.bfloat16)).dtype == torch.float32  # scaled by a root


def test_a_zero_start_keeps_one_matrix_where_the_row_of_padding_is_zero():
    model = made(**{**MARIANS, "decoder_start": "zero"})
    separate = plain_model(model)
    assert separate.lm_head.weight is not separate.model.decoder.embed_tokens.weight
    assert not separate.model.decoder.embed_tokens.weight[0].any()
    assert torch.equal(separate.lm_head.weight, model.lm_head.weight)
    with torch.no_grad():
        model.lm_head.weight[0] = 0
    shared = plain_model(model)
    assert shared.lm_head.weight is shared.model.decoder.embed_tokens.weight is shared.model.encoder.embed_tokens.weight


@pytest.mark.parametrize("beams", [1, 3])
def test_marian_writes_what_our_model_writes(beams):
    model = made(lm_head_bias=True)
    theirs, options = plain_model(model), {"num_beams": beams, "max_new_tokens": 9}
    batches = {name: value for name, value in batch().items() if "decoder" not in name}
    # Without a length penalty both searches compare sums of log-probabilities.
    ours = model.generate(**batches, **options, length_penalty=0.0)
    found = theirs.generate(**batches, **options, length_penalty=0.0, early_stopping="never")
    assert torch.equal(ours, found)


def test_the_papers_search_becomes_the_nearest_that_transformers_has(caplog):
    model = made()
    ours, found = model.generation_config, plain_model(model).generation_config
    assert (found.num_beams, found.length_penalty, found.max_length) == (4, 0.5, 1024)
    assert found.suppress_tokens == [0]
    assert (found.eos_token_id, found.forced_eos_token_id) == (1, None)
    assert (ours.length_penalty, ours.max_length) == (0.6, None)  # the model itself is as it was
    assert "a=0.5 has that slope at 25 tokens" in caplog.text


def test_it_translates_text_where_this_package_is_hidden(tmp_path):
    model, texts = made(), ["a hat", "a dog and a hat"]
    tokenizer = VaswaniTransformerTokenizer.train(texts, vocab_size=270)
    tokenizer.save_pretrained(tmp_path / "ours")
    exported(model, tmp_path)
    tokens, start = tokenizer(texts, padding=True, return_tensors="pt"), torch.tensor([[0, 4, 5], [0, 6, 7]])
    with torch.no_grad():
        logits = model(**tokens, decoder_input_ids=start).logits
    written = tokenizer.batch_decode(
        model.generate(**tokens, num_beams=1, max_new_tokens=6, suppress_tokens=[0]), skip_special_tokens=True
    )
    told = {"texts": texts, "decoder_input_ids": start, "logits": logits, "written": written}
    torch.save(told, tmp_path / "saved.pt")
    result = subprocess.run(
        [sys.executable, "-c", HIDDEN, str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert type(AutoTokenizer.from_pretrained(tmp_path / "theirs")).__module__.startswith("transformers.")


def test_every_setting_in_the_way_is_named_at_once():
    fields = {"norm_order": "pre", "final_norm": True, "position_frequency": "tensor2tensor", "position_offset": 2}
    with pytest.raises(ValueError, match="must have") as error:
        plain_model(made(**fields, d_k=8))
    for told in (
        "norm_order='post', got 'pre'",
        "final_norm=False, got True",
        "position_frequency='paper', got 'tensor2tensor'",
        "position_offset=0, got 2",
        "got d_k=8, d_v=8, d_model=16, num_heads=4",
    ):
        assert told in str(error.value)


def test_learned_positions_are_in_the_way_and_their_frequency_is_not():
    with pytest.raises(ValueError, match="position_embedding='sinusoidal', got 'learned'") as error:
        plain_model(made(position_embedding="learned", position_frequency="tensor2tensor"))
    assert "position_frequency" not in str(error.value)


def test_an_epsilon_that_shows_in_the_logits_is_refused():
    with pytest.raises(ValueError, match=r"layer_norm_eps=1e-05, got 0\.01: .* moves logits by"):
        plain_model(made(layer_norm_eps=0.01))
