"""Losses: nothing labelled, one big batch and many small ones, logits only where they are wanted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ROWS, LENGTH, VOCABULARY = 8, 9, 37


def eight_texts(choices: int | None = None) -> dict[str, Tensor]:
    """Texts of one to nine tokens, so that a mean of means would be wrong."""
    torch.manual_seed(7)
    shape = (ROWS, LENGTH) if choices is None else (ROWS, choices, LENGTH)
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (*shape[:-1], 1))).long()
    return {"input_ids": torch.randint(1, VOCABULARY, shape) * mask, "attention_mask": mask}


def masked_words(texts: dict[str, Tensor]) -> Tensor:
    chosen = (torch.rand(ROWS, LENGTH) < 0.4) & texts["attention_mask"].bool()
    return texts["input_ids"].masked_fill(~chosen, -100)


def batch_of(head: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of the model, and a batch; some labels are none."""
    texts = eight_texts(3 if head == "ForMultipleChoice" else None)
    classes = torch.tensor([0, 2, -100, 1, 1, -100, 0, 2])
    fields: dict[str, Any] = {"num_labels": 3} if head == "ForSequenceClassification" else {}
    if head in ("ForMaskedLM", "ForPreTraining"):
        labels = masked_words(texts)
    elif head == "ForTokenClassification":
        labels = masked_words(texts).clamp(max=1)
    elif head == "ForNextSentencePrediction":
        labels = classes.clamp(max=1)
    elif head == "regression":
        labels, fields = torch.randn(ROWS), {"num_labels": 1}
    elif head == "multi-label":
        labels, fields = torch.randint(0, 2, (ROWS, 4)).float(), {"num_labels": 4}
    else:
        labels = classes
    return fields, {**texts, "labels": labels}


def class_of(head: str) -> str:
    return "ForSequenceClassification" if head in ("regression", "multi-label") else head


LABELLED = ["ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", "ForSequenceClassification", "regression"]
LABELLED += ["multi-label", "ForTokenClassification", "ForMultipleChoice"]


def accumulated(model: Any, batch: dict[str, Tensor], parts: int, **counts: Any) -> dict[str, Tensor]:
    model.zero_grad()
    for part in range(parts):
        model(**{name: x.chunk(parts)[part] for name, x in batch.items()}, **counts).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# --- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", LABELLED)
def test_accumulated_batches_give_the_gradient_of_one_big_batch(make_bert, head) -> None:
    fields, batch = batch_of(head)
    model = make_bert(class_of(head), **NO_DROPOUT, **fields).train()
    count = batch["labels"].ne(-100).sum()
    expected = accumulated(model, batch, 1)
    for parts in (1, 2, 8):
        got = accumulated(model, batch, parts, num_items_in_batch=count)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_next_sentence_loss_is_divided_by_sequences(make_bert) -> None:
    _, batch = batch_of("ForPreTraining")
    batch["next_sentence_label"] = torch.tensor([0, 1, -100, 1, 1, 0, -100, 0])
    model = make_bert("ForPreTraining", **NO_DROPOUT).train()
    counts = {"num_items_in_batch": batch["labels"].ne(-100).sum(), "num_sequences_in_batch": 6}
    expected = accumulated(model, batch, 1)
    torch.testing.assert_close(accumulated(model, batch, 4, **counts), expected, rtol=1e-4, atol=1e-6)


def test_answers_are_divided_by_what_is_given(make_bert) -> None:
    batch = eight_texts() | {"start_positions": torch.tensor([0, 1, -100, 0, 1, 1, -100, 0])}
    batch["end_positions"] = batch["start_positions"].clone()
    model = make_bert("ForQuestionAnswering", **NO_DROPOUT).train()
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


