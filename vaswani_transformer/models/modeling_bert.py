"""BERT of Devlin et al. (2018), "BERT: Pre-training of Deep Bidirectional Transformers", and its heads."""

# B batch   S length   N real tokens   Q sequences   C classes   D hidden size   V vocabulary

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .blocks_bert import BertEmbeddings, BertEncoder, BertPooler
from .configuration_bert import VaswaniBertConfig
from .heads_bert import (
    BertHeads,
    VaswaniBertForPreTrainingOutput,
    VaswaniBertMaskedLMOutput,
    VaswaniBertModelOutput,
)
from .layers import dropout
from .losses import PADDING_LOGIT, check_range, class_loss, real_labels, span_loss, text_loss
from .packing import Packing, first_places, pack_batch, padded_inputs, restarted
from .pretrained_bert import Count, MaskedWordsModel, VaswaniBertPreTrainedModel, checked_inputs

RECORDED = ("output_hidden_states", "output_attentions")  # in the batch's own shape


class VaswaniBertModel(VaswaniBertPreTrainedModel):
    """The encoder: token ids to one vector a token, and one of each sequence's first token.

    Padding is taken out once before the first layer and put back as zeros after the last, so nothing is computed for
    it. It stays in the batch, masked, where shapes must not depend on the data or another shape is asked for: under
    torch.compile, with flex attention, with `output_hidden_states` or `output_attentions`.

    Several sequences may be packed in a row, told by `position_ids` that start at 0 again, or by `cu_seq_lens_q` (first
    tokens in the flattened batch, then its length), as transformers' `DataCollatorWithFlattening` makes both. They
    never see each other, whatever computes attention, and `pooler_output` has a row for each. Under torch.compile their
    number must be known: without `cu_seq_lens_q`, only each row's first is pooled.

    Departures from transformers: hidden states of padding are zeros; under padding on the left the pooler reads the
    first token that is none.

    Args:
        config: the model's configuration.
        add_pooling_layer: whether there is a pooler.
    """

    def __init__(self, config: VaswaniBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the word embeddings."""
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        padded_output: bool = True,
        **kwargs: Any,
    ) -> VaswaniBertModelOutput:
        """Encodes texts.

        Args:
            input_ids: [B, S] token ids.
            attention_mask: [B, S], 1 at tokens, 0 at padding, which may lie anywhere; or a mask of attention itself,
                [B, 1, S, S], as the attention implementation takes it.
            token_type_ids: [B, S] segments, 0 throughout where left out.
            position_ids: [B, S] or [1, S] rows of the position table; the column, padding counted, where left out.
            inputs_embeds: [B, S, D] word embeddings instead of ids.
            padded_output: whether padding is put back; the heads read tokens without it.
            **kwargs: `cu_seq_lens_q`, and what transformers' models take.

        Returns:
            `last_hidden_state` and `pooler_output`, see `VaswaniBertModelOutput`; states where asked for.

        Raises:
            ValueError: neither ids nor embeddings, no position, a text longer than the position table, shapes that
                differ; in eager mode on the CPU also an id, segment or position outside its table.
        """
        given = checked_inputs(self.config, input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids)
        shape, device = (given.shape[0], given.shape[1]), given.device
        starts: Any = kwargs.pop("cu_seq_lens_q", None)
        for name in ("cu_seq_lens_k", "max_length_q", "max_length_k"):  # told by the above
            kwargs.pop(name, None)
        packed_ids = None if position_ids is None else position_ids.expand(shape)
        if position_ids is None:
            position_ids = restarted(shape, starts, device)
        limit = self.config.max_position_embeddings
        if packed_ids is None and starts is None and shape[1] > limit:
            raise ValueError(f"a text must fit max_position_embeddings={limit}; got {shape[1]} tokens")
        check_range(position_ids, limit, "position_ids", "max_position_embeddings")
        implementation = self.config._attn_implementation or "eager"
        packing = None
        if not torch.compiler.is_compiling() and (attention_mask is None or attention_mask.dim() == 2):
            packing = pack_batch(
                shape,
                device,
                mask_BS=attention_mask,
                position_ids=packed_ids,
                starts=starts,
                implementation=implementation,
            )
        embedded = (input_ids, token_type_ids, position_ids.expand(shape), inputs_embeds)
        if packing is not None and self._unpads(implementation, kwargs):
            return self._forward_packed(packing, embedded, shape, padded_output, kwargs)
        x_BSD = self.embeddings(*embedded)
        mask, more = padded_inputs(self.config, x_BSD, attention_mask, packed_ids, starts, packing)
        x_BSD = self.encoder(x_BSD, mask, None, **more, **kwargs)
        first_QD = x_BSD.flatten(0, 1).index_select(0, first_places(shape, attention_mask, starts, packing, device))
        if attention_mask is not None and attention_mask.dim() == 2:
            x_BSD = x_BSD.masked_fill(attention_mask.to(device).unsqueeze(-1) == 0, 0.0)
        return self._output(x_BSD, first_QD)

    def _forward_packed(
        self, packing: Packing, embedded: tuple, shape: tuple[int, int], padded_output: bool, kwargs: Any
    ) -> VaswaniBertModelOutput:
        x_1ND = self.embeddings(*(None if x is None else packing.pack(x) for x in embedded))
        x_1ND = self.encoder(x_1ND, None, packing, **kwargs)
        first_QD = x_1ND[0].index_select(0, packing.starts[:-1])
        if not padded_output:
            return self._output(x_1ND, first_QD, packing.places_N)
        return self._output(packing.pad(x_1ND, shape[0] * shape[1]).view(*shape, -1), first_QD)

    def _output(self, x: Tensor, first_QD: Tensor, places: Tensor | None = None) -> VaswaniBertModelOutput:
        pooled_QD = None if self.pooler is None else self.pooler(first_QD)
        return VaswaniBertModelOutput(last_hidden_state=x, pooler_output=pooled_QD, places=places)

    def _unpads(self, implementation: str, kwargs: Any) -> bool:
        known = implementation in ("eager", "sdpa") or "flash" in implementation
        recorded = (kwargs.get(name, getattr(self.config, name, False)) for name in RECORDED)
        return known and not any(recorded)


class VaswaniBertForPreTraining(MaskedWordsModel):
    """BERT as it is pre-trained: the masked-word head and the next-sentence head, section 3.1.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config)
        self.bert = VaswaniBertModel(config)
        self.cls = BertHeads(config, words=True, sentences=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        num_items_in_batch: Count = None,
        num_sequences_in_batch: Count = None,
        return_logits: bool | None = None,
        **kwargs: Any,
    ) -> VaswaniBertForPreTrainingOutput:
        """Losses, or logits, of both tasks; the arguments of `VaswaniBertModel.forward`, and:

        Args:
            labels: [B, S] ids of masked words, -100 elsewhere; what stands at padding is not counted.
            next_sentence_label: [Q], 0 where the second text follows the first, 1 where it does not, -100 for neither.
            num_items_in_batch: what the summed masked-word loss is divided by, the masked words of the whole
                accumulated batch; those of this batch where it is left out (none masked gives 0).
            num_sequences_in_batch: the same of the next-sentence loss: labelled sequences. Trainer does not give it:
                under accumulation its next-sentence loss is then too large by the number of steps accumulated.
            return_logits: whether to return [B, S, V] logits beside a masked-word loss; by default in `eval()` only.

        Returns:
            The losses and logits, see `VaswaniBertForPreTrainingOutput`. Either kind of labels may be left out.
        """
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, padded_output=False, **kwargs
        )
        inputs = _shape(input_ids, inputs_embeds), attention_mask
        mlm, logits_BSV = self._masked_words(outputs, labels, num_items_in_batch, return_logits, inputs)
        logits_Q2 = self.cls.seq_relationship(outputs.pooler_output)
        nsp = None
        if next_sentence_label is not None:
            name = "next_sentence_label"
            nsp = class_loss(logits_Q2, next_sentence_label, num_sequences_in_batch, name=name, limit="labels")
        given = [loss for loss in (mlm, nsp) if loss is not None]
        return VaswaniBertForPreTrainingOutput(
            loss=torch.stack(given).sum() if given else None,
            prediction_logits=logits_BSV,
            seq_relationship_logits=logits_Q2,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mlm_loss=None if mlm is None else mlm.detach(),
            nsp_loss=None if nsp is None else nsp.detach(),
            nll_loss=None if mlm is None else mlm.detach(),
        )


