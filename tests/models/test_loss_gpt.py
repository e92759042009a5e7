"""GPT's losses: one big batch and many small ones, nothing labelled, logits only where they are wanted, Trainer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments

from vaswani_transformer.models import layers
from vaswani_transformer.models.caches import CACHE

NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"), 0.0)
ROWS, LENGTH, VOCABULARY = 8, 9, 37
LABELLED = ["ForCausalLM", "ForSequenceClassification", "regression", "multi-label", "ForTokenClassification"]
LABELLED += ["ForMultipleChoice"]


def eight_texts(choices: int | None = None) -> dict[str, Tensor]:
    """Texts of two to nine tokens, so that a mean of means would be wrong."""
    torch.manual_seed(7)
    shape = (ROWS, LENGTH) if choices is None else (ROWS, choices, LENGTH)
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (*shape[:-1], 1))).long()
    return {"input_ids": torch.randint(1, VOCABULARY, shape) * mask, "attention_mask": mask}


def batch_of(head: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of the model, and a batch; some labels are none."""
    texts = eight_texts(3 if head == "ForMultipleChoice" else None)
    labels, fields = torch.tensor([0, 2, -100, 1, 1, -100, 0, 2]), {}
    if head == "ForCausalLM":
        labels = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
    elif head == "ForTokenClassification":
        labels = (texts["input_ids"] % 2).masked_fill(texts["attention_mask"] == 0, -100)
    elif head == "regression":
        labels, fields = torch.randn(ROWS), {"num_labels": 1}
    elif head == "multi-label":
        labels, fields = torch.randint(0, 2, (ROWS, 4)).float(), {"num_labels": 4}
    elif head == "ForSequenceClassification":
        fields = {"num_labels": 3}
    return fields, {**texts, "labels": labels}


def class_of(head: str) -> str:
    return "ForSequenceClassification" if head in ("regression", "multi-label") else head


def counted(head: str, batch: dict[str, Tensor]) -> Tensor:
    labels = batch["labels"][:, 1:] if head == "ForCausalLM" else batch["labels"]
    return labels.ne(-100).sum()


def accumulated(model: Any, batch: dict[str, Tensor], parts: int, **counts: Any) -> dict[str, Tensor]:
    model.zero_grad()
    for part in range(parts):
        model(**{name: x.chunk(parts)[part] for name, x in batch.items()}, **counts).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("head", LABELLED)
def test_accumulated_batches_give_the_gradient_of_one_big_batch(make_gpt, head) -> None:
    fields, batch = batch_of(head)
    model = make_gpt(class_of(head), **NO_DROPOUT, **fields).train()
    expected = accumulated(model, batch, 1)
    for parts in (1, 2, 8):
        got = accumulated(model, batch, parts, num_items_in_batch=counted(head, batch))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_answers_are_divided_by_what_is_given(make_gpt) -> None:
    batch = eight_texts() | {"start_positions": torch.tensor([0, 1, -100, 0, 1, 1, -100, 0])}
    batch["end_positions"] = batch["start_positions"].clone()
    model = make_gpt("ForQuestionAnswering", **NO_DROPOUT).train()
    expected = accumulated(model, batch, 1)
    got = accumulated(model, batch, 4, num_items_in_batch=6)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


class Rows(torch.utils.data.Dataset):
    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: x[index] for name, x in self.batch.items()}


