"""Our models as folders that CTranslate2 runs: fast on a CPU, smaller in int8, without torch."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models import (
    VaswaniBertConfig,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from ..run_folder import new_folder
from .ctranslate2_specs import bert_spec, gpt_spec, transformer_spec
from .outgoing import model_to_export, required, tokenizer_to_export

logger = logging.getLogger(__name__)

QUANTIZATIONS = ("float32", "int8", "float16")
TOLERANCE = 1e-4  # of the largest score, or of 1 where none is larger; in float32
ROWS = (5, 16, 11)  # tokens of the texts that are compared


def export_to_ctranslate2(source: str | Path, out: str | Path, *, quantization: str = "float32") -> Path:
    """Writes a model of ours as CTranslate2 has it, and compares what that computes.

    The original Transformer becomes a `Translator`, a GPT a `Generator`, a BERT an `Encoder`: the format has a BERT's
    encoder and pooler only, what stands on them stays behind and is told. Tokenizer and generation settings come along,
    so that the folder is enough for `vaswani translate --engine ctranslate2`. Sources are tokens as our tokenizer makes
    them, the end of sentence included.

    Departures: sinusoids, which have no end in ours, are a table of `max_position_embeddings` + 1,024 rows, kept as
    `max_position_embeddings` in the folder's config.json.

    Args:
        source: a folder of ours, or a name on the Hub.
        out: a folder to make.
        quantization: what matrices and embeddings are saved in; one of `QUANTIZATIONS`.

    Returns:
        `out`.

    Raises:
        ValueError: a setting that CTranslate2 cannot express, a head or a model that it has not, another quantization,
            a tokenizer with two tokens of one name, a folder that is in use.
        ImportError: CTranslate2 is not installed.
    """
    require_ctranslate2()
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}; got {quantization!r}")
    out = new_folder(out, use="export to")
    model, spec = _specified(model_to_export(source).float())
    tokenizer = tokenizer_to_export(source)
    names = token_names(tokenizer, model.config.vocab_size)
    _register(spec, names, model, tokenizer)
    spec.validate()
    spec.optimize(quantization=quantization)
    out.mkdir(parents=True, exist_ok=True)
    spec.save(str(out))
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    if model.can_generate():
        model.generation_config.save_pretrained(out)
    difference = _difference(model, out, names, "float32" if quantization == "float32" else "default")
    if quantization == "float32":
        assert difference <= TOLERANCE, f"{out} computes other scores than {source}: they differ by {difference}"
    logger.info("%s computes the scores of %s to %.1e in %s", out, source, difference, quantization)
    return out


def require_ctranslate2() -> Any:
    """Returns the module.

    Raises:
        ImportError: it is not installed; told with its extra.
    """
    return required("ctranslate2", extra="ctranslate2")


def _specified(model: Any) -> tuple[Any, Any]:
    """What of a model there is in CTranslate2, and its specification.

    Raises:
        ValueError: a head that CTranslate2 has not, a setting that it cannot express.
    """
    if isinstance(model, VaswaniTransformerForConditionalGeneration):
        return model, transformer_spec(model)
    if isinstance(model, VaswaniGPTForCausalLM):
        return model, gpt_spec(model)
    name = type(model).__name__
    if not isinstance(model.config, VaswaniBertConfig):
        raise ValueError(
            "CTranslate2 translates with a VaswaniTransformerForConditionalGeneration and writes with a "
            f"VaswaniGPTForCausalLM; got {name}"
        )
    bert = model.base_model
    if bert is not model:
        left = ", ".join(part for part, _ in model.named_children() if part != model.base_model_prefix)
        logger.warning("CTranslate2 has BERT's encoder and pooler; %s of %s stay behind", left, name)
    return bert, bert_spec(bert)


def token_names(tokenizer: Any, size: int) -> list[str]:
    """The name of every id, by which CTranslate2 knows tokens: the tokenizer's, "<5>" for an id 5 that it has not.

    Raises:
        ValueError: a tokenizer larger than the model, or two tokens of one name.
    """
    names = [f"<{number}>" for number in range(size)]
    if tokenizer is None:
        return names
    if len(tokenizer) > size:
        raise ValueError(
            f"the tokenizer must not have more tokens than the model; got {len(tokenizer)} tokens, vocab_size={size}"
        )
    for token, number in tokenizer.get_vocab().items():
        names[number] = token
    if len(set(names)) < size:
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"CTranslate2 knows tokens by their names, so that no two may share one; got {twice[:5]}")
    return names


def _register(spec: Any, names: list[str], model: Any, tokenizer: Any) -> None:
    """The vocabulary, and which token of it is which."""
    if isinstance(model.config, VaswaniTransformerConfig):
        spec.register_source_vocabulary(names)
        spec.register_target_vocabulary(names)
        spec.config.decoder_start_token = names[model.config.decoder_start_token_id]
    else:
        spec.register_vocabulary(names)
    for kind in ("unk", "bos", "eos"):
        number = getattr(model.config, f"{kind}_token_id", None)
        if number is None:
            number = getattr(tokenizer, f"{kind}_token_id", None)
        number = number[0] if isinstance(number, list) else number
        if number is not None:
            setattr(spec.config, f"{kind}_token", names[number])


# -------------------------------------------------------------------------------------------------------- comparing


@torch.inference_mode()
def _difference(model: Any, out: Path, names: list[str], compute_type: str) -> float:
    """How far scores of texts are apart, as a share of the largest, or of 1."""
    compare = {VaswaniTransformerConfig: _translator, VaswaniGPTConfig: _generator, VaswaniBertConfig: _encoder}
    pairs = compare[type(model.config)](model, str(out), names, compute_type)
    return max(float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)) for ours, theirs in pairs)


def _texts(config: Any, number: int) -> list[list[int]]:
    """Ids of texts of several lengths, which pad one another; no special ids among them where there are others."""
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "decoder_start")}
    ids = [number for number in range(config.vocab_size) if number not in special] or [0]
    lengths = [min(length, config.max_position_embeddings - 1) for length in ROWS]
    return [[ids[7919 * (7 * row + place + number) % len(ids)] for place in range(n)] for row, n in enumerate(lengths)]


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    tensors = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in tensors]
    return tuple(torch.nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (tensors, masks))  # type: ignore[return-value]


def _translator(model: Any, out: str, names: list[str], compute_type: str) -> list[tuple[Tensor, Tensor]]:
    """Log-probabilities of the tokens of targets, their ends included."""
    ctranslate2 = require_ctranslate2()
    sources, targets = _texts(model.config, 0), _texts(model.config, 3)
    named = [[[names[number] for number in row] for row in rows] for rows in (sources, targets)]
    results = ctranslate2.Translator(out, compute_type=compute_type).score_batch(*named, max_input_length=0)
    ids_BS, mask_BS = _padded(sources)
    labels_BT, kept_BT = _padded([[*row, model.config.eos_token_id] for row in targets])
    inputs_BT = model.prepare_decoder_input_ids_from_labels(labels_BT)
    logits_BTV = model(ids_BS, mask_BS, inputs_BT, use_cache=False).logits
    ours_BT = logits_BTV.log_softmax(-1).gather(-1, labels_BT.unsqueeze(-1)).squeeze(-1)
    return [
        (ours[kept.bool()], torch.tensor(theirs.log_probs))
        for ours, kept, theirs in zip(ours_BT, kept_BT, results, strict=True)
    ]


def _generator(model: Any, out: str, names: list[str], compute_type: str) -> list[tuple[Tensor, Tensor]]:
    """Logits of every place."""
    ctranslate2 = require_ctranslate2()
    texts = _texts(model.config, 0)
    theirs = ctranslate2.Generator(out, compute_type=compute_type).forward_batch(texts)
    ids_BT, mask_BT = _padded(texts)
    theirs_BTV = _tensor(theirs)
    ours_BTV = model(ids_BT, mask_BT, use_cache=False).logits
    return [(ours_BTV[mask_BT.bool()], theirs_BTV[mask_BT.bool()])]


def _encoder(model: Any, out: str, names: list[str], compute_type: str) -> list[tuple[Tensor, Tensor]]:
    """Hidden states of every place, and of the pooler."""
    ctranslate2 = require_ctranslate2()
    texts, types = _texts(model.config, 0), model.config.type_vocab_size
    ids_BT, mask_BT = _padded(texts)
    segments = [[place % types for place in range(len(row))] for row in texts]
    theirs = ctranslate2.Encoder(out, compute_type=compute_type).forward_batch(texts, token_type_ids=segments)
    ours = model(ids_BT, mask_BT, token_type_ids=_padded(segments)[0])
    kept = mask_BT.bool()
    pairs = [(ours.last_hidden_state[kept], _tensor(theirs.last_hidden_state)[kept])]
    if ours.pooler_output is not None:
        pairs.append((ours.pooler_output, _tensor(theirs.pooler_output)))
    return pairs


def _tensor(view: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(view))
