"""Bad input of writing and translating: prompts, ways of search, devices."""

from typing import Any

import pytest

from vaswani_transformer import VaswaniGPT2Tokenizer
from vaswani_transformer.convert.to_transformers import plain_model
from vaswani_transformer.evaluation import translate
from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.completion import new_tokens_of, prompt_ids, search_options
from vaswani_transformer.evaluation.devices import device_named

from .scene import Cases, Scene, assert_told


class Writing(Scene):
    """A model with nothing to start from."""

    def without_start(self) -> tuple[Any, VaswaniGPT2Tokenizer]:
        model, tokenizer = self.causal()
        tokenizer.bos_token = tokenizer.eos_token = None
        return model, tokenizer


CASES: Cases[Writing] = {
    "an empty prompt, and nothing to start from": (
        lambda s: prompt_ids(*s.without_start(), "", new_tokens=1),
        "prompt must have at least one token; got ''.*neither model nor tokenizer has a bos or eos.*give it a word",
    ),
    "a prompt and new tokens beyond the context": (
        lambda s: prompt_ids(*s.causal(), "a b.", new_tokens=3),
        "must fit the model's context of 6; got a prompt of 4 and max_new_tokens=3: shorten",
    ),
    "no new tokens": (lambda s: new_tokens_of(s.causal()[0], -1), "max_new_tokens must be at least 1; got .*=-1"),
    "a temperature of zero": (
        lambda s: search_options(s.causal()[0], temperature=0.0),
        r"temperature must be from 1e-06 to 1000000\.0; got temperature=0\.0: a greedy search",
    ),
    "a temperature that no logit survives": (
        lambda s: search_options(s.causal()[0], temperature=1e-45),
        r"temperature must be from 1e-06 .*got temperature=1e-45",
    ),
    "an endless temperature": (
        lambda s: search_options(s.causal()[0], temperature=float("inf")),
        r"temperature must be .*to 1000000\.0; got temperature=inf",
    ),
    "a seed that torch does not take": (
        lambda s: s.verb("generate", "x", "a", "--seed", str(2**70)),
        f"--seed must be from .*got --seed {2**70}",
    ),
    "an unknown device": (
        lambda s: load_causal_lm(s.folder_of(s.gpt("ForCausalLM")), device="foo"),
        "device must be one that is here.*got device='foo': .*leave it out",
    ),
    "a device without memory": (lambda s: device_named("meta"), "device must be one that is here.*got device='meta'"),
    "a GPU that is not here": (lambda s: device_named("cuda:99"), "device must be one .*got device='cuda:99'"),
    "an unknown device to translate on": (
        lambda s: s.verb("translate", s.saved(), s.write("text", "a\n"), "--device", "foo"),
        "device must be one that is here.*got device='foo'",
    ),
    "a top_p of zero": (lambda s: search_options(s.causal()[0], top_p=0.0), r"top_p must be above 0.*got top_p=0\.0"),
    "a negative top_k": (lambda s: search_options(s.causal()[0], top_k=-1), "top_k must be 0 .*got top_k=-1"),
    "a temperature for a beam search": (
        lambda s: search_options(s.causal()[0], beams=2, temperature=1.0),
        r"greedy and beams draw no tokens.*got temperature=1\.0",
    ),
    "beams and a greedy search": (
        lambda s: search_options(s.causal()[0], beams=2, greedy=True),
        "beams must.*not go with greedy; got beams=2, greedy=True",
    ),
    "prompts and a file of prompts": (lambda s: s.verb("generate", "x", "a", "--file", "y"), "got both, 'a' first"),
    "an encoder to write with": (
        lambda s: load_causal_lm(s.folder_of(s.bert("ForMaskedLM"))),
        "must be a causal language model.*got model_type 'vaswani-bert' in",
    ),
    "an encoder of transformers to write with": (
        lambda s: load_causal_lm(s.folder_of(plain_model(s.bert("ForMaskedLM")))),
        "must be a causal language model.*got model_type 'bert' in",
    ),
    # Translating.
    "a tokenizer larger than the model it translates with": (
        lambda s: translate(s.model(vocab_size=10), s.tokenizer, ["a"]),
        r"not have more tokens than the model; got \d+ tokens, vocab_size=10",
    ),
    "a batch of no tokens to translate": (
        lambda s: translate(s.model(), s.tokenizer, ["a"], batch_tokens=0),
        "batch_tokens must be at least 1; got batch_tokens=0",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Writing(tmp_path, tokenizer))
