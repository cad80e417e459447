"""Chains: reproducible, the same under vmap and one by one, burn-in apart, diverged ones named and left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from llc_case import chains, doubles, least_squares, llc_of, quadratic
from torch import nn
from torch.nn import functional as F

from influence.llc.chains import small
from influence.llc.chance import subsets
from influence.llc.estimate import Withheld, estimate
from influence.llc.mala import acceptance
from influence.llc.run import plan_of
from influence.llc.samplers import SAMPLERS
from influence.llc.space import space
from influence.llc.target import of_function, of_net

(CURVATURES,) = doubles([0.1, 1.0, 3.0])
SHORT = {"n_beta": 50.0, "gamma": 5.0, "step_size": 2e-3, "chains": 3, "draws": 20, "thin": 3, "burn_in": 10}


def small_net(dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.5)
    x = torch.randn(50, 4, generator=generator, dtype=dtype)
    y = torch.randint(3, (50,), generator=generator)
    return net, of_net(net, [x, y], lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chains_under_vmap_equal_chains_one_by_one(sampler: str) -> None:
    _, target = small_net()
    asked = {**SHORT, "sampler": sampler, "batch_size": 8}
    mask = {"0.weight": True, "3.bias": torch.tensor([True, False, True])}
    for which in (None, mask):
        at_once, apart = (chains(target, which, vectorised, **asked) for vectorised in (True, False))
        np.testing.assert_allclose(at_once.excess, apart.excess, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(at_once.acceptance, apart.acceptance, rtol=1e-7)
        torch.testing.assert_close(at_once.ends, apart.ends, rtol=1e-9, atol=1e-12)


def test_by_default_only_small_steps_run_under_vmap() -> None:
    _, target = small_net()
    coordinates = space(target)
    plan = plan_of(target, coordinates, step_size=1e-3, batch_size=40)
    assert small(target, coordinates, plan) and small(replace(target, tokens=12.8), coordinates, plan)
    assert not small(replace(target, tokens=12.9), coordinates, plan)
    whole = plan._replace(batch_size=1000)  # no batch has more than the 50 items there are
    assert small(replace(target, tokens=10.2), coordinates, whole)
    wide = replace(coordinates, center=coordinates.center.repeat(1000))
    assert not small(target, wide, plan)


def test_the_net_is_as_before_and_dropout_is_off() -> None:
    net, target = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    first, second = (chains(target, **SHORT, batch_size=8) for _ in range(2))
    np.testing.assert_array_equal(first.excess, second.excess)
    assert net.training and net[2].training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_chain_does_not_depend_on_those_beside_it() -> None:
    _, target = small_net()
    few, many = (chains(target, **{**SHORT, "chains": c}, batch_size=8) for c in (2, 5))
    np.testing.assert_allclose(few.excess, many.excess[:2], rtol=1e-9, atol=1e-12)
    assert not np.allclose(many.excess[0], many.excess[1])
    other = chains(target, **{**SHORT, "chains": 2, "seed": 1}, batch_size=8)
    assert not np.allclose(few.excess, other.excess)


def test_acceptance_is_that_of_the_densities_of_both_proposals() -> None:
    generator = torch.Generator().manual_seed(0)
    root, w, force, noise = (torch.randn(shape, generator=generator, dtype=torch.float64)
                             for shape in ((4, 4), (4,), (2, 4), (4,)))  # fmt: skip
    metric, step = root @ root.T + torch.eye(4), 0.3
    there = w - step / 2 * metric @ force[0] + step**0.5 * torch.linalg.cholesky(metric) @ noise
    drop = torch.tensor([0.4], dtype=torch.float64)

    def density(at: torch.Tensor, frm: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
        return torch.distributions.MultivariateNormal(frm - step / 2 * metric @ pull, step * metric).log_prob(at)

    known = (drop + density(w, there, force[1]) - density(there, w, force[0])).clamp_max(0).exp()
    pairs = [(f[None], (metric @ f)[None]) for f in force]
    found = acceptance((there - w)[None], pairs[0], pairs[1], drop, step)
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-14)
    assert 0 < float(found) < 1
    assert float(acceptance((there - w)[None], pairs[0], pairs[1], drop * float("nan"), step)) == 0


def test_burn_in_is_in_no_estimate() -> None:
    """From w* the excess rises: with the way there in the mean, the estimate would be too low."""
    asked = {"n_beta": 50.0, "gamma": 5.0, "step_size": 2e-3, "chains": 200, "draws": 40, "thin": 2, "burn_in": 100}
    found = chains(quadratic(CURVATURES), **asked)
    assert found.warm.shape == (200, 100) and found.excess.shape == (200, 40)
    assert (found.warm[:, 0] == 0).all()
    assert found.warm[:, :5].mean() < 0.6 * found.excess.mean()
    assert estimate(found).value == pytest.approx(50 * found.excess.mean())


def test_the_loss_at_the_start_is_that_of_the_same_items() -> None:
    """Noise of the batches' own losses cancels: an item of any constant loss changes nothing."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = least_squares(x, torch.zeros(2, dtype=torch.float64))
    offset = torch.arange(40.0, dtype=torch.float64) * 100

    def losses(weights, inputs, constant):
        return target.losses(weights, (inputs,)) + constant

    from influence.llc.target import of_items

    shifted = of_items(losses, target.point, [x, offset])
    plain, other = (chains(one, **SHORT, batch_size=5) for one in (target, shifted))
    np.testing.assert_allclose(plain.excess, other.excess, atol=1e-9)
    assert other.start == pytest.approx(float(offset[: other.used].mean())) and other.used == 40


