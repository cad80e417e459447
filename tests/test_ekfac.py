"""The engine against dense matrices and cases where the answer is known."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from small import kronecker

import ekfac
from ekfac import covariance, eigenvalues

SHAPE = (4, 5)


def pairs(seed: int, b: int = 30, t: int = 3, o: int = 4, i: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(b, t, i, generator=generator, dtype=torch.float64) @ torch.randn(
        i, i, generator=generator, dtype=torch.float64
    )
    g = torch.randn(b, t, o, generator=generator, dtype=torch.float64) * a[..., :1]
    return a, g


def fit(a: torch.Tensor, g: torch.Tensor, *, splits: int = 1, parts: int = 1) -> ekfac.Factors:
    shapes = {"x": (g.shape[2], a.shape[2])}
    state = covariance.init(shapes, splits=splits, dtype=torch.float64)
    for x, y in zip(a.chunk(parts), g.chunk(parts), strict=True):
        state = covariance.counted({"x": covariance.update(state["x"], x, y)}, len(x))
    bases = ekfac.eigenbasis(state, shapes)
    values = eigenvalues.init(shapes, dtype=torch.float64)
    for x, y in zip(a.chunk(parts), g.chunk(parts), strict=True):
        eigenvalues.update(values["x"], eigenvalues.coordinates(x, y, bases["x"].basis_in, bases["x"].basis_out))
        values = eigenvalues.counted(values, len(x))
    return ekfac.factors(bases, values)


def whole(basis: torch.Tensor, width: int) -> torch.Tensor:
    """A split basis (s k k) as one orthogonal matrix."""
    return basis if basis.ndim == 2 else torch.block_diag(*basis)[:width, :width]


def dense(factors: ekfac.Factors) -> torch.Tensor:
    one = factors["x"]
    o, i = one.eigenvalues.shape
    return kronecker(whole(one.basis_out, o), one.eigenvalues, whole(one.basis_in, i))


def test_factors_equal_a_direct_computation() -> None:
    a, g = pairs(0)
    one = fit(a, g)["x"]
    flat_a, flat_g = a.flatten(0, 1), g.flatten(0, 1)
    for basis, values, x in ((one.basis_in, one.values_in, flat_a), (one.basis_out, one.values_out, flat_g)):
        torch.testing.assert_close(basis @ torch.diag(values) @ basis.T, x.T @ x / len(x), rtol=1e-10, atol=1e-10)
    grads = torch.einsum("bto,bti->boi", g, a)
    turned = torch.einsum("op,boi,ij->bpj", one.basis_out, grads, one.basis_in)
    torch.testing.assert_close(one.eigenvalues, turned.square().mean(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("curvature", ["ekfac", "kfac"])
def test_solver_equals_a_dense_solve(splits: int, curvature: str) -> None:
    fitted = fit(*pairs(1), splits=splits)
    fitted = ekfac.kfac(fitted) if curvature == "kfac" else fitted
    v = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lam = 0.1 * fitted["x"].eigenvalues.mean()
    matrix = dense(fitted) + lam * torch.eye(20, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, v.flatten(1).T).T.view_as(v)
    got = ekfac.solver(fitted, 0.1)({"x": v}).value["x"]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_split_factors_are_the_diagonal_blocks_of_the_covariance() -> None:
    a, g = pairs(2, i=7)
    one = fit(a, g, splits=3)["x"]
    flat = a.flatten(0, 1)
    full = flat.T @ flat / len(flat)
    expected = torch.zeros_like(full)
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        expected[start:stop, start:stop] = full[start:stop, start:stop]
    q = whole(one.basis_in, 7)
    torch.testing.assert_close(q @ torch.diag(one.values_in) @ q.T, expected, rtol=1e-10, atol=1e-10)


def test_kfac_is_exact_for_a_linear_model_with_gaussian_labels() -> None:
    """y = Wx + noise: G = I ⊗ E[x xᵀ]. Labels at ±√o along each axis have the noise's covariance exactly."""
    o, i = SHAPE
    x = torch.randn(8, i, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    axes = torch.eye(o, dtype=torch.float64) * o**0.5
    labels = torch.cat([axes, -axes])
    a = x.repeat_interleave(len(labels), 0)[:, None]
    g = labels.repeat(len(x), 1)[:, None]
    exact = torch.kron(torch.eye(o, dtype=torch.float64), x.T @ x / len(x))
    fitted = fit(a, g)
    torch.testing.assert_close(dense(ekfac.kfac(fitted)), exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dense(fitted), exact, rtol=1e-10, atol=1e-10)


def test_kfac_is_not_exact_in_general() -> None:
    a, g = pairs(5)
    grads = torch.einsum("bto,bti->boi", g, a).flatten(1)
    exact = grads.T @ grads / len(grads)
    assert (dense(ekfac.kfac(fit(a, g))) - exact).norm() > 0.1 * exact.norm()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.integers(1, 4), b=st.integers(2, 30))
