import copy
import logging
import math
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_polynomial_decay_schedule_with_warmup,
)

from vaswani_transformer.optim import EMA, build_optimizer, build_schedule, learning_rate
from vaswani_transformer.recipe import OptimizerSection, ScheduleSection

ADAM = OptimizerSection(learning_rate=1e-3)
NOAM = ScheduleSection()


class Tied(nn.Module):
    """A linear layer, a norm, and a head that shares the embedding's matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layer(self.embedding(ids))))


def model(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    return Tied()


def rate(schedule: ScheduleSection, step: int, *, optimizer=ADAM, d_model=512, steps=100_000) -> float:
    return learning_rate(schedule, optimizer, d_model=d_model, step=step, steps=steps)


def update(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.arange(7)).square().sum().backward()
    optimizer.step()


def test_only_matrices_are_decayed_and_a_tied_one_once():
    groups = build_optimizer(model(), replace(ADAM, weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert [sorted(tuple(p.shape) for p in g["params"]) for g in groups] == [[(4, 4), (7, 4)], [(4,), (4,), (4,)]]


def test_frozen_parameters_are_left_out_and_an_all_frozen_model_is_refused():
    network = model()
    network.layer.requires_grad_(False)
    assert sum(len(g["params"]) for g in build_optimizer(network, ADAM).param_groups) == 3
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        build_optimizer(network, ADAM)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_fused_one_with_the_recipes_constants(name, kind):
    section = replace(ADAM, name=name, betas=[0.8, 0.9], eps=1e-7)
    optimizer = build_optimizer(model(), section)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["fused"], group["betas"], group["eps"], group["lr"]) == (True, (0.8, 0.9), 1e-7, 1e-3)
    update(network := model(), build_optimizer(network, section))


def test_a_device_without_a_fused_kernel_gets_the_plain_one():
    assert build_optimizer(model().to("meta"), ADAM).param_groups[0]["fused"] is False


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"adam.*adamw.*'sgd'"):
        build_optimizer(model(), replace(ADAM, name="sgd"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_one_update_is_the_formula_of_adam(name):
    network = model()
    optimizer = build_optimizer(network, replace(ADAM, name=name, learning_rate=0.01, weight_decay=0.1))
    before = network.layer.weight.detach().double().clone()
    update(network, optimizer)
    grad = network.layer.weight.grad
    assert grad is not None
    grad = grad.double() + (0.1 * before if name == "adam" else 0.0)
    decayed = before * (1 - 0.01 * 0.1) if name == "adamw" else before
    # After one update the bias-corrected moments are the gradient and its square.
    expected = decayed - 0.01 * grad / (grad.abs() + 1e-9)
    torch.testing.assert_close(network.layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-7)


def google_adam(weight, grad, m, v, *, lr, decay):
    """One update of Google's AdamWeightDecayOptimizer, in float64: no bias correction, decay outside the moments."""
    m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
    return weight - lr * (m / (v.sqrt() + 1e-6) + decay * weight), m, v


def lamb(weight, grad, m, v, *, lr, decay):
    """One update of LAMB, in float64, without bias correction; what is not decayed has a trust ratio of 1."""
    m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
    direction = m / (v.sqrt() + 1e-6) + decay * weight
    ratio = weight.norm() / (direction.norm() + 1e-6) if decay else 1.0
    return weight - lr * ratio * direction, m, v


def furthest_from(formula, network: nn.Module, optimizer: torch.optim.Optimizer, *, updates: int = 6) -> float:
    """The greatest distance of any weight from what a formula makes of the same gradients, relative to the way gone."""
    start = {name: p.detach().double().clone() for name, p in network.named_parameters()}
    states = {name: (p, torch.zeros_like(p), torch.zeros_like(p)) for name, p in start.items()}
    for number in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (number + 1)
        update(network, optimizer)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            grad, decay = parameter.grad.double(), 0.1 if parameter.ndim >= 2 else 0.0
            states[name] = formula(states[name][0], grad, *states[name][1:], lr=0.01 * (number + 1), decay=decay)
    off = [(p - states[name][0]).norm() / (p - start[name]).norm() for name, p in network.named_parameters()]
    return max(value.item() for value in off)


