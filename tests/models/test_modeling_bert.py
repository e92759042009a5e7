import copy
import logging
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

import vaswani_transformer
from vaswani_transformer import VaswaniBertConfig, VaswaniBertForMaskedLM, VaswaniBertModel
from vaswani_transformer.models import FAMILIES

HEADS = ["Model", "ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", "ForSequenceClassification"]
HEADS += ["ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def ours(head: str) -> Any:
    return getattr(vaswani_transformer, f"VaswaniBert{head}")


def theirs(head: str) -> Any:
    return getattr(transformers, f"Bert{head}")


def peer_of(model: Any, head: str) -> Any:
    """transformers' model of the same weights; every name must fit."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    peer = theirs(head)(transformers.BertConfig(**fields)).eval()
    peer.set_attn_implementation(model.config._attn_implementation)
    peer.load_state_dict(model.state_dict())
    return peer.train(model.training)


def inputs_of(head: str, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The texts, for multiple choice two questions of two choices."""
    return {name: x.view(2, 2, -1) if head == "ForMultipleChoice" else x for name, x in texts.items()}


def labels_of(head: str, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    ids, mask = texts["input_ids"], texts["attention_mask"].bool()
    chosen = mask & (torch.rand(ids.shape) < 0.5)
    words = torch.randint(0, 37, ids.shape).masked_fill(~chosen, -100)
    return {
        "Model": {},
        "ForPreTraining": {"labels": words, "next_sentence_label": torch.tensor([0, 1, 1, 0])},
        "ForMaskedLM": {"labels": words},
        "ForNextSentencePrediction": {"labels": torch.tensor([0, 1, 1, 0])},
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 1, 0])},
        "ForTokenClassification": {"labels": (words % 2).masked_fill(~chosen, -100)},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([0, 3, 0, 2]),
            "end_positions": torch.tensor([8, 4, 0, 3]),
        },
        "ForMultipleChoice": {"labels": torch.tensor([1, 0])},
    }[head]


def assert_same_outputs(got: Any, expected: Any, mask: Tensor) -> None:
    """Every tensor agrees, those of tokens where there is a token."""
    for name, value in expected.items():
        if isinstance(value, Tensor) and name != "loss":
            mine = got[name]
            if value.shape[:2] == mask.shape:
                value, mine = value[mask.bool()], mine[mask.bool()]
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-5, msg=name)


