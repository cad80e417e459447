"""Covariances along chains: the closed form of a quadratic, and exact damped solves at equal damping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llc_case import doubles
from torch import Tensor, nn

import influence
from influence.llc.covariance import at_damping, covariance, susceptibility
from influence.llc.estimate import estimate
from influence.llc.run import llc, plan_of
from influence.llc.space import space
from influence.llc.target import of_items
from influence.llc.trace import sample
from influence.truth.exact import exact_solver

N_BETA, GAMMA, STEP = 100.0, 10.0, 3e-3


def regression(rows: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets with noise, and the least-squares weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64) * doubles([1.5, 0.6, 0.2])[0]
    y = torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, y, torch.linalg.lstsq(x, y[:, None]).solution[:, 0]


@pytest.fixture(scope="module")
def traced():
    x, y, best = regression()
    target = of_items(lambda w, a, b: (a @ w["w"] - b).square() / 2, {"w": best}, [x, y])
    coordinates = space(target)
    plan = plan_of(
        target, coordinates, n_beta=N_BETA, gamma=GAMMA, step_size=STEP, batch_size=24, chains=1000, draws=20, thin=20,
        burn_in=200,
    )  # fmt: skip
    return sample(target, coordinates, plan, {"row": target, "query": target}, progress=False)


def sigma(x: Tensor) -> Tensor:
    """The covariance of Langevin steps of size STEP on the quadratic."""
    a, q = torch.linalg.eigh(N_BETA * x.T @ x / len(x) + GAMMA * torch.eye(3, dtype=torch.float64))
    return q @ torch.diag(1 / (a * (1 - STEP * a / 4))) @ q.T


def test_covariances_have_the_closed_form(traced) -> None:
    x, y, best = regression()
    s, g = sigma(x), (x @ best - y)[:, None] * x
    known = (g @ s @ g.T + (x @ s @ x.T) ** 2 / 2).numpy() * N_BETA
    found = covariance(traced, raw=True).values
    slope = (found * known).sum() / (known**2).sum()
    assert abs(slope - 1) < 0.02
    assert np.corrcoef(found.ravel(), known.ravel())[0, 1] > 0.998


def test_scores_are_labelled_and_in_nats(traced) -> None:
    raw, nats = covariance(traced, raw=True), covariance(traced)
    assert nats.dims == ("query", "row") and nats.shape == (24, 24)
    np.testing.assert_allclose(nats.values * 24, raw.values)
    assert nats.attrs["damping"] == pytest.approx(GAMMA / N_BETA)
    assert (nats["reliability"].values > 0.9).all()
    assert nats.attrs["notes"] == "; ".join(estimate(traced).notes)
    with pytest.raises(ValueError, match="not tracked"):
        covariance(traced, rows="others")


def test_susceptibilities_have_the_closed_form(traced) -> None:
    """−Cov(L, ℓᵢ − L) with Cov(ℓᵢ, ℓⱼ) known; their mean over the rows is 0."""
    x, y, best = regression()
    s, g = sigma(x), (x @ best - y)[:, None] * x
    pairs = (g @ s @ g.T + (x @ s @ x.T) ** 2 / 2).numpy()
    known = -(pairs.mean(0) - pairs.mean())
    found = susceptibility({"all": traced})
    assert found.dims == ("part", "row")
    losses = traced.tracked["row"].reshape(-1, 24)
    whole = losses.mean(1)
    noise = (
        whole.std() * (losses - whole[:, None]).std(0) / np.sqrt(3000)
    )  # of 20,000 draws: a slow direction needs 7 to forget
    assert (np.abs(found.values[0] - known) < 4 * noise).all()
    assert (np.abs(known) > 8 * noise).sum() >= 4
    assert abs(found.values.mean()) < 1e-12


def classifier() -> tuple[influence.types.LM, object]:
    """A logistic regression of three classes, trained to its minimum."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (40,), generator=generator)
    net = nn.Sequential(nn.Linear(4, 3)).double()
    with torch.no_grad():
        net[0].weight.zero_(), net[0].bias.zero_()
    fit = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        fit.zero_grad()
        loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        return loss

    fit.step(closure)
    return influence.load(influence.Supervised(net, x)), influence.examples(labels.tolist())


def test_influence_by_covariance_equals_the_exact_solve_at_equal_damping() -> None:
    """At the minimum of a linear softmax model H = G, and at large nβ the quadratic limit holds."""
    lm, rows = classifier()
    damping = {block.name: 0.05 for block in lm.blocks}
    exact = influence.score(
        lm, rows, rows, exact_solver(lm, rows, damping, progress=False), per="sequence", progress=False
    )
    n_beta = 2000.0
    where, gamma = at_damping(lm, damping, n_beta)
    found = llc(
        lm, rows, where=where, n_beta=n_beta, gamma=gamma, sampler="sgnht", step_size=1e-3, batch_size=40, chains=300,
        draws=20, thin=10, burn_in=100, track={"row": rows, "query": rows}, progress=False,
    )  # fmt: skip
    scores = covariance(found.trace)
    assert list(scores["row"].values) == list(exact["row"].values)
    per_query = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores.values, exact.values, strict=True)]
    assert min(per_query) > 0.97 and np.mean(per_query) > 0.99
    slope = (scores.values * exact.values).sum() / (exact.values**2).sum()
    assert abs(slope - 1) < 0.05


def test_damping_of_other_blocks_is_refused() -> None:
    lm, _ = classifier()
    with pytest.raises(ValueError, match="lacks the blocks"):
        at_damping(lm, {"other": 0.1}, 10.0)
    mask, gamma = at_damping(lm, {block.name: None for block in lm.blocks}, 10.0)
    assert not any(value.any() for value in mask.values()) and all((value == 0).all() for value in gamma.values())
