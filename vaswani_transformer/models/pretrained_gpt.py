"""What the models of GPT, Radford et al. (2018), share: initialisation, OpenAI's weights, checked inputs."""

# B batch   T length   S length with the cache   D hidden size   H heads   K head size

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, Transpose, WeightConverter, WeightRenaming

from .blocks_gpt import Added, GPTAttention, GPTBlock, Positions
from .configuration_gpt import VaswaniGPTConfig
from .layers import check_token_ids
from .losses import check_range


class HeadByHead(ConversionOps):
    """[q; k; v], each of all heads, as OpenAI's weights have it, to the q, k, v of each head."""

    @torch.no_grad()
    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reorders the rows of a weight or a bias; its name stays."""
        heads = kwargs["config"].num_attention_heads
        (name, tensors), *_ = input_dict.items()
        rows = tensors[0] if isinstance(tensors, list) else tensors
        return {self._target(name, args, kwargs): head_by_head(rows, heads)}

    def _target(self, name: str, args: Any, kwargs: Any) -> str:
        targets = kwargs["target_patterns"] if "target_patterns" in kwargs else args[1]
        return targets[0]


def head_by_head(rows: Tensor, heads: int) -> Tensor:
    """[3 H K, ...] rows in the order (q, k, v; head; K) to the order (head; q, k, v; K)."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2).contiguous()


