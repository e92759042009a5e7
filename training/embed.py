"""Puts what a demo recipe made into the package, in half precision.

    vaswani train gpt-demo --out runs/gpt-demo
    python training/embed.py runs/gpt-demo demo-gpt

The weights are computed with in single precision all the same: config.json says so.
"""

import re
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from vaswani_transformer import models
from vaswani_transformer.embedded_models import EMBEDDED, FOLDER
from vaswani_transformer.publishing.card import card_text

MOST_BYTES = 4_000_000
IMPORT = "from vaswani_transformer.embedded_models import model_folder"
LIES = "The model ships with `pip install vaswani-transformer`; the command takes it by its name."


def main(run: str, name: str) -> None:
    """Writes one model: weights, configuration, tokenizer, settings of generation, what its run was, its card."""
    if name not in EMBEDDED:
        raise SystemExit(f"the name must be one of {', '.join(EMBEDDED)}; got {name}")
    out = FOLDER / name
    shutil.rmtree(out, ignore_errors=True)
    name_of_class = (AutoConfig.from_pretrained(run).architectures or [""])[0]
    model = getattr(models, name_of_class).from_pretrained(run, dtype=torch.float32)
    assert not model.__class__.__module__.startswith("transformers_modules")
    model.half()
    model.save_pretrained(out)
    config = AutoConfig.from_pretrained(out)
    config.dtype = "float32"
    config.save_pretrained(out)
    AutoTokenizer.from_pretrained(run).save_pretrained(out)
    for code in out.glob("*.py"):  # the package that holds the folder has it
        code.unlink()
    for picture in Path(run).glob("*.png"):
        shutil.copy(picture, out)
    (out / "README.md").write_text(_card(Path(run), name), encoding="utf-8")
    size = (out / "model.safetensors").stat().st_size
    assert size <= MOST_BYTES, f"{out}: weights of {size} bytes"
    print(f"{out}: {size / 1e6:.1f} MB")


def _card(run: Path, name: str) -> str:
    """The run's card, which loads the model from the package and not from the Hub."""
    text = card_text(run, repo=f"vaswani-transformer/{name}")
    text = text.replace(f'"vaswani-transformer/{name}", trust_remote_code=True', f'model_folder("{name}")')
    text = text.replace("from transformers import", f"{IMPORT}\nfrom transformers import", 1)
    return re.sub(r"The model's code .*?(?=\n<!--)", LIES, text, flags=re.DOTALL)


if __name__ == "__main__":
    main(*sys.argv[1:])
