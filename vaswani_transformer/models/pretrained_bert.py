"""What the models of BERT, Devlin et al. (2018), share: initialisation, checked inputs, the loss of masked words."""

# B batch   S length   N real tokens   D hidden size   V vocabulary

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .blocks_bert import BertLayer, BertSelfAttention
from .configuration_bert import VaswaniBertConfig
from .heads_bert import BertHeads, BertPredictions
from .layers import OutputHead, as_output_head, check_token_ids, cross_entropy
from .losses import IGNORED, check_range, divided, real_labels

Count = int | Tensor | None


class VaswaniBertPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the abilities that transformers asks a model for."""

    config: VaswaniBertConfig
    config_class = VaswaniBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BertEmbeddings", "BertLayer"]
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]  # a buffer in old checkpoints
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """A normal distribution cut at two standard deviations, as Google's code; norms 1, biases 0.

        Departures from transformers: its distribution is not cut, and it sets the pad token's embedding to zero.
        """
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, BertPredictions):
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As transformers', always under today's names: it would give an old checkpoint's gamma and beta back."""
        super().save_pretrained(*args, **{"save_original_format": False, **kwargs})

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Two short texts, one padded."""
        ids = torch.tensor([[3, 4, 5, 6], [4, 3, 6, 0]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], device=self.device)}


class MaskedWordsModel(VaswaniBertPreTrainedModel):
    """What the two models with a masked-word head share: the tied output matrix and the loss."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    cls: BertHeads

    def get_output_embeddings(self) -> OutputHead:
        """The output matrix."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Takes the weights of any Linear."""
        head = as_output_head(new_embeddings)
        self.cls.predictions.decoder, self.cls.predictions.bias = head, head.bias

    def _masked_words(
        self, outputs: Any, labels: Tensor | None, num_items: Count, return_logits: bool | None, inputs: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """Mean loss and [B, S, V] logits, each where it is wanted; where logits are not, masked positions only."""
        shape, mask = inputs
        x_ND, places = outputs.last_hidden_state.flatten(0, 1), outputs.places
        loss = labels_N = logits_NV = None
        if labels is not None:
            self._check_words(labels, shape)
            labels_N = real_labels(labels, mask).to(x_ND.device).flatten()
            labels_N = labels_N if places is None else labels_N.index_select(0, places)
        if labels_N is None or (not self.training if return_logits is None else return_logits):
            logits_NV = self.cls.predictions(x_ND)
        if labels_N is not None:
            rows = x_ND if logits_NV is None else logits_NV
            if not torch.compiler.is_compiling():  # a compiled shape must not depend on the data
                masked = (labels_N != IGNORED).nonzero().squeeze(1)
                rows, labels_N = rows.index_select(0, masked), labels_N.index_select(0, masked)
            total, _ = self.cls.predictions(rows, labels_N) if logits_NV is None else cross_entropy(rows, labels_N)
            loss = divided(total, labels_N != IGNORED, num_items)
        if logits_NV is not None and places is not None:
            whole = logits_NV.new_zeros(shape[0] * shape[1], logits_NV.shape[1])
            logits_NV = whole.index_copy(0, places, logits_NV)
        return loss, None if logits_NV is None else logits_NV.view(*shape, -1)

    def _check_words(self, labels: Tensor, shape: tuple[int, int]) -> None:
        if labels.shape != shape:
            raise ValueError(f"labels must have the batch's shape {tuple(shape)}; got {tuple(labels.shape)}")
        check_token_ids(labels, self.config.vocab_size, name="labels", ignored=IGNORED)


def checked_inputs(
    config: VaswaniBertConfig,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    mask: Tensor | None,
    *others: Tensor | None,
) -> Tensor:
    """The given one of ids and embeddings, with shapes and (on the CPU in eager mode) values checked.

    Args:
        config: sizes of the tables.
        input_ids: [B, S], or None.
        inputs_embeds: [B, S, D], or None.
        mask: [B, S] or four-dimensional, or None.
        *others: token_type_ids and position_ids, or None.

    Raises:
        ValueError: neither or both of ids and embeddings, no position, shapes that differ, an id or a segment outside
            its table, a text longer than the position table.
    """
    given = inputs_embeds if input_ids is None else input_ids
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("BERT takes either token ids or embeddings, one of the two")
    if given.dim() != (2 if inputs_embeds is None else 3) or given.shape[1] == 0:
        raise ValueError(f"BERT takes rows of at least one position, [B, S]; got shape {tuple(given.shape)}")
    for name, value in zip(("attention_mask", "token_type_ids", "position_ids"), (mask, *others), strict=True):
        if value is None or (name == "attention_mask" and value.dim() == 4):
            continue
        rows = (
            (1, given.shape[0]) if name == "position_ids" else (given.shape[0],)
        )  # no set: an exporter's sizes have no hash
        if value.dim() != 2 or value.shape[0] not in rows or value.shape[1] != given.shape[1]:
            raise ValueError(f"{name} must have the batch's shape {tuple(given.shape[:2])}; got {tuple(value.shape)}")
    if input_ids is not None:
        check_token_ids(input_ids, config.vocab_size)
    if others[0] is not None:
        check_range(others[0], config.type_vocab_size, "token_type_ids", "type_vocab_size")
    return given
