"""GPT of Radford et al. (2018), "Improving Language Understanding by Generative Pre-Training", GPT-2, GPT-3; heads."""

# B batch   T length   S length with the cache   C classes   D hidden size   V vocabulary

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .blocks_gpt import GPTBlock, Positions, PreNormGPTBlock
from .caches import named_cache, one_cache
from .configuration_gpt import VaswaniGPTConfig
from .heads_gpt import (
    ClassifierModel,
    VaswaniGPTCausalLMOutput,
    VaswaniGPTClassifierOutput,
    flattened,
    in_both_orders,
)
from .layers import OutputHead, as_output_head, check_token_ids, cross_entropy, dropout, position_ids_from_mask
from .losses import IGNORED, PADDING_LOGIT, class_loss, divided, real_labels, span_loss, text_loss
from .masks_gpt import find_documents, layer_masks
from .packing import check_starts, restarted
from .pretrained_gpt import VaswaniGPTPreTrainedModel, check_cache, check_context, checked_inputs

Count = int | Tensor | None


class VaswaniGPTModel(VaswaniGPTPreTrainedModel):
    """The decoder: token ids to one vector a token, each from the tokens up to it.

    Several documents may be packed in a row, told by `position_ids` that start again, or by `cu_seq_lens_q` (first
    tokens in the flattened batch, then its length), as transformers' `DataCollatorWithFlattening` makes both. They
    never see each other, whatever computes attention and whether or not there is a cache.

    Departure from transformers: without `position_ids`, positions count tokens and not padding.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = Positions(config.max_position_embeddings, config.hidden_size)
        pre = config.norm_order == "pre"
        block = PreNormGPTBlock if pre else GPTBlock
        self.h = nn.ModuleList(block(config, number) for number in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if pre else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the word embeddings."""
        self.wte = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Reads texts.

        Args:
            input_ids: [B, T] token ids, those not in the cache yet.
            attention_mask: [B, S], 1 at tokens, 0 at padding, over cached and new positions; or a mask of attention
                itself, [B, 1, T, S], as the attention implementation takes it, or one for each kind of layer.
            token_type_ids: [B, T] ids whose word embeddings are added, as transformers' GPTs do; none where left out.
            position_ids: [B, T] or [1, T] rows of the position table; padding not counted where left out.
            past_key_values: `cache` by its name before transformers 5.24.
            inputs_embeds: [B, T, D] word embeddings instead of ids.
            use_cache: make a cache where none is given.
            cache: keys and values of earlier positions, updated in place.
            **kwargs: `cu_seq_lens_q`, and what transformers' models take.

        Returns:
            `last_hidden_state` [B, T, D], the cache; states where asked for.

        Raises:
            ValueError: neither ids nor embeddings, no token, shapes that differ, a cache of another model; in eager
                mode on the CPU also an id or a position outside its table, `cu_seq_lens_q` of another batch.
        """
        given = checked_inputs(self.config, input_ids, inputs_embeds, position_ids, token_type_ids)
        shape, device = (given.shape[0], given.shape[1]), given.device
        starts: Any = kwargs.pop("cu_seq_lens_q", None)
        for name in ("cu_seq_lens_k", "max_length_q", "max_length_k"):  # told by the above
            kwargs.pop(name, None)
        if starts is not None and not torch.compiler.is_compiling():
            check_starts(starts, shape)
        cache = one_cache(cache, past_key_values)
        if cache is not None:
            check_cache(self.config, cache, shape[0])
        elif use_cache:
            cache = DynamicCache(config=self.config)
        past = 0 if cache is None else cache.get_seq_length()
        told = position_ids is not None or starts is not None
        if position_ids is None:
            position_ids = self._positions(shape, attention_mask, past, starts, device)
        check_context(self.config, position_ids, attention_mask, past + shape[1])
        documents = None
        if told and not isinstance(attention_mask, dict) and getattr(attention_mask, "ndim", 2) == 2:
            documents = find_documents(position_ids.expand(shape), attention_mask, past)
        x_BTD = self._embed(input_ids, inputs_embeds, token_type_ids, position_ids)
        masks, more = layer_masks(self.config, x_BTD, attention_mask, cache, documents, starts)
        for block, kind in zip(self.h, self.config.layer_types, strict=True):
            x_BTD = block(x_BTD, masks[kind], cache=cache, **more, **kwargs)
        if self.ln_f is not None:
            x_BTD = self.ln_f(x_BTD)
        return BaseModelOutputWithPast(last_hidden_state=x_BTD, **named_cache(cache if use_cache else None))

    def _positions(self, shape: tuple[int, int], mask: Any, past: Any, starts: Tensor | None, device: Any) -> Tensor:
        if starts is not None:
            return restarted(shape, starts, device)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return position_ids_from_mask(mask.to(device))[:, -shape[1] :]
        return (torch.arange(shape[1], device=device) + past).unsqueeze(0)

    def _embed(
        self, ids: Tensor | None, embeds: Tensor | None, token_type_ids: Tensor | None, position_ids: Tensor
    ) -> Tensor:
        x_BTD = (self.wte(ids) if embeds is None else embeds) + self.wpe(position_ids)
        if token_type_ids is not None:
            x_BTD = x_BTD + self.wte(token_type_ids)
        return dropout(x_BTD, self.config.embedding_dropout, self.training)


class VaswaniGPTForCausalLM(VaswaniGPTPreTrainedModel, GenerationMixin):
    """The language model: the decoder and the output matrix, which is the word embedding.

    Args:
        config: the model's configuration.
    """

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config)
        self.transformer = VaswaniGPTModel(config)
        self.lm_head = OutputHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Takes the weights of any Linear."""
        self.lm_head = as_output_head(new_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        return_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> VaswaniGPTCausalLMOutput:
        """Loss of texts, or logits of what follows; the arguments of `VaswaniGPTModel.forward`, and:

        Args:
            labels: [B, T] ids at their own places, -100 where none is to be foretold; each is compared with the logits
                one place before it, the first with none. Of packed documents the caller sets each first label to -100
                unless it is to be foretold from the document before. No cache is made unless it is asked for.
            shift_labels: [B, T] instead of labels: what follows each place, so that a row's last place has a label too.
            num_items_in_batch: what the summed loss is divided by, the labels of the whole accumulated batch; those of
                this batch where it is left out (none gives 0).
            return_logits: whether to return [B, T, V] logits beside a loss; by default in `eval()` only.
            logits_to_keep: how many last positions need logits (0 for all), or which; used without labels.

        Returns:
            `loss`, `nll_loss`, `logits`, the cache and the states, see `VaswaniGPTCausalLMOutput`.
        """
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
        if shift_labels is not None and use_cache is None:
            use_cache = cache is not None or past_key_values is not None
        outputs = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        x_BTD, loss, logits_BTV = outputs.last_hidden_state, None, None
        wanted = shift_labels is None or (not self.training if return_logits is None else return_logits)
        if wanted or self.tp_size is not None:  # a head split over processes has logits only
            keep = logits_to_keep if shift_labels is None else 0
            logits_BTV = self.lm_head(x_BTD[:, slice(-keep, None) if isinstance(keep, int) else keep])
        if shift_labels is not None:
            loss = self._loss(x_BTD, logits_BTV, shift_labels, num_items_in_batch)
        return VaswaniGPTCausalLMOutput(
            loss=loss,
            logits=logits_BTV if wanted else None,
            nll_loss=None if loss is None else loss.detach(),
            **{name: value for name, value in outputs.items() if name != "last_hidden_state"},
        )

    def _loss(self, x_BTD: Tensor, logits_BTV: Tensor | None, next_BT: Tensor, num_items: Count) -> Tensor:
        if next_BT.shape != x_BTD.shape[:2]:
            raise ValueError(f"labels must have the batch's shape {tuple(x_BTD.shape[:2])}; got {tuple(next_BT.shape)}")
        check_token_ids(next_BT, self.config.vocab_size, name="labels", ignored=IGNORED)
        next_BT = next_BT.to(x_BTD.device)
        total = self.lm_head(x_BTD, next_BT)[0] if logits_BTV is None else cross_entropy(logits_BTV, next_BT)[0]
        return divided(total, next_BT != IGNORED, num_items)


class VaswaniGPTForSequenceClassification(ClassifierModel):
    """GPT that puts a text into one class, into several, or gives it a value, from its last token; sections 3.2, 3.3.

    A pair whose order says nothing (similarity) is read in both orders, [B, 2, T]: the last tokens' vectors are added.
    A model that has learnt such pairs (`config.both_orders`) takes nothing else, so that a pipeline, which gives one
    order, tells so. A row of T tokens is one text: packed documents are not told apart.

    Args:
        config: the model's configuration; `num_labels` C, `problem_type` as in transformers: "regression" (guessed
            for one label), "single_label_classification" (for whole-number labels) or "multi_label_classification";
            `lm_loss_weight`; `both_orders`.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config, VaswaniGPTModel)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> VaswaniGPTClassifierOutput:
        """[B, C] logits and the loss of labels; the arguments of `VaswaniGPTModel.forward`, or [B, 2, ...], and:

        Args:
            labels: [B] classes, or [B, C] (for one label, [B]) numbers; -100 for none. The first labels settle
                `config.problem_type` where it is open, as in transformers: pipelines read it.
            num_items_in_batch: what the summed losses are divided by, the labels of the whole accumulated batch, each
                of several a text counted, as Trainer does; those of this batch where it is left out.

        Raises:
            ValueError: several texts without attention_mask, and no pad_token_id to tell where each ends; inputs of
                three dimensions that are not two orders of one pair, or of two where `config.both_orders`.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        both = in_both_orders(self.config, input_ids, inputs_embeds)
        texts = flattened(inputs) if both else inputs
        last, outputs = self._read(texts, kwargs)
        last_BD = last.unflatten(0, (-1, 2)).sum(1) if both else last
        logits_BC, losses = self.score(dropout(last_BD, self.config.classifier_dropout, self.training)), {}
        if labels is not None:
            task_loss = text_loss(self.config, logits_BC, labels, num_items_in_batch)
            losses = self._both_losses(task_loss, outputs.last_hidden_state, texts, labels, num_items_in_batch)
        else:
            self._tell_of_no_labels()
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return VaswaniGPTClassifierOutput(**losses, logits=logits_BC, **states)  # type: ignore[arg-type]


class VaswaniGPTForMultipleChoice(ClassifierModel):
    """GPT that chooses between texts: a softmax over the values of each one's last token; section 3.3.

    Departure from OpenAI's code: dropout before the classifier is drawn for each choice, there once for all.

    Args:
        config: the model's configuration; `lm_loss_weight`.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config, VaswaniGPTModel)
        self.classifier = nn.Linear(config.hidden_size, 1)
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
    ) -> VaswaniGPTClassifierOutput:
        """[B, choices] logits and the loss of `labels` [B], -100 for none; inputs are [B, choices, T], not packed."""
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or given.dim() != (4 if input_ids is None else 3):
            got = None if given is None else tuple(given.shape)
            raise ValueError(f"{type(self).__name__} takes ids [B, choices, T] or their embeddings; got shape {got}")
        texts = flattened((input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds))
        last, outputs = self._read(texts, kwargs)
        logits = self.classifier(dropout(last, self.config.classifier_dropout, self.training))
        logits_BC, losses = logits.view(given.shape[:2]), {}
        if labels is not None:
            task_loss = class_loss(logits_BC, labels, num_items_in_batch, limit="choices")
            losses = self._both_losses(task_loss, outputs.last_hidden_state, texts, labels, num_items_in_batch)
        else:
            self._tell_of_no_labels()
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return VaswaniGPTClassifierOutput(**losses, logits=logits_BC, **states)  # type: ignore[arg-type]


class VaswaniGPTForTokenClassification(VaswaniGPTPreTrainedModel):
    """GPT that puts each token into a class, from the tokens up to it.

    Args:
        config: the model's configuration; `num_labels` C.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config)
        self.transformer = VaswaniGPTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """[B, T, C] logits and the loss of `labels` [B, T], -100 for none; what stands at padding is not counted."""
        outputs = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds=inputs_embeds,
            **{"use_cache": False, **kwargs},
        )
        x_BTD = dropout(outputs.last_hidden_state, self.config.classifier_dropout, self.training)
        logits_BTC, loss = self.classifier(x_BTD), None
        if labels is not None:
            loss = class_loss(logits_BTC, real_labels(labels, attention_mask), num_items_in_batch)
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return TokenClassifierOutput(loss=loss, logits=logits_BTC, **states)


