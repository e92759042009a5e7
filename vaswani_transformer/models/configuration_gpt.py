"""Configuration of GPT: Radford et al. (2018), and the shapes of GPT-2 (2019) and GPT-3 (Brown et al. 2020)."""

import difflib
import math
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

TANH_GELU = "gelu_pytorch_tanh"
GPT2_FIELDS = {"norm_order": "pre", "vocab_size": 50257, "max_position_embeddings": 1024}
GPT3_BAND = 256  # tokens; the paper does not say how wide its bands are, GPT-Neo's are as wide as this
# Layers, hidden size and heads, as released (GPT-2) and as in table 2.1 (GPT-3).
PRESETS: dict[str, tuple[int, int, int]] = {
    "gpt": (12, 768, 12),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
    "gpt3-125m": (12, 768, 12),
    "gpt3-350m": (24, 1024, 16),
    "gpt3-760m": (24, 1536, 16),
    "gpt3-1.3b": (24, 2048, 16),
    "gpt3-2.7b": (32, 2560, 32),
    "gpt3-6.7b": (32, 4096, 32),
    "gpt3-13b": (40, 5120, 40),
    "gpt3-175b": (96, 12288, 96),
}

# Where a saved folder's code is: any folder we save loads without this package, through trust_remote_code=True.
AUTO_MAP = {
    "AutoConfig": "configuration_gpt.VaswaniGPTConfig",
    "AutoModel": "modeling_gpt.VaswaniGPTModel",
    "AutoModelForCausalLM": "modeling_gpt.VaswaniGPTForCausalLM",
    "AutoModelForSequenceClassification": "modeling_gpt.VaswaniGPTForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_gpt.VaswaniGPTForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_gpt.VaswaniGPTForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_gpt.VaswaniGPTForMultipleChoice",
}
# transformers' model types, with those of their defaults that ours are not: a file leaves defaults out.
FOREIGN: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2_FIELDS, "bos_token_id": 50256, "eos_token_id": 50256},
    "openai-gpt": {"norm_order": "post"},
}
# transformers' GPT-1 means the tanh form by "gelu"; each of these is one function under two names.
GPT1_ACTIVATIONS = {"gelu": TANH_GELU, "swish": "silu"}
ACTIVATIONS = {"gelu_new": TANH_GELU}
# Switches of transformers' GPT-2 that change what is computed: only this value is ours too.
FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SIZES = (*SIZES, "max_position_embeddings")
RATES = ("hidden_dropout", "embedding_dropout", "attention_dropout", "classifier_dropout")
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
NORM_ORDERS = ("post", "pre")
LAYER_TYPES = ("full_attention", "sliding_attention")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


