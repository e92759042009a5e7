"""Configuration of the original Transformer, Vaswani et al. (2017), "Attention Is All You Need"."""

import copy
import difflib
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .fields import (
    check_activation,
    check_rate,
    check_size,
    check_switch,
    check_token,
    is_integer,
    is_number,
    nearest,
    take_overrides,
)

# What the paper's tables change from the base model: Table 3 (rows A to E) and section 6.1 (big, big-en-fr).
PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "big": {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "dropout": 0.3},
    "big-en-fr": {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "dropout": 0.1},
    "A-heads-1": {"num_heads": 1, "d_k": 512, "d_v": 512},
    "A-heads-4": {"num_heads": 4, "d_k": 128, "d_v": 128},
    "A-heads-16": {"num_heads": 16, "d_k": 32, "d_v": 32},
    "A-heads-32": {"num_heads": 32, "d_k": 16, "d_v": 16},
    "B-d_k-16": {"d_k": 16, "d_v": 64},
    "B-d_k-32": {"d_k": 32, "d_v": 64},
    "C-layers-2": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "C-layers-4": {"num_encoder_layers": 4, "num_decoder_layers": 4},
    "C-layers-8": {"num_encoder_layers": 8, "num_decoder_layers": 8},
    "C-d_model-256": {"d_model": 256, "d_k": 32, "d_v": 32},
    "C-d_model-1024": {"d_model": 1024, "d_k": 128, "d_v": 128},
    "C-d_ff-1024": {"d_ff": 1024},
    "C-d_ff-4096": {"d_ff": 4096},
    "D-dropout-0.0": {"dropout": 0.0},
    "D-dropout-0.2": {"dropout": 0.2},
    "D-smoothing-0.0": {"label_smoothing": 0.0},
    "D-smoothing-0.2": {"label_smoothing": 0.2},
    "E-learned-positions": {"position_embedding": "learned"},
}

# Where a saved folder's code is: any folder we save loads without this package, through trust_remote_code=True.
AUTO_MAP = {
    "AutoConfig": "configuration_transformer.VaswaniTransformerConfig",
    "AutoModel": "modeling_transformer.VaswaniTransformerModel",
    "AutoModelForSeq2SeqLM": "modeling_transformer.VaswaniTransformerForConditionalGeneration",
}
CHOICES = {
    "norm_order": ("post", "pre"),
    "position_embedding": ("sinusoidal", "learned"),
    "position_layout": ("interleaved", "half-split"),
    "position_frequency": ("paper", "tensor2tensor"),
    "tie_embeddings": ("all", "decoder", "none"),
    "decoder_start": ("zero", "token"),
}
SIZES = ("vocab_size", "d_model", "d_ff", "num_heads", "d_k", "d_v", "num_encoder_layers", "num_decoder_layers")
SIZES = (*SIZES, "max_position_embeddings")
RATES = ("dropout", "attention_dropout", "activation_dropout", "label_smoothing")
SWITCHES = ("final_norm", "attention_bias", "lm_head_bias", "scale_embedding", "use_cache")
TOKENS = ("pad_token_id", "eos_token_id", "unk_token_id", "decoder_start_token_id")


