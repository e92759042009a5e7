from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model
from vaswani_transformer.models import layers
from vaswani_transformer.models.layers import OutputHead, chunked_cross_entropy, cross_entropy

V, D, N = 37, 8, 23


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Four rows of logits at a time, so that a toy loss takes several chunks and a ragged last one."""
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": 4 * V, "other": 4 * V})
    monkeypatch.setattr(layers, "CHUNK_ROWS", 1)


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(N, D), torch.randn(V, D), torch.randn(V)
    labels = torch.randint(0, V, (N,))
    labels[[2, 3, 11, 22]] = -100
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), labels


def papers_loss(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """1 - epsilon on the target and epsilon / (V - 1) on every other word, word by word."""
    total = torch.zeros(())
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label != -100:
            target = torch.full((logits.shape[-1],), epsilon / (logits.shape[-1] - 1))
            target[label] = 1 - epsilon
            total = total - (target * row.log_softmax(-1)).sum()
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_is_the_papers_smoothed_cross_entropy(small_chunks, epsilon, bias) -> None:
    hidden, weight, bias_V, labels = problem()
    bias_V = bias_V if bias else None
    loss, nll = chunked_cross_entropy(hidden, weight, bias_V, labels, label_smoothing=epsilon)
    logits = nn.functional.linear(hidden, weight, bias_V)
    torch.testing.assert_close(loss, papers_loss(logits, labels, epsilon), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(nll, papers_loss(logits, labels, 0.0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_loss_is_torchs_with_its_epsilon_scaled(small_chunks, epsilon) -> None:
    hidden, weight, bias, labels = problem()
    logits = nn.functional.linear(hidden, weight, bias)
    expected = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=epsilon * V / (V - 1))
    for loss, _ in (
        chunked_cross_entropy(hidden, weight, bias, labels, label_smoothing=epsilon),
        cross_entropy(logits, labels, label_smoothing=epsilon),
    ):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
def test_the_chunked_gradients_are_autograds(small_chunks, epsilon, bias) -> None:
    hidden, weight, bias_V, labels = problem()
    leaves = [hidden, weight, bias_V] if bias else [hidden, weight]
    for leaf in leaves:
        leaf.requires_grad_()
    bias_V = bias_V if bias else None
    loss, _ = chunked_cross_entropy(hidden, weight, bias_V, labels, label_smoothing=epsilon)
    got = torch.autograd.grad(3.0 * loss, leaves)
    logits = nn.functional.linear(hidden, weight, bias_V)
    expected = torch.autograd.grad(3.0 * cross_entropy(logits, labels, label_smoothing=epsilon)[0], leaves)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got[0][labels == -100].abs().max() == 0


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_needs_no_gradient_gets_none(small_chunks, frozen) -> None:
    hidden, weight, _, labels = problem()
    hidden.requires_grad_(frozen != "hidden")
    weight.requires_grad_(frozen != "weight")
    loss, nll = chunked_cross_entropy(hidden, weight, None, labels, label_smoothing=0.1)
    loss.backward()
    assert (hidden.grad is None) == (frozen == "hidden")
    assert (weight.grad is None) == (frozen == "weight")
    assert not nll.requires_grad


def test_one_chunk_and_many_give_the_same_loss(monkeypatch) -> None:
    hidden, weight, bias, labels = problem()
    losses = []
    for elements in (V, 5 * V, 1000 * V, 1):  # less than a row still means one row
        monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": elements, "other": elements})
        monkeypatch.setattr(layers, "CHUNK_ROWS", 1)
        losses.append(chunked_cross_entropy(hidden, weight, bias, labels, label_smoothing=0.1)[0])
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(4))


@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)], ids=["none", "0", "tensor"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_nothing_labelled_gives_zero_and_not_nan(make_model, batch, epsilon, training, count) -> None:
    model = make_model(label_smoothing=epsilon).train(training)
    batch["labels"].fill_(-100)
    output = model(**batch, num_items_in_batch=count)
    output.loss.backward()
    assert output.loss.item() == output.nll_loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_the_model_smooths_in_training_and_in_evaluation_alike(make_model, batch, training) -> None:
    model = make_model(dropout=0.0, label_smoothing=0.1).train(training)
    output = model(**batch, return_logits=True)
    count = (batch["labels"] != -100).sum()
    logits, labels = output.logits.flatten(0, 1), batch["labels"].flatten()
    torch.testing.assert_close(output.loss, papers_loss(logits, labels, 0.1) / count)
    torch.testing.assert_close(output.nll_loss, papers_loss(logits, labels, 0.0) / count)
    torch.testing.assert_close(model(**batch).loss, output.loss)
    assert not output.nll_loss.requires_grad


def test_the_loss_in_evaluation_is_a_function_of_the_logits(make_model, batch) -> None:
    output = make_model()(**batch)
    (gradient,) = torch.autograd.grad(output.loss, output.logits)
    assert gradient[batch["labels"] != -100].abs().min() > 0
    assert gradient[batch["labels"] == -100].abs().max() == 0


def test_labels_at_padding_do_not_change_the_loss(make_model, batch) -> None:
    model = make_model(dropout=0.0).train()
    longer = {**batch, "labels": nn.functional.pad(batch["labels"], (0, 3), value=-100)}
    torch.testing.assert_close(model(**longer).loss, model(**batch).loss)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_num_items_in_batch_is_what_the_summed_loss_is_divided_by(make_model, batch, as_tensor, training) -> None:
    model = make_model(dropout=0.0).train(training)
    count = int((batch["labels"] != -100).sum())
    mean = model(**batch)
    given = model(**batch, num_items_in_batch=torch.tensor(4 * count) if as_tensor else 4 * count)
    torch.testing.assert_close(4 * given.loss, mean.loss)
    torch.testing.assert_close(4 * given.nll_loss, mean.nll_loss)


def eight_pairs() -> dict[str, Tensor]:
    torch.manual_seed(3)
    source, labels = torch.randint(3, 29, (8, 7)), torch.randint(3, 29, (8, 6))
    for row in range(8):  # lengths differ, so that a mean of means would be wrong
        source[row, 3 + row % 4 :] = 0
        labels[row, 1 + row % 6 :] = -100
    return {"input_ids": source, "attention_mask": source.ne(0).long(), "labels": labels}


def accumulate(model: Model, batch: dict[str, Tensor], parts: int) -> dict[str, Tensor]:
    model.zero_grad()
    count = (batch["labels"] != -100).sum()
    for part in range(parts):
        micro = {name: value.chunk(parts)[part] for name, value in batch.items()}
        model(**micro, num_items_in_batch=count).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_batches_give_the_gradient_of_one_big_batch(make_model, parts) -> None:
    model = make_model(dropout=0.0).train()
    torch.testing.assert_close(accumulate(model, eight_pairs(), parts), accumulate(model, eight_pairs(), 1))


def test_two_processes_give_the_gradient_of_one_big_batch(make_model, in_two_processes, tmp_path: Path) -> None:
    model = make_model(dropout=0.0).train()
    expected = accumulate(model, eight_pairs(), 1)
    model.save_pretrained(tmp_path)
    torch.save(eight_pairs(), tmp_path / "batch.pt")
    in_two_processes("data")
    torch.testing.assert_close(torch.load(tmp_path / "gradients.pt", weights_only=True), expected)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("tie", ["all", "none"])
def test_a_training_step_never_makes_a_tensor_of_vocabulary_times_target_length(make_model, monkeypatch, tie) -> None:
    vocabulary, length = 2000, 60
    model = make_model(vocab_size=vocabulary, d_model=8, tie_embeddings=tie, lm_head_bias=tie == "none").train()
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", {"cpu": 16 * vocabulary, "other": 16 * vocabulary})
    monkeypatch.setattr(layers, "CHUNK_ROWS", 1)
    ids = torch.randint(3, vocabulary, (2, length))
    with LargestTensor() as largest:
        model(ids, labels=ids).loss.backward()
    assert largest.elements <= 16 * vocabulary
    with LargestTensor() as largest:  # the recorder does see the logits that are asked for
        model(ids, labels=ids, return_logits=True)
    assert largest.elements == 2 * length * vocabulary


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_under_bfloat16_autocast_the_loss_and_gradients_stay_close(make_model, epsilon) -> None:
    model, batch = make_model(dropout=0.0, label_smoothing=epsilon).train(), eight_pairs()
    expected = accumulate(model, batch, 1)
    exact = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    model.zero_grad()
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        cosine = nn.functional.cosine_similarity(parameter.grad.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.98, name


def test_the_compiled_loss_is_the_eager_one(small_chunks) -> None:
    torch._dynamo.reset()
    hidden, weight, bias, labels = problem()
    leaves = [leaf.requires_grad_() for leaf in (hidden, weight, bias)]
    head = OutputHead(D, V)
    head.weight, head.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    eager, eager_nll = head(hidden, labels, 0.1)
    compiled, compiled_nll = torch.compile(head, fullgraph=True, backend="aot_eager")(hidden, labels, 0.1)
    torch.testing.assert_close((compiled, compiled_nll), (eager, eager_nll))
    inputs = [leaves[0], head.weight, head.bias]
    expected = torch.autograd.grad(eager, inputs)
    torch.testing.assert_close(torch.autograd.grad(compiled, inputs), expected, rtol=1e-5, atol=1e-5)