def step_of_trainer(model: Any, batch: dict[str, Tensor], parts: int, folder: Any, **more: Any) -> dict[str, Tensor]:
    """The weights after one step of gradient descent over all rows, `parts` batches accumulated."""
    settings: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    settings |= {"max_grad_norm": 0.0, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    settings |= {"disable_tqdm": True, "per_device_train_batch_size": ROWS // parts, **more}
    settings |= {"gradient_accumulation_steps": parts}
    Trainer(model=model, args=TrainingArguments(output_dir=str(folder), **settings), train_dataset=Rows(batch)).train()
    return model.state_dict()


@pytest.mark.parametrize("head", LABELLED)
def test_trainer_takes_the_same_step_however_it_accumulates(make_gpt, tmp_path, head) -> None:
    fields, batch = batch_of(head)

    def make() -> Any:
        return make_gpt(class_of(head), **NO_DROPOUT, **fields)

    whole, parts = (step_of_trainer(make(), batch, parts, tmp_path) for parts in (1, 4))
    before = make().state_dict()
    assert any(not torch.equal(before[name], value) for name, value in whole.items())
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_trainers_label_smoothing_is_that_of_the_next_token(make_gpt, tmp_path) -> None:
    _, batch = batch_of("ForCausalLM")
    got = step_of_trainer(make_gpt("ForCausalLM", **NO_DROPOUT), batch, 1, tmp_path, label_smoothing_factor=0.2)
    model = make_gpt("ForCausalLM", **NO_DROPOUT).train()
    labels = batch.pop("labels")
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    loss = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), label_smoothing=0.2)
    loss.backward()
    weight = model.transformer.wte.weight
    torch.testing.assert_close(got["transformer.wte.weight"], weight - weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)], ids=["none", "0", "tensor"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", LABELLED)
def test_nothing_labelled_gives_zero_and_not_nan(make_gpt, head, training, count) -> None:
    fields, batch = batch_of(head)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    model = make_gpt(class_of(head), **fields).train(training)
    loss = model(**batch, num_items_in_batch=count).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_in_training_with_labels_logits_are_made_when_asked_for(make_gpt) -> None:
    _, batch = batch_of("ForCausalLM")
    model = make_gpt("ForCausalLM", **NO_DROPOUT)
    expected = model(**batch)
    assert expected.logits.shape == (ROWS, LENGTH, VOCABULARY)
    assert model(**batch, return_logits=False).logits is None
    model.train()
    assert model(**batch).logits is None
    asked = model(**batch, return_logits=True)
    torch.testing.assert_close(asked.logits, expected.logits)
    torch.testing.assert_close((asked.loss, model(**batch).loss), (expected.loss, expected.loss))


def test_the_loss_is_that_of_the_next_token_and_its_plain_value_stands_beside_it(make_gpt) -> None:
    _, batch = batch_of("ForCausalLM")
    model = make_gpt("ForCausalLM", **NO_DROPOUT)
    for training in (False, True):
        output = model.train(training)(**batch)
        logits = model(**batch, return_logits=True).logits
        wanted = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        torch.testing.assert_close((output.loss, output.nll_loss), (wanted, wanted))
        assert not output.nll_loss.requires_grad


def test_the_last_logits_alone_are_those_of_all(make_gpt) -> None:
    _, batch = batch_of("ForCausalLM")
    batch.pop("labels")
    model = make_gpt("ForCausalLM")
    logits = model(**batch).logits
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]])


def test_no_cache_is_made_beside_a_loss_unless_it_is_asked_for(make_gpt) -> None:
    _, batch = batch_of("ForCausalLM")
    model = make_gpt("ForCausalLM")
    assert getattr(model(**batch), CACHE) is None
    assert getattr(model(**batch, use_cache=True), CACHE).get_seq_length() == LENGTH
    batch.pop("labels")
    assert getattr(model(**batch), CACHE).get_seq_length() == LENGTH


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_a_training_step_never_holds_more_than_a_chunk_of_logits(make_gpt, monkeypatch) -> None:
    vocabulary = 4000
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": 8 * vocabulary, "other": 8 * vocabulary})
    monkeypatch.setattr(layers, "CHUNK_ROWS", 1)
    model = make_gpt("ForCausalLM", vocab_size=vocabulary).train()
    _, batch = batch_of("ForCausalLM")
    with LargestTensor() as largest:
        model(**batch).loss.backward()
    assert largest.elements <= vocabulary * 16  # the word embeddings


def test_bfloat16_autocast_stays_close(make_gpt) -> None:
    _, batch = batch_of("ForCausalLM")
    model = make_gpt("ForCausalLM", **NO_DROPOUT).train()
    exact = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
