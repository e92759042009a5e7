"""A published folder loaded as a stranger does: a script that imports torch and transformers alone, run by `reload`.

Usage: clean_process.py FOLDER OUT. Writes what the model computes, and the tokens of a text, to OUT.
"""

import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

HIDDEN = ("vaswani_transformer", "vaswani_cli")
TEXT = "The quick brown fox jumps over the lazy dog, twice in 1,024 days."
LENGTH = 16  # tokens, where the model takes as many
STRIDE = 7919  # a prime: ids from all of a vocabulary


class Hider(importlib.abc.MetaPathFinder):
    """Finds none of this package's modules, so that importing one fails as where it is not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raises ModuleNotFoundError for what is hidden; others find the rest."""
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"hidden: {name}", name=name)


@torch.inference_mode()
def outputs_of(model: Any) -> dict[str, Tensor]:
    """Every tensor that a model returns for a row of ids, by name; in float32 on the CPU.

    Args:
        model: with any head of this package or of transformers, in evaluation mode.
    """
    config = model.config
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    ids_BT = torch.arange(length).unsqueeze(0) * STRIDE % config.vocab_size
    head = type(model).__name__
    pairs = head.endswith("SequenceClassification") and getattr(config, "both_orders", False)
    if pairs or head.endswith("MultipleChoice"):
        ids_BT = torch.stack((ids_BT, ids_BT.flip(1)), dim=1)
    inputs = {"input_ids": ids_BT}
    if config.is_encoder_decoder:
        start_B1 = ids_BT.new_full((1, 1), config.decoder_start_token_id)
        inputs |= {"attention_mask": torch.ones_like(ids_BT)}  # no id is padding here
        inputs |= {"decoder_input_ids": torch.cat((start_B1, ids_BT.flip(1)[:, :-1]), dim=1)}
    return {name: value.clone() for name, value in model(**inputs).items() if isinstance(value, Tensor)}


def load(kind: Any, folder: Path, **options: Any) -> Any:
    """The model of a folder.

    Args:
        kind: a model's class, or an Auto class.
        folder: where it lies.
        options: for `from_pretrained`.

    Raises:
        ValueError: weights that are missing, or that the model has no place for.
    """
    model, told = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    if wrong := {name: sorted(map(str, keys)) for name, keys in told.items() if keys}:
        raise ValueError(f"weights and model must fit; got {wrong} in {folder}")
    return model.eval()


def tokens_of(folder: Path, **options: Any) -> list[int] | None:
    """The tokens of a text, None where a folder has no tokenizer."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return transformers.AutoTokenizer.from_pretrained(folder, **options)(TEXT)["input_ids"]


def main(folder: Path, out: str) -> None:
    """Loads a folder, with its own code where it has any and else without, and writes what it computes."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (name,) = config["architectures"]
    auto_map = config.get("auto_map", {})
    autos = [auto for auto, place in auto_map.items() if place.rpartition(".")[2] == name]
    trust = {"trust_remote_code": True} if auto_map else {}
    model = load(getattr(transformers, autos[0] if autos else name), folder, **trust)
    torch.save({"outputs": outputs_of(model), "tokens": tokens_of(folder, **trust)}, out)


if __name__ == "__main__":
    sys.meta_path.insert(0, Hider())
    main(Path(sys.argv[1]), sys.argv[2])
