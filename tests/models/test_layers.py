"""Parts without parameters."""

import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.activations import ACT2FN

from vaswani_transformer.models import layers
from vaswani_transformer.models.attention import attend
from vaswani_transformer.models.layers import OutputHead, activation_recomputed, chunked_cross_entropy, dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.99])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(400_001), rate, training=True)
    assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.005)
    assert out.mean().item() == pytest.approx(1.0, abs=0.07)
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - rate)]), rtol=2e-3, atol=0)


def test_each_quarter_of_a_draw_drops_alike() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.3, training=True) == 0).view(-1, 4).float()
    torch.testing.assert_close(dropped.mean(0), torch.full((4,), 0.3), rtol=0, atol=0.01)
    correlation = torch.corrcoef(dropped.T)
    torch.testing.assert_close(correlation, torch.eye(4), rtol=0, atol=0.02)


@given(shape=st.lists(st.integers(0, 5), min_size=0, max_size=3), rate=st.floats(0.0, 0.999999))
@settings(deadline=None)
def test_dropout_keeps_shape_and_type_and_never_divides_by_zero(shape: list[int], rate: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        out = dropout(torch.ones(shape, dtype=dtype), rate, training=True)
        assert out.shape == torch.Size(shape)
        assert out.dtype == dtype
        assert out.isfinite().all()


def test_dropout_is_repeated_by_the_seed_and_differs_from_call_to_call() -> None:
    x = torch.ones(1000)
    torch.manual_seed(5)
    first, second = dropout(x, 0.5, training=True), dropout(x, 0.5, training=True)
    torch.manual_seed(5)
    torch.testing.assert_close(dropout(x, 0.5, training=True), first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_the_gradient_of_dropout_passes_where_the_value_did() -> None:
    x = torch.ones(1000, requires_grad=True)
    out = dropout(x, 0.4, training=True)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach(), rtol=0, atol=0)


def test_dropout_does_nothing_in_eval() -> None:
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, training=False) is x


def test_compiled_dropout_is_torchs_own() -> None:
    x = torch.ones(64)
    torch.manual_seed(3)
    ours = torch.compile(lambda x: dropout(x, 0.5, training=True), backend="eager", fullgraph=True)(x)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, nn.functional.dropout(x, 0.5, training=True), rtol=0, atol=0)


def test_dropout_keeps_one_byte_an_element_for_its_gradient() -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        dropout(torch.ones(8, 100, requires_grad=True), 0.1, training=True)
    assert [(x.dtype, x.numel()) for x in kept] == [(torch.bool, 800)]


def test_dropout_has_gradients_of_gradients_and_of_each_row() -> None:
    x = torch.rand(3, 20, dtype=torch.float64, requires_grad=True)

    def same_draws(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return dropout(x * x, 0.4, training=True).square().sum()

    assert torch.autograd.gradgradcheck(same_draws, (x,))
    rows = torch.func.vmap(torch.func.grad(same_draws), randomness="same")(x.detach())
    torch.testing.assert_close(rows[1], torch.func.grad(same_draws)(x.detach()[1]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_may_be_differentiated_twice_over_the_same_graph(smoothing: float) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((6, 4), (11, 4), (11,))]
    labels = torch.tensor([3, -100, 0, 10, 5, -100])
    hidden, weight, bias = inputs
    loss, _ = chunked_cross_entropy(hidden, weight, bias, labels, label_smoothing=smoothing)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for gradient, again in zip(first, torch.autograd.grad(3 * loss, inputs), strict=True):
        torch.testing.assert_close(again, 3 * gradient)


def test_the_weights_gradient_is_not_copied_on_its_way() -> None:
    weight = torch.randn(50, 4, requires_grad=True)
    loss, _ = chunked_cross_entropy(torch.randn(6, 4), weight, None, torch.arange(6))
    made = loss.grad_fn.gradients[1].data_ptr()  # type: ignore[union-attr]
    (loss / 6).backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 3), (8, 1), (9, 1), (0, 1)])
