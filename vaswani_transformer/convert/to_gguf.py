"""GPT in the shapes of GPT-2 as a GGUF file, for llama.cpp and what is built on it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from ..models import VaswaniGPTConfig
from ..models.configuration_gpt import TANH_GELU
from ..run_folder import new_folder
from .outgoing import TOLERANCE, difference, model_to_export, required, tokenizer_to_export
from .to_transformers import plain_model

logger = logging.getLogger(__name__)

FILE = "model.gguf"
# The matrices that GGUF holds as [out, in], where transformers' GPT-2 has [in, out].
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# How GPT-2's tokenizer splits text into words, which readers know under the name "gpt-2".
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def export_to_gguf(source: str | Path, out: str | Path) -> Path:
    """Writes a language model of GPT-2's architecture as `model.gguf`, its tokenizer within, and reads it back.

    Weights are in float32, which holds any precision of ours exactly and which tools of the format make smaller ones
    from; each is compared bit by bit through `gguf.GGUFReader`, the logits through transformers' own reader. Beside the
    file stands a config.json of transformers' `gpt2`, for that reader takes the number of positions and the inner width
    from its defaults: `from_pretrained(out, gguf_file="model.gguf", config=AutoConfig.from_pretrained(out))`.

    Departures: generation settings have no place in the format, and of several ids that end a text it has the first.

    Args:
        source: a folder of ours, or a name on the Hub.
        out: a folder to make.

    Returns:
        `out`.

    Raises:
        ValueError: settings that the format's `gpt2` cannot express, all of them at once; no tokenizer, another than
            GPT-2's byte pairs, or one of more tokens than the model; a folder that is in use.
        ImportError: without the extra [gguf].
    """
    out, model = new_folder(out, use="export to"), model_to_export(source)
    if obstacles := list(_obstacles(model)):
        raise ValueError(
            f"GGUF's gpt2 must have {'; '.join(obstacles)}: the folder as it is loads anywhere with "
            "trust_remote_code=True"
        )
    if (tokenizer := tokenizer_to_export(source)) is None:
        raise ValueError(f"a GGUF file holds its tokenizer; got {source} without one")
    _check_tokenizer(tokenizer, model.config)
    library = required("gguf", extra="gguf")
    theirs = plain_model(model.float())
    out.mkdir(parents=True, exist_ok=True)
    weights = dict(_weights(theirs, library))
    _write(out / FILE, library, model.config, tokenizer, weights, name=Path(source).name)
    theirs.config.save_pretrained(out)
    _check_file(out / FILE, library, weights)
    again = AutoModelForCausalLM.from_pretrained(out, gguf_file=FILE, config=theirs.config, dtype=torch.float32)
    apart = difference(model, again.eval())
    assert apart <= TOLERANCE, f"{out} computes other logits than {source}: they differ by {apart}"
    logger.info("transformers reads %s and computes the same logits to %.1e", FILE, apart)
    return out


def _obstacles(model: Any) -> Iterator[str]:
    """What GGUF's gpt2 has, for each thing of ours that it has not."""
    config = model.config
    if not isinstance(config, VaswaniGPTConfig):
        yield f"a GPT, got {type(model).__name__}"
        return
    if not type(model).__name__.endswith("ForCausalLM"):
        yield f"the output head of a language model, got {type(model).__name__}"
    if config.norm_order != "pre":
        yield f"norm_order='pre' (GPT-2, GPT-3), got {config.norm_order!r} (GPT-1)"
    if config.hidden_act != TANH_GELU:
        yield f"hidden_act={TANH_GELU!r}, got {config.hidden_act!r}"
    banded = config.sliding_window is not None and config.sliding_window < config.max_position_embeddings
    if banded and "sliding_attention" in config.layer_types:
        yield f"no banded layers, got layer_types={config.layer_types}, sliding_window={config.sliding_window}"


def _check_tokenizer(tokenizer: Any, config: VaswaniGPTConfig) -> None:
    """Refuses a tokenizer that readers of the format would take for another."""
    stages = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {"type": "slow"}}
    words = stages.get("pre_tokenizer") or {}
    same_words = all(words.get(name) == value for name, value in WORDS.items())
    if stages["model"]["type"] != "BPE" or stages.get("normalizer") is not None or not same_words:
        raise ValueError(
            "the tokenizer in a GGUF file must be GPT-2's: byte pairs, no normalizer, words split by "
            f"{WORDS}; got {type(tokenizer).__name__}, {stages['model']['type']}, {stages.get('normalizer')}, {words}"
        )
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"a tokenizer must have at most the model's tokens; got {len(tokenizer)}, vocab_size={config.vocab_size}"
        )


def _weights(theirs: Any, library: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of transformers' GPT-2 under the format's names and in its layout."""
    names = library.get_tensor_name_map(library.MODEL_ARCH.GPT2, theirs.config.n_layer)
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight" and theirs.config.tie_word_embeddings:
            continue  # readers take the embedding where there is no output matrix
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, f"gguf has no name for {name}"
        tensor = tensor.t() if name.endswith(TRANSPOSED) else tensor
        yield new, tensor.contiguous().numpy()


def _write(
    path: Path, library: Any, config: VaswaniGPTConfig, tokenizer: Any, weights: dict[str, np.ndarray], *, name: str
) -> None:
    writer = library.GGUFWriter(path, "gpt2")
    writer.add_name(name)
    writer.add_file_type(library.LlamaFileType.ALL_F32)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    _add_tokenizer(writer, library, config, tokenizer)
    for tensor_name, array in weights.items():
        writer.add_tensor(tensor_name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, library: Any, config: VaswaniGPTConfig, tokenizer: Any) -> None:
    kinds, by_id = library.TokenType, {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(config.vocab_size)]
    types = [kinds.NORMAL if number in by_id else kinds.UNUSED for number in range(config.vocab_size)]
    for number, token in added.items():
        types[number] = kinds.CONTROL if token.special else kinds.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ids = {"bos": config.bos_token_id, "eos": ends[0], "pad": config.pad_token_id}
    for name, number in ids.items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    written = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and written[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and written[-1] == tokenizer.eos_token_id)


def _check_file(path: Path, library: Any, weights: dict[str, np.ndarray]) -> None:
    """Every weight as it was, bit by bit, and none more."""
    found = {tensor.name: tensor for tensor in library.GGUFReader(path).tensors}
    assert found.keys() == weights.keys(), f"{path}: {found.keys() ^ weights.keys()}"
    for name, array in weights.items():
        same = found[name].data.reshape(array.shape)
        assert np.array_equal(same, array), f"{path}: {name} is not what was written"
