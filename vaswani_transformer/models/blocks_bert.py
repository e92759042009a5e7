"""The layers of BERT, Devlin et al. (2018): embeddings, attention, feed-forward, pooler; named as transformers' are."""

# B batch   T length   N tokens   Q sequences   D hidden size   F width of what joins the stream
# A batch without padding is one row: B is 1 and T is N.

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend, split_heads
from .configuration_bert import VaswaniBertConfig
from .layers import activation_recomputed, dropout
from .packing import Packing, attend_packed


class BertEmbeddings(nn.Module):
    """Word, segment and learned position embeddings, summed; section 3 and figure 2.

    Departure from the paper, as Google's code: a norm and dropout on the sum.

    Args:
        config: sizes, hidden_dropout_prob, layer_norm_eps.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.rate = config.hidden_dropout_prob
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        """Embeds tokens.

        Args:
            input_ids: [B, T] token ids, or None for `inputs_embeds`.
            token_type_ids: [B, T] segments; None for segment 0 throughout.
            position_ids: [B, T] or [1, T] rows of the position table.
            inputs_embeds: [B, T, D] word embeddings, or None for `input_ids`.

        Returns:
            Hidden states [B, T, D].
        """
        x_BTD = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is None:
            token_type_ids = torch.zeros((1, 1), dtype=torch.long, device=x_BTD.device)
        x_BTD = x_BTD + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return dropout(self.LayerNorm(x_BTD), self.rate, self.training)


class BertSelfAttention(nn.Module):
    """Queries, keys and values with biases, and attention in both directions.

    Args:
        config: hidden_size, num_attention_heads, attention_probs_dropout_prob.
    """

    is_causal = False

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x_BTD: Tensor, mask: Any = None, packing: Packing | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attends within each row, or within each sequence of the one row that `packing` describes.

        Args:
            x_BTD: hidden states.
            mask: as `packing.padded_mask` made it; None with `packing`.
            packing: where the sequences of a batch without padding lie.

        Returns:
            Heads side by side [B, T, D], and the attention weights where the implementation gives them.
        """
        query, key, value = (
            split_heads(linear(x_BTD), self.head_size) for linear in (self.query, self.key, self.value)
        )
        kwargs["implementation"] = self.config._attn_implementation or "eager"
        kwargs["dropout"] = self.config.attention_probs_dropout_prob
        if packing is not None:
            return attend_packed(self, query, key, value, packing, **kwargs), None
        return attend(self, query, key, value, mask, **kwargs)


class BertResidual(nn.Module):
    """LayerNorm(x + Dropout(W y + b)): how each sub-layer's result joins the stream.

    Args:
        config: hidden_size, hidden_dropout_prob, layer_norm_eps.
        size: width of what is joined.
    """

    def __init__(self, config: VaswaniBertConfig, size: int) -> None:
        super().__init__()
        self.rate = config.hidden_dropout_prob
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, y_BTF: Tensor, x_BTD: Tensor) -> Tensor:
        return self.LayerNorm(x_BTD + dropout(self.dense(y_BTF), self.rate, self.training))


class BertAttention(nn.Module):
    """Self-attention and what joins it to the stream, under the names of transformers' checkpoints.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertResidual(config, config.hidden_size)

    def forward(self, x_BTD: Tensor, mask: Any = None, packing: Packing | None = None, **kwargs: Any) -> Tensor:
        return self.output(self.self(x_BTD, mask, packing, **kwargs)[0], x_BTD)


class BertIntermediate(nn.Module):
    """The feed-forward network's inner layer, whose activation `BertLayer` applies.

    Args:
        config: hidden_size, intermediate_size, hidden_act.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dense(x_BTD)


class BertLayer(GradientCheckpointingLayer):
    """One layer: attention, then feed-forward, a norm after each; the encoder layer of Vaswani et al. (2017).

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertResidual(config, config.intermediate_size)

    def forward(self, x_BTD: Tensor, mask: Any = None, packing: Packing | None = None, **kwargs: Any) -> Tensor:
        x_BTD = self.attention(x_BTD, mask, packing, **kwargs)
        with activation_recomputed(self.intermediate.activation, self.intermediate(x_BTD)) as inner_BTF:
            return self.output(inner_BTF, x_BTD)


class BertEncoder(nn.Module):
    """The layers, one after the other.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_BTD: Tensor, mask: Any = None, packing: Packing | None = None, **kwargs: Any) -> Tensor:
        for layer in self.layer:
            x_BTD = layer(x_BTD, mask, packing, **kwargs)
        return x_BTD


class BertPooler(nn.Module):
    """tanh(W x + b) of each sequence's first token, [CLS].

    Departure from the paper, as Google's code: the paper's C is x itself.

    Args:
        config: hidden_size.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_QD: Tensor) -> Tensor:
        return torch.tanh(self.dense(first_QD))
