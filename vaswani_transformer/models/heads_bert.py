"""What stands on BERT, Devlin et al. (2018): the pre-training heads, and what the models return."""

# B batch   S length   N tokens   Q sequences   D hidden size   V vocabulary

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput
from transformers.utils import ModelOutput

from .configuration_bert import VaswaniBertConfig
from .layers import OutputHead


@dataclass
class VaswaniBertModelOutput(BaseModelOutputWithPooling):
    """What the encoder returns.

    Args:
        last_hidden_state: [B, S, D], zeros at padding; [1, N, D] with `padded_output=False` where padding was removed.
        pooler_output: [Q, D], of each sequence's first token.
        places: [N] where each token of such a row lies in the batch, B * S; None where the batch is whole.
    """

    places: Tensor | None = None


@dataclass
class VaswaniBertMaskedLMOutput(MaskedLMOutput):
    """What the masked-word model returns.

    Args:
        loss: cross-entropy over the masked words, in nats; a scalar.
        logits: [B, S, V]; None while training with labels, unless `return_logits=True`.
        nll_loss: the loss without gradient; its exponential is the perplexity of the masked words.
    """

    nll_loss: Tensor | None = None


@dataclass
class VaswaniBertForPreTrainingOutput(ModelOutput):
    """What the pre-training model returns.

    Args:
        loss: mlm_loss + nsp_loss, or the one whose labels are given; a scalar.
        prediction_logits: [B, S, V]; None while training with labels, unless `return_logits=True`.
        seq_relationship_logits: [Q, 2]; the first is for "is next".
        hidden_states: where asked for.
        attentions: where asked for.
        mlm_loss: cross-entropy over the masked words, in nats; no gradient.
        nsp_loss: cross-entropy over the sequences, in nats; no gradient.
        nll_loss: as mlm_loss; its exponential is the perplexity of the masked words.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = None
    nsp_loss: Tensor | None = None
    nll_loss: Tensor | None = None


class BertTransform(nn.Module):
    """What comes before the output matrix: a dense layer, the activation, a norm; in Google's code, not in the paper.

    Args:
        config: hidden_size, hidden_act, layer_norm_eps.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x_ND)))


class BertPredictions(nn.Module):
    """The masked-word head: a transform and the output matrix, with a bias of its own.

    Args:
        config: hidden_size, vocab_size.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__()
        self.transform = BertTransform(config)
        self.decoder = OutputHead(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the decoder's own bias, under its other name

    def forward(self, x_ND: Tensor, labels_N: Tensor | None = None) -> Any:
        """Logits [N, V]; with labels the pair of sums that `OutputHead` gives."""
        return self.decoder(self.transform(x_ND), labels_N)


class BertHeads(nn.Module):
    """The pre-training heads that a model has: masked words, next sentence, or both; section 3.1.

    Args:
        config: hidden_size, vocab_size.
        words: whether there is a masked-word head.
        sentences: whether there is a next-sentence head. Label 0: the second text follows the first; 1: it does not.
    """

    def __init__(self, config: VaswaniBertConfig, *, words: bool, sentences: bool) -> None:
        super().__init__()
        if words:
            self.predictions = BertPredictions(config)
        if sentences:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)
