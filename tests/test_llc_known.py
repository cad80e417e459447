"""Local learning coefficients whose values are known: closed forms, quadrature, and a theorem.

Tolerances are those of the specification: 4 Monte Carlo standard errors and 2 % for quadratics, 10 % for reduced rank
regression. `benchmarks/llc.py` runs more of each, longer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llc_case import chains, dimension, doubles, least_squares, llc_of, quadratic, quadrature, reduced_rank

from influence.llc.estimate import estimate
from influence.llc.target import of_function, of_items

(CURVATURES,) = doubles([0.0, 0.01, 0.1, 1.0, 3.0])
N_BETA, GAMMA = 100.0, 10.0


def close(found, known: float, share: float = 0.02) -> None:
    assert (
        abs(found.value - known) <= min(4 * found.mcse, share * known) or abs(found.value - known) <= share * known / 4
    )
    assert found.mcse < share * known, "the standard error is too large for the test to mean anything"


@pytest.mark.parametrize("step_size", [3e-3, 1e-2])
def test_sgld_on_a_quadratic_has_the_bias_of_its_step_size(step_size: float) -> None:
    found = llc_of(
        quadratic(CURVATURES),
        n_beta=N_BETA,
        gamma=GAMMA,
        step_size=step_size,
        chains=500,
        draws=20,
        thin=10,
        burn_in=250,
    )
    exact = dimension(CURVATURES, N_BETA, GAMMA)
    close(found, dimension(CURVATURES, N_BETA, GAMMA, step_size))
    assert found.step_bias == pytest.approx(dimension(CURVATURES, N_BETA, GAMMA, step_size) - exact, rel=0.05)


def test_sgnht_on_a_quadratic_has_no_bias() -> None:
    found = llc_of(
        quadratic(CURVATURES), sampler="sgnht", n_beta=N_BETA, gamma=GAMMA, step_size=4e-3, chains=500, draws=20,
        thin=10, burn_in=100,
    )  # fmt: skip
    close(found, dimension(CURVATURES, N_BETA, GAMMA))


def test_rmsprop_on_a_quadratic() -> None:
    found = llc_of(
        quadratic(CURVATURES), sampler="rmsprop", n_beta=N_BETA, gamma=GAMMA, step_size=1e-3, chains=500, draws=20,
        thin=20, burn_in=600,
    )  # fmt: skip
    exact = dimension(CURVATURES, N_BETA, GAMMA)
    assert abs(found.value - found.step_bias - exact) <= min(4 * found.mcse, 0.02 * exact)
    assert found.step_bias < 0.1 * exact


def test_normal_crossings_against_quadrature() -> None:
    """(w₁w₂)² at n = 1000, γ = 1: .361 by quadrature, and not the asymptotic ½."""
    target = of_function(lambda w: (w["a"] * w["b"]) ** 2, dict(zip("ab", doubles(0, 0), strict=True)), 1000)
    found = llc_of(target, sampler="sgnht", gamma=1.0, step_size=1e-3, chains=500, draws=20, thin=20, burn_in=400)
    known = quadrature(lambda x, y: (x * y) ** 2, 1000 / np.log(1000), 1.0)
    assert known == pytest.approx(0.362, abs=1e-3)
    close(found, known)


def test_reduced_rank_regression_against_the_theorem() -> None:
    target, known = reduced_rank(4, 3, 2, 1)
    settings = {"n_beta": 1e3, "gamma": 1.0, "step_size": 5e-5, "chains": 200, "draws": 20, "thin": 20, "burn_in": 1000}
    found = llc_of(target, sampler="sgnht", **settings)
    assert known == 4
    close(found, known, 0.1)


def test_a_masked_part_has_the_coefficient_of_its_own_block_of_the_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T / 6
    mask = torch.tensor([True, False, True, True, False, False])
    settings = {"n_beta": N_BETA, "gamma": GAMMA, "step_size": 3e-3, "chains": 500, "draws": 20, "thin": 10}
    trace = chains(quadratic(matrix), {"w": mask}, burn_in=250, **settings)
    close(estimate(trace), dimension(matrix[mask][:, mask], N_BETA, GAMMA, 3e-3))
    held = trace.ends[:, ~mask]
    assert trace.space.free == 3 and torch.equal(held, torch.zeros_like(held))
    assert (trace.ends[:, mask] != 0).all()


def test_other_data_give_the_coefficient_of_their_own_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, generator=generator, dtype=torch.float64)
    settings = {"n_beta": N_BETA, "gamma": GAMMA, "step_size": 3e-3, "chains": 500, "draws": 20, "thin": 10}
    seen = []
    for scale in ([1.0, 0.3, 0.1], [0.1, 0.3, 2.0]):
        x = torch.randn(64, 3, generator=generator, dtype=torch.float64) * doubles(scale)[0]
        found = llc_of(least_squares(x, w), batch_size=64, burn_in=250, **settings)
        close(found, dimension(x.T @ x / 64, N_BETA, GAMMA, 3e-3))
        seen.append(found.value)
    assert abs(seen[0] - seen[1]) > 0.1


def test_noise_of_batches_adds_no_more_than_the_bias_that_is_stated() -> None:
    """Labels with noise, batches of an eighth: that heats the chains, and step_bias bounds by how much."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((64, 3), (64,)))
    best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    target = of_items(lambda w, a, b: (a @ w["w"] - b).square() / 2, {"w": best}, [x, y])
    settings = {"n_beta": N_BETA, "gamma": GAMMA, "step_size": 2e-4, "chains": 500, "draws": 10, "thin": 40}
    found = llc_of(target, batch_size=8, burn_in=1200, **settings)
    exact = dimension(x.T @ x / 64, N_BETA, GAMMA)
    assert exact - 4 * found.mcse < found.value < exact + found.step_bias + 4 * found.mcse
    assert found.value > 1.05 * exact and found.mcse < 0.02 * exact
