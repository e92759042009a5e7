"""A saved BERT carries the code of all its heads: any of them must load where this package is not installed."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vaswani_transformer.models.configuration_bert import AUTO_MAP

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def run_without_the_package(code: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = HIDE + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_every_head_of_a_saved_folder_loads_without_the_package(make_bert, texts, tmp_path) -> None:
    model = make_bert("ForPreTraining")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    with torch.no_grad():
        torch.save({**texts, "expected": model(**texts).prediction_logits}, tmp_path / "texts.pt")
    run_without_the_package(
        """
        import torch, transformers
        from transformers import AutoConfig

        folder = sys.argv[1]
        texts = torch.load(f"{folder}/texts.pt", weights_only=True)
        expected = texts.pop("expected")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert type(config).__module__.startswith("transformers_modules."), type(config).__module__
        for name, place in config.auto_map.items():
            if name == "AutoConfig":
                continue
            auto = getattr(transformers, name)
            model = auto.from_pretrained(folder, trust_remote_code=True)
            assert f"{type(model).__module__}.{type(model).__name__}".endswith(place), place
        model = transformers.AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.no_grad():
            assert torch.equal(model(**texts).prediction_logits, expected)
        model.train()(**texts, labels=texts["input_ids"]).loss.backward()
        model.save_pretrained(f"{folder}/again")
        again = transformers.AutoModelForMaskedLM.from_pretrained(f"{folder}/again", trust_remote_code=True)
        assert torch.equal(again.cls.predictions.bias, model.cls.predictions.bias)
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_the_copied_code_reads_what_transformers_wrote_under_old_names(make_bert, tmp_path) -> None:
    make_bert("ForMaskedLM").save_pretrained(tmp_path / "ours")
    run_without_the_package(
        """
        from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

        folder = sys.argv[1]
        ours = AutoModelForMaskedLM.from_pretrained(f"{folder}/ours", trust_remote_code=True)
        fields = {n: getattr(ours.config, n) for n in ("vocab_size", "hidden_size", "intermediate_size")}
        fields |= {"num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 40}
        BertForMaskedLM(BertConfig(**fields)).save_pretrained(f"{folder}/theirs")
        """,
        tmp_path,
    )
    theirs = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(theirs)
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for n, x in weights.items()}
    save_file(old, theirs, metadata={"format": "pt"})
    run_without_the_package(
        """
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForMaskedLM

        folder = sys.argv[1]
        model_class = type(AutoModelForMaskedLM.from_pretrained(f"{folder}/ours", trust_remote_code=True))
        model, told = model_class.from_pretrained(f"{folder}/theirs", output_loading_info=True)
        assert model.config.model_type == "vaswani-bert"
        assert not told["missing_keys"] | told["unexpected_keys"], told
        old = load_file(f"{folder}/theirs/model.safetensors")
        gamma = old["bert.encoder.layer.1.output.LayerNorm.gamma"]
        assert torch.equal(model.bert.encoder.layer[1].output.LayerNorm.weight, gamma)
        model.save_pretrained(f"{folder}/again")
        assert not [name for name in load_file(f"{folder}/again/model.safetensors") if "gamma" in name]
        """,
        tmp_path,
    )
