"""Any function of the curvature in place of its damped inverse: V -> Q_S [φ(Λ) ∘ (Q_Sᵀ V Q_A)] Q_Aᵀ."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ekfac.factors import Factors
from ekfac.rotate import both_into, both_out_of
from influence.grads import dense, order
from influence.types import Grad, Solution, Solver


def spectral(factors: Factors, function: Callable[[str, Tensor], Tensor]) -> Solver:
    """A solver that multiplies the coordinates in the eigenbasis by function(block name, Λ (o i)), of Λ's shape.

    With `1 / (Λ + λ)` this is `solver`; a segment of a training run needs `(1 − exp(−ηKΛ)) / Λ` (Bae et al. 2024,
    equation 15).
    """

    def solve(grad: Grad) -> Solution:
        found: Grad = {}
        for name, value in order(grad, list(factors)).items():
            one = factors[name]
            bases = one.basis_in, one.basis_out
            turned = both_into(dense(value), *bases)
            found[name] = both_out_of(turned * function(name, one.eigenvalues).to(turned), *bases)
        return Solution(found)

    return solve
