"""Checkpoints of nanoGPT: ckpt.pt, compiled or not, with biases or without."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as backend_models
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..models import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from ..models.pretrained_gpt import TRANSPOSED
from .incoming import Source
from .transformers_folder import as_ours, check_layers, whole, without
from .untrusted import load_plain_pickle, load_torch, state_dict

logger = logging.getLogger(__name__)

COMPILED = "_orig_mod."  # before every name where the model was compiled
# nanoGPT's fields and ours; without them nanoGPT itself does not resume.
FIELDS = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size"}
FIELDS |= {"block_size": "max_position_embeddings", "vocab_size": "vocab_size"}
LINEAR = ("attn.c_attn", *TRANSPOSED)  # [out, in] here, [in, out] in transformers' GPT-2, whose names these are
NORMS = ("ln_1", "ln_2")


def read(source: Path) -> Source:
    """Returns a model of nanoGPT's train.py.

    A model without biases gets biases of 0, which add nothing. Its GELU is the error function's, as in nanoGPT's code
    since 2023, whatever GPT-2 weights it may have started from.

    The tokenizer is GPT-2's where its vocab.json and merges.txt or its tokenizer.json lie beside the checkpoint, else
    the characters in the meta.pkl of nanoGPT's data folders, where that lies there.

    Args:
        source: ckpt.pt, or the folder with it.

    Raises:
        ValueError: files that are missing, broken or hostile, settings that are missing.
    """
    path = source / "ckpt.pt" if source.is_dir() else source
    if not path.is_file():
        raise ValueError(f"the folder must hold nanoGPT's ckpt.pt; got {source} without it")
    found = _checked(path)
    arguments = found["model_args"]
    tensors = {name.removeprefix(COMPILED): x for name, x in state_dict(found["model"], path).items()}
    if len(tensors) < len(found["model"]):
        raise ValueError(
            f"a model must have each weight once; got some with {COMPILED!r} before them and without in {path}"
        )
    tensors, buffers = without(tensors, VaswaniGPTForCausalLM._keys_to_ignore_on_load_unexpected or ())
    check_layers(arguments["n_layer"], tensors)
    tokenizer = _tokenizer(path)
    config = _config(arguments, None if tokenizer is None else tokenizer.eos_token_id)
    weights = {name: _as_gpt2(name, tensor) for name, tensor in tensors.items()}
    if not arguments["bias"]:
        weights |= _zeros(weights)
    return Source(
        model=VaswaniGPTForCausalLM,
        config=config,
        weights=as_ours(VaswaniGPTForCausalLM, config, weights),
        dropped=(*buffers, *(name for name in found if name == "optimizer")),
        tokenizer=tokenizer,
        absent="nanoGPT is a script that cannot be imported",
    )


def _checked(path: Path) -> dict[str, Any]:
    """The checkpoint, with a model and all its settings."""
    found = load_torch(path)
    arguments = found.get("model_args") if isinstance(found, dict) else None
    if not isinstance(arguments, dict) or "model" not in found:
        raise ValueError(f"a checkpoint of nanoGPT has model and model_args; got {path} without: is it of this format?")
    if missing := [name for name in (*FIELDS, "bias") if name not in arguments]:
        raise ValueError(
            f"model_args must say {', '.join((*FIELDS, 'bias'))}; got none of {', '.join(missing)} in {path}"
        )
    if not isinstance(arguments["bias"], bool):
        raise ValueError(
            f"model_args must say whether there is a bias, True or False; got {arguments['bias']!r} in {path}"
        )
    return found


def _config(arguments: Mapping[str, Any], end: Any) -> VaswaniGPTConfig:
    fields = {ours: arguments[name] for name, ours in FIELDS.items()}
    rates = dict.fromkeys(("hidden_dropout", "embedding_dropout", "attention_dropout"), arguments.get("dropout", 0.0))
    ends = {"bos_token_id": end, "eos_token_id": end}
    return VaswaniGPTConfig(**fields, **rates, **ends, norm_order="pre", hidden_act="gelu")


def _as_gpt2(name: str, tensor: Tensor) -> Tensor:
    turned = tensor.dim() == 2 and any(name.endswith(f".{layer}.weight") for layer in LINEAR)
    return tensor.t() if turned else tensor


def _zeros(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The biases of layers and norms that have none."""
    ends = tuple(f".{name}.weight" for name in (*LINEAR, *NORMS, "ln_f"))
    return {
        f"{name.removesuffix('weight')}bias": torch.zeros(tensor.shape[-1], dtype=tensor.dtype)
        for name, tensor in weights.items()
        if name.endswith(ends) and tensor.dim()
    }


def _tokenizer(path: Path) -> PreTrainedTokenizerBase | None:
    folder = path.parent
    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return whole(folder, lambda: VaswaniGPT2Tokenizer.from_pretrained(folder, local_files_only=True))
    if (folder / "meta.pkl").is_file():
        return _characters(folder / "meta.pkl")
    logger.warning(
        "there is no tokenizer beside %s, so that the model has none: copy the meta.pkl of the data there, or GPT-2's "
        "vocab.json and merges.txt, and convert again",
        path,
    )
    return None


def _characters(path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters; one that the data did not hold is an error, as in nanoGPT."""
    found = load_plain_pickle(path)
    ids = found.get("stoi") if isinstance(found, dict) else None
    if (
        not isinstance(ids, dict)
        or not all(isinstance(key, str) and len(key) == 1 for key in ids)
        or sorted(ids.values(), key=repr) != sorted(range(len(ids)), key=repr)
    ):
        raise ValueError(f"meta.pkl must number the characters from 0 in stoi; got other values in {path}")
    backend = Tokenizer(backend_models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
