"""Folders of transformers' BERT, GPT-2 and OpenAI-GPT become ours: every number, the same logits, nothing run."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertTokenizer, GPT2Config, OpenAIGPTConfig

import vaswani_transformer
from vaswani_cli import main
from vaswani_cli.convert import EPILOG
from vaswani_transformer import VaswaniBertTokenizer, VaswaniGPT2Tokenizer
from vaswani_transformer.convert import SOURCES, convert, export_to_transformers
from vaswani_transformer.data.gpt_inputs import add_special_tokens
from vaswani_transformer.models import FAMILIES

SIZES: dict[str, Any] = {"vocab_size": 300, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 12}
BERT_SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
BERT_SIZES |= {"intermediate_size": 24, "max_position_embeddings": 12}
HEADS = {
    "bert": ["Model", "ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", "ForSequenceClassification"],
    "gpt2": ["Model", "LMHeadModel", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"],
    "openai-gpt": ["Model", "LMHeadModel", "ForSequenceClassification", "DoubleHeadsModel"],
}
HEADS["bert"] += ["ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"]
HEADS["gpt2"] += ["DoubleHeadsModel"]
CASES = [(kind, head) for kind, heads in HEADS.items() for head in heads]
PREFIXES = {"bert": "Bert", "gpt2": "GPT2", "openai-gpt": "OpenAIGPT"}
CONFIGS: dict[str, Any] = {"bert": BertConfig, "gpt2": GPT2Config, "openai-gpt": OpenAIGPTConfig}


def stock(kind: str, head: str, **fields: Any) -> Any:
    """A model of transformers whose every weight is random."""
    torch.manual_seed(0)
    sizes = BERT_SIZES if kind == "bert" else SIZES
    if kind == "openai-gpt" and head == "DoubleHeadsModel":
        fields["num_labels"] = 1
    if kind == "gpt2":
        fields = {"bos_token_id": 7, "eos_token_id": 7, **fields}
    model = getattr(transformers, PREFIXES[kind] + head)(CONFIGS[kind](**{**sizes, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def ours(folder: Path) -> Any:
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(vaswani_transformer, name).from_pretrained(folder).eval()


def edited(folder: Path, **changes: Any) -> Path:
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in settings.items() if value != "none"}))
    return folder


def as_bin(folder: Path, change: Any = lambda name, tensor: (name, tensor), **more: torch.Tensor) -> Path:
    """The folder with its weights in a pickle, as those of old, and under other names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = dict(change(name, tensor) for name, tensor in weights.items())
    torch.save({**weights, **more}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(("kind", "head"), CASES)
def test_every_head_of_transformers_becomes_ours_with_its_outputs(tmp_path, kind, head):
    theirs = stock(kind, head)
    found = convert(saved(theirs, tmp_path / "theirs"), format=kind, out=tmp_path / "ours")
    assert found.difference is not None
    assert found.difference <= 1e-5
    model = ours(tmp_path / "ours")
    several = head in ("ForMultipleChoice", "DoubleHeadsModel")
    ids = torch.randint(0, 300, (1, 3, 9) if several else (1, 9))
    with torch.no_grad():
        expected, got = theirs(ids), model(ids, torch.ones_like(ids))
    pairs = {"mc_logits": "logits"} if head == "DoubleHeadsModel" else {name: name for name in expected}
    tensors = [(expected[name], got[own]) for name, own in pairs.items() if isinstance(expected[name], torch.Tensor)]
    assert tensors
    for value, mine in tensors:
        torch.testing.assert_close(mine, value, rtol=0, atol=1e-5)


OURS = [("bert", name) for name in HEADS["bert"]]
OURS += [("gpt2", name.replace("LMHeadModel", "ForCausalLM")) for name in HEADS["gpt2"] if "Double" not in name]
OURS += [("openai-gpt", name.replace("LMHeadModel", "ForCausalLM")) for name in HEADS["openai-gpt"][:-1]]


@pytest.mark.parametrize(("kind", "head"), OURS)
def test_what_goes_out_comes_in_again_bit_for_bit(tmp_path, kind, head):
    dtype = torch.bfloat16 if head in ("Model", "ForQuestionAnswering") else torch.float32
    theirs = stock(kind, {"ForCausalLM": "LMHeadModel"}.get(head, head))
    convert(saved(theirs.to(dtype), tmp_path / "first"), format=kind, out=tmp_path / "ours")
    out = export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    convert(out, format=kind, out=tmp_path / "again")
    weights, again = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert weights.keys() == again.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, again[name]), name
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "theirs"))
    assert all(torch.equal(first[name], last[name]) for name in last), "the weights are the source's own"
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "ours" / "config.json").read_text()


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_an_untied_output_matrix_stays_one(tmp_path, kind):
    theirs = stock(kind, "LMHeadModel", tie_word_embeddings=False)
    convert(saved(theirs, tmp_path / "theirs"), format=kind, out=tmp_path / "ours")
    model = ours(tmp_path / "ours")
    assert torch.equal(model.lm_head.weight, theirs.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.transformer.wte.weight)