GOOGLE = OptimizerSection(
    name="adamw", learning_rate=0.01, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.1, bias_correction=False
)


def test_without_bias_correction_adamw_is_googles_and_with_it_is_not():
    network = model()
    assert furthest_from(google_adam, network, build_optimizer(network, GOOGLE)) < 1e-5
    network = model()
    assert furthest_from(google_adam, network, build_optimizer(network, replace(GOOGLE, bias_correction=True))) > 0.1


def test_adamw_without_bias_correction_goes_on_the_same_from_a_saved_state():
    straight, resumed = model(), model()
    first = build_optimizer(straight, GOOGLE)
    for _ in range(3):
        update(straight, first)
    resumed.load_state_dict(straight.state_dict())
    second = build_optimizer(resumed, GOOGLE)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # or they would share the moments
    for network, optimizer in ((straight, first), (resumed, second)):
        update(network, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_lamb_is_the_papers_with_adams_update_where_nothing_decays():
    network = model()
    with torch.no_grad():
        network.layer.weight.mul_(30)  # a norm above 10, which the library would cut off
    assert network.layer.weight.norm() > 10
    assert furthest_from(lamb, network, build_optimizer(network, replace(GOOGLE, name="lamb"))) < 1e-5


def test_lamb_without_its_library_is_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ValueError, match=r"vaswani-transformer\[lamb\]"):
        build_optimizer(model(), replace(GOOGLE, name="lamb"))


def test_noam_is_the_papers_formula_from_the_first_update():
    for step in (1, 2, 3999, 4000, 4001, 100_000):
        assert rate(NOAM, step) == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-12)
    assert rate(NOAM, 4000) == pytest.approx(6.99e-4, rel=1e-3)
    assert rate(NOAM, 4000, d_model=1024) == pytest.approx(4.94e-4, rel=1e-3)


def test_scale_is_a_factor_on_noam():
    assert rate(replace(NOAM, scale=2.0), 10) == pytest.approx(2 * rate(NOAM, 10))


def test_the_first_update_of_a_built_schedule_already_uses_step_one():
    network = model()
    optimizer = build_optimizer(network, OptimizerSection())
    schedule = build_schedule(optimizer, NOAM, OptimizerSection(), d_model=64, steps=50)
    used = []
    for _ in range(3):
        used.append([group["lr"] for group in optimizer.param_groups])
        update(network, optimizer)
        schedule.step()
    assert used == [[rate(NOAM, step, d_model=64)] * 2 for step in (1, 2, 3)]


def peer_rates(build, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_inverse_sqrt_is_transformers_shifted_by_the_update_it_wastes():
    theirs = peer_rates(lambda o: get_inverse_sqrt_schedule(o, num_warmup_steps=5), 40)
    section = ScheduleSection(name="inverse_sqrt", warmup_steps=5)
    assert [rate(section, step) for step in range(1, 40)] == pytest.approx(theirs[1:])
    assert theirs[0] == 0.0


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_is_transformers_shifted_by_the_update_it_wastes_and_ends_on_its_floor(floor):
    theirs = peer_rates(
        lambda o: get_cosine_with_min_lr_schedule_with_warmup(
            o, num_warmup_steps=5, num_training_steps=40, min_lr_rate=floor
        ),
        41,
    )
    section = ScheduleSection(name="cosine", warmup_steps=5, minimum_ratio=floor)
    ours = [rate(section, step, steps=40) for step in range(1, 42)]
    assert ours[:40] == pytest.approx(theirs[1:])
    assert ours[39] == pytest.approx(1e-3 * floor)
    assert ours[40] == ours[39]  # past the end it stays there instead of rising again


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_linear_is_googles_warm_up_times_a_decay_whose_clock_starts_with_the_run(power):
    section = ScheduleSection(name="linear", warmup_steps=4, power=power)
    rates = [rate(section, step, steps=20) for step in range(1, 22)]
    assert rates[:3] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])
    assert rates[3:] == pytest.approx([1e-3 * (1 - step / 20) ** power for step in range(4, 21)] + [0.0])


