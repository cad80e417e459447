"""The largest eigenvalue of G + λI, or of M⁻¹(G + λI), by power iteration on mini-batches.

Preconditioned, the operator is symmetric only in the inner product of M. With m = Mx kept beside x no product with M is
needed: the Rayleigh quotient is ⟨x, Ax⟩ / ⟨x, m⟩, and the next pair is m = Ax, x = M⁻¹m.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch

from influence.grads import apply, dense, dot
from influence.types import Grad, Solver
from lissa.problem import Indefinite, Lam, Product, damped, inverse, shown


class Largest(NamedTuple):
    """`value` is the largest over mini-batches; `products` were taken of one vector each."""

    value: float
    batches: list[float]
    products: int


def largest(
    draws: Iterator[Product],
    like: Grad,
    lam: Lam,
    *,
    generator: torch.Generator,
    precondition: Solver | None = None,
    batches: int = 5,
    steps: int = 20,
    tolerance: float = 0.01,
) -> Largest:
    """The largest eigenvalue over several mini-batches of the size that `draws` gives.

    The value of all rows together would not do: that of a small batch is larger, and the iteration must bear it.

    Args:
        draws: products v -> G̃v, each on a mini-batch of its own.
        like: any gradient with the blocks' shapes; its values are not used.
        generator: of the random first vectors, on the CPU.
        precondition: a solver r -> M⁻¹r.
        steps: at most so many products per mini-batch; it ends earlier once the value grows by less than `tolerance`.

    Raises:
        Indefinite: for a value that is not positive.
    """
    solve = inverse(precondition, lam)
    found, products = [], 0
    for product in islice(draws, batches):
        value, used = _one(damped(product, lam), solve, _random(like, lam, generator), steps, tolerance)
        if not value > 0:
            raise Indefinite(f"the largest eigenvalue came out as {value:.3g} ({shown(lam)}); use a larger damping")
        found.append(value)
        products += used
    return Largest(max(found), found, products)


def _one(matrix: Product, solve: Product, m: Grad, steps: int, tolerance: float) -> tuple[float, int]:
    x, value = solve(m), 0.0
    for step in range(1, steps + 1):
        length = float(dot(x, m))
        if not length > 0:
            raise Indefinite("the preconditioner is not positive definite; give one with positive damping")
        x = apply(lambda part, by=length**-0.5: part * by, x)  # type: ignore[misc]
        m = matrix(x)
        before, value = value, float(dot(x, m))
        if abs(value - before) <= tolerance * abs(value):
            return value, step
        x = solve(m)
    return value, steps


def _random(like: Grad, lam: Lam, generator: torch.Generator) -> Grad:
    found: Grad = {}
    for name, part in like.items():
        whole = dense(part)
        drawn = torch.randn(1, *whole.shape[1:], generator=generator, dtype=torch.float64).to(whole)
        found[name] = torch.zeros_like(drawn) if lam[name] is None else drawn
    return found