def test_a_gpt2_as_openai_put_it_on_the_hub_is_read(tmp_path):
    theirs = stock("gpt2", "LMHeadModel")
    buffers = {f"h.{layer}.attn.bias": torch.ones(1, 1, 12, 12) for layer in range(2)}
    as_bin(saved(theirs, tmp_path / "theirs"), lambda name, x: (name.removeprefix("transformer."), x), **buffers)
    edited(tmp_path / "theirs", transformers_version="none", n_ctx=12, task_specific_params={"a": {"do_sample": True}})
    found = convert(tmp_path / "theirs", format="gpt2", out=tmp_path / "ours")
    assert found.dropped == tuple(buffers)
    assert torch.equal(ours(tmp_path / "ours").transformer.wpe.weight, theirs.transformer.wpe.weight)
    assert "task_specific_params" not in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_a_bert_as_google_put_it_on_the_hub_is_the_pre_training_model(tmp_path):
    theirs = stock("bert", "ForPreTraining")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        end = ".".join(name.split(".")[-2:])
        return name.removesuffix(end) + old.get(end, end), tensor

    buffer = {"bert.embeddings.position_ids": torch.arange(12)[None]}
    as_bin(saved(theirs, tmp_path / "theirs"), rename, **buffer)
    edited(tmp_path / "theirs", architectures=["BertForMaskedLM"], transformers_version="none")
    found = convert(tmp_path / "theirs", format="bert", out=tmp_path / "ours")
    assert found.dropped == tuple(buffer)
    model = ours(tmp_path / "ours")
    assert type(model).__name__ == "VaswaniBertForPreTraining"
    assert model.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_pooler_that_no_head_reads_is_left_out_and_told(tmp_path):
    theirs, pooled = stock("bert", "ForMaskedLM"), stock("bert", "Model").pooler.state_dict()
    as_bin(saved(theirs, tmp_path / "theirs"), **{f"bert.pooler.{name}": x for name, x in pooled.items()})
    found = convert(tmp_path / "theirs", format="bert", out=tmp_path / "ours")
    assert found.dropped == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


