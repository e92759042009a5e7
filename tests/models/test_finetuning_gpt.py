"""GPT's fine-tuning loss: task and language model together, for one text, both orders of a pair, and choices."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from vaswani_transformer import VaswaniGPTForCausalLM, VaswaniGPTForSequenceClassification
from vaswani_transformer.models import heads_gpt, layers

from .test_loss_gpt import NO_DROPOUT, LargestTensor, accumulated, step_of_trainer

ROWS, LENGTH, VOCABULARY = 8, 9, 37
SHAPES = {"text": (ROWS,), "similarity": (ROWS, 2), "choices": (ROWS, 3), "regression": (ROWS, 2), "sets": (ROWS,)}
HEADS = {kind: "ForMultipleChoice" if kind == "choices" else "ForSequenceClassification" for kind in SHAPES}


def batch_of(kind: str, *, labelled: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of the model, and texts of two to nine tokens; some labels are none unless `labelled`."""
    torch.manual_seed(7)
    shape = SHAPES[kind]
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (*shape, 1))).long()
    labels = torch.tensor([0, 2, -100, 1, 1, -100, 0, 2])
    fields: dict[str, Any] = {} if kind == "choices" else {"num_labels": 3}
    if kind == "regression":
        labels, fields = torch.randn(ROWS), {"num_labels": 1}
        labels[3] = -100
    elif kind == "sets":
        labels = torch.randint(0, 2, (ROWS, 3)).float()
        labels[2, 1] = labels[5, 0] = labels[5, 2] = -100
    if labelled:
        labels = labels.where(labels != -100, torch.ones_like(labels))
    ids = torch.randint(1, VOCABULARY, (*shape, LENGTH)) * mask
    return fields, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def make(make_gpt: Any, kind: str, weight: float = 0.5, **more: Any) -> Any:
    fields, _ = batch_of(kind)
    return make_gpt(HEADS[kind], lm_loss_weight=weight, **NO_DROPOUT, **fields, **more)


def language_loss_by_hand(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The mean over all sequences of the mean over each one's tokens, sequence by sequence, from plain logits."""
    means = []
    ids, mask = (batch[name].reshape(-1, LENGTH) for name in ("input_ids", "attention_mask"))
    for row, length in zip(ids, mask.sum(-1).tolist(), strict=True):
        text = row[mask.new_tensor(range(LENGTH)).lt(length)].unsqueeze(0)
        x_TD = model.transformer(text).last_hidden_state[0]
        logits = x_TD @ model.transformer.wte.weight.T
        means.append(nn.functional.cross_entropy(logits[:-1], text[0, 1:]))
    return torch.stack(means).mean()


def task_loss_by_hand(model: Any, batch: dict[str, Tensor], kind: str) -> Tensor:
    logits, labels = model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
    if kind == "regression":
        return nn.functional.mse_loss(logits.squeeze(-1), labels)
    if kind == "sets":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)
    return nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_the_tasks_and_so_many_times_the_mean_over_sequences_of_the_language_models(
    make_gpt, kind, training
) -> None:
    _, batch = batch_of(kind, labelled=True)
    model = make(make_gpt, kind, 0.3).train(training)
    output = model(**batch)
    task, language = task_loss_by_hand(model, batch, kind), language_loss_by_hand(model, batch)
    torch.testing.assert_close((output.task_loss, output.lm_loss), (task, language), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, task + 0.3 * language, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in model.named_parameters()]
    expected = torch.autograd.grad(task + 0.3 * language, model.parameters())
    got = torch.autograd.grad(output.loss, model.parameters())
    for name, mine, other in zip(names, got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=name)