def test_linear_decays_as_transformers_polynomial_schedule_where_nothing_warms_up():
    theirs = peer_rates(
        lambda o: get_polynomial_decay_schedule_with_warmup(
            o, num_warmup_steps=0, num_training_steps=40, lr_end=0.0, power=0.5
        ),
        40,
    )
    section = ScheduleSection(name="linear", warmup_steps=0, power=0.5)
    assert [rate(section, step, steps=40) for step in range(1, 40)] == pytest.approx(theirs[1:])


def test_constant_warms_up_and_stays():
    section = ScheduleSection(name="constant", warmup_steps=4)
    assert [rate(section, step) for step in range(1, 7)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    assert rate(replace(section, warmup_steps=0), 1) == 1e-3


def test_noam_equals_inverse_sqrt_with_the_peak_it_implies():
    peak = OptimizerSection(learning_rate=512**-0.5 * 4000**-0.5)
    same = ScheduleSection(name="inverse_sqrt", warmup_steps=4000)
    for step in (1, 100, 4000, 9000):
        assert rate(same, step, optimizer=peak) == pytest.approx(rate(NOAM, step))


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(["noam", "inverse_sqrt", "cosine", "constant"]),
    warmup=st.integers(1, 50),
    step=st.integers(2, 200),
)
def test_every_schedule_rises_through_warm_up_and_never_after(name, warmup, step):
    section = ScheduleSection(name=name, warmup_steps=warmup)
    now, before = rate(section, step, steps=200), rate(section, step - 1, steps=200)
    assert now > before if step <= warmup else now <= before


@pytest.mark.parametrize(
    ("schedule", "optimizer", "d_model", "step", "message"),
    [
        (NOAM, ADAM, None, 1, "d_model=None"),
        (NOAM, ADAM, 512, 0, "step=0"),
        (ScheduleSection(name="cosine"), OptimizerSection(), 512, 1, r"learning_rate=None.*schedule\.name=noam"),
        (ScheduleSection(name="step"), ADAM, 512, 1, r"schedule\.name='step'"),  # pyright: ignore
    ],
)
def test_a_rate_that_cannot_be_computed_is_refused(schedule, optimizer, d_model, step, message):
    with pytest.raises(ValueError, match=message):
        learning_rate(schedule, optimizer, d_model=d_model, step=step, steps=10)


def test_a_peak_that_noam_ignores_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        build_schedule(build_optimizer(model(), ADAM), NOAM, ADAM, d_model=4, steps=10)
    assert "learning_rate=0.001 is ignored" in caplog.text


def test_optimizer_and_schedule_go_on_bit_for_bit_after_a_round_trip(tmp_path):
    def start(seed: int):
        network = model(seed)
        optimizer = build_optimizer(network, OptimizerSection())
        return network, optimizer, build_schedule(optimizer, NOAM, OptimizerSection(), d_model=4, steps=20)

    straight, optimizer, schedule = start(1)
    resumed, optimizer2, schedule2 = start(2)
    for step in range(10):
        if step == 5:
            file = tmp_path / "state.pt"
            torch.save((straight.state_dict(), optimizer.state_dict(), schedule.state_dict()), file)
            weights, moments, count = torch.load(file, weights_only=True)
            resumed.load_state_dict(weights)
            optimizer2.load_state_dict(moments)
            schedule2.load_state_dict(count)
        update(straight, optimizer)
        schedule.step()
        if step >= 5:
            update(resumed, optimizer2)
            schedule2.step()
    assert schedule2.get_last_lr() == schedule.get_last_lr() == [rate(NOAM, 11, d_model=4)] * 2
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_resumed_schedule_follows_the_recipe_it_is_given():
    def start(section: ScheduleSection):
        optimizer = build_optimizer(model(), OptimizerSection())
        return build_schedule(optimizer, section, OptimizerSection(), d_model=4, steps=20)

    schedule, longer = start(NOAM), start(replace(NOAM, scale=3.0))
    longer.load_state_dict(schedule.state_dict())
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr()[0] == pytest.approx(3 * rate(NOAM, 2, d_model=4))


