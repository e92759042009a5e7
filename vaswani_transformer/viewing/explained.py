"""A forward pass stage by stage, with the numbers of the model itself: of the Transformer, BERT and GPT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.translation import evaluating
from ..evaluation.whole_weights import load_whole
from ..models import (
    VaswaniBertForMaskedLM,
    VaswaniBertForPreTraining,
    VaswaniGPTForCausalLM,
    VaswaniTransformerForConditionalGeneration,
)
from .attention_maps import eager, room
from .explained_bert import explain_bert
from .explained_gpt import explain_gpt
from .explained_transformer import explain_transformer

MOST_TOKENS = 32  # of a text; the rest is cut, with a notice
MOST_LETTERS = 1000  # of a text that a page repeats
CONVERTED = ": vaswani convert makes such models of other libraries'"

EXPLAINED: dict[type[PreTrainedModel], Callable[..., dict[str, Any]]] = {
    VaswaniTransformerForConditionalGeneration: explain_transformer,
    VaswaniBertForPreTraining: explain_bert,
    VaswaniBertForMaskedLM: explain_bert,
    VaswaniGPTForCausalLM: explain_gpt,
}


def explain_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    target: str | None = None,
    layer: int = 1,
    head: int = 1,
) -> dict[str, Any]:
    """Returns what a model computes of a text, stage by stage, as data of a page.

    The numbers are recorded while the model itself runs, with its eager attention, in evaluation mode. Each stage has
    its equation, its line of code and its shapes.

    Args:
        model: a translation model, a masked-word model or a language model of the three families here.
        tokenizer: its tokenizer.
        text: what it reads; at most `MOST_TOKENS` tokens are shown, with a notice.
        target: of a Transformer what the decoder is shown, its own translation where left out; of a BERT the second
            text.
        layer: whose inside is shown, from 1.
        head: that is shown first, from 1.

    Raises:
        ValueError: a model that is none of these, a layer or a head that is not there, a target for a GPT, a text
            without a token.
    """
    explain = next((explain for kind, explain in EXPLAINED.items() if isinstance(model, kind)), None)
    if explain is None:
        raise ValueError(
            f"a model must be one whose forward pass can be explained, {_explained()}; got "
            f"{type(model).__name__}{CONVERTED}"
        )
    config: Any = model.config
    heads = config.num_heads if hasattr(config, "num_heads") else config.num_attention_heads
    for name, number, most in (("layer", layer, _layers(config)), ("head", head, heads)):
        if not 1 <= number <= most:
            raise ValueError(f"the model has the {name}s 1 to {most}; got {name}={number}")
    with evaluating(model), eager(model):
        found = explain(model, tokenizer, text, target=target, layer=layer - 1, most=room(model, MOST_TOKENS))
    parts = {name: found[name][:MOST_LETTERS] for name in ("source", "result")}
    return found | parts | {"head": head}


def load_explained_model(name: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Returns a model, with the head that it was trained with, and its tokenizer.

    Args:
        name: a folder, or a name on the Hub.

    Raises:
        ValueError: nothing to load, weights that are not there, or a model that cannot be explained.
    """
    name = str(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"MODEL must be a folder with a model and its tokenizer, or a Hub name; got {name}: {reason}"
        ) from error
    kinds = {kind.__name__: kind for kind in EXPLAINED}
    named = (getattr(config, "architectures", None) or [f"a {config.model_type}"])[0]
    if named not in kinds:
        raise ValueError(
            f"MODEL must be one whose forward pass can be explained, {_explained()}; got {name}, {named}{CONVERTED}"
        )
    model = load_whole(kinds[named], name, part="forward pass", attn_implementation="eager")
    return model, AutoTokenizer.from_pretrained(name)


def _explained() -> str:
    return ", ".join(kind.__name__ for kind in EXPLAINED)


def _layers(config: Any) -> int:
    if config.is_encoder_decoder:
        return min(config.num_encoder_layers, config.num_decoder_layers)
    return config.num_hidden_layers