def test_each_row_of_the_language_part_is_the_loss_of_transformers_gpt2(make_gpt, tmp_path) -> None:
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=37, n_embd=16, n_head=4, n_layer=2, n_positions=40)).eval()
    peer.save_pretrained(tmp_path)
    _, batch = batch_of("similarity", labelled=True)
    model = VaswaniGPTForSequenceClassification.from_pretrained(
        tmp_path, lm_loss_weight=0.5, num_labels=3, pad_token_id=0
    ).eval()
    losses = []
    for ids, mask in zip(batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1), strict=True):
        text = ids[mask.bool()].unsqueeze(0)
        losses.append(peer(text, labels=text).loss)
    torch.testing.assert_close(model(**batch).lm_loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_both_parts_have_gradients_and_their_own_weights(make_gpt, kind) -> None:
    _, batch = batch_of(kind)
    model = make(make_gpt, kind).train()
    output = model(**batch)
    head = model.classifier if kind == "choices" else model.score
    (task,) = torch.autograd.grad(output.task_loss, head.weight, retain_graph=True)
    (language,) = torch.autograd.grad(output.lm_loss, model.lm_head.weight, retain_graph=True)
    assert task.any()
    assert language.any()
    assert torch.autograd.grad(output.lm_loss, head.weight, allow_unused=True) == (None,)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("kind", SHAPES)
def test_accumulated_batches_give_the_gradient_of_one_big_batch(make_gpt, kind) -> None:
    _, batch = batch_of(kind)
    model = make(make_gpt, kind).train()
    expected = accumulated(model, batch, 1)
    for parts in (1, 2, 8):
        got = accumulated(model, batch, parts, num_items_in_batch=batch["labels"].ne(-100).sum())
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_trainer_takes_the_same_step_however_it_accumulates(make_gpt, tmp_path, kind) -> None:
    _, batch = batch_of(kind)
    whole, parts = (step_of_trainer(make(make_gpt, kind), batch, parts, tmp_path) for parts in (1, 4))
    before = make(make_gpt, kind).state_dict()
    assert not torch.equal(before["transformer.wpe.weight"], whole["transformer.wpe.weight"])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_two_processes_give_the_gradient_of_one_big_batch(make_gpt, in_two_processes, tmp_path) -> None:
    _, batch = batch_of("choices")
    model = make(make_gpt, "choices").train()
    model.save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes("data_gpt")
    got = torch.load(tmp_path / "gradients.pt", weights_only=True)
    torch.testing.assert_close(got, accumulated(model, batch, 1), rtol=1e-4, atol=1e-6)


def test_a_weight_of_zero_computes_no_language_model(make_gpt) -> None:
    _, batch = batch_of("text")
    model = make(make_gpt, "text", 0.0)
    output = model(**batch)
    assert not hasattr(model, "lm_head")
    assert output.keys() == {"loss", "logits"}
    with_language = make(make_gpt, "text", 0.5)
    with_language.load_state_dict(model.state_dict(), strict=False)
    with_language.config.lm_loss_weight = 0
    with_language.lm_head.forward = None  # a call would fail
    torch.testing.assert_close(with_language(**batch).loss, output.loss)


@pytest.mark.parametrize("kind", ["text", "choices"])
def test_label_smoothing_of_trainer_which_leaves_the_language_model_out_is_told(
    make_gpt, tmp_path, monkeypatch, kind
) -> None:
    told: list[str] = []
    monkeypatch.setattr(heads_gpt.logger, "warning_once", told.append)
    _, batch = batch_of(kind, labelled=True)
    smoothed: dict[str, Any] = {"label_smoothing_factor": 0.1}
    for weight, settings, times in ((0.5, {}, 0), (0.0, smoothed, 0), (0.5, smoothed, 1)):
        told.clear()
        step_of_trainer(make(make_gpt, kind, weight), batch, 1, tmp_path, **settings)
        assert len(told) == times
    assert "lm_loss_weight=0.5" in told[0]
    assert "label_smoothing_factor" in told[0]
    make(make_gpt, kind, 0.5).eval()(batch["input_ids"], batch["attention_mask"])
    assert len(told) == 1  # to predict needs none


def test_the_vectors_of_both_orders_are_added_before_the_classifier(make_gpt) -> None:
    _, batch = batch_of("similarity")
    model = make(make_gpt, "similarity", 0.0)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    first, second = ({name: x[:, order] for name, x in asked.items()} for order in (0, 1))
    torch.testing.assert_close(model(**asked).logits, model(**first).logits + model(**second).logits)
    turned = {name: x.flip(1) for name, x in asked.items()}
    torch.testing.assert_close(model(**asked).logits, model(**turned).logits)


def test_a_model_of_pairs_in_both_orders_refuses_one_order_and_tells_how_to_make_both(make_gpt, tmp_path) -> None:
    _, batch = batch_of("similarity")
    make(make_gpt, "similarity", both_orders=True).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    plain = make(make_gpt, "similarity")
    torch.testing.assert_close(model(**asked).logits, plain(**asked).logits)
    told = r"reads each pair in both orders, \[B, 2, T\]; got shape \(8, 9.*tokenizer\(\[text, pair\], \[pair, text\]"
    single = {name: x[:, 0] for name, x in asked.items()}
    with pytest.raises(ValueError, match=told):
        model(**single)
    embeds = model.get_input_embeddings()(single.pop("input_ids"))
    with pytest.raises(ValueError, match=told):
        model(**single, inputs_embeds=embeds)


def test_embeddings_of_both_orders_are_read_too(make_gpt) -> None:
    _, batch = batch_of("similarity")
    model = make(make_gpt, "similarity", 0.0)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    expected = model(batch["input_ids"], batch["attention_mask"]).logits
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits, expected)


def test_padding_on_the_left_changes_nothing(make_gpt) -> None:
    _, batch = batch_of("choices")
    model = make(make_gpt, "choices")
    order = batch["attention_mask"].argsort(dim=-1, stable=True)
    left = {name: batch[name].gather(-1, order) for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**left, labels=batch["labels"]).loss, model(**batch).loss)