def test_a_model_in_parts_is_read(tmp_path):
    theirs = stock("gpt2", "LMHeadModel")
    saved(theirs, tmp_path / "theirs", max_shard_size="5KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    convert(tmp_path / "theirs", format="gpt2", out=tmp_path / "ours")
    assert torch.equal(ours(tmp_path / "ours").transformer.wte.weight, theirs.transformer.wte.weight)


def test_settings_of_generation_labels_and_rates_come_along(tmp_path):
    theirs = stock("gpt2", "LMHeadModel", attn_pdrop=0.3, n_inner=20)
    theirs.generation_config.update(do_sample=True, top_k=5, max_new_tokens=9)
    convert(saved(theirs, tmp_path / "theirs"), format="gpt2", out=tmp_path / "ours")
    model = ours(tmp_path / "ours")
    settings = model.generation_config
    assert (settings.do_sample, settings.top_k, settings.max_new_tokens, settings.eos_token_id) == (True, 5, 9, 7)
    assert (model.config.attention_dropout, model.config.intermediate_size) == (0.3, 20)
    labels = {0: "bad", 1: "so so", 2: "good"}
    classifier = stock("bert", "ForSequenceClassification", id2label=labels, problem_type="single_label_classification")
    convert(saved(classifier, tmp_path / "labels"), format="bert", out=tmp_path / "out")
    config = ours(tmp_path / "out").config
    assert (config.id2label, config.problem_type) == (labels, "single_label_classification")


def test_a_gpt2s_tokenizer_comes_along(tmp_path):
    tokenizer = VaswaniGPT2Tokenizer.train(["a hat, a dog"], vocab_size=258)
    tokenizer.save_pretrained(saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs"))
    convert(tmp_path / "theirs", format="gpt2", out=tmp_path / "ours")
    made = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert made("a hat\n é")["input_ids"] == tokenizer("a hat\n é")["input_ids"]


@pytest.mark.parametrize("cased", [True, False])
@pytest.mark.parametrize("kept", ["vocab.txt", "tokenizer.json"])
def test_a_berts_tokenizer_comes_along_cased_or_not_with_the_ids_of_googles_code(tmp_path, kept, cased):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A", "hat", "##s", "b"]
    theirs = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=not cased)
    theirs.save_pretrained(saved(stock("bert", "Model"), tmp_path / "theirs"))
    if kept == "vocab.txt":
        (tmp_path / "theirs" / "tokenizer.json").unlink()
        (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(words) + "\n")
    convert(tmp_path / "theirs", format="bert", out=tmp_path / "ours")
    made = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert made("A hats", "b")["input_ids"] == [2, 6 if cased else 5, 7, 8, 3, 9, 3]
    assert made("A hats", "b")["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert made("a" + "x" * 150)["input_ids"] == [2, 1, 3]


def test_a_berts_tokenizer_that_went_out_comes_in_as_it_was(tmp_path):
    tokenizer = VaswaniBertTokenizer.train(["a hat, a dog"], vocab_size=40)
    tokenizer.save_pretrained(saved(stock("bert", "Model"), tmp_path / "theirs"))
    convert(tmp_path / "theirs", format="bert", out=tmp_path / "ours")
    made = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert made("a Hat", "dog")["input_ids"] == tokenizer("a Hat", "dog")["input_ids"]


def save_tokenizer_of_2018(folder: Path, model: Any = None) -> Any:
    """A toy one; with a model, as fine-tuning leaves both."""
    pytest.importorskip("spacy", reason="GPT's tokenizer of 2018 needs spaCy, of the extra `gpt1`")
    pytest.importorskip("ftfy", reason="GPT's tokenizer of 2018 needs ftfy, of the extra `gpt1`")
    folder.mkdir(exist_ok=True)
    tokens = ["<unk>", "a", "a</w>", "h", "t</w>", "at</w>", "hat</w>", "n't</w>", "n", "'", "n'"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\nh at</w>\nn '\nn' t</w>\n")
    tokenizer = vaswani_transformer.VaswaniGPTTokenizer(folder / "vocab.json", folder / "merges.txt")
    if model is not None:
        add_special_tokens(tokenizer, model)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_the_tokenizer_of_2018_is_made_of_openais_files_on_the_hub(tmp_path):
    saved(stock("openai-gpt", "LMHeadModel"), tmp_path / "theirs")
    save_tokenizer_of_2018(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").unlink()
    convert(tmp_path / "theirs", format="openai-gpt", out=tmp_path / "ours")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("a hat isn't")["input_ids"][-1] == 7


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_the_tokenizer_of_2018_that_went_out_as_a_stock_one_comes_in_again(tmp_path, fine_tuned):
    model: Any = vaswani_transformer.VaswaniGPTForSequenceClassification(
        vaswani_transformer.VaswaniGPTConfig(**{**SIZES, "vocab_size": 11})
    )
    model.save_pretrained(tmp_path / "ours")
    tokenizer = save_tokenizer_of_2018(tmp_path / "ours", model if fine_tuned else None)
    out = export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    convert(out, format="openai-gpt", out=tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert type(again).__name__ == "VaswaniGPTTokenizer"
    for texts in (("a hat isn't",), ("a hat", "a")):
        assert again(*texts)["input_ids"] == tokenizer(*texts)["input_ids"]
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert len(again) == len(tokenizer)


def test_a_folder_without_a_tokenizer_is_told(tmp_path, caplog):
    convert(saved(stock("gpt2", "Model"), tmp_path / "theirs"), format="gpt2", out=tmp_path / "ours")
    assert "has no tokenizer" in caplog.text


def test_the_verb_tells_what_was_mapped_and_how_near_the_logits_are(tmp_path, capsys):
    folder = as_bin(saved(stock("gpt2", "Model"), tmp_path / "theirs"), **{"h.0.attn.bias": torch.ones(1, 1, 12, 12)})
    assert main(["convert", str(folder), "--from", "gpt2", "--out", str(tmp_path / "ours")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "28 weights mapped, none missing, none unused",
        "no weights of the model, left out: h.0.attn.bias",
    ]
    assert lines[2].startswith("logits equal to the source's own code to ")
    assert lines[3] == str(tmp_path / "ours")


def test_the_help_shows_every_format():
    shown = {line.split("--from ")[1].split()[0] for line in EPILOG.splitlines() if "--from" in line}
    assert shown == set(SOURCES)


def test_no_report_of_transformers_says_that_a_weight_is_drawn_anew(tmp_path, caplog, monkeypatch):
    for name in ("transformers", "transformers.modeling_utils", "transformers.utils.loading_report"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    with caplog.at_level(logging.WARNING):
        theirs = saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs")
        convert(theirs, format="gpt2", out=tmp_path / "ours")
    assert "lm_head.weight" not in caplog.text


# --- what a stranger's folder may not do -----------------------------------------------------------------------------


def test_code_that_a_folder_names_or_holds_is_not_run(tmp_path, monkeypatch):
    kind, folder = "gpt2", saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs")
    VaswaniGPT2Tokenizer.train(["a hat"], vocab_size=258).save_pretrained(folder)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    edited(
        folder,
        auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"},
        attn_implementation="someone/kernels",
        _attn_implementation="someone/kernels",
        quantization_config={"quant_method": "someone"},
        custom_pipelines={"text-generation": {"impl": "modeling_x.X"}},
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_x.X", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    convert(folder, format=kind, out=tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if name.endswith("_x")]
    made = (tmp_path / "ours" / "config.json").read_text() + (tmp_path / "ours" / "tokenizer_config.json").read_text()
    assert "someone" not in made
    assert "_x" not in made


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_layer": 10**9}, "every layer must have its weights; got 1000000000 layers, 28 weights"),
        ({"vocab_size": 10**12}, "weights must be those of the configuration; got .* for its 16000000"),
        ({"n_inner": 10**9}, "weights must be those of the configuration"),
        ({"n_layer": "2"}, "every layer must have its weights; got 2"),
    ],
)
def test_sizes_that_a_configuration_claims_are_not_believed(tmp_path, changes, told):
    edited(saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs"), **changes)
    with pytest.raises(ValueError, match=told):
        convert(tmp_path / "theirs", format="gpt2", out=tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_weights_that_are_missing_unknown_or_of_another_shape_are_named(tmp_path):
    folder = saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.7.x"] = weights.pop("transformer.h.0.mlp.c_fc.bias")
    weights["transformer.wpe.weight"] = torch.ones(11, 16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="every weight must have its place") as error:
        convert(folder, format="gpt2", out=tmp_path / "ours")
    assert "1 of another shape (transformer.wpe.weight [11, 16], ours [12, 16])" in str(error.value)
    assert "1 without a number (transformer.h.0.mlp.up_proj.bias)" in str(error.value)
    assert "1 unknown (transformer.h.7.x)" in str(error.value)


def test_a_head_or_a_setting_that_ours_has_not_is_told(tmp_path):
    folder = saved(stock("bert", "ForMaskedLM"), tmp_path / "theirs")
    for changes, told in (
        ({"architectures": ["BertLMHeadModel"]}, "architectures must name one of BertModel, .*'BertLMHeadModel'"),
        ({"architectures": "BertModel"}, "architectures must name the class of the weights; got 'BertModel'"),
        ({"architectures": ["BertForMaskedLM"], "position_embedding_type": "relative_key"}, "must be 'absolute'"),
        ({"position_embedding_type": "absolute", "is_decoder": True}, "is_decoder must be false"),
    ):
        with pytest.raises(ValueError, match=told):
            convert(edited(folder, **changes), format="bert", out=tmp_path / "ours")
    folder = saved(stock("gpt2", "LMHeadModel", scale_attn_by_inverse_layer_idx=True), tmp_path / "gpt2")
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx must be False"):
        convert(folder, format="gpt2", out=tmp_path / "ours")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"id2label": 3}),
        ("gpt2", {"summary_type": 4}),
        ("gpt2", {"eos_token_id": "a"}),
        ("openai-gpt", {"afn": ["a"]}),
        ("bert", {"hidden_act": ["gelu"]}),
    ],
)
def test_a_setting_of_another_type_is_told(tmp_path, kind, changes):
    edited(saved(stock(kind, "Model"), tmp_path / "theirs"), **changes)
    with pytest.raises(ValueError, match=r"config\.json must be that of a model of ours; got .*theirs: "):
        convert(tmp_path / "theirs", format=kind, out=tmp_path / "ours")


def test_settings_of_generation_overwrite_no_function_and_broken_ones_are_told(tmp_path):
    folder = saved(stock("gpt2", "LMHeadModel"), tmp_path / "theirs")
    settings = {
        "do_sample": True,
        "top_k": 5,
        "validate": 3,
        "update": "x",
        "custom_generate": "a/b",
        "watermarking_config": 3,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    convert(folder, format="gpt2", out=tmp_path / "ours")
    made = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert made["top_k"] == 5
    assert not made.keys() & (settings.keys() - {"do_sample", "top_k"})
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": -1.0}))
    with pytest.raises(ValueError, match=r"generation_config\.json must be one that transformers writes again"):
        convert(folder, format="gpt2", out=tmp_path / "again")


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', '{"model": {"type": "BPE", "vocab": {"a": -1}}}'])
@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt", "bert"])
def test_a_tokenizer_file_that_is_broken_is_told(tmp_path, kind, content):
    saved(stock(kind, "Model"), tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"a tokenizer's files must be whole; got .*theirs"):
        convert(tmp_path / "theirs", format=kind, out=tmp_path / "ours")


def test_a_tokenizer_of_another_class_or_with_files_elsewhere_is_refused(tmp_path):
    saved(stock("bert", "Model"), tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("a\n")
    for settings, told in (
        ({"tokenizer_class": "MarianTokenizer"}, "tokenizer_class must be one of BertTokenizer.*'MarianTokenizer'"),
        ({"vocab_file": "/etc/passwd"}, "files must lie in its folder; got vocab_file"),
    ):
        (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=told):
            convert(tmp_path / "theirs", format="bert", out=tmp_path / "ours")


def test_every_head_of_bert_has_a_case():
    assert {f"VaswaniBert{head}" for head in HEADS["bert"]} == {
        model.__name__ for model in FAMILIES[vaswani_transformer.VaswaniBertConfig].values()
    }
