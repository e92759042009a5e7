"""What the models of GPT, Radford et al. (2018), return, where they find a last token, and fine-tuning's losses."""

# B batch   Q sequences, one or more a row of the batch   T length   D hidden size   V vocabulary

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput
from transformers.utils import logging

from .configuration_gpt import VaswaniGPTConfig
from .layers import OutputHead, as_output_head, cross_entropy
from .losses import IGNORED, divided
from .pretrained_gpt import VaswaniGPTPreTrainedModel

logger: Any = logging.get_logger(__name__)

Inputs = tuple[Any, ...]  # input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


@dataclass
class VaswaniGPTCausalLMOutput(CausalLMOutputWithPast):
    """What the language model returns.

    Args:
        loss: cross-entropy of each token from those before it, in nats; a scalar.
        logits: [B, T, V]; None while training with labels, unless `return_logits=True`.
        nll_loss: the loss without gradient; its exponential is the perplexity.
    """

    nll_loss: Tensor | None = None


@dataclass
class VaswaniGPTClassifierOutput(SequenceClassifierOutput):
    """What the classifiers of texts and of choices return.

    Args:
        loss: task_loss + lm_loss_weight * lm_loss; the task's alone where `lm_loss_weight` is 0. A scalar.
        logits: [B, C].
        task_loss: the classifier's part, where there are two.
        lm_loss: the language model's, in nats, not yet multiplied by its weight. Both have gradients.
    """

    task_loss: Tensor | None = None
    lm_loss: Tensor | None = None


class ClassifierModel(VaswaniGPTPreTrainedModel):
    """What the classifiers of texts and of choices share: the language model beside the task, section 3.2.

    Its output matrix is the word embedding, and is there only where `config.lm_loss_weight` is not 0.

    Departure from OpenAI's code, whose softmax runs over the position table too: over the vocabulary alone. A batch
    without labels has no loss: under Trainer's label smoothing, which keeps them to itself, the language model's part
    is not learnt, and a warning tells.

    Args:
        config: the model's configuration.
        decoder: class of the decoder.
    """

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniGPTConfig, decoder: type[nn.Module]) -> None:
        super().__init__(config)
        self.transformer = decoder(config)
        if config.lm_loss_weight:
            self.lm_head = OutputHead(config.hidden_size, config.vocab_size, bias=False)
        else:
            self._tied_weights_keys = {}
            self._tp_plan = {}

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Takes the weights of any Linear."""
        self.lm_head = as_output_head(new_embeddings)

    def _read(self, texts: Inputs, kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
        """[Q, D] each text's last token, and all that the decoder returns."""
        *inputs, embeds = texts
        outputs = self.transformer(*inputs, inputs_embeds=embeds, **{"use_cache": False, **kwargs})
        pad, name = self.config.pad_token_id, type(self).__name__
        return last_tokens(outputs.last_hidden_state, texts[0], texts[1], pad, name=name), outputs

    def _both_losses(
        self, task_loss: Tensor, x_QTD: Tensor, texts: Inputs, labels: Tensor, num_items: int | Tensor | None
    ) -> dict[str, Any]:
        """`loss`, and its parts where there are two.

        Args:
            task_loss: the classifier's.
            x_QTD: hidden states of all texts, those of a row one after another.
            texts: what `_read` took.
            labels: [B] or [B, C], -100 for none.
            num_items: what the task's loss was divided by.

        Raises:
            ValueError: embeddings without the ids that the language model is to foretell; a weight that was set after
                the model was built without an output matrix.
        """
        if not self.config.lm_loss_weight:
            return {"loss": task_loss}
        if not hasattr(self, "lm_head"):
            raise ValueError(
                "lm_loss_weight must be set before the model is built, which has an output matrix only then; got "
                f"lm_loss_weight={self.config.lm_loss_weight} in a model built with 0: pass it to from_pretrained, or "
                "in the configuration"
            )
        ids_QT, mask_QT = texts[:2]
        if ids_QT is None:
            raise ValueError(
                f"lm_loss_weight={self.config.lm_loss_weight} needs input_ids, which the language model foretells; got "
                "inputs_embeds: pass the ids, or set config.lm_loss_weight to 0"
            )
        labelled = labels.to(x_QTD.device).ne(IGNORED)
        next_QT = next_tokens(ids_QT.to(x_QTD.device), real_tokens(ids_QT, mask_QT, self.config.pad_token_id))
        weights_QT = token_weights(next_QT, labelled.reshape(len(labels), -1).sum(-1))
        if self.tp_size is None:
            total = self.lm_head(x_QTD, next_QT, weights=weights_QT)[0]
        else:  # a head split over processes has logits only
            total = cross_entropy(self.lm_head(x_QTD), next_QT, weights=weights_QT)[0]
        lm_loss = divided(total, labelled, num_items)
        loss = task_loss + self.config.lm_loss_weight * lm_loss
        return {"loss": loss, "task_loss": task_loss, "lm_loss": lm_loss}

    def _tell_of_no_labels(self) -> None:
        """Trainer keeps the labels to itself where it smooths them or has a loss of its caller's."""
        if self.training and self.config.lm_loss_weight and not torch.compiler.is_compiling():
            logger.warning_once(
                f"the language model's loss comes with labels; got none in training, where lm_loss_weight="
                f"{self.config.lm_loss_weight}: only what the caller makes of the logits is learnt. Trainer gives no "
                "labels with label_smoothing_factor or compute_loss_func: leave them out, or set lm_loss_weight to 0"
            )