def test_a_pad_token_tells_padding_where_no_mask_does(make_gpt) -> None:
    _, batch = batch_of("text")
    model = make(make_gpt, "text", pad_token_id=0)
    expected = model(**batch)
    batch.pop("attention_mask")
    got = model(**batch)  # padding after a text changes nothing before it
    torch.testing.assert_close((got.loss, got.lm_loss), (expected.loss, expected.lm_loss))


def test_a_text_of_one_token_foretells_nothing(make_gpt) -> None:
    model = make(make_gpt, "text").train()
    output = model(torch.tensor([[5]]), labels=torch.tensor([1]))
    output.loss.backward()
    assert output.lm_loss.item() == 0


def test_a_step_never_holds_more_than_a_chunk_of_logits(make_gpt, monkeypatch) -> None:
    vocabulary = 4000
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": 8 * vocabulary, "other": 8 * vocabulary})
    monkeypatch.setattr(layers, "CHUNK_ROWS", 1)
    model = make(make_gpt, "choices", vocab_size=vocabulary).train()
    _, batch = batch_of("choices")
    with LargestTensor() as largest:
        model(**batch).loss.backward()
    assert largest.elements <= vocabulary * 16  # the word embeddings


def test_compiled_the_losses_are_the_same(make_gpt) -> None:
    _, batch = batch_of("choices")
    model = make(make_gpt, "choices").train()
    expected = accumulated(model, batch, 1)
    loss = torch.compile(model, backend="eager", fullgraph=True)(**batch).loss
    model.zero_grad()
    loss.backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_without_a_language_head_load_and_a_language_models_own_is_taken(make_gpt, tmp_path, tied) -> None:
    make_gpt("Model", tie_word_embeddings=tied).save_pretrained(tmp_path / "bare")
    language = make_gpt("ForCausalLM", tie_word_embeddings=tied)
    language.save_pretrained(tmp_path / "language")
    load: Any = VaswaniGPTForSequenceClassification.from_pretrained
    for name in ("bare", "language"):
        model, told = load(tmp_path / name, lm_loss_weight=0.5, output_loading_info=True)
        new = {"score.weight"} | ({"lm_head.weight"} if not tied and name == "bare" else set())
        assert (set(told["missing_keys"]), set(told["unexpected_keys"])) == (new, set())
        assert (model.lm_head.weight is model.transformer.wte.weight) is tied
    assert torch.equal(model.lm_head.weight, language.lm_head.weight)


@pytest.mark.parametrize(
    ("kind", "auto"),
    [("similarity", AutoModelForSequenceClassification), ("choices", AutoModelForMultipleChoice)],
)
def test_a_saved_folder_gives_the_same_losses_by_its_auto_class(make_gpt, tmp_path, kind, auto) -> None:
    _, batch = batch_of(kind)
    model = make(make_gpt, kind)
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = auto.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.config.lm_loss_weight == 0.5
    torch.testing.assert_close(dict(again(**batch)), dict(expected))


def test_a_fine_tuned_folder_goes_on_as_a_language_model(make_gpt, tmp_path) -> None:
    model = make(make_gpt, "text")
    model.save_pretrained(tmp_path)
    language = VaswaniGPTForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(language.lm_head.weight, model.lm_head.weight)


def test_new_tokens_reach_the_language_head(make_gpt) -> None:
    model = make(make_gpt, "text").train()
    model.resize_token_embeddings(VOCABULARY + 3)
    batch = {"input_ids": torch.tensor([[38, 5, 39]]), "labels": torch.tensor([1])}
    model(**batch).loss.backward()
    assert isinstance(model.lm_head, layers.OutputHead)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.transformer.wte.weight.grad[39].any()


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("compiled", [False, True])
def test_weighted_tokens_count_so_many_times(monkeypatch, epsilon, compiled) -> None:
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": 3 * 11, "other": 3 * 11})
    monkeypatch.setattr(layers, "CHUNK_ROWS", 1)
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    labels, weights = torch.tensor([3, -100, 0, 10, 7, 3, -100]), torch.rand(7)
    call: Any = layers._compiled_cross_entropy if compiled else None
    if compiled:
        loss, nll = call(hidden, weight, bias, labels, epsilon, weights.unsqueeze(-1))
    else:
        loss, nll = layers.chunked_cross_entropy(hidden, weight, bias, labels, label_smoothing=epsilon, weights=weights)
    parts = [layers.cross_entropy(hidden[i] @ weight.T + bias, labels[i], label_smoothing=epsilon) for i in range(7)]
    expected = sum((w * part[0] for w, part in zip(weights, parts, strict=True)), torch.zeros(()))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, sum(w * part[1] for w, part in zip(weights, parts, strict=True)))
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves))
