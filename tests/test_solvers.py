"""LiSSA and conjugate gradients on language models, against the dense damped Gauss-Newton matrix."""

from __future__ import annotations

import json
from typing import Any

import cases
import numpy as np
import pytest
import torch
from small import token_rows
from torch import Tensor, nn
from torch.nn import functional as F

import ekfac
import influence
import lissa
from influence.attribution.fit import fit_diagonal, fit_ekfac
from influence.attribution.gradients import query_gradients
from influence.attribution.products import products
from influence.attribution.score import score
from influence.attribution.solvers import cg_solver, lissa_solver
from influence.model.load import load
from influence.types import LM, Grad

ROWS, QUERIES = token_rows(12, 1, high=12), token_rows(3, 2, first=100)
QUIET: dict[str, Any] = {"progress": False}
SMALL: dict[str, Any] = {"probes": 8, **QUIET}


@pytest.fixture(scope="module")
def lm() -> LM:
    return load(cases.FAMILIES["gpt_neox"](), blocks=r"layers\.1\.mlp")


@pytest.fixture(scope="module")
def factors(lm: LM) -> ekfac.Factors:
    return fit_ekfac(lm, ROWS, **QUIET)


@pytest.fixture(scope="module")
def v(lm: LM) -> Grad:
    return query_gradients(lm, QUERIES, **QUIET)[0]


@pytest.fixture(scope="module")
def dense(lm: LM) -> Tensor:
    """G over all rows, column by column."""
    size = sum(block.size for block in lm.blocks)
    with products(lm, ROWS) as of:
        return flat(of.over(np.arange(len(ROWS)))(blocks(lm, torch.eye(size, dtype=torch.float64))))


def flat(x: Grad) -> Tensor:
    return torch.cat([part.flatten(1) for part in x.values()], 1)


def blocks(lm: LM, x: Tensor) -> Grad:
    parts = x.split([block.size for block in lm.blocks], 1)
    return {block.name: part.reshape(-1, *block.shape) for block, part in zip(lm.blocks, parts, strict=True)}


def diagonal(lm: LM, lam: dict[str, float | None]) -> Tensor:
    return torch.cat([torch.full((block.size,), lam[block.name] or 0.0, dtype=torch.float64) for block in lm.blocks])


