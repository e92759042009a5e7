"""Bad input of the Transformer: fields, ids, and what its tokenizer is trained with."""

import pytest
import torch

from vaswani_transformer import VaswaniTransformerConfig, VaswaniTransformerTokenizer

from .scene import Cases, Scene, assert_told, ids

CASES: Cases[Scene] = {
    # The configuration.
    "d_model no multiple of num_heads": (
        lambda s: s.config(num_heads=3),
        "multiple of num_heads.*d_model=16.*num_heads=3",
    ),
    "a negative size": (lambda s: s.config(d_ff=-4), "d_ff must be a positive integer.*d_ff=-4"),
    "a size of zero": (lambda s: s.config(num_encoder_layers=0), "num_encoder_layers must be a positive.*=0"),
    "a size that is no integer": (lambda s: s.config(num_heads=2.0), r"num_heads must be a positive integer.*2\.0"),
    "an empty vocabulary": (lambda s: s.config(vocab_size=0), "vocab_size must be a positive integer.*vocab_size=0"),
    "odd d_model with sinusoids": (lambda s: s.config(d_model=15, d_k=4), "even for sinusoidal.*d_model=15"),
    "dropout of one": (lambda s: s.config(dropout=1.0), r"dropout must be a number in \[0, 1\).*dropout=1\.0"),
    "negative dropout": (lambda s: s.config(attention_dropout=-0.1), r"attention_dropout must.*\[0, 1\).*-0\.1"),
    "label smoothing of one": (lambda s: s.config(label_smoothing=1.0), r"label_smoothing.*\[0, 1\).*1\.0"),
    "an unknown activation": (lambda s: s.config(activation="rely"), "activation must be.*'rely'.*mean 'relu'"),
    "an unknown norm order": (lambda s: s.config(norm_order="pots"), "norm_order must be one of post, pre.*'pots'"),
    "an unknown position embedding": (
        lambda s: s.config(position_embedding="rope"),
        "one of sinusoidal, learned.*'rope'",
    ),
    "an unknown way of tying": (lambda s: s.config(tie_embeddings="both"), "one of all, decoder, none.*'both'"),
    "a switch that is no switch": (lambda s: s.config(final_norm="no"), "final_norm must be true or false.*'no'"),
    "a misspelt field": (lambda s: s.config(num_head=4), "unknown field.*'num_head'; did you mean 'num_heads'"),
    "a pad id outside the vocabulary": (lambda s: s.config(pad_token_id=300), r"in \[0, vocab_size=300\).*=300"),
    "a negative epsilon": (lambda s: s.config(layer_norm_eps=-1.0), r"layer_norm_eps must be above 0.*-1\.0"),
    "an unknown preset": (lambda s: VaswaniTransformerConfig.preset("bigg"), "preset must be one of base, big.*'bigg'"),
    # The model.
    "a source id outside the vocabulary": (
        lambda s: s.model()(input_ids=ids([[5, 300]]), labels=ids([[1]])),
        r"token ids must be in \[0, vocab_size=300\); got 300 at \(0, 1\)",
    ),
    "a negative source id": (lambda s: s.model()(input_ids=ids([[-1]]), labels=ids([[1]])), "got -1 at"),
    "a label outside the vocabulary": (
        lambda s: s.model()(input_ids=ids([[5, 1]]), labels=ids([[4, 999, -100]])),
        r"must be in \[0, vocab_size=300\); got 999",
    ),
    "an empty source": (
        lambda s: s.model()(input_ids=torch.zeros((2, 0), dtype=torch.long), labels=ids([[1], [1]])),
        r"at least one position.*\(2, 0\)",
    ),
    "neither ids nor embeddings": (lambda s: s.model()(labels=ids([[1]])), "either token ids or embeddings"),
    "learned positions overrun": (
        lambda s: s.model(position_embedding="learned", max_position_embeddings=2)(ids([[5, 6, 1]]), labels=ids([[1]])),
        "max_position_embeddings=2.*reaches 3",
    ),
    # Its tokenizer.
    "an unknown kind of tokenizer": (
        lambda s: VaswaniTransformerTokenizer.train(["a"], vocab_size=300, kind="unigram"),
        "kind.*bpe.*wordpiece.*unigram",
    ),
    "a vocabulary smaller than the bytes": (
        lambda s: VaswaniTransformerTokenizer.train(["a"], vocab_size=100),
        "vocab_size.*259.*100",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Scene(tmp_path, tokenizer))
