"""Preconditioned conjugate gradients on one fixed product, all queries at once, each with its own step lengths.

Hestenes & Stiefel 1952. A query that has reached the tolerance is frozen, so its answer does not depend on the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from influence.grads import axpy, dot, norm
from influence.types import Grad, Solution, Solver
from lissa import change
from lissa.problem import Indefinite, Lam, Product, damped, energy, inverse, prepare, relative, residual_of, shown


class State(NamedTuple):
    """`r` is v − Ax by recurrence, `p` the direction, `rz` = ⟨r, M⁻¹r⟩ (q), `active` (q) the queries still at work."""

    x: Grad
    r: Grad
    p: Grad
    rz: Tensor
    active: Tensor
    steps: Tensor  # (q)
    top: Tensor  # (q) the largest ‖Ap‖ / ‖p‖ so far


def cg(
    product: Product,
    v: Grad,
    lam: Lam,
    *,
    precondition: Solver | None = None,
    steps: int = 100,
    tolerance: float = 1e-6,
    probes: Grad | None = None,
) -> Solution:
    """x with (G + λI) x = v, for a product that is the same at every call.

    Args:
        product: x -> Gx, the mean over the rows of a fixed sample, for all queries (q o i) at once.
        v: right-hand sides by block (q o i).
        lam: absolute λ by block; None for a block that takes no part.
        precondition: a solver r -> M⁻¹r, linear, M positive definite.
        steps: at most so many products.
        tolerance: a query is done once ‖v − Ax‖ / ‖v‖ is at most this.
        probes: gradients of a few rows (m o i), by whose scores ⟨x, probe⟩ the change of the answer is followed.

    Returns:
        the solution with the residual on this sample, measured by one more product; `converged` allows it twice the
        tolerance, for rounding. `info` has the steps per query, the products, the change of the scores, and the
        queries whose gradient is zero (answer zero, residual 0 by definition).

    Raises:
        ValueError: for values that are not finite, λ below 0, other blocks, steps below 1.
        Indefinite: where G + λI or the preconditioner is not positive definite.
    """
    if steps < 1 or not tolerance >= 0:
        raise ValueError(f"steps={steps}, tolerance={tolerance}: give at least one step and a tolerance of at least 0")
    v, alive = prepare(v, lam)
    matrix, solve = damped(product, lam), inverse(precondition, lam)
    state, record = init(v, alive, solve), change.init(probes, steps)
    used = 0
    while used < steps and bool(state.active.any()):
        state = update(state, matrix, solve, v, tolerance, lam)
        used += 1
        if change.due(record, used):
            change.add(record, used, state.x)
    change.add(record, used, state.x)
    return finish(state, matrix, v, alive, tolerance, used, record)


def init(v: Grad, alive: Tensor, solve: Product) -> State:
    """The state at x = 0."""
    z = solve(v)
    zero: Grad = {name: torch.zeros_like(part) for name, part in v.items()}  # type: ignore[arg-type]
    found = energy(v, z, alive)
    return State(zero, v, z, found, alive.clone(), torch.zeros_like(alive, dtype=torch.long), torch.zeros_like(found))


def update(state: State, matrix: Product, solve: Product, v: Grad, tolerance: float, lam: Lam) -> State:
    """One step for the active queries."""
    active = state.active
    ap = matrix(state.p)
    top = torch.maximum(state.top, torch.where(active, norm(ap) / torch.where(active, norm(state.p), 1.0), 0.0))
    alpha = torch.where(active, state.rz / _curvature(state, ap, top, lam), 0.0)
    x, r = axpy(alpha, state.p, state.x), axpy(-alpha, ap, state.r)
    z = solve(r)
    rz = torch.where(active, energy(r, z, active), state.rz)
    beta = torch.where(active, rz / state.rz, 0.0)
    remaining = active & (relative(r, v, active) > tolerance) & (rz > 0)
    return State(x, r, axpy(beta, state.p, z), rz, remaining, state.steps + active, top)


def _curvature(state: State, ap: Grad, top: Tensor, lam: Lam) -> Tensor:
    """⟨p, Ap⟩ per query, 1 where it is frozen.

    What rounding cannot tell from zero counts as zero: a small angle between p and Ap, and with λ = 0 also a small
    ⟨p, Ap⟩/⟨p, p⟩, since G alone is singular as soon as there are more parameters than predictions.
    """
    found, squares = dot(state.p, ap), dot(state.p, state.p)
    finite = torch.isfinite(found)
    eps = torch.finfo(found.dtype).eps
    least = eps * (squares * dot(ap, ap)).sqrt()
    if 0.0 in lam.values():
        least = torch.maximum(least, 16 * eps * top * squares)
    bad = state.active & ~(finite & (found > least))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise Indefinite(
            f"conjugate gradients: ⟨p, Ap⟩ is {float(found[first]):.3g} for query {first} at its step "
            f"{int(state.steps[first]) + 1}, so G + λI is not positive definite with {shown(lam)}; use a larger damping"
        )
    return torch.where(state.active, found, 1.0)


def finish(
    state: State, matrix: Product, v: Grad, alive: Tensor, tolerance: float, used: int, record: change.Record
) -> Solution:
    """The solution, its residual measured by one more product."""
    residual = relative(residual_of(matrix, state.x, v), v, alive)
    info: dict[str, Any] = {
        "method": "cg",
        "products": used + 1,
        "steps_per_query": state.steps.tolist(),
        "zero_queries": (~alive).nonzero().flatten().tolist(),
        "floor": None,
        **change.summary(record, alive),
    }
    done = bool((residual <= 2 * tolerance).all())
    return Solution(state.x, residual, used, done, info)