# --- parity with transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("head", HEADS)
def test_padded_texts_give_the_outputs_of_transformers(make_bert, texts, head, attention) -> None:
    model = make_bert(head, attn_implementation=attention)
    inputs = inputs_of(head, texts)
    with torch.no_grad():
        assert_same_outputs(model(**inputs), peer_of(model, head)(**inputs), texts["attention_mask"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("head", HEADS[1:])
def test_the_loss_and_its_gradients_are_those_of_transformers(make_bert, texts, head, attention) -> None:
    if head == "ForQuestionAnswering":  # whose padding takes part in transformers' loss
        texts = {name: x[:, :1].expand(-1, 9).contiguous() for name, x in texts.items()}
        texts["input_ids"] = torch.randint(1, 37, (4, 9))
    model = make_bert(head, attn_implementation=attention, **NO_DROPOUT).train()
    peer, batch = peer_of(model, head), inputs_of(head, texts) | labels_of(head, texts)
    loss, expected = model(**batch).loss, peer(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, parameter in model.named_parameters():
        if gradients[name] is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("labels", [torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([[1.0], [2.0], [0.0], [-3.0]])])
def test_regression_is_that_of_transformers(make_bert, texts, labels) -> None:
    model = make_bert("ForSequenceClassification", num_labels=1)
    peer = peer_of(model, "ForSequenceClassification")
    torch.testing.assert_close(model(**texts, labels=labels).loss, peer(**texts, labels=labels).loss)
    assert model.config.problem_type == "regression"


def test_multi_label_classification_is_that_of_transformers(make_bert, texts) -> None:
    model = make_bert("ForSequenceClassification", num_labels=3)
    peer = peer_of(model, "ForSequenceClassification")
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).float()
    torch.testing.assert_close(model(**texts, labels=labels).loss, peer(**texts, labels=labels).loss)
    assert model.config.problem_type == "multi_label_classification"


def test_states_and_attentions_are_those_of_transformers(make_bert, texts) -> None:
    model = make_bert(attn_implementation="eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    got, expected = model(**texts, **asked), peer_of(model, "Model")(**texts, **asked)
    mask = texts["attention_mask"].bool()
    for mine, other in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[mask], other[mask], rtol=0, atol=1e-5)
    for mine, other in zip(got.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


def test_positions_and_embeddings_may_be_given(make_bert, texts) -> None:
    model = make_bert()
    position_ids = torch.arange(5, 14).unsqueeze(0)
    embeds = model.get_input_embeddings()(texts["input_ids"]).detach()
    given = {"attention_mask": texts["attention_mask"], "inputs_embeds": embeds, "position_ids": position_ids}
    with torch.no_grad():
        assert_same_outputs(model(**given), peer_of(model, "Model")(**given), texts["attention_mask"])


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_a_folder_of_transformers_loads_as_it_is_and_saves_as_ours(texts, make_bert, tmp_path, caplog, head) -> None:
    peer = peer_of(make_bert(head), head)
    peer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, told = ours(head).from_pretrained(tmp_path, output_loading_info=True)
    assert caplog.records == []
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.model_type == "vaswani-bert"
    inputs = inputs_of(head, texts)
    with torch.no_grad():
        assert_same_outputs(model(**inputs), peer(**inputs), texts["attention_mask"])
    model.save_pretrained(tmp_path / "again")
    config = AutoConfig.from_pretrained(tmp_path / "again")
    assert (type(config), config.architectures) == (VaswaniBertConfig, [ours(head).__name__])


@pytest.mark.parametrize("head", HEADS)
def test_the_file_we_save_holds_the_tensors_that_transformers_saves(make_bert, tmp_path, head) -> None:
    model = make_bert(head)
    model.save_pretrained(tmp_path / "ours")
    peer_of(model, head).save_pretrained(tmp_path / "theirs")
    mine, other = (load_file(tmp_path / folder / "model.safetensors") for folder in ("ours", "theirs"))
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_bare_model_of_transformers_loads_into_a_head(make_bert, tmp_path) -> None:
    peer = peer_of(make_bert(), "Model")
    peer.save_pretrained(tmp_path)
    model, told = ours("ForTokenClassification").from_pretrained(tmp_path, output_loading_info=True)
    assert told["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, peer.embeddings.word_embeddings.weight)


def test_old_norm_names_and_buffers_load(make_bert, tmp_path, caplog) -> None:
    model = make_bert("ForPreTraining")
    peer_of(model, "ForPreTraining").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(40).unsqueeze(0)
    assert "bert.embeddings.LayerNorm.gamma" in old
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        loaded, told = ours("ForPreTraining").from_pretrained(tmp_path, output_loading_info=True)
    assert caplog.records == []
    assert not told["missing_keys"] | told["unexpected_keys"]
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()


def test_every_auto_class_loads_its_model(make_bert, tmp_path) -> None:
    make_bert("ForPreTraining").save_pretrained(tmp_path)
    classes = FAMILIES[VaswaniBertConfig]
    assert len(classes) == len(HEADS)
    for auto, model_class in classes.items():
        assert type(auto.from_pretrained(tmp_path)) is model_class


# --- what a first-class model can do ---------------------------------------------------------------------------------


def test_weights_are_drawn_as_google_draws_them() -> None:
    torch.manual_seed(0)
    model = VaswaniBertForMaskedLM(VaswaniBertConfig.preset("tiny", vocab_size=500))
    words = model.bert.embeddings.word_embeddings.weight
    assert words.abs().max() <= 0.04
    assert words.std().item() == pytest.approx(0.88 * 0.02, rel=0.02)  # of the cut distribution
    assert words[0].any()  # the pad row
    assert not model.cls.predictions.bias.any()
    assert model.cls.predictions.decoder.weight is words
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias


@pytest.mark.parametrize("training", [False, True])
def test_it_compiles_without_a_graph_break(make_bert, texts, training) -> None:
    torch._dynamo.reset()
    model = make_bert("ForPreTraining", **NO_DROPOUT).train(training)
    batch = texts | labels_of("ForPreTraining", texts)
    expected = model(**batch)
    got = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch)
    torch.testing.assert_close(got.loss, expected.loss)
    if training:
        assert got.prediction_logits is None
        (gradient,) = torch.autograd.grad(got.loss, model.bert.embeddings.LayerNorm.weight)
        (wanted,) = torch.autograd.grad(expected.loss, model.bert.embeddings.LayerNorm.weight)
        torch.testing.assert_close(gradient, wanted)
    else:
        assert_same_outputs(got, expected, texts["attention_mask"])


@pytest.mark.parametrize("head", HEADS[2:])
def test_the_other_heads_compile_without_a_graph_break(make_bert, texts, head) -> None:
    torch._dynamo.reset()
    model = make_bert(head, **NO_DROPOUT).train()
    batch = inputs_of(head, texts) | labels_of(head, texts)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("head", HEADS[1:])
def test_gradient_checkpointing_changes_nothing(make_bert, texts, head, reentrant) -> None:
    model = make_bert(head, **NO_DROPOUT).train()
    batch = inputs_of(head, texts) | labels_of(head, texts)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for each in (model, checkpointed):
        each(**batch).loss.backward()
    for parameter, other in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-6)


def test_resized_embeddings_go_on_training_and_stay_tied(make_bert, texts, tmp_path) -> None:
    model = make_bert("ForPreTraining")
    with torch.no_grad():
        before = model(**texts).prediction_logits
    model.resize_token_embeddings(41)
    with torch.no_grad():
        after = model(**texts).prediction_logits
    torch.testing.assert_close(after[..., :37], before)
    assert after.shape[-1] == model.config.vocab_size == 41
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    labels = torch.full_like(texts["input_ids"], 40)
    model.train()(**texts, labels=labels).loss.backward()
    model.save_pretrained(tmp_path)
    again = ours("ForPreTraining").from_pretrained(tmp_path)
    torch.testing.assert_close(again(**texts).prediction_logits, model.eval()(**texts).prediction_logits)


def test_untied_output_weights_are_their_own(make_bert, tmp_path) -> None:
    model = make_bert("ForMaskedLM", tie_word_embeddings=False)
    assert model.cls.predictions.decoder.weight is not model.bert.embeddings.word_embeddings.weight
    peer_of(model, "ForMaskedLM")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_bfloat16_model_stays_close(make_bert, texts, attention) -> None:
    model = make_bert("ForMaskedLM", attn_implementation=attention)
    expected = model(**texts).logits
    got = model.to(torch.bfloat16)(**texts).logits
    assert got.dtype == torch.bfloat16
    mask = texts["attention_mask"].bool()
    assert torch.nn.functional.cosine_similarity(got[mask].float(), expected[mask], dim=-1).min() > 0.99


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_is_on_in_training_and_off_in_evaluation(make_bert, texts, attention) -> None:
    for fields in (NO_DROPOUT | {"attention_probs_dropout_prob": 0.5}, NO_DROPOUT | {"hidden_dropout_prob": 0.5}):
        model = make_bert(attn_implementation=attention, **fields)
        first = model(**texts).last_hidden_state
        assert torch.equal(model(**texts).last_hidden_state, first)
        model.train()
        assert not torch.equal(model(**texts).last_hidden_state, model(**texts).last_hidden_state)


@pytest.mark.parametrize("head", HEADS)
def test_the_tensor_parallel_plan_names_layers_that_are_there(make_bert, head) -> None:
    model = make_bert(head)
    names = {name.replace(".0.", ".*.") for name, _ in model.named_modules()}
    # transformers 5.17 adds the embeddings, by a name that is not ours.
    plan = {name: how for name, how in model.tp_plan.items() if not name.endswith("embed_tokens")}
    assert set(plan) <= names
    assert set(plan.values()) == {"colwise", "rowwise"}


def test_a_model_without_a_pooler_has_none(make_bert, texts) -> None:
    model = VaswaniBertModel(make_bert().config, add_pooling_layer=False)
    assert model(**texts).pooler_output is None


def test_a_tuple_is_returned_where_it_is_asked_for(make_bert, texts) -> None:
    model = make_bert("ForNextSentencePrediction")
    (logits,) = model(**texts, return_dict=False)
    torch.testing.assert_close(logits, model(**texts).logits)
