"""A saved GPT carries the code of all its heads: any of them must load where this package is not installed."""

import json
import os
import subprocess
import sys

import torch

from vaswani_transformer.models.configuration_gpt import AUTO_MAP

CODE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
import torch, transformers
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel

folder = sys.argv[1]
texts = torch.load(f"{folder}/texts.pt", weights_only=True)
expected = texts.pop("expected")
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert type(config).__module__.startswith("transformers_modules."), type(config).__module__
for name, place in config.auto_map.items():
    if name != "AutoConfig":
        model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
        assert f"{type(model).__module__}.{type(model).__name__}".endswith(place), place
model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    assert torch.equal(model(**texts).logits, expected)
model.train()(**texts, labels=texts["input_ids"]).loss.backward()
model.save_pretrained(f"{folder}/again")
again = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/again", trust_remote_code=True)
assert torch.equal(again.transformer.h[1].attn.out_proj.weight, model.transformer.h[1].attn.out_proj.weight)
peer = GPT2LMHeadModel(GPT2Config(vocab_size=37, n_embd=16, n_head=4, n_layer=2, n_positions=40)).eval()
peer.save_pretrained(f"{folder}/theirs")
theirs, told = type(model).from_pretrained(f"{folder}/theirs", output_loading_info=True)
assert not told["missing_keys"] | told["unexpected_keys"], told
with torch.no_grad():
    torch.testing.assert_close(theirs(texts["input_ids"]).logits, peer(texts["input_ids"]).logits, rtol=0, atol=1e-5)
"""


def test_every_head_of_a_saved_folder_loads_without_the_package_and_reads_openais_weights(
    make_gpt, texts, tmp_path
) -> None:
    model = make_gpt("ForCausalLM")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    batch = {name: texts[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.save({**batch, "expected": model(**batch).logits}, tmp_path / "texts.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