def step_of_trainer(model: Any, batch: dict[str, Tensor], parts: int, folder: Any) -> dict[str, Tensor]:
    """The weights after one step of gradient descent over all rows, `parts` batches accumulated."""
    settings: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    settings |= {
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    settings |= {"per_device_train_batch_size": ROWS // parts, "gradient_accumulation_steps": parts}
    Trainer(model=model, args=TrainingArguments(output_dir=str(folder), **settings), train_dataset=Rows(batch)).train()
    return model.state_dict()


@pytest.mark.parametrize("head", [*LABELLED, "ForQuestionAnswering"])
def test_trainer_takes_the_same_step_however_it_accumulates(make_bert, tmp_path, head) -> None:
    if head == "ForQuestionAnswering":  # Trainer counts nothing: right where every text has an answer
        fields, positions = {}, torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
        batch = eight_texts() | {"start_positions": positions, "end_positions": positions}
    else:
        fields, batch = batch_of(head)

    def make() -> Any:
        return make_bert(class_of(head), **NO_DROPOUT, **fields)

    whole, parts = (step_of_trainer(make(), batch, parts, tmp_path) for parts in (1, 4))
    before = make().state_dict()
    assert any(not torch.equal(before[name], value) for name, value in whole.items())
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


# --- nothing labelled, either alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)], ids=["none", "0", "tensor"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", LABELLED)
def test_nothing_labelled_gives_zero_and_not_nan(make_bert, head, training, count) -> None:
    fields, batch = batch_of(head)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    model = make_bert(class_of(head), **fields).train(training)
    loss = model(**batch, num_items_in_batch=count).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_each_loss_of_pretraining_works_alone_and_both_add_up(make_bert, training) -> None:
    _, batch = batch_of("ForPreTraining")
    words = {"labels": batch.pop("labels")}
    sentences = {"next_sentence_label": torch.tensor([0, 1] * 4)}
    model = make_bert("ForPreTraining", **NO_DROPOUT).train(training)
    both, word, sentence = (model(**batch, **labels) for labels in (words | sentences, words, sentences))
    assert (word.nsp_loss, sentence.mlm_loss, sentence.nll_loss) == (None, None, None)
    torch.testing.assert_close((word.loss, sentence.loss), (both.mlm_loss, both.nsp_loss))
    torch.testing.assert_close(both.loss, both.mlm_loss + both.nsp_loss)
    torch.testing.assert_close(both.nll_loss, both.mlm_loss)
    assert not any(loss.requires_grad for loss in (both.mlm_loss, both.nsp_loss, both.nll_loss))
    assert model(**batch).loss is None


# --- logits where they are wanted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["ForPreTraining", "ForMaskedLM"])
def test_in_training_with_labels_logits_are_made_when_asked_for(make_bert, head) -> None:
    _, batch = batch_of(head)
    name = "prediction_logits" if head == "ForPreTraining" else "logits"
    model = make_bert(head, **NO_DROPOUT)
    expected = model(**batch)
    assert expected[name].shape == (ROWS, LENGTH, VOCABULARY)
    model.train()
    assert getattr(model(**batch), name) is None
    asked = model(**batch, return_logits=True)
    torch.testing.assert_close(asked[name], expected[name])
    torch.testing.assert_close((asked.loss, model(**batch).loss), (expected.loss, expected.loss))
    batch.pop("labels")
    torch.testing.assert_close(model(**batch)[name], expected[name])


def test_the_loss_in_evaluation_is_a_function_of_the_logits(make_bert) -> None:
    _, batch = batch_of("ForMaskedLM")
    output = make_bert("ForMaskedLM")(**batch)
    wanted = nn.functional.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(output.loss, wanted)
    torch.testing.assert_close(output.nll_loss, wanted)


def test_labels_at_padding_are_not_counted(make_bert) -> None:
    for head in ("ForMaskedLM", "ForTokenClassification"):
        _, batch = batch_of(head)
        model = make_bert(head)
        expected = [model(**batch, **more).loss for more in ({}, {"output_hidden_states": True})]
        batch["labels"] = batch["labels"].masked_fill(batch["attention_mask"] == 0, 1)
        torch.testing.assert_close([model(**batch).loss, model(**batch, output_hidden_states=True).loss], expected)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_a_training_step_makes_logits_of_masked_positions_only(make_bert) -> None:
    vocabulary = 4000
    model = make_bert("ForPreTraining", vocab_size=vocabulary).train()
    batch = eight_texts()
    labels = torch.full((ROWS, LENGTH), -100)
    labels[0, 0] = labels[3, 1] = 9
    with LargestTensor() as largest:
        model(**batch, labels=labels).loss.backward()
    assert largest.elements <= vocabulary * 16  # the word embeddings


def test_padding_can_neither_start_nor_end_an_answer(make_bert) -> None:
    batch = eight_texts()
    output = make_bert("ForQuestionAnswering")(**batch)
    padding = batch["attention_mask"] == 0
    for logits in (output.start_logits, output.end_logits):
        assert not logits.softmax(-1)[padding].any()


def test_bfloat16_autocast_stays_close(make_bert) -> None:
    _, batch = batch_of("ForPreTraining")
    batch["next_sentence_label"] = torch.tensor([0, 1] * 4)
    model = make_bert("ForPreTraining", **NO_DROPOUT).train()
    exact = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