def test_ema_is_the_hand_formula():
    network = model()
    ema = EMA(network, 0.9, warmup=False)
    expected = network.layer.weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            network.layer.weight.add_(torch.randn(4, 4))
        ema.update(network)
        expected = 0.9 * expected + 0.1 * network.layer.weight.detach()
    torch.testing.assert_close(ema.shadow["layer.weight"], expected)


def test_ema_warmup_starts_with_a_small_decay():
    network = model()
    ema = EMA(network, 0.999)
    start = network.layer.weight.detach().clone()
    with torch.no_grad():
        network.layer.weight.add_(1.0)
    ema.update(network)
    torch.testing.assert_close(ema.shadow["layer.weight"], 0.1 * start + 0.9 * network.layer.weight.detach())


def test_ema_of_bfloat16_weights_is_float32_and_moves():
    network = model().to(torch.bfloat16)
    ema = EMA(network, 0.9999, warmup=False)
    assert {tensor.dtype for tensor in ema.shadow.values()} == {torch.float32}
    with torch.no_grad():
        network.norm.weight.mul_(2)  # 1 -> 2
    ema.update(network)
    torch.testing.assert_close(ema.shadow["norm.weight"], torch.full((4,), 1.0001))
    ema.copy_to(network)
    assert network.norm.weight.dtype == torch.bfloat16


def test_ema_holds_a_tied_weight_once_and_keeps_it_tied():
    network = model()
    ema = EMA(network, 0.5)
    assert sorted(ema.shadow) == ["embedding.weight", "layer.bias", "layer.weight", "norm.bias", "norm.weight"]
    ema.copy_to(network)
    assert network.head.weight is network.embedding.weight


def test_ema_shadow_does_not_alias_the_weights():
    network = model()
    ema = EMA(network, 0.5)
    before = ema.shadow["layer.weight"].clone()
    with torch.no_grad():
        network.layer.weight.zero_()
    assert torch.equal(ema.shadow["layer.weight"], before)


def test_swapping_in_the_average_gives_the_weights_back_after_an_exception():
    network = model()
    ema = EMA(network, 0.5)
    with torch.no_grad():
        network.layer.weight.add_(1.0)
    own = network.layer.weight.detach().clone()

    def stopped_while_evaluating() -> None:
        with ema.swapped(network):
            assert torch.equal(network.layer.weight, ema.shadow["layer.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_while_evaluating()
    assert torch.equal(network.layer.weight, own)


def test_ema_state_round_trips_through_a_file_that_cannot_run_code(tmp_path):
    network = model()
    ema, other = EMA(network, 0.9), EMA(model(5), 0.9)
    ema.update(network)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    assert other.updates == 1
    assert all(torch.equal(ema.shadow[name], other.shadow[name]) for name in ema.shadow)


def test_ema_refuses_the_state_of_another_model():
    ema = EMA(nn.Linear(2, 3), 0.9)
    with pytest.raises(ValueError, match="embedding"):
        ema.load_state_dict(EMA(model(), 0.9).state_dict())
    with pytest.raises(ValueError, match=r"saved \(5, 2\), model \(3, 2\)"):
        ema.load_state_dict(EMA(nn.Linear(2, 5), 0.9).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_an_ema_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="ema_decay"):
        EMA(model(), decay)


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_ema_sees_through_the_wrappers_of_compile_and_data_parallel(wrap):
    network = model()
    ema = EMA(network, 0.5)
    ema.update(wrap(network))
    assert ema.updates == 1
