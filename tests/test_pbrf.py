"""The proximal Bregman response against the exact damped inverse, as its weight goes to zero."""

import numpy as np
import pytest
import torch
from cases import FAMILIES
from small import token_rows
from test_gauss_newton import dense_matrix, flat

import ekfac
import influence
from influence.attribution.gradients import query_gradients
from influence.model.batches import batches
from influence.truth.pbrf import pbrf
from influence.types import LM


def tiny() -> LM:
    return influence.load(FAMILIES["gpt_neox"](), blocks="layers.1")


def exact(lm: LM, rows, queries, solver: ekfac.EKFACSolver) -> torch.Tensor:
    """(q n) ∇fᵀ (G + λ)⁻¹ ∇log p, the whole G with what couples the blocks."""
    _, batch = next(batches(rows, len(rows)))
    matrix = dense_matrix(lm, batch) / len(rows)
    lam = torch.cat([torch.full((block.size,), solver.lam[block.name], dtype=torch.float64) for block in lm.blocks])
    ours, theirs = (flat(query_gradients(lm, each, progress=False)[0]) for each in (queries, rows))
    return ours @ torch.linalg.solve(matrix + torch.diag(lam), theirs.T)


def test_equals_the_exact_score_as_the_weight_vanishes() -> None:
    lm = tiny()
    rows = token_rows(6, 0, low=5, high=9)
    queries = token_rows(3, 1, low=5, high=9, first=100)
    solver = ekfac.solver(influence.fit_ekfac(lm, rows, progress=False), damping=3.0)
    truth = exact(lm, rows, queries, solver).numpy()
    some = rows.select([3])
    errors = []
    for epsilon in (2.0**-6, 2.0**-14):
        found = pbrf(lm, rows, some, queries, solver, epsilon=epsilon, progress=False)
        assert float(found["gradient"].max()) <= 1e-5
        errors.append(np.abs(found.values - truth[:, [3]]).max() / np.abs(truth[:, [3]]).max())
    assert errors[0] > errors[1] and errors[1] < 1e-4
    # reciprocity: upweight the queries, measure the rows
    back = pbrf(lm, rows, queries.select([0]), some, solver, central=False, progress=False)
    np.testing.assert_allclose(back.values, truth[:1, [3]].T, rtol=1e-3, atol=1e-4 * np.abs(truth).max())


def test_regression_is_exact_at_any_weight_where_the_model_is_linear() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 1)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(9, generator=generator, dtype=torch.float64)
    lm = influence.load(influence.Supervised(net, x))
    likelihood = influence.gaussian(y)
    rows = influence.examples(np.zeros(9, int))
    factors = influence.fit_ekfac(lm, rows, labels="expected", likelihood=likelihood, progress=False)
    solver = ekfac.solver(factors, damping=0.2)
    lam = solver.lam["net.0"]
    x1 = torch.cat([x, torch.ones(9, 1)], 1)
    epsilon = 0.5
    found = pbrf(
        lm, rows, rows.select([2]), rows, solver, epsilon=epsilon, central=False, likelihood=likelihood,
        measure=lambda outputs, batch: outputs[:, 0, 0], tolerance=1e-9, progress=False,
    )  # fmt: skip
    residual = (y - net(x)[:, 0]).detach()[2]
    matrix = x1.T @ x1 / 9 + lam * torch.eye(5) + epsilon * torch.outer(x1[2], x1[2])
    direct = x1 @ torch.linalg.solve(matrix, x1[2] * residual)
    np.testing.assert_allclose(found.values[:, 0], direct.numpy(), rtol=1e-6)


def test_upweighted_rows_keep_their_order_whatever_their_length() -> None:
    lm = tiny()
    rows = token_rows(6, 0, low=3, high=12)
    solver = ekfac.solver(influence.fit_ekfac(lm, rows, progress=False), damping=30.0)
    options = {"central": False, "steps": 30, "tolerance": 1e-2, "progress": False}
    both = pbrf(lm, rows, rows.select([5, 0, 2]), rows, solver, **options)
    alone = pbrf(lm, rows, rows.select([2]), rows, solver, **options)
    np.testing.assert_allclose(both.sel(row=2).values, alone.sel(row=2).values, rtol=1e-6)
    assert both["row"].values.tolist() == [5, 0, 2]


def test_nothing_is_left_behind_and_bad_settings_are_refused() -> None:
    lm = tiny()
    rows = token_rows(3, 0)
    solver = ekfac.solver(influence.fit_ekfac(lm, rows, progress=False))
    before = {name: p.clone() for name, p in lm.net.named_parameters()}
    with pytest.warns(UserWarning, match="missed the tolerance"):
        pbrf(lm, rows, rows.select([0]), rows, solver, steps=1, progress=False)
    assert all(
        torch.equal(p, before[name]) and p.requires_grad and p.grad is None for name, p in lm.net.named_parameters()
    )
    with pytest.raises(ValueError, match="positive"):
        pbrf(lm, rows, rows, rows, solver, epsilon=0.0)
