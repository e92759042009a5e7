"""Exports to transformers: the same outputs from its own classes, this package hidden, and back again."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AddedToken, AutoTokenizer, GenerationConfig

import vaswani_transformer
from vaswani_cli import main
from vaswani_transformer import VaswaniBertConfig, VaswaniBertTokenizer, VaswaniGPT2Tokenizer, VaswaniGPTConfig
from vaswani_transformer.convert import export_to_transformers
from vaswani_transformer.convert.to_transformers import _stock_gpt1, plain_model
from vaswani_transformer.data.gpt_inputs import add_special_tokens
from vaswani_transformer.models import FAMILIES

SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
SIZES |= {"max_position_embeddings": 12}
GPT_HEADS = {
    "pre": ["Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"],
    "post": ["Model", "ForCausalLM", "ForSequenceClassification"],
}
BERT_HEADS = [model.__name__.removeprefix("VaswaniBert") for model in FAMILIES[VaswaniBertConfig].values()]
CASES = [("GPT", head, {"norm_order": order}) for order, heads in GPT_HEADS.items() for head in heads]
CASES += [("Bert", head, {"intermediate_size": 24}) for head in BERT_HEADS]
NAMES = [f"{family}-{fields.get('norm_order', '')}{head}" for family, head, fields in CASES]

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
for name, expected in saved["expected"].items():
    model = getattr(transformers, saved["auto"][name]).from_pretrained(f"{folder}/{name}").eval()
    assert type(model).__module__.startswith("transformers.models."), type(model)
    with torch.no_grad():
        found = model(saved["ids"])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
tokenizer = transformers.AutoTokenizer.from_pretrained(f"{folder}/gpt2")
assert tokenizer("a hat")["input_ids"] == saved["tokens"], tokenizer("a hat")
"""


def made(family: str, head: str, **fields: Any) -> Any:
    """A model of ours whose every weight is random."""
    torch.manual_seed(0)
    config: Any = {"GPT": VaswaniGPTConfig, "Bert": VaswaniBertConfig}[family]
    model = getattr(vaswani_transformer, f"Vaswani{family}{head}")(config(**{**SIZES, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def their_class(folder: Path) -> Any:
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, name)


@pytest.mark.parametrize(("family", "head", "fields"), CASES, ids=NAMES)
def test_every_head_computes_the_same_in_transformers_own_class(tmp_path, family, head, fields):
    model = made(family, head, **fields)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == {"pre": "gpt2", "post": "openai-gpt", None: "bert"}[fields.get("norm_order")]
    assert "auto_map" not in config
    assert not list(out.glob("*.py"))
    theirs, told = their_class(out).from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] | told["unexpected_keys"], told
    ids = torch.randint(0, 300, (1, 3, 9) if head == "ForMultipleChoice" else (1, 9))
    with torch.no_grad():
        expected, found = model(ids), theirs.eval()(ids)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    assert tensors
    for name, value in tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(("family", "head", "fields"), CASES, ids=NAMES)
def test_what_was_exported_comes_in_again_bit_for_bit(tmp_path, family, head, fields):
    model = made(family, head, **fields)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    again, weights = type(model).from_pretrained(out), model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_classifier_trained_with_the_language_models_loss_goes_out_without_its_output_matrix(tmp_path, order, tied):
    fields: dict[str, Any] = {"norm_order": order, "lm_loss_weight": 0.5, "tie_word_embeddings": tied}
    model = made("GPT", "ForSequenceClassification", **fields)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    theirs, told = their_class(out).from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] | told["unexpected_keys"], told
    ids = torch.randint(0, 300, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_a_square_weight_is_transposed_once_out_and_once_in(tmp_path):
    model = made("GPT", "ForCausalLM", norm_order="pre", intermediate_size=16)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    theirs, again = their_class(out).from_pretrained(out), type(model).from_pretrained(out)
    for number, block in enumerate(model.transformer.h):
        other, back = theirs.transformer.h[number], again.transformer.h[number]
        assert torch.equal(other.attn.c_proj.weight, block.attn.out_proj.weight.T)
        assert torch.equal(other.mlp.c_fc.weight, block.mlp.up_proj.weight.T)
        assert torch.equal(other.mlp.c_proj.weight, block.mlp.down_proj.weight.T)
        assert torch.equal(back.attn.out_proj.weight, block.attn.out_proj.weight)
        assert torch.equal(back.mlp.down_proj.weight, block.mlp.down_proj.weight)


def test_it_loads_where_this_package_is_hidden(tmp_path):
    tokenizer = VaswaniGPT2Tokenizer.train(["a hat, a dog"], vocab_size=258)
    models = {
        "gpt2": (made("GPT", "ForCausalLM", norm_order="pre"), "AutoModelForCausalLM"),
        "openai-gpt": (made("GPT", "ForCausalLM"), "AutoModelForCausalLM"),
        "bert": (made("Bert", "ForMaskedLM"), "AutoModelForMaskedLM"),
    }
    ids, expected = torch.randint(0, 300, (1, 9)), {}
    for name, (model, _) in models.items():
        tokenizer.save_pretrained(saved(model, tmp_path / "ours" / name))
        export_to_transformers(tmp_path / "ours" / name, tmp_path / name)
        with torch.no_grad():
            expected[name] = model(ids).logits
    told = {"ids": ids, "expected": expected, "auto": {name: auto for name, (_, auto) in models.items()}}
    torch.save({**told, "tokens": tokenizer("a hat")["input_ids"]}, tmp_path / "saved.pt")
    result = subprocess.run(
        [sys.executable, "-c", HIDDEN, str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def test_the_same_text_is_written_from_the_same_prompt(tmp_path):
    model = made("GPT", "ForCausalLM", norm_order="pre", eos_token_id=7)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, top_k=5, eos_token_id=7, pad_token_id=7)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    theirs = their_class(out).from_pretrained(out).eval()
    assert (theirs.generation_config.temperature, theirs.generation_config.top_k) == (0.7, 5)
    found = []
    for one in (model, theirs):
        torch.manual_seed(3)
        found.append(one.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=8))
    assert torch.equal(*found)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_untied_output_weights_and_the_precision_stay(tmp_path, order):
    model = made("GPT", "ForCausalLM", norm_order=order, tie_word_embeddings=False).to(torch.bfloat16)
    out = export_to_transformers(saved(model, tmp_path / "ours"), tmp_path / "theirs")
    theirs = their_class(out).from_pretrained(out)
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(theirs.lm_head.weight, theirs.transformer.get_input_embeddings().weight)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_pytorch_tanh"])
def test_gpt1s_activations_have_their_names_of_2018(activation):
    model = made("GPT", "Model", hidden_act=activation)
    assert plain_model(model).config.afn == {"gelu_pytorch_tanh": "gelu"}.get(activation, activation)


def test_bands_as_wide_as_the_context_are_no_bands():
    bands: dict[str, Any] = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 12}
    assert isinstance(plain_model(made("GPT", "Model", norm_order="pre", **bands)), transformers.GPT2Model)