class VaswaniGPTConfig(PreTrainedConfig):
    """Sizes and switches of the decoder of GPT, GPT-2 and GPT-3.

    The defaults are the model of Radford et al. (2018). `preset(name)` gives every published size. GPT-2's names of
    fields (`n_embd`, `n_layer`, `n_head`, `n_positions`, `n_inner`, `activation_function`, `resid_pdrop`, `embd_pdrop`,
    `attn_pdrop`, `layer_norm_epsilon`) are taken too, and GPT-1's `afn`. A folder that transformers' GPT-2 or
    OpenAI-GPT wrote is read as it is and becomes ours in memory.

    Args:
        vocab_size: V, tokens; 40,478 in GPT-1, 50,257 in GPT-2 and GPT-3.
        hidden_size: D, a multiple of `num_attention_heads`.
        num_hidden_layers: L, layers.
        num_attention_heads: H, attention heads, each of hidden_size / H.
        intermediate_size: inner width of the feed-forward network; 4 D where left out.
        hidden_act: a name in transformers' ACT2FN; the papers' GELU is the tanh approximation, in all their code.
        hidden_dropout: on each sub-layer's output.
        embedding_dropout: on the sums of embeddings and positions. Departure from GPT-1's code, which drops elements of
            the embedding table, once an update, so that the output matrix is dropped too.
        attention_dropout: on the attention weights.
        classifier_dropout: before a classifier, as in GPT-1's fine-tuning. Departure from transformers' sequence
            classification, which has none.
        lm_loss_weight: lambda of section 3.2, read by the classifiers of texts and of choices: their loss is that of
            the task and so many times that of the language model on the same texts; 0.5 in the paper. 0, the default,
            is transformers' models, without the output matrix.
        both_orders: the classifier of texts has learnt pairs in both orders (section 3.3), [B, 2, T], and refuses one
            order alone, whose logits would be about half. Departure from transformers' models, which have no such
            inputs; `vaswani finetune` sets it.
        max_position_embeddings: rows of the learned position table; no longer context can be read.
        norm_order: "post", LayerNorm(x + Sublayer(x)), as GPT-1; "pre", x + Sublayer(LayerNorm(x)) with a norm after
            the last layer, as GPT-2 and GPT-3.
        layer_types: for each layer "full_attention", or "sliding_attention": to the last `sliding_window` tokens only,
            the query's own included; all full where left out. GPT-3 alternates them.
        sliding_window: width of the band of "sliding_attention" layers, tokens.
        layer_norm_eps: epsilon inside the square root.
        initializer_range: standard deviation of the normal distribution that weights are drawn from.
        pad_token_id: id of padding; none in the published vocabularies.
        bos_token_id: id that starts a text; <|endoftext|> in GPT-2.
        eos_token_id: id that ends a text, and generation; <|endoftext|> in GPT-2.
        use_cache: return keys and values for generation.
        tie_word_embeddings: the output matrix is the embedding, as in the papers. Departure when false.

    Raises:
        ValueError: a size that is not a positive integer, `hidden_size` that is no multiple of `num_attention_heads`, a
            rate outside [0, 1), a negative weight of a loss, an unknown choice, layer types of another number than
            layers, bands without a width, a token id outside the vocabulary, a switch of GPT-2 that is not supported,
            another model's `model_type`, or a misspelt field (with the nearest right name).
    """

    model_type = "vaswani-gpt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values", "nll_loss", "task_loss", "lm_loss"]
    attribute_map: ClassVar[dict[str, str]] = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout",
        "embd_pdrop": "embedding_dropout",
        "attn_pdrop": "attention_dropout",
        "layer_norm_epsilon": "layer_norm_eps",
    }
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        "wte": "embedding_rowwise",
        "h.*.attn.qkv_proj": "colwise",
        "h.*.attn.out_proj": "rowwise",
        "h.*.mlp.up_proj": "colwise",
        "h.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 40478
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = None  # type: ignore[assignment]
    hidden_act: str = TANH_GELU
    hidden_dropout: float | int = 0.1
    embedding_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    classifier_dropout: float | int = 0.1
    lm_loss_weight: float | int = 0.0
    both_orders: bool = False
    max_position_embeddings: int = 512
    norm_order: str = "post"
    layer_types: list[str] = None  # type: ignore[assignment]
    sliding_window: int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs = self._adopt(kwargs)
        self._refuse_misspelt(kwargs)
        self._derive()
        self._check(kwargs)
        self.auto_map = {**AUTO_MAP, **kwargs.pop("auto_map", {})}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "VaswaniGPTConfig":
        """A published size: "gpt", "gpt2" to "gpt2-xl", "gpt3-125m" to "gpt3-175b".

        Two rows of GPT-3's table 2.1 contradict themselves. 1.3B has 24 heads of 128 in a width of 2,048: here 16 heads
        of 128, as its neighbours' heads are about as wide. 13B is 5,140 wide with 40 heads of 128: here 5,120 wide.
        GPT-3 alternates dense and locally banded layers, the first dense; how wide its bands are is not published.

        Args:
            name: key of `PRESETS`.
            **overrides: fields that differ. Another `vocab_size` has no <|endoftext|>: name its `eos_token_id` too.

        Raises:
            ValueError: for a name that is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}{nearest(name, PRESETS)}")
        layers, size, heads = PRESETS[name]
        fields: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": size, "num_attention_heads": heads}
        if name != "gpt":
            fields |= GPT2_FIELDS
            if "vocab_size" not in overrides:
                fields |= {"bos_token_id": 50256, "eos_token_id": 50256}
        overrides = _own_names(overrides)
        if name.startswith("gpt3"):
            layers = overrides.get("num_hidden_layers", layers)
            types = [LAYER_TYPES[number % 2] for number in range(layers)] if isinstance(layers, int) else None
            fields |= {"max_position_embeddings": 2048, "layer_types": types, "sliding_window": GPT3_BAND}
        return cls(**{**fields, **overrides})

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers', with the configuration of transformers' GPTs turned into one of ours."""
        fields, unused = super().get_config_dict(*args, **kwargs)
        return _ours(fields), unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', with the configuration of transformers' GPTs turned into one of ours."""
        saved = _ours(config_dict)
        fields = _own_names(take_overrides(cls, saved, kwargs))
        types = fields.get("layer_types")
        if types == saved.get("layer_types") and set(types or ()) == {LAYER_TYPES[0]}:
            del fields["layer_types"]  # as many as there are layers now
        return super().from_dict(fields, **kwargs)

    def _adopt(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Takes other names of our fields; a `model_type` of the instance would hide the class's when saved."""
        model_type = extra.pop("model_type", self.model_type)
        if model_type not in (self.model_type, *FOREIGN):
            raise ValueError(f"model_type must be {self.model_type}, {' or '.join(FOREIGN)}; got {model_type=}")
        if model_type in FOREIGN:
            extra = _ours({**self._given(), **extra, "model_type": model_type})
            extra = {name: value for name, value in extra.items() if name not in ("model_type", "transformers_version")}
        given, extra = self._given(), _own_names(extra)
        for name in extra.keys() & type(self).__annotations__.keys():
            if given.get(name, extra[name]) != extra[name]:
                raise ValueError(f"{name} must be given once; got {given[name]!r}, and {extra[name]!r} by another name")
            setattr(self, name, extra.pop(name))
        return extra

    def _given(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        fields = self.__dataclass_fields__
        return {
            n: v for n in type(self).__annotations__ if n in fields and (v := getattr(self, n)) != fields[n].default
        }

    def _refuse_misspelt(self, extra: dict[str, Any]) -> None:
        """transformers keeps unknown fields in silence; one that is nearly a field of ours is a mistake.

        A file that `save_pretrained` wrote, or OpenAI's, is read as it is: other fields may be in it.
        """
        if self.transformers_version is not None:
            return
        ours = sorted({*type(self).__annotations__, *self.attribute_map})
        for name in extra:
            if name in self.__dataclass_fields__ or name.endswith("_token_id") or name in FIXED:
                continue
            if match := difflib.get_close_matches(name, ours, n=1, cutoff=0.8):
                raise ValueError(f"unknown field of {type(self).__name__}: {name!r}; did you mean {match[0]!r}?")

    def _derive(self) -> None:
        check_size("hidden_size", self.hidden_size)
        check_size("num_hidden_layers", self.num_hidden_layers)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.layer_types is None:
            self.layer_types = [LAYER_TYPES[0]] * self.num_hidden_layers

    def _check(self, extra: dict[str, Any]) -> None:
        for name in SIZES:
            check_size(name, getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads; "
                f"got hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}"
            )
        for name in RATES:
            check_rate(name, getattr(self, name))
        for name in ("layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not is_number(value) or value <= 0:
                raise ValueError(f"{name} must be a number above 0; got {name}={value!r}")
        if not is_number(self.lm_loss_weight) or not 0 <= self.lm_loss_weight < math.inf:
            raise ValueError(
                f"lm_loss_weight must be a number of 0 (no language model) or more; got {self.lm_loss_weight!r}"
            )
        for name in TOKENS:
            check_token(name, getattr(self, name), self.vocab_size)
        for name in ("both_orders", "use_cache", "tie_word_embeddings"):
            check_switch(name, getattr(self, name))
        check_activation("hidden_act", self.hidden_act)
        self._check_choices(extra)

    def _check_choices(self, extra: dict[str, Any]) -> None:
        if self.norm_order not in NORM_ORDERS:
            raise ValueError(f"norm_order must be one of {', '.join(NORM_ORDERS)}; got norm_order={self.norm_order!r}")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                "layer_types must name a type for each layer; "
                f"got {len(self.layer_types)} types, num_hidden_layers={self.num_hidden_layers}"
            )
        for name in self.layer_types:
            if name not in LAYER_TYPES:
                raise ValueError(f"layer_types must be of {', '.join(LAYER_TYPES)}; got {name!r}")
        if self.sliding_window is not None:
            check_size("sliding_window", self.sliding_window)
        elif LAYER_TYPES[1] in self.layer_types:
            raise ValueError("sliding_window must say how wide the band of sliding_attention is; got None")
        for name, value in FIXED.items():
            if extra.get(name, value) != value:
                raise ValueError(f"{name} must be {value}, other models of GPT-2's are not ours; got {extra[name]!r}")
        if self.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type must be one of {', '.join(PROBLEMS)}; got {self.problem_type!r}")


def _own_names(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields under our names, and the activation under the name of its fastest form."""
    named = VaswaniGPTConfig.attribute_map
    fields = {named.get(name, name): value for name, value in fields.items()}
    if (old := fields.pop("afn", None)) is not None:
        fields["hidden_act"] = GPT1_ACTIVATIONS.get(old, old)
    if isinstance(name := fields.get("hidden_act"), str):
        fields["hidden_act"] = ACTIVATIONS.get(name, name)
    return fields


def _ours(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of one of transformers' GPTs as those of one of ours; ours as they are.

    Token ids that a small vocabulary does not hold, which transformers lets stand, are none.
    """
    model_type = fields.get("model_type", "")
    if model_type not in FOREIGN:
        return dict(fields)
    fields = {**FOREIGN[model_type], **_own_names(fields), "model_type": VaswaniGPTConfig.model_type}
    fields.pop("auto_map", None)
    size = fields.get("vocab_size", VaswaniGPTConfig.vocab_size)
    for name in TOKENS:
        ids = fields.get(name)
        if any(not 0 <= token < size for token in (ids if isinstance(ids, list) else [ids]) if token is not None):
            fields[name] = None
    # What OpenAI's folders on the Hub hold has no version; this one tells that it is a file's, read as it is.
    fields.setdefault("transformers_version", "")
    return fields