def test_diverged_chains_are_dropped_and_named() -> None:
    """A double well that opens downwards far out: some chains escape, the others' mean is as if they had not been."""
    target = of_function(lambda w: (w["w"] ** 2 / 2 - w["w"] ** 4 / 4).sum(), {"w": doubles([0.0, 0.0])[0]}, 100)
    trace = chains(target, n_beta=12.0, gamma=0.0, step_size=0.1, chains=40, draws=60, thin=1, burn_in=20)
    assert 2 <= trace.kept.sum() < 40
    found = estimate(trace)
    assert found.value == pytest.approx(12 * trace.excess[trace.kept].mean()) and np.isfinite(found.value)
    assert len(found.dropped) == 40 - trace.kept.sum() and "not finite" in found.dropped[0]
    assert "diverged" in found.notes[0]


def test_the_estimate_is_withheld_where_fewer_than_two_survive() -> None:
    with pytest.raises(Withheld, match=r"16 of 16 chains diverged.*step_size below 0\.1.*searched") as caught:
        llc_of(quadratic(CURVATURES), n_beta=50.0, gamma=5.0, step_size=0.1, draws=400, thin=1, burn_in=0)
    assert not caught.value.trace.kept.any()


def test_a_chain_that_only_runs_hot_has_diverged() -> None:
    trace = chains(quadratic(CURVATURES), n_beta=50.0, gamma=5.0, step_size=4.02 / 155, draws=150, thin=1, burn_in=0)
    assert np.isfinite(trace.excess).all() and "mean energy" in trace.why[0]


@pytest.mark.parametrize(("n", "b"), [(50, 3), (20, 7), (5, 4), (1000, 40)])
def test_batches_are_uniform_subsets(n: int, b: int) -> None:
    found = subsets(np.random.default_rng(0), n, b, 4000)
    assert found.shape == (4000, b) and found.min() >= 0 and found.max() < n
    assert all(len(set(row)) == b for row in found.tolist())
    counts = np.bincount(found.ravel(), minlength=n) / 4000
    assert np.abs(counts - b / n).max() < 5 * np.sqrt(b / n / 4000)