def flattened(inputs: Inputs) -> Inputs:
    """[B, N, ...] as [B N, ...], the texts of a row one after another."""
    return tuple(None if x is None else x.flatten(0, 1) for x in inputs)


def in_both_orders(config: VaswaniGPTConfig, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> bool:
    """Whether rows are pairs in both orders, [B, 2, T], or single texts, [B, T].

    Raises:
        ValueError: inputs of another rank, or of one or three texts a row; single texts where `config.both_orders`.
    """
    given = inputs_embeds if input_ids is None else input_ids
    if given is None:
        return False  # the decoder tells
    rank = given.dim() - (0 if inputs_embeds is None else 1)
    if rank < 2 or rank > 3 or (rank == 3 and given.shape[1] != 2):
        raise ValueError(
            f"a classifier of texts takes [B, T], or [B, 2, T] for pairs in both orders; got shape "
            f"{tuple(given.shape)}: for several choices there is VaswaniGPTForMultipleChoice"
        )
    if rank == 2 and config.both_orders:
        raise ValueError(
            f"a classifier with both_orders=True reads each pair in both orders, [B, 2, T]; got shape "
            f"{tuple(given.shape)}, one order: make a row of tokenizer([text, pair], [pair, text], padding=True, "
            'return_tensors="pt"), each tensor behind .unsqueeze(0)'
        )
    return rank == 3


def real_tokens(input_ids: Tensor | None, attention_mask: Any, pad_token_id: int | None) -> Tensor | None:
    """[Q, T], true at what is no padding; None where nothing tells.

    Args:
        input_ids: [Q, T]; where there is no mask, what is not the pad token is real.
        attention_mask: [Q, T], 1 at tokens, 0 at padding; of another form it does not tell.
        pad_token_id: the config's.
    """
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
        return attention_mask.ne(0)
    return None if input_ids is None or pad_token_id is None else input_ids.ne(pad_token_id)


def last_tokens(
    x_QTD: Tensor, input_ids: Tensor | None, attention_mask: Any, pad_token_id: int | None, *, name: str
) -> Tensor:
    """[Q, D] hidden states of each text's last token, padded on either side.

    Args:
        x_QTD: hidden states.
        input_ids: [Q, T]; None for embeddings, whose last position is taken where there is no mask.
        attention_mask: [Q, T], 1 at tokens, 0 at padding; or None.
        pad_token_id: the config's.
        name: the model's class, for the message.

    Raises:
        ValueError: several texts without a mask, and no pad token to tell where each ends.
    """
    Q, T = x_QTD.shape[:2]
    real_QT = real_tokens(input_ids, attention_mask, pad_token_id)
    if real_QT is None:
        if input_ids is not None and Q > 1:
            raise ValueError(
                f"{name} must know where each text ends; got a batch of {Q} without attention_mask, and no "
                "pad_token_id in the config: pass attention_mask, or set config.pad_token_id"
            )
        return x_QTD[:, -1]
    last_Q = (torch.arange(T, device=x_QTD.device) * real_QT.to(x_QTD.device)).argmax(-1)
    return x_QTD[torch.arange(Q, device=x_QTD.device), last_Q]


def next_tokens(ids_QT: Tensor, real_QT: Tensor | None) -> Tensor:
    """[Q, T] what follows each token, -100 where that or the token itself is padding, or the row ends."""
    next_QT = nn.functional.pad(ids_QT[:, 1:], (0, 1), value=IGNORED)
    if real_QT is None:
        return next_QT
    real_QT = real_QT.to(ids_QT.device)
    return next_QT.masked_fill(~(real_QT & nn.functional.pad(real_QT[:, 1:], (0, 1))), IGNORED)


def token_weights(next_QT: Tensor, labels_B: Tensor) -> Tensor:
    """[Q, T] what each token's loss counts, so that the sum over labels is a mean over sequences, as OpenAI's code has.

    A sequence's loss is the mean over its tokens, a row's the mean over its sequences; a row counts once for each of
    its labels, as in the task's loss, so that one count divides both and a row without a label is in neither.

    Args:
        next_QT: [Q, T] the tokens to foretell, -100 for none; as many sequences a row.
        labels_B: [B] labels of each row.
    """
    sequences = next_QT.shape[0] // labels_B.shape[0]
    tokens_Q = next_QT.ne(IGNORED).sum(-1).clamp(min=1)
    weights_Q = labels_B.repeat_interleave(sequences) / (tokens_Q * sequences)
    return weights_Q.unsqueeze(-1).expand(next_QT.shape)
