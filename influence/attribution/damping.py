"""The damping that every solver of a comparison shares: λ of each block, and a preconditioner with the same λ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

import ekfac
from ekfac import EKFACSolver, Factors
from influence.attribution.fit import fit_diagonal
from influence.model.likelihood import Likelihood
from influence.types import LM, Solver

if TYPE_CHECKING:
    from influence.types import Rows

DAMPING = 0.1


def lambdas(
    lm: LM,
    rows: Rows,
    damping: float | None,
    factors: Factors | None,
    absolute: Mapping[str, float | None] | None,
    precondition: Solver | bool | None,
    likelihood: Likelihood,
    dtype: str | torch.dtype | None,
    progress: bool,
) -> dict[str, float | None]:
    """The absolute λ of every block, the same for every solver: see `lissa_solver` for where it comes from."""
    names = [block.name for block in lm.blocks]
    if absolute is not None:
        _same_blocks(names, absolute)
        return {name: absolute[name] for name in names}
    if damping is not None and not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping is {damping}; it must be a finite number of at least 0")
    if factors is None and isinstance(precondition, EKFACSolver):
        if damping is None:
            _same_blocks(names, precondition.lam)
            return {name: precondition.lam[name] for name in names}
        factors = precondition.factors
    if factors is None:
        factors = fit_diagonal(lm, rows, likelihood=likelihood, dtype=dtype, progress=progress)
    _same_blocks(names, factors)
    by = DAMPING if damping is None else damping
    return {name: by * factors[name].mean if factors[name].mean > 0 else None for name in names}


def preconditioner(
    precondition: Solver | bool | None, factors: Factors | None, lam: Mapping[str, float | None]
) -> Solver | None:
    """The solver that was given, or for True that of the factors with the same λ."""
    if precondition is None or precondition is False:
        return None
    if precondition is not True:
        return precondition
    if factors is None:
        raise ValueError("precondition=True needs factors=fit_ekfac(…); or give a solver such as ekfac.solver(factors)")
    return ekfac.solver(factors, absolute=lam)


def _same_blocks(names: list[str], given: Iterable[str]) -> None:
    missing, extra = sorted(set(names) - set(given)), sorted(set(given) - set(names))
    if missing or extra:
        raise ValueError(
            f"the damping lacks the blocks {missing[:5]} and has unknown ones {extra[:5]}; "
            "use factors of the same model and the same selection of blocks"
        )


def relative(damping: float | None, absolute: Any, precondition: Any) -> float | None:
    """The damping to record, in units of the mean eigenvalue; None where λ was given absolutely."""
    if absolute is not None:
        return None
    if damping is None and isinstance(precondition, EKFACSolver):
        return precondition.damping
    return DAMPING if damping is None else damping
