"""The dense damped solve against an independent dense matrix."""

import pytest
import torch
from cases import FAMILIES
from small import token_rows
from test_gauss_newton import dense_matrix, flat, vectors

import ekfac
import influence
from influence.model.batches import batches
from influence.truth.exact import dense_gauss_newton, exact_solver


def test_the_matrix_and_its_solve_equal_the_direct_ones() -> None:
    lm = influence.load(FAMILIES["gpt_neox"](), blocks="layers.1")
    rows = token_rows(5, 0, low=5, high=9)
    direct = dense_matrix(lm, next(batches(rows, 5))[1]) / 5
    matrix = dense_gauss_newton(lm, rows, batch_size=2, at_once=700, progress=False)
    torch.testing.assert_close(matrix, direct, rtol=1e-6, atol=1e-7 * float(direct.abs().max()))
    lam = dict(ekfac.solver(influence.fit_ekfac(lm, rows, progress=False)).lam)
    skipped = lm.blocks[2].name
    lam[skipped] = None
    v = vectors(lm)
    found = exact_solver(lm, rows, lam, matrix=matrix)(v)
    assert (found.value[skipped] == 0).all() and float(found.residual.max()) < 1e-10
    diagonal = torch.cat([torch.full((b.size,), lam[b.name] or 1e30, dtype=torch.float64) for b in lm.blocks])
    expected = torch.linalg.solve(matrix + torch.diag(diagonal), flat(v).T).T
    torch.testing.assert_close(flat(found.value), expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))


def test_a_large_model_and_an_indefinite_matrix_are_refused() -> None:
    lm = influence.load(FAMILIES["llama"](), blocks="layers.1.mlp")
    with pytest.raises(ValueError, match="cg_solver"):
        dense_gauss_newton(lm, token_rows(2, 0), largest=10)
    nothing = torch.zeros(sum(b.size for b in lm.blocks), sum(b.size for b in lm.blocks), dtype=torch.float64)
    with pytest.raises(ValueError, match="larger damping"):
        exact_solver(lm, token_rows(2, 0), {b.name: 0.0 for b in lm.blocks}, matrix=nothing)
