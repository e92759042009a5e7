"""Configuration of BERT, Devlin et al. (2018), "BERT: Pre-training of Deep Bidirectional Transformers"."""

import difflib
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .fields import (
    check_activation,
    check_rate,
    check_size,
    check_switch,
    check_token,
    is_number,
    nearest,
    take_overrides,
)

# Layers and hidden size of the published models; heads of 64 and a feed-forward network of four times the hidden size.
PRESETS: dict[str, tuple[int, int]] = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}

# Where a saved folder's code is: any folder we save loads without this package, through trust_remote_code=True.
AUTO_MAP = {
    "AutoConfig": "configuration_bert.VaswaniBertConfig",
    "AutoModel": "modeling_bert.VaswaniBertModel",
    "AutoModelForPreTraining": "modeling_bert.VaswaniBertForPreTraining",
    "AutoModelForMaskedLM": "modeling_bert.VaswaniBertForMaskedLM",
    "AutoModelForNextSentencePrediction": "modeling_bert.VaswaniBertForNextSentencePrediction",
    "AutoModelForSequenceClassification": "modeling_bert.VaswaniBertForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_bert.VaswaniBertForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_bert.VaswaniBertForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_bert.VaswaniBertForMultipleChoice",
}
FOREIGN = "bert"  # transformers' model_type: same fields, same weight names
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SIZES = (*SIZES, "max_position_embeddings", "type_vocab_size")
RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