def test_logits_of_few_rows_are_those_of_a_plain_linear(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    head = OutputHead(16, 37, bias=bias)
    hidden = torch.randn(*shape, 16)
    expected = nn.functional.linear(hidden, head.weight, head.bias)
    with torch.no_grad():
        found = head(hidden)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_one_row_is_multiplied_as_two_from_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: shapes.append((a.shape, b.shape)) or product(a, b))
    with torch.no_grad():
        OutputHead(16, 37)(torch.randn(1, 1, 16))
    assert shapes == [((37, 16), (16, 2))]


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu", "silu"])
def test_a_recomputed_activation_has_the_gradients_of_a_kept_one(activation: str) -> None:
    torch.manual_seed(0)
    function, linear = ACT2FN[activation], nn.Linear(8, 4).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(linear(function(x)).square().sum(), (x, *linear.parameters()))
    with activation_recomputed(function, x) as active:
        found = torch.autograd.grad(linear(active).square().sum(), (x, *linear.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_recomputed_activation_is_computed_again_for_the_gradient() -> None:
    calls = []

    def activation(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return nn.functional.gelu(x)

    with activation_recomputed(activation, torch.randn(5, 8, requires_grad=True)) as active:
        out = nn.Linear(8, 4)(active)
    assert len(calls) == 1
    out.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("bias", [False, True])
def test_an_installed_liger_kernel_computes_the_plain_loss(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    """With a stand-in that has its signature: the kernel itself needs a GPU."""
    calls = []

    class Stand:
        def __init__(self, *, reduction: str) -> None:
            self.reduction = reduction

        def __call__(self, weight: Tensor, hidden: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
            calls.append(self.reduction)
            return nn.functional.cross_entropy(
                hidden @ weight.T + (0 if bias is None else bias), labels, reduction="sum"
            )

    module = types.ModuleType("fused_linear_cross_entropy")
    module.LigerFusedLinearCrossEntropyLoss = Stand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    package = types.ModuleType("transformers")
    package.fused_linear_cross_entropy = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.fused_linear_cross_entropy", module)
    monkeypatch.setattr(layers, "_fused_loss", layers._fused_loss.__wrapped__)
    torch.manual_seed(0)
    head, hidden, labels = OutputHead(8, 19, bias=bias), torch.randn(2, 5, 8), torch.randint(19, (2, 5))
    labels[0, 2] = -100
    expected = head(hidden, labels)
    monkeypatch.setattr(layers, "FUSED_DEVICES", ("cpu",))
    for one, other in zip(head(hidden, labels), expected, strict=True):
        torch.testing.assert_close(one, other)
    head(hidden, labels, label_smoothing=0.1)  # another definition of smoothing: ours
    assert calls == ["sum"]


def test_causal_attention_with_dropout_and_no_mask_sees_no_later_key() -> None:
    module = nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    query, key, value = torch.randn(3, 2, 4, 6, 8)

    def attended(key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(0)
        return attend(module.train(), query, key, value, None, implementation="sdpa", dropout=0.2)[0]

    before = attended(key, value)
    key[:, :, 4:], value[:, :, 4:] = 9.0, 9.0
    after = attended(key, value)

    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_the_loss_of_logits_word_by_word_is_that_of_logits_row_by_row(rows: int, bias: bool) -> None:
    head = OutputHead(6, 50, bias=bias)
    hidden, labels = torch.randn(rows, 6, requires_grad=True), torch.randint(50, (rows,))

    def found(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
        monkeypatch.setattr(layers, "device_kind", lambda _: kind)
        loss, nll = head(hidden, labels, label_smoothing=0.1)
        return [loss, nll, *torch.autograd.grad(loss, [hidden, *head.parameters()])]

    with pytest.MonkeyPatch.context() as monkeypatch:
        pairs = zip(found("cpu", monkeypatch), found("other", monkeypatch), strict=True)
        for by_word, by_row in pairs:
            torch.testing.assert_close(by_word, by_row)
