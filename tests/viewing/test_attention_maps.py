"""The numbers behind pages and pictures of attention: those of the model, named by its words."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    MambaModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
)

from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertModel,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTModel,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
)
from vaswani_transformer.viewing.attention_maps import MOST_TOKENS, MOST_WEIGHTS, attention_maps, choose, words_of
from vaswani_transformer.viewing.attention_page import attention_page

WORDS = ["<pad>", "</s>", "<unk>", *"abcdefgh"]
TEXT, TARGET = "a b c", "d e"
SMALL: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
STACKS: dict[str, Any] = {
    f"{stack}_{name}": number for stack in ("encoder", "decoder") for name, number in (("layers", 2), ("ffn_dim", 8))
}


def tokenizer(*, end: bool) -> PreTrainedTokenizerFast:
    """A word a letter, with </s> behind a text where the model needs it."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    if end:
        made.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B:1 </s>:1", [("</s>", 1)])  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def transformer() -> Any:
    config = VaswaniTransformerConfig(
        vocab_size=len(WORDS), d_model=16, d_ff=8, num_heads=2, num_encoder_layers=2, num_decoder_layers=2
    )
    return VaswaniTransformerForConditionalGeneration(config)


def marian() -> Any:
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = MarianConfig(
        vocab_size=len(WORDS), d_model=16, **heads, **STACKS, pad_token_id=0, decoder_start_token_id=0
    )
    return MarianMTModel(config)


MODELS = {
    "our transformer": transformer,
    "our bert": lambda: VaswaniBertModel(VaswaniBertConfig(**SMALL, intermediate_size=8)),
    "our gpt": lambda: VaswaniGPTModel(VaswaniGPTConfig(**SMALL, max_position_embeddings=200)),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=200)),
    "marian": marian,
    "llama": lambda: LlamaModel(LlamaConfig(**SMALL, intermediate_size=8, num_key_value_heads=1)),
}


