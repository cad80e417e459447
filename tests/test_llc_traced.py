"""A recorded step is the step itself, and where nothing can be recorded the step stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from influence.llc import gradient, traced
from influence.llc.space import space
from influence.llc.target import Target, of_items


def net_of(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net


def target_of(net: nn.Module) -> Target:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (50,), generator=generator)

    def losses(weights: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net, weights, (inputs,)), labels, reduction="none")

    return of_items(losses, dict(net.named_parameters()), [x, y], net=net)


def test_recorded_steps_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of(net_of())
    coordinates = space(target, {"0.weight": True, "3.bias": True})
    values = coordinates.center.repeat(3, 1)
    generator = torch.Generator().manual_seed(2)
    monkeypatch.setattr(traced, "AFTER", 2)
    recorded: list[object] = []
    make = traced._recorded
    monkeypatch.setattr(traced, "_recorded", lambda *given: recorded.append(make(*given)) or recorded[-1])
    fast = gradient.together(target, coordinates, values)
    with target.borrowed():
        for step in range(12):
            size = 5 if step % 2 else 7
            items = target.items(torch.stack([torch.randperm(50, generator=generator)[:size] for _ in range(3)]))
            values.add_(0.1 * torch.randn(values.shape, generator=generator, dtype=torch.float64))
            losses, slope = fast(items)
            for c in range(3):
                own = gradient.alone(target, coordinates, values[c : c + 1])
                one, other = own(tuple(part[c : c + 1] for part in items))
                torch.testing.assert_close(losses[c : c + 1], one, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(slope[c : c + 1], other, rtol=1e-12, atol=1e-12)
    assert len(recorded) == 2 and all(one is not None for one in recorded)


def test_a_step_that_looks_at_values_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "AFTER", 0)

    def step(values: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x, values) if float(x.sum()) > 0 else (-x, values)

    run = traced.traced(step)
    for sign in (1.0, -1.0, 1.0, -1.0):
        x = torch.full((2, 3), sign)
        assert torch.equal(run(torch.zeros(2, 1), x)[0], x.abs())


def test_a_recording_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "AFTER", 0)
    state = {"sign": 1.0}

    def step(values: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * state["sign"], values

    run = traced.traced(step)
    x = torch.ones(2, 3)
    for sign in (1.0, 1.0, -1.0, -1.0, 1.0):
        state["sign"] = sign
        assert torch.equal(run(torch.zeros(2, 1), x)[0], x * sign)


def test_values_that_are_not_finite_are_the_same_in_a_recording() -> None:
    bad = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    assert traced._close(bad.clone(), bad) and not traced._close(torch.zeros(2, 2), bad)
    assert not traced._close(bad[:1], bad)