class VaswaniBertForMaskedLM(MaskedWordsModel):
    """BERT with the masked-word head alone.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config)
        self.bert = VaswaniBertModel(config, add_pooling_layer=False)
        self.cls = BertHeads(config, words=True, sentences=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        return_logits: bool | None = None,
        **kwargs: Any,
    ) -> VaswaniBertMaskedLMOutput:
        """Loss or logits of masked words; `labels` and what follows it as for `VaswaniBertForPreTraining`."""
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, padded_output=False, **kwargs
        )
        inputs = _shape(input_ids, inputs_embeds), attention_mask
        loss, logits_BSV = self._masked_words(outputs, labels, num_items_in_batch, return_logits, inputs)
        nll = None if loss is None else loss.detach()
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return VaswaniBertMaskedLMOutput(loss=loss, logits=logits_BSV, nll_loss=nll, **states)


class VaswaniBertForNextSentencePrediction(VaswaniBertPreTrainedModel):
    """BERT with the next-sentence head alone.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config)
        self.bert = VaswaniBertModel(config)
        self.cls = BertHeads(config, words=False, sentences=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> NextSentencePredictorOutput:
        """[Q, 2] logits, the first for "is next", and the loss of `labels` [Q], 0 for "is next", -100 for none."""
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, padded_output=False, **kwargs
        )
        logits_Q2 = self.cls.seq_relationship(outputs.pooler_output)
        loss = None if labels is None else class_loss(logits_Q2, labels, num_items_in_batch, limit="labels")
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return NextSentencePredictorOutput(loss=loss, logits=logits_Q2, **states)