def test_ekfac_is_never_further_from_g_than_kfac(seed: int, t: int, b: int) -> None:
    a, g = pairs(seed, b=b, t=t)
    grads = torch.einsum("bto,bti->boi", g, a).flatten(1)
    exact = grads.T @ grads / b
    fitted = fit(a, g)
    near, far = ((dense(f) - exact).norm() for f in (fitted, ekfac.kfac(fitted)))
    assert near <= far * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 7))
def test_parts_change_nothing(seed: int, parts: int) -> None:
    a, g = pairs(seed)
    torch.testing.assert_close(
        dense(fit(a, g, parts=parts)), dense(fit(a, g)), rtol=1e-9, atol=1e-10 * float(dense(fit(a, g)).norm())
    )


def test_merge_law_for_all_states() -> None:
    a, g = pairs(6)
    shapes = {"x": SHAPE}
    basis = fit(a, g)["x"]

    def covariances(x: torch.Tensor, y: torch.Tensor) -> covariance.CovarianceState:
        state = covariance.init(shapes, dtype=torch.float64)
        return covariance.counted({"x": covariance.update(state["x"], x, y)}, len(x))

    def values(x: torch.Tensor, y: torch.Tensor) -> eigenvalues.EigenvaluesState:
        state = eigenvalues.init(shapes, dtype=torch.float64)
        eigenvalues.update(state["x"], eigenvalues.coordinates(x, y, basis.basis_in, basis.basis_out))
        return eigenvalues.counted(state, len(x))

    both = covariance.merge(covariances(a[:10], g[:10]), covariances(a[10:], g[10:]))["x"]
    one = covariances(a, g)["x"]
    torch.testing.assert_close((both.a, both.g), (one.a, one.g), rtol=1e-12, atol=1e-12)
    assert (both.positions, both.sequences) == (one.positions, one.sequences)
    merged, alone = eigenvalues.merge(values(a[:10], g[:10]), values(a[10:], g[10:]))["x"], values(a, g)["x"]
    torch.testing.assert_close(merged.total, alone.total, rtol=1e-12, atol=1e-12)
    assert eigenvalues.relative_error(merged) == pytest.approx(eigenvalues.relative_error(alone), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(t=st.integers(1, 12), o=st.integers(1, 9), i=st.integers(1, 9), splits=st.integers(1, 4))
def test_every_way_to_rotate_agrees(t: int, o: int, i: int, splits: int) -> None:
    a, g = pairs(7, b=3, t=t, o=o, i=i)
    one = fit(a, g, splits=splits)["x"]
    got = eigenvalues.coordinates(a, g, one.basis_in, one.basis_out)
    grads = torch.einsum("bto,bti->boi", g, a)
    expected = whole(one.basis_out, o).T @ grads @ whole(one.basis_in, i)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_wide_covariances_by_panels_equal_the_plain_product() -> None:
    x = torch.randn(2, 40, 600, generator=torch.Generator().manual_seed(8))
    state = covariance.init({"x": (3, 600)})["x"]
    covariance.update(state, x, x[..., :3])
    flat = x.flatten(0, 1)
    torch.testing.assert_close(covariance.mirrored(state.a)[0], flat.T @ flat, rtol=1e-4, atol=1e-4)


def test_zero_curvature_contributes_nothing_and_is_named() -> None:
    a, g = pairs(9)
    fitted = fit(a, torch.zeros_like(g))
    with pytest.warns(UserWarning, match="zero curvature.*x"):
        solve = ekfac.solver(fitted)
    assert not solve({"x": torch.ones(1, *SHAPE, dtype=torch.float64)}).value["x"].any()


@pytest.mark.parametrize("damping", [-0.1, float("nan"), float("inf")])
def test_bad_damping_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="damping is"):
        ekfac.solver(fit(*pairs(10)), damping)


def test_zero_damping_with_a_singular_curvature_is_refused() -> None:
    a, g = pairs(11)
    with pytest.raises(ValueError, match="larger damping"):
        ekfac.solver(fit(a, g * torch.tensor([1.0, 1, 1, 0]).double()), 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_factors_name_the_block(bad: float) -> None:
    a, g = pairs(12)
    g[3, 1, 2] = bad
    with pytest.raises(ekfac.BadFactor, match="of x holds NaN or infinite"):
        fit(a, g)
