"""Langevin steps in the metric of EK-FAC: exact on a linear regression, where EK-FAC is the Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ekfac
import influence
from influence.llc import preconditioned
from influence.llc.covariance import at_damping, covariance
from influence.llc.estimate import Withheld
from influence.llc.run import llc
from influence.truth.exact import exact_solver

N_BETA, STEP = 400.0, 0.4


@pytest.fixture(scope="module")
def fitted():
    """A linear map at its least squares, inputs of very different spreads, and its solver."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64) * torch.tensor([30.0, 3.0, 0.3, 0.03])
    y = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    net = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    lm = influence.load(influence.Supervised(net, x))
    rows, likelihood = influence.examples(np.zeros(60, int), np.arange(60)), influence.gaussian(y)
    factors = influence.fit_ekfac(lm, rows, likelihood=likelihood, labels="expected", progress=False)
    return lm, rows, likelihood, ekfac.solver(factors, damping=0.01), x


def chains(fitted, **settings):
    lm, rows, likelihood, solver, _ = fitted
    where, gamma = at_damping(lm, solver.lam, N_BETA)
    own = {"chains": 60, "draws": 100, "thin": 5, "burn_in": 100, "batch_size": 60, **settings}
    return llc(
        lm, rows, where=where, gamma=gamma, n_beta=N_BETA, sampler=preconditioned.build(lm, solver, N_BETA),
        step_size=STEP, likelihood=likelihood, progress=False, **own,
    )  # fmt: skip


def test_all_directions_are_reached_in_a_few_steps(fitted) -> None:
    lm, _, _, solver, x = fitted
    found = chains(fitted, track={"row": fitted[1]})
    h = torch.linalg.eigvalsh(x.T @ x / 60)
    lam = next(iter(solver.lam.values()))
    exact = float((h / (h + lam)).sum())  # two outputs, each with half of it
    known = exact / (1 - STEP / 4)
    assert abs(found.value - known) < 4 * found.mcse and found.mcse < 0.02 * known
    assert found.rhat < 1.01 and found.ess > 1000
    assert found.step_bias == pytest.approx(known - exact, rel=0.1) and 0.8 < found.acceptance < 1


def test_steps_too_long_for_the_curvature_are_noticed_and_searched_for(fitted) -> None:
    """EK-FAC of inputs a hundred times smaller takes 10⁴ for a curvature of 1, and chains of ε = .4 run away."""
    lm, rows, likelihood, _, x = fitted
    small = influence.load(influence.Supervised(lm.net.get_submodule("net"), x / 100))
    factors = influence.fit_ekfac(small, rows, likelihood=likelihood, labels="expected", progress=False)
    solver = ekfac.solver(factors, damping=0.01)
    where, gamma = at_damping(lm, solver.lam, N_BETA)
    asked = {
        "where": where, "gamma": gamma, "n_beta": N_BETA, "sampler": preconditioned.build(lm, solver, N_BETA),
        "likelihood": likelihood, "batch_size": 60, "chains": 8, "draws": 20, "thin": 2, "burn_in": 100,
        "progress": False,
    }  # fmt: skip
    with pytest.raises(Withheld):
        llc(lm, rows, step_size=STEP, **asked)
    found = llc(lm, rows, **asked)
    assert found.settings["step_size"] < 1e-3 and found.acceptance > 0.8


def test_covariances_are_those_of_the_exact_solve(fitted) -> None:
    lm, rows, likelihood, solver, _ = fitted
    queries = rows.select(range(10))
    exact = exact_solver(lm, rows, solver.lam, likelihood=likelihood, progress=False)
    known = influence.score(lm, rows, queries, exact, per="sequence", likelihood=likelihood, progress=False).values
    found = covariance(chains(fitted, track={"row": rows, "query": queries}).trace)
    per_query = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.values, known, strict=True)]
    assert np.mean(per_query) > 0.97
    assert "the step size may add" in found.attrs["notes"]  # ε/4 of every variance


def test_other_coordinates_and_temperatures_are_refused(fitted) -> None:
    lm, rows, likelihood, solver, _ = fitted
    with pytest.raises(ValueError, match="n_beta is 0"):
        preconditioned.build(lm, solver, 0)
    other = influence.load(influence.Supervised(nn.Linear(4, 3).double(), fitted[4]))
    sampler = preconditioned.build(lm, solver, N_BETA)
    with pytest.raises(ValueError, match="15 coordinates move, the solver's blocks have 8"):
        llc(other, rows, sampler=sampler, step_size=0.1, likelihood=influence.gaussian(torch.zeros(60, 3).double()),
            progress=False)  # fmt: skip