class VaswaniTransformerConfig(PreTrainedConfig):
    """Sizes and switches of the encoder-decoder of Vaswani et al. (2017).

    The defaults are the paper's base model (Table 3, first row). `preset(name)` gives every published variant.

    Args:
        vocab_size: V, entries of the shared source and target vocabulary; 37,000 in section 5.1.
        d_model: D, width of the residual stream.
        d_ff: inner width of the feed-forward network, section 3.3.
        num_heads: H, attention heads, section 3.2.2.
        d_k: width of one head's queries and keys; d_model / num_heads when left out.
        d_v: width of one head's values; `d_k` when left out. Rows (B) of Table 3 have d_k and d_v apart.
        num_encoder_layers: N of the encoder.
        num_decoder_layers: N of the decoder.
        activation: a name in transformers' ACT2FN; "relu" in the paper (equation 2).
        dropout: P_drop, on each sub-layer's output and on the sums of embeddings and positions, section 5.4.
        attention_dropout: on the attention weights. Departure when above 0: the paper has none.
        activation_dropout: inside the feed-forward network. Departure when above 0.
        label_smoothing: epsilon_ls, section 5.4: 1 - epsilon for the target, epsilon / (V - 1) for every other word.
        norm_order: "post" as the paper, LayerNorm(x + Sublayer(x)); "pre" is a departure (later tensor2tensor).
        final_norm: a LayerNorm after each stack. Departure when true (torch.nn.Transformer, OpenNMT-py).
        attention_bias: biases in the query, key, value and output projections. Departure when true (fairseq, Marian).
        lm_head_bias: a bias on the output projection. Departure when true (OpenNMT-py).
        layer_norm_eps: epsilon inside the square root; 1e-6 in the paper's code, 1e-5 in fairseq and Marian.
        position_embedding: "sinusoidal", section 3.5; "learned" is row (E) of Table 3.
        position_layout: "interleaved" sines and cosines as the paper writes; "half-split" (Marian, fairseq) puts all
            sines first. Departure.
        position_frequency: "paper", 10000^(-2i/d); "tensor2tensor", 10000^(-i/(d/2-1)), the paper's code and fairseq.
        position_offset: number of the first position; 2 in fairseq. Departure when not 0.
        scale_embedding: multiply embeddings by sqrt(d_model), section 3.4. Departure when false.
        tie_embeddings: "all", one matrix for both embeddings and the output (section 3.4); "decoder", target embedding
            and output share; "none", three matrices. The latter two are departures.
        decoder_start: "zero", the decoder's first input is a zero vector (the paper's code shifts right with zeros);
            "token", the embedding of `decoder_start_token_id` (fairseq, Marian). Departure.
        max_position_embeddings: rows of the learned position table; sinusoids have no limit and ignore it.
        pad_token_id: id of padding, ignored by attention and loss.
        eos_token_id: id that ends every source and target sentence.
        unk_token_id: id of the unknown word.
        decoder_start_token_id: the decoder's first input; the pad id in the paper's code.
        use_cache: return keys and values for generation.

    Raises:
        ValueError: a size that is not a positive integer, a rate outside [0, 1), an unknown choice, a token id outside
            the vocabulary, odd `d_model` with sinusoids, `d_model` that is no multiple of `num_heads` while `d_k` is
            left out, or a misspelt field (with the nearest right name).
    """

    model_type = "vaswani-transformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "cache",
        "past_key_values",
        "nll_loss",
        "encoder_last_hidden_state",
    ]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "encoder_ffn_dim": "d_ff",
        "decoder_ffn_dim": "d_ff",
        "num_attention_heads": "num_heads",
        "encoder_attention_heads": "num_heads",
        "decoder_attention_heads": "num_heads",
        "head_dim": "d_k",
        "num_hidden_layers": "num_encoder_layers",
        "encoder_layers": "num_encoder_layers",
        "decoder_layers": "num_decoder_layers",
        "activation_function": "activation",
    }
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        f"{stack}.layers.*.{place}": style
        for stack, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn")))
        for place, style in [
            *((f"{a}.{p}_proj", "colwise") for a in attentions for p in "qkv"),
            *((f"{a}.out_proj", "rowwise") for a in attentions),
            ("fc1", "colwise"),
            ("fc2", "rowwise"),
        ]
    }

    vocab_size: int = 37000
    d_model: int = 512
    d_ff: int = 2048
    num_heads: int = 8
    d_k: int = None  # type: ignore[assignment]
    d_v: int = None  # type: ignore[assignment]
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    activation: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    label_smoothing: float | int = 0.1
    norm_order: str = "post"
    final_norm: bool = False
    attention_bias: bool = False
    lm_head_bias: bool = False
    layer_norm_eps: float = 1e-6
    position_embedding: str = "sinusoidal"
    position_layout: str = "interleaved"
    position_frequency: str = "paper"
    position_offset: int = 0
    scale_embedding: bool = True
    tie_embeddings: str = "all"
    decoder_start: str = "zero"
    max_position_embeddings: int = 1024
    pad_token_id: int = 0
    eos_token_id: int = 1
    unk_token_id: int | None = 2
    bos_token_id: int | None = None
    decoder_start_token_id: int = None  # type: ignore[assignment]
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_misspelt(kwargs)
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        self._derive_head_sizes()
        self._check()
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.tie_embeddings != "none"
        elif self.tie_word_embeddings and self.tie_embeddings == "none":
            raise ValueError(
                "tie_word_embeddings=True contradicts tie_embeddings='none'; set tie_embeddings to 'all' or 'decoder', "
                "or leave tie_word_embeddings out"
            )
        self.auto_map = {**AUTO_MAP, **kwargs.pop("auto_map", {})}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "VaswaniTransformerConfig":
        """A published variant: "base", "big", "big-en-fr", or a row of Table 3 such as "B-d_k-16".

        Args:
            name: key of `PRESETS`.
            **overrides: fields that differ from the paper, `vocab_size` for one.

        Raises:
            ValueError: for a name that is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}{nearest(name, PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "VaswaniTransformerConfig":
        """The config itself; for the decoder, a copy whose `num_hidden_layers` counts the decoder's layers (caches)."""
        if decoder and not encoder and self.num_encoder_layers != self.num_decoder_layers:
            config = copy.copy(self)
            config.num_encoder_layers = self.num_decoder_layers
            return config
        return self

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', with the caller's fields checked like the saved ones."""
        return super().from_dict(take_overrides(cls, config_dict, kwargs), **kwargs)

    def _refuse_misspelt(self, extra: dict[str, Any]) -> None:
        """transformers keeps unknown fields in silence; one that is nearly a field of ours is a mistake.

        A file that `save_pretrained` wrote is read as it is: a later version's field or a caller's own may be in it.
        """
        if self.transformers_version is not None:
            return
        known = {*self.__dataclass_fields__, *self.attribute_map}
        ours = sorted({*type(self).__annotations__, *self.attribute_map})
        for name in extra:
            if name not in known and (match := difflib.get_close_matches(name, ours, n=1, cutoff=0.8)):
                raise ValueError(f"unknown field of {type(self).__name__}: {name!r}; did you mean {match[0]!r}?")

    def _derive_head_sizes(self) -> None:
        for name in ("d_model", "num_heads"):
            check_size(name, getattr(self, name))
        if self.d_k is None:
            if self.d_model % self.num_heads:
                raise ValueError(
                    "d_model must be a multiple of num_heads when d_k is left out; "
                    f"got d_model={self.d_model}, num_heads={self.num_heads}"
                )
            self.d_k = self.d_model // self.num_heads
        if self.d_v is None:
            self.d_v = self.d_k

    def _check(self) -> None:
        for name in SIZES:
            check_size(name, getattr(self, name))
        for name in RATES:
            check_rate(name, getattr(self, name))
        for name in SWITCHES:
            check_switch(name, getattr(self, name))
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {name}={value!r}{nearest(value, choices)}"
                )
        for name in TOKENS:
            check_token(name, getattr(self, name), self.vocab_size)
        if not is_number(self.layer_norm_eps):
            raise ValueError(f"layer_norm_eps must be a number; got layer_norm_eps={self.layer_norm_eps!r}")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps must be above 0; got layer_norm_eps={self.layer_norm_eps}")
        if not is_integer(self.position_offset) or self.position_offset < 0:
            raise ValueError(f"position_offset must be 0 or more; got position_offset={self.position_offset!r}")
        if self.position_embedding == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model must be even for sinusoidal positions; got d_model={self.d_model}")
        check_activation("activation", self.activation)
