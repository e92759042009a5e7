"""Bad input of GPT: fields, ids, caches, packed documents and labels."""

from typing import Any, cast

import pytest
import torch
from transformers import GPT2Config

import vaswani_transformer
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig
from vaswani_transformer.models.caches import CACHE

from .scene import GPT_SIZES, Cases, Scene, assert_told, ids


def gpt2_config() -> Any:
    return GPT2Config(**cast(Any, GPT_SIZES))


def weighted_later(model: Any) -> Any:
    model.config.lm_loss_weight = 0.5
    return model


CASES: Cases[Scene] = {
    "a head count that does not divide GPT's width": (
        lambda s: s.gpt(n_head=3),
        "multiple of num_attention_heads.*hidden_size=16.*num_attention_heads=3",
    ),
    "a GPT of no layers": (lambda s: s.gpt(n_layer=0), "num_hidden_layers must be a positive integer.*=0"),
    "GPT's dropout of one": (lambda s: s.gpt(resid_pdrop=1.0), r"hidden_dropout must be a number in \[0, 1\).*=1\.0"),
    "GPT's unknown activation": (lambda s: s.gpt(afn="gelo"), "hidden_act must be.*'gelo'.*did you"),
    "GPT's misspelt field": (lambda s: s.gpt(n_embed=16), "unknown field.*'n_embed'; did you mean 'n_embd'"),
    "a field of GPT by two names": (
        lambda s: s.gpt(hidden_size=24),
        "hidden_size must be given once; got 24, and 16 by another name",
    ),
    "an unknown order of norms": (
        lambda s: s.gpt(norm_order="middle"),
        "norm_order must be one of post, pre.*'middle'",
    ),
    "an unknown GPT preset": (lambda s: VaswaniGPTConfig.preset("gpt3-13"), "one of gpt, gpt2.*'gpt3-13'.*'gpt3-13b'"),
    "bands without a width": (
        lambda s: s.gpt(layer_types=["sliding_attention"]),
        "sliding_window must say how wide.*got None",
    ),
    "more kinds of layers than layers": (
        lambda s: s.gpt(layer_types=["full_attention"] * 2),
        "a type for each layer; got 2 types, num_hidden_layers=1",
    ),
    "an unknown kind of layer": (lambda s: s.gpt(layer_types=["banded"]), "must be of full_attention.*got 'banded'"),
    "GPT's end of text outside the vocabulary": (lambda s: s.gpt(eos_token_id=30), r"in \[0, vocab_size=30\).*=30"),
    "a GPT of another model": (lambda s: s.gpt(model_type="bert"), "must be vaswani-gpt, gpt2 or openai-gpt.*'bert'"),
    "a switch of GPT-2 that is not ours": (
        lambda s: s.gpt(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx must be False.*got True",
    ),
    "a GPT saved under OpenAI's names without its configuration": (
        lambda s: s.gpt("ForCausalLM").save_pretrained(s.folder / "any", save_original_format=True),
        "save_original_format must be False.*got True.*vaswani export",
    ),
    "a context that overflows GPT's position table": (
        lambda s: s.gpt()(torch.ones(1, 7, dtype=torch.long)),
        "must fit max_position_embeddings=6; got a text that reaches 7 tokens",
    ),
    "a generation that overflows GPT's position table": (
        lambda s: s.gpt("ForCausalLM").generate(ids([[5, 6, 7]]), max_new_tokens=9, do_sample=False, pad_token_id=0),
        "must fit max_position_embeddings=6; got a text that reaches 7 tokens",
    ),
    "a prompt of no tokens": (
        lambda s: s.gpt("ForCausalLM")(torch.zeros(1, 0).long()),
        r"at least one token.*\(1, 0\).*bos_token_id",
    ),
    "a word outside GPT's vocabulary": (lambda s: s.gpt()(ids([[5, 30]])), r"in \[0, vocab_size=30\); got 30 at"),
    "a label outside GPT's vocabulary": (
        lambda s: s.gpt("ForCausalLM")(ids([[5, 6]]), labels=ids([[5, 31]])),
        r"labels must be in \[0, vocab_size=30\); got 31",
    ),
    "labels of GPT of another length": (
        lambda s: s.gpt("ForCausalLM")(ids([[5, 6]]), labels=ids([[5]])),
        r"labels must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "a cache of another model": (
        lambda s: s.gpt()(ids([[5]]), cache=getattr(s.gpt(n_head=4)(ids([[5, 6]]), use_cache=True), CACHE)),
        r"of this model and this batch.*2 heads of 8; got .*\(1, 4, 2, 4\)",
    ),
    "a cache that is none": (
        lambda s: s.gpt()(ids([[5]]), cache=((1, 2),)),
        "must be a Cache of a decoder.*got tuple",
    ),
    "a cache of another batch": (
        lambda s: s.gpt()(ids([[5], [6]]), cache=getattr(s.gpt()(ids([[5]]), use_cache=True), CACHE)),
        "this batch.*rows=2",
    ),
    "a mask that leaves out the cache": (
        lambda s: s.gpt()(
            ids([[5]]),
            attention_mask=ids([[1]]),
            cache=getattr(s.gpt()(ids([[5]]), use_cache=True), CACHE),
        ),
        r"cover the 2 tokens in the cache and the batch; got shape \(1, 1\)",
    ),
    "texts to classify whose ends nothing tells": (
        lambda s: s.gpt("ForSequenceClassification")(ids([[5, 6], [7, 8]])),
        "where each text ends; got a batch of 2.*pass attention_mask, or set config.pad_token_id",
    ),
    "one choice where GPT needs several": (
        lambda s: s.gpt("ForMultipleChoice")(ids([[5, 6]])),
        r"ids \[B, choices, T\] or their embeddings; got shape \(1, 2\)",
    ),
    "a choice that is not there for GPT": (
        lambda s: s.gpt("ForMultipleChoice", pad_token_id=0)(ids([[[5], [6]]]), labels=ids([2])),
        r"labels must be in \[0, choices=2\) or -100 for none; got 2",
    ),
    # With the language model's loss, packed, and built of another configuration.
    "a negative weight of the language model's loss": (
        lambda s: s.gpt(lm_loss_weight=-0.5),
        r"lm_loss_weight must be a number of 0 .*or more; got -0\.5",
    ),
    "both orders that are neither true nor false": (
        lambda s: s.gpt(both_orders="yes"),
        "both_orders must be true or false; got both_orders='yes'",
    ),
    "a weight of the language model's loss that is no number": (
        lambda s: s.gpt(lm_loss_weight="half"),
        "lm_loss_weight must be a number of 0 .*got 'half'",
    ),
    "a configuration of transformers' GPT-2": (
        lambda s: vaswani_transformer.VaswaniGPTForCausalLM(gpt2_config()),
        r"VaswaniGPTForCausalLM takes a VaswaniGPTConfig; got GPT2Config: .*from_dict\(config.to_dict\(\)\)",
    ),
    "a configuration of transformers' GPT-2 beside a folder": (
        lambda s: vaswani_transformer.VaswaniGPTForCausalLM.from_pretrained(
            s.folder_of(s.gpt("ForCausalLM")), config=gpt2_config()
        ),
        "VaswaniGPTForCausalLM takes a VaswaniGPTConfig; got GPT2Config",
    ),
    "a weight of the language model's loss on a model without an output matrix": (
        lambda s: weighted_later(s.gpt("ForSequenceClassification", num_labels=3))(ids([[5, 6]]), labels=ids([1])),
        r"lm_loss_weight must be set before the model is built.*got lm_loss_weight=0\.5 in a model built with 0",
    ),
    "packed documents that end before the batch does": (
        lambda s: s.gpt()(ids([[5, 6, 7], [5, 6, 7]]), cu_seq_lens_q=torch.tensor([0, 3])),
        r"cu_seq_lens_q must rise from 0 to the batch's 6 tokens; got \[0, 3\]",
    ),
    "packed documents that end after the batch does": (
        lambda s: s.gpt()(ids([[5, 6, 7, 8, 9, 3]]), cu_seq_lens_q=torch.tensor([0, 3, 9])),
        r"cu_seq_lens_q must rise .*6 tokens; got \[0, 3, 9\]",
    ),
    "a language model's loss of embeddings": (
        lambda s: s.gpt("ForSequenceClassification", lm_loss_weight=0.5)(
            inputs_embeds=torch.zeros(1, 2, 16), labels=ids([1])
        ),
        r"lm_loss_weight=0\.5 needs input_ids.*got inputs_embeds",
    ),
    "three orders of a pair": (
        lambda s: s.gpt("ForSequenceClassification")(torch.ones(1, 3, 2).long()),
        r"\[B, T\], or \[B, 2, T\] for pairs in both orders; got shape \(1, 3, 2\)",
    ),
    "a class that is not there for GPT": (
        lambda s: s.gpt("ForSequenceClassification", num_labels=3, lm_loss_weight=0.5)(ids([[5, 6]]), labels=ids([3])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got 3",
    ),
    # Its tokenizer.
    "a byte-level vocabulary smaller than the bytes": (
        lambda s: VaswaniGPT2Tokenizer.train(["a"], vocab_size=256),
        "vocab_size must be a whole number of at least 257; got vocab_size=256",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Scene(tmp_path, tokenizer))
