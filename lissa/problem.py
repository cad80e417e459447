"""What the solvers share: the damped product, what may come in, and how they fail.

The problem is (G + λI) x = v with one λ per block and G positive semi-definite, for all queries at once. A block whose
λ is None has no curvature: it takes no part, its answer is zero, as with EK-FAC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from influence.grads import axpy, dense, dot, norm, order, queries
from influence.types import Grad, Solver

Product: TypeAlias = Callable[[Grad], Grad]
Lam: TypeAlias = Mapping[str, float | None]


class Diverged(ArithmeticError):
    """An iteration that grows, or an answer that is farther from the solution than zero is."""


class Indefinite(ArithmeticError):
    """A matrix, or a preconditioner, that is not positive definite."""


def prepare(v: Grad, lam: Lam) -> tuple[Grad, Tensor]:
    """The right-hand side, dense and zero in blocks without curvature, and which queries are not zero (q).

    Raises:
        ValueError: for a negative or non-finite λ, for blocks that differ, for v without queries or not finite.
    """
    for name, value in lam.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"λ of {name} is {value}; it must be a finite number of at least 0, or None")
    if queries(v) == 0:
        raise ValueError("a gradient of no queries came; give at least one")
    found: Grad = {}
    for name, part in order(v, list(lam)).items():
        whole = dense(part)
        bad = ~torch.isfinite(whole).flatten(1).all(1)
        if bad.any():
            raise ValueError(
                f"the gradient of {name} is not finite for the queries {bad.nonzero().flatten().tolist()[:8]}; "
                "look at these queries' measurement"
            )
        found[name] = torch.zeros_like(whole) if lam[name] is None else whole
    return found, norm(found) > 0


def damped(product: Product, lam: Lam) -> Product:
    """x -> (G + λI) x, zero in blocks without curvature."""

    def apply(x: Grad) -> Grad:
        found = order(product(x), list(lam))
        return {name: _plus(dense(found[name]), lam[name], dense(x[name])) for name in lam}

    return apply


def _plus(g: Tensor, lam: float | None, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if lam is None else g.to(x) + lam * x


def inverse(precondition: Solver | None, lam: Lam) -> Product:
    """r -> M⁻¹ r for a preconditioner that is a solver; without one r itself."""
    if precondition is None:
        return lambda r: r
    return lambda r: {name: dense(z).to(dense(r[name])) for name, z in order(precondition(r).value, list(lam)).items()}


def residual_of(product: Product, x: Grad, v: Grad) -> Grad:
    """v − A x for a damped product A."""
    return axpy(-1.0, product(x), v)


def energy(r: Grad, z: Grad, alive: Tensor) -> Tensor:
    """⟨r, M⁻¹r⟩ per query (q), 0 where the query is zero.

    Raises:
        Indefinite: where it is negative, or zero for a residual that is not: then M is not positive definite.
    """
    found = dot(r, z)
    bad = alive & ((found < 0) | ((found == 0) & (norm(r) > 1e-15)))
    if bad.any():
        raise Indefinite(
            f"⟨r, M⁻¹r⟩ is {float(found[bad].min()):.3g} for the queries {bad.nonzero().flatten().tolist()[:8]}: the "
            "preconditioner is not positive definite; give one with positive damping in every block that has curvature"
        )
    return torch.where(alive, found, 0.0)


def shown(lam: Lam) -> str:
    """The range of λ, for messages."""
    values = [value for value in lam.values() if value is not None]
    return f"λ from {min(values):.3g} to {max(values):.3g}" if values else "no λ"


def relative(r: Grad, v: Grad, alive: Tensor) -> Tensor:
    """‖r‖ / ‖v‖ per query (q), 0 by definition for a query that is zero."""
    return torch.where(alive, norm(r) / torch.where(alive, norm(v), 1.0), 0.0)