class ClassifierModel(VaswaniBertPreTrainedModel):
    """What the models with a linear classifier share: dropout, and the classifier.

    Departure from the paper, as Google's code: the paper's classifier is a matrix, without dropout and without a bias.

    Args:
        config: the model's configuration.
        classes: rows of the classifier.
        pooled: whether it reads each sequence's pooled first token.
    """

    def __init__(self, config: VaswaniBertConfig, classes: int | None, *, pooled: bool) -> None:
        super().__init__(config)
        self.bert = VaswaniBertModel(config, add_pooling_layer=pooled)
        self.classifier = nn.Linear(config.hidden_size, classes)  # type: ignore[arg-type]
        self.post_init()

    def _classify(self, x: Tensor) -> Tensor:
        own = self.config.classifier_dropout
        return self.classifier(dropout(x, self.config.hidden_dropout_prob if own is None else own, self.training))


class VaswaniBertForSequenceClassification(ClassifierModel):
    """BERT that puts a text into one class, into several, or gives it a value.

    Args:
        config: the model's configuration; `num_labels` C, and `problem_type` as in transformers: "regression" (guessed
            for one label), "single_label_classification" (for whole-number labels) or "multi_label_classification".
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config, config.num_labels, pooled=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """[Q, C] logits and the loss of labels; the arguments of `VaswaniBertModel.forward`, and:

        Args:
            labels: [Q] classes, or [Q, C] (for one label, [Q]) numbers; -100 for none. The first labels settle
                `config.problem_type` where it is open, as in transformers: pipelines read it.
            num_items_in_batch: what the summed loss is divided by, the labels of the whole accumulated batch, each of
                several a sequence counted, as Trainer does; those of this batch where it is left out.
        """
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, padded_output=False, **kwargs
        )
        logits_QC = self._classify(outputs.pooler_output)
        loss = None if labels is None else text_loss(self.config, logits_QC, labels, num_items_in_batch)
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return SequenceClassifierOutput(loss=loss, logits=logits_QC, **states)


class VaswaniBertForMultipleChoice(ClassifierModel):
    """BERT that chooses between texts: a softmax over the choices' scores.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config, 1, pooled=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """[B, choices] logits and the loss of `labels` [B]; inputs are [B, choices, S], not packed."""
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or given.dim() != (4 if input_ids is None else 3):
            got = None if given is None else tuple(given.shape)
            raise ValueError(f"{type(self).__name__} takes ids [B, choices, S] or their embeddings; got shape {got}")
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        flat = (None if x is None else x.flatten(0, 1) for x in inputs)
        outputs = self.bert(*flat, padded_output=False, **kwargs)
        logits_BC = self._classify(outputs.pooler_output).view(given.shape[:2])
        loss = None if labels is None else class_loss(logits_BC, labels, num_items_in_batch, limit="choices")
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return MultipleChoiceModelOutput(loss=loss, logits=logits_BC, **states)


class VaswaniBertForTokenClassification(ClassifierModel):
    """BERT that puts each token into a class.

    Args:
        config: the model's configuration; `num_labels` C.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config, config.num_labels, pooled=False)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """[B, S, C] logits and the loss of `labels` [B, S], -100 for none; what stands at padding is not counted."""
        outputs = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits_BSC, loss = self._classify(outputs.last_hidden_state), None
        if labels is not None:
            labels = real_labels(labels, attention_mask)
            loss = class_loss(logits_BSC, labels, num_items_in_batch)
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return TokenClassifierOutput(loss=loss, logits=logits_BSC, **states)


class VaswaniBertForQuestionAnswering(VaswaniBertPreTrainedModel):
    """BERT that finds the span of a text that answers a question.

    Departure from transformers: padding can neither start nor end a span, its logits are -10,000.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniBertConfig) -> None:
        super().__init__(config)
        self.bert = VaswaniBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """[B, S] logits of start and end and the loss of a span; the arguments of `VaswaniBertModel.forward`, and:

        Args:
            start_positions: [B] first token of the answer, -100 where the text does not hold it.
            end_positions: [B] last token of the answer, likewise.
            num_items_in_batch: what the summed loss is divided by, the answers of the whole accumulated batch; those of
                this batch where it is left out. Trainer gives none, having no `labels` to count, and takes the mean
                over the accumulated batches.
        """
        outputs = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits_BS2, loss = self.qa_outputs(outputs.last_hidden_state), None
        if attention_mask is not None and attention_mask.dim() == 2:
            padding_BS1 = attention_mask.to(logits_BS2.device).unsqueeze(-1) == 0
            logits_BS2 = logits_BS2.masked_fill(padding_BS1, PADDING_LOGIT)
        start_BS, end_BS = logits_BS2[..., 0].contiguous(), logits_BS2[..., 1].contiguous()
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_BS, end_BS, start_positions, end_positions, num_items_in_batch)
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_BS, end_logits=end_BS, **states)


def _shape(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
    given = inputs_embeds if input_ids is None else input_ids
    assert given is not None
    return given.shape[0], given.shape[1]