def error(x: Tensor, wanted: Tensor) -> float:
    return float((x - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("precondition", [None, True], ids=["plain", "ekfac"])
def test_both_reach_the_dense_answer(lm: LM, factors: ekfac.Factors, v: Grad, dense: Tensor, precondition: Any) -> None:
    options: dict[str, Any] = {"damping": 30.0, "factors": factors, "precondition": precondition, **SMALL}
    by_cg = cg_solver(lm, ROWS, steps=400, tolerance=1e-9, **options)
    wanted = torch.linalg.solve(dense + diagonal(lm, by_cg.lam).diag(), flat(v).T).T
    found = by_cg(v)
    assert error(flat(found.value), wanted) < 1e-6 and found.converged
    by_series = lissa_solver(lm, ROWS, batch_size=len(ROWS), steps=250, safety=0.6, tolerance=1e-5, **options)(v)
    assert error(flat(by_series.value), wanted) < 1e-6 and by_series.converged
    assert by_series.info["floor"] == [0, 0, 0] and by_series.info["certificate"] == "all rows"


def test_the_residual_is_that_of_the_dense_matrix(lm: LM, v: Grad, dense: Tensor, factors: ekfac.Factors) -> None:
    for make in (cg_solver, lissa_solver):
        solver = make(lm, ROWS, steps=5, factors=factors, **SMALL)
        found = solver(v)
        r = flat(v) - flat(found.value) @ (dense + diagonal(lm, solver.lam).diag())
        assert torch.allclose(found.residual.double(), r.norm(dim=1) / flat(v).norm(dim=1), rtol=1e-8)
        assert found.converged is False


def test_blockwise_solves_each_block_by_itself(lm: LM, v: Grad, dense: Tensor, factors: ekfac.Factors) -> None:
    solver = cg_solver(lm, ROWS, steps=400, tolerance=1e-9, factors=factors, damping=10.0, blockwise=True, **SMALL)
    sizes = [block.size for block in lm.blocks]
    apart = torch.block_diag(*[part.split(sizes, 1)[k] for k, part in enumerate(dense.split(sizes))])
    wanted = torch.linalg.solve(apart + diagonal(lm, solver.lam).diag(), flat(v).T).T
    assert error(flat(solver(v).value), wanted) < 1e-6


def test_lambda_means_the_same_for_every_solver(lm: LM, factors: ekfac.Factors, dense: Tensor) -> None:
    """Absolute values agree with EK-FAC's; without factors they are measured, close to tr G_b / dim."""
    one = ekfac.solver(factors, 0.3)
    assert cg_solver(lm, ROWS, damping=0.3, factors=factors, **SMALL).lam == one.lam
    for make in (cg_solver, lissa_solver):
        assert make(lm, ROWS, precondition=one, **SMALL).lam == one.lam
        assert make(lm, ROWS, precondition=one, damping=0.6, **SMALL).lam == ekfac.solver(factors, 0.6).lam
        assert make(lm, ROWS, absolute=one.lam, **SMALL).lam == one.lam
    measured = lissa_solver(lm, ROWS, damping=0.3, **SMALL).lam
    of_diagonal = fit_diagonal(lm, ROWS, **QUIET)
    assert measured == {name: 0.3 * of_diagonal[name].mean for name in of_diagonal}
    traces = [
        part.split([b.size for b in lm.blocks])[k].mean() for k, part in enumerate([dense.diagonal()] * len(lm.blocks))
    ]
    for block, trace in zip(lm.blocks, traces, strict=True):
        assert measured[block.name] == pytest.approx(0.3 * float(trace), rel=0.5)  # labels are drawn once


def test_scores_carry_the_certificate(lm: LM, factors: ekfac.Factors) -> None:
    for solver in (
        cg_solver(lm, ROWS, precondition=True, factors=factors, steps=4, **SMALL),
        lissa_solver(lm, ROWS, factors=factors, steps=20, batch_size=6, certify=8, **SMALL),
    ):
        found = score(lm, ROWS, QUERIES, solver, **QUIET)
        attrs = json.loads(json.dumps(found.attrs))
        assert attrs["solver"] == solver.name and attrs["damping"] == 0.1
        assert len(attrs["residual"]) == 3 and attrs["converged"] is False and attrs["steps"] > 0
        certificate = attrs["certificate"]
        assert len(certificate["change"]) == 3 and certificate["products"] > 0
    assert certificate["scale"] > 0 and len(certificate["floor"]) == 3 and min(certificate["floor"]) > 0
    assert certificate["certificate_rows"] == 8 and "independently" in certificate["certificate"]


def test_scores_of_converged_cg_are_the_exact_ones(lm: LM, factors: ekfac.Factors, v: Grad, dense: Tensor) -> None:
    solver = cg_solver(lm, ROWS, damping=10.0, factors=factors, steps=400, tolerance=1e-9, **SMALL)
    got = score(lm, ROWS, QUERIES, solver, per="sequence", **QUIET).transpose("query", "row").values
    x = torch.linalg.solve(dense + diagonal(lm, solver.lam).diag(), flat(v).T)
    wanted = flat(query_gradients(lm, ROWS, **QUIET)[0]) @ x / len(ROWS)
    assert np.abs(got - wanted.T.numpy()).max() < 1e-6 * np.abs(wanted.numpy()).max()


def test_the_same_seed_gives_the_same_answer(lm: LM, factors: ekfac.Factors, v: Grad) -> None:
    def answer(seed: int) -> Tensor:
        return flat(lissa_solver(lm, ROWS, factors=factors, steps=12, batch_size=5, seed=seed, **SMALL)(v).value)

    assert torch.equal(answer(3), answer(3)) and not torch.equal(answer(3), answer(4))


def test_a_sample_is_certified_on_other_rows(lm: LM, factors: ekfac.Factors, v: Grad, dense: Tensor) -> None:
    solver = cg_solver(
        lm, ROWS, damping=10.0, factors=factors, sample=6, steps=200, tolerance=1e-6, certify=12, **SMALL
    )
    found = solver(v)
    r = flat(v) - flat(found.value) @ (dense + diagonal(lm, solver.lam).diag())
    assert torch.allclose(found.residual, r.norm(dim=1) / flat(v).norm(dim=1), rtol=1e-8)
    assert max(found.info["residual_on_sample"]) < 2e-6 < float(found.residual.min())
    assert found.converged is False and found.info["sample"] == 6


def test_too_large_a_scale_is_named(lm: LM, factors: ekfac.Factors, v: Grad) -> None:
    auto = lissa_solver(lm, ROWS, factors=factors, steps=2, **SMALL)(v).info["scale"]
    with pytest.raises(lissa.Diverged, match=r"within 1?\d steps; .* use scale="):
        lissa_solver(lm, ROWS, factors=factors, scale=30 * auto, **SMALL)(v)


class Noisy(nn.Module):
    """A model whose dropout stays on in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cases.FAMILIES["live"]()

    def forward(self, ids: Tensor) -> Tensor:
        return F.dropout(self.net(ids), 0.5, training=True)


def test_random_layers_are_noticed() -> None:
    noisy = load(Noisy(), blocks="mlp")
    grad = query_gradients(noisy, QUERIES, **QUIET)[0]
    for make in (cg_solver, lissa_solver):
        with pytest.raises(ValueError, match="random numbers in evaluation mode"):
            make(noisy, ROWS, **{**SMALL, "probes": 0})(grad)


def test_bad_settings_are_refused(lm: LM, factors: ekfac.Factors, v: Grad) -> None:
    for name, value in {"damping": -0.1, "batch_size": 0, "probes": -1}.items():
        for make in (cg_solver, lissa_solver):
            with pytest.raises(ValueError, match=name):
                make(lm, ROWS, factors=factors, **{**SMALL, name: value})
    with pytest.raises(ValueError, match="sample"):
        cg_solver(lm, ROWS, factors=factors, sample=0, **SMALL)
    with pytest.raises(ValueError, match="needs factors"):
        cg_solver(lm, ROWS, precondition=True, **SMALL)
    with pytest.raises(ValueError, match="lacks the blocks"):
        cg_solver(lm, ROWS, absolute={}, **SMALL)
    with pytest.raises(ValueError, match="certify"):
        lissa_solver(lm, ROWS, factors=factors, certify=1, **SMALL)(v)
    with products(lm, ROWS) as of, pytest.raises(ValueError, match="no rows"):
        of.over(np.arange(0))
    with pytest.raises(ValueError, match="there are no rows"):
        cg_solver(lm, ROWS.select([]), factors=factors, **SMALL)(v)


def test_both_are_public() -> None:
    assert influence.cg_solver is cg_solver and influence.lissa_solver is lissa_solver