def test_labels_and_the_problem_travel():
    labels = {0: "bad", 1: "so so", 2: "good"}
    model = made("Bert", "ForSequenceClassification", id2label=labels, problem_type="single_label_classification")
    config = plain_model(model).config
    assert config.id2label == labels
    assert config.problem_type == "single_label_classification"


def test_a_bert_tokenizer_travels_and_the_verb_prints_the_folder(tmp_path, capsys):
    tokenizer = VaswaniBertTokenizer.train(["a hat, a dog"], vocab_size=40)
    tokenizer.save_pretrained(saved(made("Bert", "ForMaskedLM"), tmp_path / "ours"))
    assert main(["export", str(tmp_path / "ours"), "--to", "transformers", "--out", str(tmp_path / "theirs")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'theirs'}\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "theirs")("a hat")["input_ids"] == tokenizer("a hat")["input_ids"]


def test_a_folder_without_a_tokenizer_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        export_to_transformers(saved(made("GPT", "ForCausalLM"), tmp_path / "ours"), tmp_path / "theirs")
    assert "has no tokenizer" in caplog.text


def save_tokenizer_of_2018(folder: Path, model: Any = None) -> Any:
    """A toy one; with a model, as fine-tuning leaves both."""
    pytest.importorskip("spacy", reason="GPT's tokenizer of 2018 needs spaCy, of the extra `gpt1`")
    pytest.importorskip("ftfy", reason="GPT's tokenizer of 2018 needs ftfy, of the extra `gpt1`")
    folder.mkdir(exist_ok=True)
    vocab = {token: number for number, token in enumerate(["<unk>", "a", "a</w>", "h", "t</w>", "at</w>", "hat</w>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\nh at</w>\n")
    tokenizer = vaswani_transformer.VaswaniGPTTokenizer(folder / "vocab.json", folder / "merges.txt")
    if model is not None:
        add_special_tokens(tokenizer, model)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_the_tokenizer_of_2018_goes_out_as_the_nearest_stock_one_and_says_so(tmp_path, caplog):
    saved(made("GPT", "ForCausalLM"), tmp_path / "ours")
    tokenizer = save_tokenizer_of_2018(tmp_path / "ours")
    with caplog.at_level(logging.WARNING):
        out = export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    assert "no tokenizer of 2018" in caplog.text
    stock = AutoTokenizer.from_pretrained(out)
    assert type(stock).__name__.startswith("OpenAIGPTTokenizer")
    assert stock("a hat")["input_ids"] == tokenizer("a hat")["input_ids"] == [2, 6]


def test_the_tokens_of_a_fine_tuned_gpt1_and_their_places_go_out_with_it(tmp_path):
    tokenizer = save_tokenizer_of_2018(tmp_path / "ours", made("GPT", "ForSequenceClassification", vocab_size=7))
    out = export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    stock = AutoTokenizer.from_pretrained(out)
    assert type(stock).__name__.startswith("OpenAIGPTTokenizer")
    for texts in (("a hat",), ("a hat", "a"), (["a hat", "a"],)):
        expected = tokenizer(*texts, padding=True)
        assert {name: stock(*texts, padding=True)[name] for name in expected} == dict(expected)
    assert stock("a hat", "a")["input_ids"] == [7, 2, 6, 8, 2, 9]
    theirs = their_class(out).from_pretrained(out)
    assert (len(stock), theirs.config.pad_token_id) == (theirs.config.vocab_size, stock.pad_token_id)


def test_a_token_that_the_stock_tokenizer_numbers_otherwise_is_refused(tmp_path):
    tokenizer = save_tokenizer_of_2018(tmp_path / "ours")
    tokenizer._added_tokens_decoder[20] = AddedToken("<far>")
    with pytest.raises(ValueError, match=r"added tokens must follow the vocabulary.*'<far>': 20.*there .*7"):
        _stock_gpt1(tokenizer)