# Where transformers' weight is transposed ours has another name: under the same one, a square weight of ours would be
# transposed again when it is loaded, without an error.
TRANSPOSED = {"attn.c_proj": "attn.out_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
RENAMED = {"tokens_embed.weight": "wte.weight", "positions_embed.weight": "wpe.weight"}  # GPT-1's; GPT-2's are ours


def openai_weights() -> list[WeightRenaming | WeightConverter]:
    """How the weights of transformers' GPT-2 and OpenAI-GPT become ours."""
    made: list[WeightRenaming | WeightConverter] = [WeightRenaming(old, new) for old, new in RENAMED.items()]
    for old, new in TRANSPOSED.items():
        made.append(WeightConverter(f"{old}.weight", f"{new}.weight", operations=[Transpose(0, 1)]))
        made.append(WeightRenaming(f"{old}.bias", f"{new}.bias"))
    fused: dict[str, list[ConversionOps]] = {"weight": [Transpose(0, 1), HeadByHead()], "bias": [HeadByHead()]}
    for kind, steps in fused.items():
        made.append(WeightConverter(f"attn.c_attn.{kind}", f"attn.qkv_proj.{kind}", operations=steps))
    return [*made, WeightRenaming("multiple_choice_head.summary", "classifier")]


class VaswaniGPTPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the abilities that transformers asks a model for."""

    config: VaswaniGPTConfig
    config_class = VaswaniGPTConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPTBlock", "PreNormGPTBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.(masked_)?bias$"]  # buffers in old checkpoints
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GPTBlock, "attentions": GPTAttention}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Registers how OpenAI's weights are loaded: by the class's name, which a foreign config does not change."""
        super().__init_subclass__(**kwargs)
        # The plugin and the code of a Hub folder may both be there: they say the same.
        register_checkpoint_conversion_mapping(cls.__name__, openai_weights(), overwrite=True)

    def __init__(self, config: VaswaniGPTConfig, *args: Any, **kwargs: Any) -> None:
        if config.model_type != VaswaniGPTConfig.model_type:
            raise ValueError(
                f"{type(self).__name__} takes a VaswaniGPTConfig; got {type(config).__name__}: "
                "VaswaniGPTConfig.from_dict(config.to_dict()) is the same as ours, and from_pretrained without config "
                "reads a folder's own"
            )
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02) for weights and embeddings, biases 0, norms 1.

        With norms before the sub-layers as GPT-2: what is added to the stream is drawn narrower by the root of the
        number of additions (section 2.3 of its paper), and positions half as wide (its code; transformers does not).
        """
        std = self.config.initializer_range
        if self.config.norm_order == "pre" and isinstance(module, (Added, Positions)):
            std = std / 2 if isinstance(module, Positions) else std / math.sqrt(2 * self.config.num_hidden_layers)
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers'.

        Raises:
            ValueError: a folder without the word embeddings: transformers' OpenAIGPTDoubleHeadsModel saves them as the
                output matrix alone, which only a model with such a matrix finds.
        """
        found: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = found
        table = [name for name in info["missing_keys"] if name.endswith("wte.weight")]
        if table and "lm_head.weight" in info["unexpected_keys"]:
            raise ValueError(
                f"a folder must hold {table[0]} for {cls.__name__}; got lm_head.weight alone: load it as "
                "VaswaniGPTForCausalLM (a classifier of texts or choices also with lm_loss_weight=0.5), save that and "
                "load the new folder"
            )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        """As transformers', always under our names.

        Raises:
            ValueError: for `save_original_format=True`, by which transformers asks for the names of OpenAI's files.
        """
        if save_original_format:
            raise ValueError(
                "save_original_format must be False, weights of ours are saved under our names; got True: "
                "`vaswani export --to transformers` writes OpenAI's names, with the configuration that reads them"
            )
        super().save_pretrained(*args, save_original_format=False, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Two short texts, one padded."""
        ids = torch.tensor([[3, 4, 5, 6], [4, 3, 6, 0]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], device=self.device)}


def checked_inputs(
    config: VaswaniGPTConfig,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    *others: Tensor | None,
) -> Tensor:
    """The given one of ids and embeddings, with shapes and (on the CPU in eager mode) ids checked.

    Args:
        config: sizes of the tables.
        input_ids: [B, T], or None.
        inputs_embeds: [B, T, D], or None.
        *others: position_ids and token_type_ids, or None.

    Raises:
        ValueError: neither or both of ids and embeddings, no position, shapes that differ, an id outside its table.
    """
    given = inputs_embeds if input_ids is None else input_ids
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("GPT takes either token ids or embeddings, one of the two")
    if given.dim() != (2 if inputs_embeds is None else 3) or given.shape[1] == 0:
        raise ValueError(
            f"GPT takes rows of at least one token, [B, T]; got shape {tuple(given.shape)}: a prompt of none starts "
            "with a token of your choice, bos_token_id for one"
        )
    for name, value in zip(("position_ids", "token_type_ids"), others, strict=True):
        rows = (
            (1, given.shape[0]) if name == "position_ids" else (given.shape[0],)
        )  # no set: an exporter's sizes have no hash
        if value is not None and (value.dim() != 2 or value.shape[0] not in rows or value.shape[1] != given.shape[1]):
            raise ValueError(f"{name} must have the batch's shape {tuple(given.shape[:2])}; got {tuple(value.shape)}")
    if input_ids is not None:
        check_token_ids(input_ids, config.vocab_size)
    if others[1] is not None:
        check_token_ids(others[1], config.vocab_size, name="token_type_ids")
    return given


def check_cache(config: VaswaniGPTConfig, cache: Any, rows: int) -> None:
    """Refuses what is no cache of this model.

    Raises:
        ValueError: no Cache of transformers, one of an encoder-decoder, or one that holds other layers, rows or heads.
    """
    if not isinstance(cache, Cache) or isinstance(cache, EncoderDecoderCache):
        raise ValueError(f"cache must be a Cache of a decoder, DynamicCache for one; got {type(cache).__name__}")
    filled: list[Any] = [layer for layer in cache.layers if isinstance(getattr(layer, "keys", None), Tensor)]
    if not filled or torch.compiler.is_compiling():
        return
    head_size = config.hidden_size // config.num_attention_heads
    keys: Any = filled[0].keys
    other = len(cache.layers) > config.num_hidden_layers or keys.shape[-1] != head_size
    if keys.numel() and (other or config.num_attention_heads % keys.shape[1] or keys.shape[0] != rows):
        raise ValueError(
            f"cache must be of this model and this batch: {config.num_hidden_layers} layers, rows={rows}, "
            f"{config.num_attention_heads} heads of {head_size}; got {len(cache.layers)} layers and keys of shape "
            f"{tuple(keys.shape)}"
        )


def check_context(config: VaswaniGPTConfig, position_ids: Tensor, mask: Any, length: Any) -> None:
    """Refuses positions behind the table and a mask of another length, where looking costs nothing.

    Args:
        config: the position table's length.
        position_ids: [B, T] or [1, T].
        mask: the caller's; only [B, S] is looked at.
        length: S, tokens in the cache and new ones.

    Raises:
        ValueError: a context longer than the table, a mask that does not fit.
    """
    limit = config.max_position_embeddings
    if isinstance(mask, Tensor) and mask.dim() == 2 and isinstance(length, int) and mask.shape[1] != length:
        raise ValueError(
            f"attention_mask must cover the {length} tokens in the cache and the batch; got shape {tuple(mask.shape)}"
        )
    if position_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        largest = int(position_ids.max())
        if largest >= limit:
            raise ValueError(
                f"the context must fit max_position_embeddings={limit}; got a text that reaches {largest + 1} tokens: "
                "shorten the prompt or max_new_tokens"
            )
        check_range(position_ids, limit, "position_ids", "max_position_embeddings")
