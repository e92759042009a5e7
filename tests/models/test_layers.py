"""Parts without parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaswani_transformer.models.layers import dropout


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