def drawn(name: str) -> Any:
    """A model far from uniform attention."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def maps_of(name: str, **more: Any) -> Any:
    model = drawn(name)
    return model, attention_maps(model, tokenizer(end=model.config.is_encoder_decoder), TEXT, **more)[0]


@pytest.mark.parametrize("name", ["our bert", "our gpt", "gpt2", "llama"])
def test_weights_are_the_models_own_however_it_was_loaded(name):
    model, maps = maps_of(name)
    (found,) = maps.values()
    before = model.config._attn_implementation
    assert before == "sdpa"
    model.set_attn_implementation("eager")
    own = model.eval()(input_ids=torch.tensor([[3, 4, 5]]), output_attentions=True).attentions
    np.testing.assert_allclose(found.weights, torch.cat(own).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["our transformer", "marian"])
def test_an_encoder_decoder_has_three_kinds_that_are_its_own(name):
    model, maps = maps_of(name, target=TARGET)
    model.set_attn_implementation("eager")
    ids, labels = torch.tensor([[3, 4, 5, 1]]), torch.tensor([[6, 7, 1]])
    own = model.eval()(input_ids=ids, labels=labels, output_attentions=True)
    assert list(maps) == ["encoder", "decoder", "cross"]
    for kind in maps:
        expected = own["cross_attentions" if kind == "cross" else f"{kind}_attentions"]
        np.testing.assert_allclose(maps[kind].weights, torch.cat(expected).detach().numpy(), atol=1e-6)
    assert maps["cross"].looking == ("‹start›", "d", "e")
    assert maps["cross"].seen == ("a", "b", "c", "</s>")


@pytest.mark.parametrize("name", ["our transformer", "marian"])
def test_without_a_target_an_encoder_decoder_shows_its_encoder(name):
    _, maps = maps_of(name)
    _, whole = maps_of(name, target=TARGET)
    assert list(maps) == ["encoder"]
    np.testing.assert_allclose(maps["encoder"].weights, whole["encoder"].weights, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("our bert", "encoder"), ("our gpt", "decoder"), ("llama", "decoder")])
def test_whether_a_model_reads_both_ways_is_found_by_asking_it(name, kind):
    assert list(maps_of(name)[1]) == [kind]


def test_a_model_is_afterwards_as_it_was():
    model = drawn("our gpt").train()
    attention_maps(model, tokenizer(end=False), TEXT)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_a_long_text_is_cut_with_a_notice():
    found, notice = attention_maps(drawn("our gpt"), tokenizer(end=False), "a b " * 5000)
    assert found["decoder"].weights.shape[2:] == (MOST_TOKENS, MOST_TOKENS)
    assert notice == f"The first {MOST_TOKENS} of 10000 tokens are shown."


def test_halves_of_characters_from_a_terminal_are_read_as_unknown():
    found, _ = attention_maps(drawn("our gpt"), tokenizer(end=False), "a \udcff b")
    assert found["decoder"].looking == ("a", "<unk>", "b")


def test_a_target_for_a_model_with_one_text_is_refused():
    with pytest.raises(ValueError, match="put the target behind the text"):
        maps_of("our gpt", target=TARGET)


def test_a_text_without_a_token_is_refused():
    with pytest.raises(ValueError, match="a text must have a token; got ''"):
        attention_maps(drawn("our gpt"), tokenizer(end=False), "")


def test_a_model_without_attention_is_refused_with_what_it_gave():
    model = MambaModel(MambaConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match="attention weights of each layer"):
        attention_maps(model, tokenizer(end=False), TEXT)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"kind": "cross"}, "encoder; got kind='cross': an encoder-decoder has decoder and cross where --target"),
        ({"layer": 3}, "the encoder has the layers 1 to 2; got layer=3"),
        ({"head": 7}, "the encoder has the heads 1 to 2; got head=7"),
    ],
)
def test_what_is_not_there_is_told_with_what_there_is(asked, told):
    with pytest.raises(ValueError, match=told):
        choose(maps_of("our transformer")[1], **({"kind": None, "layer": None, "head": None} | asked))


def test_spaces_alone_are_shown_as_signs_and_other_tokens_as_their_text():
    made = VaswaniGPT2Tokenizer.train(["two words", "a  b\n\nc\td"], vocab_size=262)
    ids = made("a \n\té")["input_ids"]
    assert "".join(words_of(made, ids)).startswith("a␣⏎⇥")
    assert words_of(made, made(" ")["input_ids"]) == ("␣",)
    assert "Ġ" not in "".join(words_of(made, ids))


def test_an_id_without_a_token_is_told_by_its_number():
    made = tokenizer(end=False)
    assert words_of(made, [3, len(WORDS)]) == ("a", f"token {len(WORDS)}")


def test_a_text_is_cut_to_what_the_model_has_positions_for():
    model = VaswaniBertModel(VaswaniBertConfig(**SMALL, intermediate_size=8, max_position_embeddings=16))
    found, notice = attention_maps(model, tokenizer(end=False), "a b " * 20)
    assert found["encoder"].weights.shape[2:] == (16, 16)
    assert notice == "The first 16 of 40 tokens are shown."


@pytest.mark.parametrize(("text", "target"), [("", TARGET), (" ", TARGET), (TEXT, "")])
def test_a_text_with_the_tokens_around_it_alone_is_refused(text, target):
    with pytest.raises(ValueError, match="a text must have a token; got '"):
        attention_maps(drawn("our transformer"), tokenizer(end=True), text, target=target)


def test_an_encoder_alone_is_not_told_to_take_a_target_for_its_decoder():
    with pytest.raises(ValueError, match="got kind='cross': an encoder-decoder has decoder and cross where --target"):
        choose(maps_of("our bert")[1], kind="cross", layer=None, head=None)


def test_a_model_that_diverged_is_refused():
    model = drawn("our gpt")
    model.wte.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="got NaN among attentions of VaswaniGPTModel: did its training diverge"):
        attention_maps(model, tokenizer(end=False), TEXT)


def test_texts_with_too_many_weights_for_a_page_are_cut_with_a_notice():
    layers: dict[str, Any] = {"num_encoder_layers": 12, "num_decoder_layers": 12}
    config = VaswaniTransformerConfig(vocab_size=len(WORDS), d_model=48, d_ff=8, num_heads=12, **layers)
    model = VaswaniTransformerForConditionalGeneration(config)
    maps, notice = attention_maps(model, tokenizer(end=True), "a b c d " * 40, target="e f g h " * 40)
    shown = len(maps["cross"].seen)
    assert 70 < shown < MOST_TOKENS
    assert notice.startswith(f"The first {shown} of 161 tokens are shown.")
    assert sum(np.count_nonzero(found.weights) for found in maps.values()) <= MOST_WEIGHTS
    assert len(attention_page(maps, model="deep")) < 6e6
    whole, notice = attention_maps(model, tokenizer(end=True), "a b " * 50, target="e f " * 50, most_weights=None)
    assert (len(whole["cross"].seen), notice) == (101, "")  # as a picture has it


def test_a_text_that_is_cut_for_a_page_has_the_weights_of_what_is_left():
    found, notice = attention_maps(drawn("our bert"), tokenizer(end=False), "a b c d", most_weights=50)
    assert notice == "The first 3 of 4 tokens are shown."
    np.testing.assert_array_equal(found["encoder"].weights, maps_of("our bert")[1]["encoder"].weights)
