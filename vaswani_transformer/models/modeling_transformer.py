"""The original Transformer of Vaswani et al. (2017), "Attention Is All You Need", as a translation model."""

# B batch   T target length   S source length   D hidden size   G beams of a sentence   V vocabulary

import math
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import bidirectional_mask, causal_mask
from .blocks_transformer import DecoderLayer, EncoderLayer, MultiHeadAttention, PreNormDecoderLayer, PreNormEncoderLayer
from .caches import CACHE, named_cache, one_cache
from .configuration_transformer import VaswaniTransformerConfig
from .generation_transformer import PaperGenerationMixin, paper_generation_config
from .layers import (
    OutputHead,
    as_output_head,
    check_token_ids,
    cross_entropy,
    dropout,
    on_eager_cpu,
    position_ids_from_mask,
    sinusoids,
)
from .losses import divided


@dataclass
class VaswaniTransformerOutput(Seq2SeqLMOutput):
    """What the translation model returns.

    Args:
        loss: label-smoothed cross-entropy in nats, over target tokens; a scalar.
        logits: [B, T, V]; None while training with labels, unless `return_logits=True`.
        nll_loss: the same without smoothing, no gradient; exp(nll_loss) is the perplexity of Table 3.
    """

    nll_loss: Tensor | None = None


class VaswaniTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the abilities that transformers asks a model for."""

    config: VaswaniTransformerConfig
    config_class = VaswaniTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "PreNormEncoderLayer", "DecoderLayer", "PreNormDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Glorot uniform for projections and N(0, 1/d_model) for embeddings, as the paper's code; norms 1, biases 0."""
        if isinstance(module, (nn.Embedding, OutputHead)):
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        else:
            super()._init_weights(module)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As transformers', and the target embedding with it where source and target are not tied."""
        decoder = getattr(self.base_model, "decoder", None)
        if decoder is not None and self.config.tie_embeddings != "all":
            decoder.resize_token_embeddings(*args, **kwargs)
        return super().resize_token_embeddings(*args, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Two short sentence pairs, one padded."""
        eos, pad = self.config.eos_token_id, self.config.pad_token_id
        ids = torch.tensor([[3, 4, 5, eos], [4, 3, eos, pad]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids, "attention_mask": ids.ne(pad), "decoder_input_ids": ids}


class TransformerStack(VaswaniTransformerPreTrainedModel):
    """What encoder and decoder share: embedding plus position, and a norm after the last layer where one is asked for.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.position_embedding == "learned":
            rows = config.max_position_embeddings + config.position_offset
            self.embed_positions = nn.Embedding(rows, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps) if config.final_norm else None
        self.gradient_checkpointing = False

    def post_init(self) -> None:
        """As transformers', but the config's tensor-parallel plan is the whole model's, not a stack's."""
        super().post_init()
        self._tp_plan = {"embed_tokens": "embedding_rowwise"}

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Embeddings before scaling and positions, from either argument.

        Raises:
            ValueError: both or neither given, no position at all, or (in eager mode on the CPU) an id outside the
                vocabulary.
        """
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError(f"{type(self).__name__} takes either token ids or embeddings, one of the two")
        if given.shape[1] == 0:
            raise ValueError(f"{type(self).__name__} needs at least one position a row; got shape {tuple(given.shape)}")
        if inputs_embeds is not None:
            return inputs_embeds
        check_token_ids(given, self.config.vocab_size)
        return self.embed_tokens(given)

    def add_positions(self, embeds_BTD: Tensor, position_ids: Tensor, length: int | None = None) -> Tensor:
        """Embedding * sqrt(d_model) + position, section 3.4 and 3.5, with dropout, section 5.4.

        Args:
            embeds_BTD: embeddings, not yet scaled.
            position_ids: [B, T] or [1, T], counted from 0.
            length: where all positions are below it; the encodings are then computed once, not once a row.
        """
        config = self.config
        x_BTD = embeds_BTD * math.sqrt(config.d_model) if config.scale_embedding else embeds_BTD
        if length is None:
            positions = self.positions(position_ids)
        else:
            positions = self.positions(torch.arange(length, device=position_ids.device))[position_ids]
        return dropout(x_BTD + positions.to(x_BTD.dtype), config.dropout, self.training)

    def positions(self, position_ids: Tensor) -> Tensor:
        """Encodings of positions counted from 0: computed, or (row E of Table 3) learned."""
        config = self.config
        position_ids = position_ids + config.position_offset
        if config.position_embedding == "sinusoidal":
            layout, frequency = config.position_layout, config.position_frequency
            return sinusoids(position_ids, config.d_model, layout=layout, frequency=frequency)
        rows = self.embed_positions.num_embeddings
        if on_eager_cpu(position_ids) and int(position_ids.max()) >= rows:
            raise ValueError(
                f"learned positions end at max_position_embeddings={config.max_position_embeddings}; "
                f"got a sequence that reaches {int(position_ids.max()) - config.position_offset + 1}"
            )
        return self.embed_positions(position_ids)


class VaswaniTransformerEncoder(TransformerStack):
    """The encoder: token ids of a source sentence to one vector a token.

    Args:
        config: the model's configuration.
    """

    _can_record_outputs = {"hidden_states": EncoderLayer, "attentions": MultiHeadAttention}

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__(config)
        layer = EncoderLayer if config.norm_order == "post" else PreNormEncoderLayer
        self.layers = nn.ModuleList(layer(config, index) for index in range(config.num_encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encodes source sentences.

        Args:
            input_ids: [B, S] token ids, padded on either side.
            attention_mask: [B, S], 1 at tokens and 0 at padding; positions count tokens only. Taken from the pad id
                where it is left out.
            inputs_embeds: [B, S, D] embeddings instead of ids, not yet scaled.

        Returns:
            `last_hidden_state` [B, S, D]; `hidden_states` and `attentions` where asked for.
        """
        embeds_BSD = self.embed(input_ids, inputs_embeds)
        if attention_mask is None and input_ids is not None:
            attention_mask = input_ids.ne(self.config.pad_token_id)
        if attention_mask is None:
            position_ids = torch.arange(embeds_BSD.shape[1], device=embeds_BSD.device).unsqueeze(0)
        else:
            position_ids = position_ids_from_mask(attention_mask)
        x_BSD = self.add_positions(embeds_BSD, position_ids, length=embeds_BSD.shape[1])
        mask = bidirectional_mask(self.config, x_BSD, attention_mask)
        for layer in self.layers:
            x_BSD = layer(x_BSD, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=x_BSD if self.layer_norm is None else self.layer_norm(x_BSD))


class VaswaniTransformerDecoder(TransformerStack):
    """The decoder: target tokens so far and the encoded source to one vector a target token.

    Args:
        config: the model's configuration.
    """

    _can_record_outputs = {
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="encoder_attn"),
    }

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__(config)
        layer = DecoderLayer if config.norm_order == "post" else PreNormDecoderLayer
        self.layers = nn.ModuleList(layer(config, index) for index in range(config.num_decoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decodes target prefixes.

        Args:
            input_ids: [B, T] target ids, shifted right.
            attention_mask: [B, past + T], 1 at tokens, 0 at padding; all tokens where it is left out.
            encoder_hidden_states: [B, S, D]; or [B / G, S, D], each row then serving G successive rows (beams).
            encoder_attention_mask: [B or B / G, S], 1 at tokens, 0 at padding.
            past_key_values: `cache` by its name before transformers 5.24.
            inputs_embeds: [B, T, D] embeddings instead of ids, not yet scaled.
            use_cache: make a cache where none is given.
            cache: keys and values of earlier positions, updated in place.

        Returns:
            `last_hidden_state` [B, T, D], the cache; attentions and hidden states where asked for.
        """
        embeds_BTD = self.embed(input_ids, inputs_embeds)
        if input_ids is not None and self.config.decoder_start == "zero":
            # A tied output matrix trains the pad row, so "zero" must be made, not hoped for.
            embeds_BTD = embeds_BTD * input_ids.ne(self.config.pad_token_id).unsqueeze(-1)
        cache = one_cache(cache, past_key_values)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        past = 0 if cache is None else cache.get_seq_length()
        if attention_mask is None or attention_mask.dim() != 2:
            position_ids = (torch.arange(embeds_BTD.shape[1], device=embeds_BTD.device) + past).unsqueeze(0)
        else:
            position_ids = position_ids_from_mask(attention_mask)[:, -embeds_BTD.shape[1] :]
        x_BTD = self.add_positions(embeds_BTD, position_ids)
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        mask = causal_mask(self.config, x_BTD, attention_mask, own)
        memory_mask = bidirectional_mask(self.config, x_BTD, encoder_attention_mask, encoder_hidden_states)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask, encoder_hidden_states, memory_mask, cache=cache, **kwargs)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x_BTD if self.layer_norm is None else self.layer_norm(x_BTD),
            **named_cache(cache),
        )


class VaswaniTransformerModel(VaswaniTransformerPreTrainedModel):
    """Encoder and decoder without the output head, figure 1.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__(config)
        self._tied_weights_keys = {}
        if config.tie_embeddings == "all":
            self.shared = nn.Embedding(config.vocab_size, config.d_model)
            self._tied_weights_keys = {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
            }
        self.encoder = VaswaniTransformerEncoder(config)
        self.decoder = VaswaniTransformerDecoder(config)
        self.post_init()
        shared = {"shared": "embedding_rowwise"} if config.tie_embeddings == "all" else {}
        self._tp_plan = {**self.tp_plan, **shared}
        self._tp_plan.pop("embed_tokens", None)  # transformers 5.17 adds it to every plan with tied embeddings

    def get_input_embeddings(self) -> nn.Module:
        """The source embedding, which is also the target's with `tie_embeddings="all"`."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the source embedding, and the target's where they are one."""
        self.encoder.embed_tokens = value
        if self.config.tie_embeddings == "all":
            self.shared = self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """Encodes the source (unless `encoder_outputs` is given) and decodes the target.

        Args:
            input_ids: [B, S] source ids.
            attention_mask: [B, S], 1 at source tokens, 0 at padding; taken from the pad id where it is left out.
            decoder_input_ids: [B, T] target ids, shifted right.
            decoder_attention_mask: [B, T], 1 at target tokens, 0 at padding.
            encoder_outputs: what the encoder returned earlier.
            past_key_values: `cache` by its name before transformers 5.24.
            inputs_embeds: [B, S, D] instead of `input_ids`, not yet scaled.
            decoder_inputs_embeds: [B, T, D] instead of `decoder_input_ids`, not yet scaled.
            use_cache: return a cache.
            cache: of earlier target positions.

        Returns:
            `last_hidden_state` [B, T, D] of the decoder, the encoder's states, and the cache.

        Raises:
            ValueError: an empty source, ids outside the vocabulary (eager, CPU), neither ids nor embeddings.
        """
        if attention_mask is None and input_ids is not None:
            attention_mask = input_ids.ne(self.config.pad_token_id)
        encoded: Any = encoder_outputs
        if encoded is None:
            encoded = self.encoder(input_ids, attention_mask, inputs_embeds, **kwargs)
        elif not isinstance(encoded, BaseModelOutput):
            encoded = BaseModelOutput(*encoded)
        outputs = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **named_cache(getattr(outputs, CACHE)),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class VaswaniTransformerForConditionalGeneration(VaswaniTransformerPreTrainedModel, PaperGenerationMixin):
    """The translation model: encoder, decoder and output head.

    Args:
        config: the model's configuration.
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniTransformerConfig) -> None:
        super().__init__(config)
        self.model = VaswaniTransformerModel(config)
        self.lm_head = OutputHead(config.d_model, config.vocab_size, bias=config.lm_head_bias)
        source = {"all": "model.shared.weight", "decoder": "model.decoder.embed_tokens.weight"}
        if config.tie_embeddings != "none":
            self._tied_weights_keys = {"lm_head.weight": source[config.tie_embeddings]}
        if config.tie_embeddings == "all":
            for stack in ("encoder", "decoder"):
                self._tied_weights_keys[f"model.{stack}.embed_tokens.weight"] = "model.shared.weight"
        self.post_init()
        self.generation_config = paper_generation_config(config)

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Takes the weights of any Linear."""
        self.lm_head = as_output_head(new_embeddings)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Targets [B, T] shifted right behind the start token; -100 becomes padding."""
        shifted = labels.new_full(labels.shape, self.config.decoder_start_token_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        return_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> VaswaniTransformerOutput:
        """Loss of a target, or logits of a target prefix; the arguments of `VaswaniTransformerModel.forward`, and:

        Args:
            labels: [B, T] target ids ending in the end-of-sentence id, -100 at padding. The decoder's input is made
                from them where it is left out.
            num_items_in_batch: what the summed loss is divided by, the target tokens of the whole accumulated batch;
                the labels of this batch where it is left out.
            return_logits: whether to return [B, T, V] logits beside a loss; by default in `eval()` only.
            logits_to_keep: how many last positions need logits (0 for all), or which; used without labels.

        Returns:
            `loss` (label-smoothed), `nll_loss`, `logits`, the cache and the states, see `VaswaniTransformerOutput`.
        """
        if labels is not None:
            check_token_ids(labels, self.config.vocab_size, name="labels", ignored=-100)
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        x_BTD = outputs.last_hidden_state
        loss = nll = logits_BTV = None
        wanted = labels is None or (not self.training if return_logits is None else return_logits)
        if wanted or self.tp_size is not None:  # a head split over processes has logits only
            logits_to_keep = logits_to_keep if labels is None else 0
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits_BTV = self.lm_head(x_BTD[:, kept])
        if labels is not None:
            loss, nll = self._losses(x_BTD, logits_BTV, labels, num_items_in_batch)
        return VaswaniTransformerOutput(
            loss=loss,
            logits=logits_BTV if wanted else None,
            nll_loss=nll,
            **{name: value for name, value in outputs.items() if name != "last_hidden_state"},
        )

    def _losses(
        self, x_BTD: Tensor, logits_BTV: Tensor | None, labels: Tensor, num_items: int | Tensor | None
    ) -> tuple[Tensor, Tensor]:
        labels, smoothing = labels.to(x_BTD.device), self.config.label_smoothing
        if logits_BTV is None:
            loss, nll = self.lm_head(x_BTD, labels, smoothing)
        else:
            loss, nll = cross_entropy(logits_BTV, labels, label_smoothing=smoothing)
        labelled = labels.ne(-100)
        return divided(loss, labelled, num_items), divided(nll, labelled, num_items)
