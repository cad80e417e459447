"""Preconditioned block conjugate gradients: all queries search in one space, so each gains from the others' products.

O'Leary 1980; the directions are made orthonormal at every step, and those that depend on others are dropped, as in
Ji & Li 2017. After J steps q queries have been minimised over up to J · q directions at the price of J products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from influence.grads import dense, queries
from influence.types import Grad, Solution, Solver
from lissa import change
from lissa.problem import Indefinite, Lam, Product, damped, inverse, prepare, relative, residual_of, shown


class State(NamedTuple):
    """`r` is v − Ax by recurrence; `p` (m o i) orthonormal directions, m at most the number of queries."""

    x: Grad
    r: Grad
    p: Grad


def block_cg(
    product: Product,
    v: Grad,
    lam: Lam,
    *,
    precondition: Solver | None = None,
    steps: int = 20,
    tolerance: float = 1e-2,
    probes: Grad | None = None,
) -> Solution:
    """x with (G + λI) x = v, for a product that is the same at every call; arguments, result and errors as `lissa.cg`.

    It ends when every query has reached the tolerance. An answer that has not converged depends on which other queries
    were asked with it; never for the worse in the norm of A. Beside the products it holds four sets of the queries'
    size, and takes two Gram matrices (q q) per step.
    """
    if steps < 1 or not tolerance >= 0:
        raise ValueError(f"steps={steps}, tolerance={tolerance}: give at least one step and a tolerance of at least 0")
    v, alive = prepare(v, lam)
    matrix, solve = damped(product, lam), inverse(precondition, lam)
    state, record = init(v, solve), change.init(probes, steps)
    used = 0
    while used < steps and queries(state.p) and bool((relative(state.r, v, alive) > tolerance).any()):
        state = update(state, matrix, solve, lam, used + 1)
        used += 1
        if change.due(record, used):
            change.add(record, used, state.x)
    change.add(record, used, state.x)
    residual = relative(residual_of(matrix, state.x, v), v, alive)
    info: dict[str, Any] = {
        "method": "block cg",
        "products": used + 1,
        "zero_queries": (~alive).nonzero().flatten().tolist(),
        "floor": None,
        **change.summary(record, alive),
    }
    return Solution(state.x, residual, used, bool((residual <= 2 * tolerance).all()), info)


def init(v: Grad, solve: Product) -> State:
    """The state at x = 0."""
    zero: Grad = {name: torch.zeros_like(dense(part)) for name, part in v.items()}
    return State(zero, v, orthonormal(solve(v)))


def update(state: State, matrix: Product, solve: Product, lam: Lam, step: int) -> State:
    """One step: the best change of every query within the directions, and the next directions."""
    p = state.p
    ap = matrix(p)
    inside = _inverted(gram(p, ap), lam, step)
    along = inside @ gram(p, state.r)
    x, r = added(state.x, along.T, p), added(state.r, -along.T, ap)
    z = solve(r)
    return State(x, r, orthonormal(added(z, -(inside @ gram(ap, z)).T, p)))


def gram(x: Grad, y: Grad) -> Tensor:
    """⟨x_i, y_j⟩ summed over blocks, (m q) float64."""
    parts = [dense(x[name]).flatten(1).double() @ dense(y[name]).flatten(1).double().T for name in x]
    return torch.stack(parts).sum(0)


def added(y: Grad, by: Tensor, x: Grad) -> Grad:
    """y_i + Σ_j by_ij x_j."""
    found: Grad = {}
    for name, part in x.items():
        one, whole = dense(y[name]), dense(part)
        found[name] = one + torch.tensordot(by.to(whole), whole, 1)
    return found


def orthonormal(x: Grad) -> Grad:
    """An orthonormal basis (m o i) of what the queries span, without directions that are so up to rounding only."""
    size = gram(x, x).diagonal().clamp_min(0).sqrt()
    kept = size > 0
    scaled: Grad = {name: dense(part)[kept] / size[kept].to(dense(part))[:, None, None] for name, part in x.items()}
    rounding = torch.finfo(dense(next(iter(x.values()))).dtype).eps
    for _ in range(2):  # the second time removes what rounding left by the first
        values, vectors = torch.linalg.eigh(gram(scaled, scaled))
        good = values > 10 * rounding * values.max() if len(values) else values > 0
        turn = (vectors[:, good] * values[good].rsqrt()).T
        scaled = {name: torch.tensordot(turn.to(dense(part)), dense(part), 1) for name, part in scaled.items()}
    return scaled


def _inverted(matrix: Tensor, lam: Lam, step: int) -> Tensor:
    """The inverse of PᵀAP (m m), symmetric and positive definite where A is."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if not bool(torch.isfinite(values).all()) or not float(values[0]) > 0:
        raise Indefinite(
            f"block conjugate gradients: ⟨p, Ap⟩ is {float(values[0]):.3g} for a direction of step {step}, so G + λI "
            f"is not positive definite with {shown(lam)}; use a larger damping"
        )
    return (vectors / values) @ vectors.T