class VaswaniBertConfig(PreTrainedConfig):
    """Sizes and switches of the encoder of Devlin et al. (2018), under the names transformers' `BertConfig` has.

    The defaults are BERT base as the Hub's checkpoints have it. `preset(name)` gives every size Google published, with
    the activation of Google's code. A folder that transformers' BERT wrote is read as it is and becomes ours in memory.

    Args:
        vocab_size: V, word pieces; 30,522 in the uncased models.
        hidden_size: D, a multiple of `num_attention_heads`.
        num_hidden_layers: L, layers.
        num_attention_heads: H, attention heads, each of hidden_size / H.
        intermediate_size: inner width of the feed-forward network, 4 D.
        hidden_act: a name in transformers' ACT2FN. "gelu", the error function, is what the Hub's checkpoints are run
            with. Departure: Google's code, and so every preset, has its tanh approximation, "gelu_pytorch_tanh".
        hidden_dropout_prob: on embeddings and on each sub-layer's output.
        attention_probs_dropout_prob: on the attention weights.
        max_position_embeddings: rows of the learned position table; no longer text can be read.
        type_vocab_size: segments that `token_type_ids` tells apart.
        initializer_range: standard deviation of the normal distribution weights are drawn from, cut at twice that.
        layer_norm_eps: epsilon inside the square root.
        pad_token_id: id of padding; its embedding is drawn and trained as any other, as in Google's code. Departure
            from transformers, which sets it to zero.
        use_cache: transformers' field, without a meaning here.
        classifier_dropout: before a classifier; `hidden_dropout_prob` when left out.
        is_decoder: transformers' field; must be false.
        add_cross_attention: transformers' field; must be false.
        bos_token_id: transformers' field, without a meaning here.
        eos_token_id: transformers' field, without a meaning here.
        tie_word_embeddings: the masked-word head shares the word embeddings, as in the paper. Departure when false.

    Raises:
        ValueError: a size that is not a positive integer, a rate outside [0, 1), an unknown activation, a token id
            outside the vocabulary, a decoder, relative positions, another model's `model_type`, or a misspelt field
            (with the nearest right name).
    """

    model_type = "vaswani-bert"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["mlm_loss", "nsp_loss", "nll_loss"]
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        **{f"encoder.layer.*.attention.self.{name}": "colwise" for name in ("query", "key", "value")},
        "encoder.layer.*.attention.output.dense": "rowwise",
        "encoder.layer.*.intermediate.dense": "colwise",
        "encoder.layer.*.output.dense": "rowwise",
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    use_cache: bool = True
    classifier_dropout: float | int | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs = self._adopt(kwargs)
        self._refuse_misspelt(kwargs)
        self._check(kwargs)
        self.auto_map = {**AUTO_MAP, **kwargs.pop("auto_map", {})}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "VaswaniBertConfig":
        """A size Google published, with the activation of Google's code: "tiny" to "medium", "base", "large".

        Args:
            name: key of `PRESETS`.
            **overrides: fields that differ, `vocab_size` for one.

        Raises:
            ValueError: for a name that is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}{nearest(name, PRESETS)}")
        layers, size = PRESETS[name]
        fields = {
            "num_hidden_layers": layers,
            "hidden_size": size,
            "num_attention_heads": size // 64,
            "intermediate_size": 4 * size,
            "hidden_act": "gelu_pytorch_tanh",
        }
        return cls(**{**fields, **overrides})

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers', with the configuration of transformers' BERT turned into one of ours."""
        fields, unused = super().get_config_dict(*args, **kwargs)
        return _ours(fields), unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', with the configuration of transformers' BERT turned into one of ours."""
        return super().from_dict(take_overrides(cls, _ours(config_dict), kwargs), **kwargs)

    def _adopt(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Takes transformers' `model_type` for ours; a field of the instance would hide the class's when saved."""
        model_type = extra.pop("model_type", self.model_type)
        if model_type not in (self.model_type, FOREIGN):
            raise ValueError(f"model_type must be {self.model_type} or {FOREIGN}; got {model_type=}")
        return _ours({**extra, "model_type": model_type}, keep_type=False)

    def _refuse_misspelt(self, extra: dict[str, Any]) -> None:
        """transformers keeps unknown fields in silence; one that is nearly a field of ours is a mistake.

        A file that `save_pretrained` wrote, or Google, is read as it is: other fields may be in it.
        """
        if self.transformers_version is not None:
            return
        ours = sorted(type(self).__annotations__)
        for name in extra:
            if name in self.__dataclass_fields__ or name.endswith("_token_id"):
                continue
            if match := difflib.get_close_matches(name, ours, n=1, cutoff=0.8):
                raise ValueError(f"unknown field of {type(self).__name__}: {name!r}; did you mean {match[0]!r}?")

    def _check(self, extra: dict[str, Any]) -> None:
        for name in SIZES:
            check_size(name, getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads; "
                f"got hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}"
            )
        for name in RATES:
            if name != "classifier_dropout" or self.classifier_dropout is not None:
                check_rate(name, getattr(self, name))
        for name in ("layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not is_number(value) or value <= 0:
                raise ValueError(f"{name} must be a number above 0; got {name}={value!r}")
        for name in TOKENS:
            check_token(name, getattr(self, name), self.vocab_size)
        self._check_choices(extra)

    def _check_choices(self, extra: dict[str, Any]) -> None:
        check_activation("hidden_act", self.hidden_act)
        for name in ("use_cache", "is_decoder", "add_cross_attention", "tie_word_embeddings"):
            check_switch(name, getattr(self, name))
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                raise ValueError(f"{name} must be false, BERT is an encoder; got {name}=True")
        if extra.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                "position_embedding_type must be 'absolute', as the paper's; "
                f"got position_embedding_type={extra['position_embedding_type']!r}"
            )
        if self.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type must be one of {', '.join(PROBLEMS)}; got {self.problem_type!r}")


def _ours(fields: dict[str, Any], *, keep_type: bool = True) -> dict[str, Any]:
    """The same fields as one of our configurations: without the place of another model's code."""
    fields = dict(fields)
    if fields.get("model_type") == FOREIGN:
        fields.pop("auto_map", None)
        fields["model_type"] = VaswaniBertConfig.model_type
        # What Google wrote has no version; this one tells that it is a file's, read as it is.
        fields.setdefault("transformers_version", "")
    if not keep_type:
        fields.pop("model_type", None)
        fields.pop("transformers_version", None)
    return fields
