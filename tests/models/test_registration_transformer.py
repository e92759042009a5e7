import subprocess
import sys

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

import vaswani_transformer
from vaswani_transformer import (
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerModel,
    VaswaniTransformerTokenizer,
)

# What the package may use, but a caller who only wants a model need not wait for.
HEAVY = {"datasets", "accelerate", "sacrebleu", "matplotlib", "tensorboard", "evaluate", "pandas", "yaml", "peft"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_every_public_name_is_there() -> None:
    assert all(hasattr(vaswani_transformer, name) for name in vaswani_transformer.__all__)


def test_importing_the_package_registers_the_classes_with_the_auto_classes() -> None:
    config = AutoConfig.for_model(
        "vaswani-transformer", vocab_size=9, d_model=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )
    assert type(config) is VaswaniTransformerConfig
    assert type(AutoModel.from_config(config)) is VaswaniTransformerModel
    assert type(AutoModelForSeq2SeqLM.from_config(config)) is VaswaniTransformerForConditionalGeneration


def test_a_saved_model_and_tokenizer_load_through_the_auto_classes(make_model, tmp_path) -> None:
    model = make_model(vocab_size=300)
    tokenizer = VaswaniTransformerTokenizer.train(["a small house", "ein kleines Haus"] * 3, vocab_size=300)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is VaswaniTransformerForConditionalGeneration
    encoded = AutoTokenizer.from_pretrained(tmp_path)(["a house"], return_tensors="pt")
    assert torch.equal(encoded["input_ids"], tokenizer(["a house"], return_tensors="pt")["input_ids"])
    assert torch.equal(loaded.generate(**encoded), model.generate(**encoded))


def test_a_fresh_process_loads_the_model_and_imports_nothing_heavy(make_model, tmp_path) -> None:
    make_model().save_pretrained(tmp_path)
    code = f"""
import sys
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedModel
from transformers.tokenization_utils_tokenizers import TokenizersBackend
before = set(sys.modules)
import vaswani_transformer
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(new & {HEAVY!r}))
print([auto.from_pretrained({str(tmp_path)!r}).num_parameters() for auto in (AutoModel, AutoModelForSeq2SeqLM)])
"""
    heavy, sizes = run(code).strip().splitlines()
    assert heavy == "[]"
    assert sizes == str([make_model().num_parameters()] * 2)