class VaswaniGPTForQuestionAnswering(VaswaniGPTPreTrainedModel):
    """GPT that finds the span of a text that answers a question.

    Departure from transformers: padding can neither start nor end a span, its logits are -10,000.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniGPTConfig) -> None:
        super().__init__(config)
        self.transformer = VaswaniGPTModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """[B, T] logits of start and end and the loss of a span; the arguments of `VaswaniGPTModel.forward`, and:

        Args:
            start_positions: [B] first token of the answer, -100 where the text does not hold it.
            end_positions: [B] last token of the answer, likewise.
            num_items_in_batch: what the summed loss is divided by, the answers of the whole accumulated batch; those of
                this batch where it is left out. Trainer gives none, having no `labels` to count, and takes the mean
                over the accumulated batches.
        """
        outputs = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds=inputs_embeds,
            **{"use_cache": False, **kwargs},
        )
        logits_BT2, loss = self.qa_outputs(outputs.last_hidden_state), None
        if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
            padding_BT1 = attention_mask.to(logits_BT2.device).unsqueeze(-1) == 0
            logits_BT2 = logits_BT2.masked_fill(padding_BT1, PADDING_LOGIT)
        start_BT, end_BT = logits_BT2[..., 0].contiguous(), logits_BT2[..., 1].contiguous()
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_BT, end_BT, start_positions, end_positions, num_items_in_batch)
        states = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_BT, end_logits=end_BT, **states)
