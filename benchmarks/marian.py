"""The peer: transformers' MarianMTModel with the sizes and token ids of one of our models."""

from typing import Any

from transformers import MarianConfig, MarianMTModel


def marian_like(config: Any) -> MarianMTModel:
    """A MarianMTModel of the size of a VaswaniTransformerConfig, freshly initialised, embeddings scaled and tied."""
    return MarianMTModel(
        MarianConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            encoder_layers=config.num_encoder_layers,
            decoder_layers=config.num_decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            dropout=config.dropout,
            activation_function=config.activation,
            scale_embedding=True,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
            decoder_start_token_id=config.pad_token_id,
            forced_eos_token_id=None,
        )
    )
