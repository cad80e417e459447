"""(G + λI)⁻¹ V ≈ Q_S [(Q_Sᵀ V Q_A) / (Λ + λ)] Q_Aᵀ, λ = damping · mean(Λ) per block.

Grosse et al. 2023, equation 21.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ekfac.factors import Factors
from ekfac.rotate import both_into, both_out_of
from influence.grads import dense, order
from influence.types import Grad, Solution


@dataclass(frozen=True)
class EKFACSolver:
    """A solver Grad -> Solution. `lam` has the absolute λ of every block; None where the block's Λ is zero."""

    factors: Factors
    damping: float
    lam: dict[str, float | None] = field(default_factory=dict)

    def __call__(self, grad: Grad) -> Solution:
        return Solution({name: self.block(name, dense(v)) for name, v in order(grad, list(self.factors)).items()})

    def block(self, name: str, v: Tensor) -> Tensor:
        """The solution (… o i) of one block."""
        if self.lam[name] is None:
            return torch.zeros_like(v)
        bases = self.factors[name].basis_in, self.factors[name].basis_out
        return both_out_of(self.divide(name, both_into(v, *bases)), *bases)

    def divide(self, name: str, turned: Tensor) -> Tensor:
        """Coordinates (… o i) in the eigenbasis over Λ + λ; zeros for a block whose Λ is zero."""
        lam = self.lam[name]
        if lam is None:
            return torch.zeros_like(turned)
        return turned / (self.factors[name].eigenvalues + lam).to(turned)


def solver(
    factors: Factors, damping: float = 0.1, *, absolute: Mapping[str, float | None] | None = None
) -> EKFACSolver:
    """A solver for these factors.

    Args:
        factors: EK-FAC, or any other curvature of the same form (`kfac`, `diagonal`, `identity`).
        damping: λ of each block in units of its mean eigenvalue.
        absolute: λ by block name, used instead.

    Raises:
        ValueError: for a negative or non-finite damping, or one of zero where some Λ is not positive.

    A block whose Λ is all zero (an expert that no token reached) contributes zero; it is named in a warning.
    """
    if not math.isfinite(damping) or damping < 0:
        raise ValueError(f"damping is {damping}; it must be a finite number of at least 0")
    lam: dict[str, float | None] = {}
    for name, one in factors.items():
        mean = one.mean
        if mean <= 0:
            lam[name] = None
            continue
        value = damping * mean if absolute is None else float(absolute[name] or 0.0)
        if value < 0 or not math.isfinite(value) or float(one.eigenvalues.min()) + value <= 0:
            raise ValueError(
                f"{name}: Λ + λ is not positive (λ = {value:g}, smallest Λ {float(one.eigenvalues.min()):g}); "
                "use a larger damping"
            )
        lam[name] = value
    empty = [name for name, value in lam.items() if value is None]
    if empty:
        shown = ", ".join(empty[:5]) + (" …" if len(empty) > 5 else "")
        warnings.warn(f"{len(empty)} block(s) have zero curvature and contribute nothing: {shown}", stacklevel=2)
    return EKFACSolver(factors, damping, lam)
