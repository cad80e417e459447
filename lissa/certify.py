"""How far an answer is from solving the problem: its residual on independent rows, beside the sampling floor.

For rows drawn independently of the answer, E‖r_sample‖² = ‖r_all‖² + floor², with floor² the variance of the sampled
mean product; so √(residual² − floor²) estimates the residual on all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from influence.grads import axpy, dot, norm
from influence.types import Grad, Solution
from lissa.problem import Lam, Product, damped, prepare, relative


@dataclass(frozen=True)
class Certificate:
    """Of every query (q), float64; the first three in units of ‖v‖.

    `residual` as measured; `floor` the part of it that comes from the rows being a sample; `whole` the estimate on all
    rows, 0 where the residual is below its floor. `helps`: in the norm of A the answer is nearer to the solution than
    zero is, ⟨x, v⟩ > ½⟨x, Ax⟩. `zero`: the query's gradient is zero, its residual 0 by definition.
    """

    residual: Tensor
    floor: Tensor
    whole: Tensor
    helps: Tensor
    zero: Tensor
    products: int


def certify(
    x: Grad,
    v: Grad,
    lam: Lam,
    parts: Sequence[Product],
    *,
    weights: Sequence[float] | None = None,
    share: float = 0.0,
) -> Certificate:
    """The certificate of x as an answer to (G + λI) x = v.

    Args:
        parts: mean products of disjoint parts of rows drawn independently of x; their scatter gives the floor.
        weights: the parts' numbers of rows, default all equal.
        share: of all rows that the parts hold together; 1 says that they are all rows, so that the floor is 0.

    Raises:
        ValueError: without parts, with a single part unless share is 1, for weights or a share out of range.
    """
    weighing = _weights(parts, weights, share)
    v, alive = prepare(v, lam)
    mean, scatter, seen = None, torch.zeros(len(alive), dtype=torch.float64, device=alive.device), 0.0
    for weight, part in zip(weighing, parts, strict=True):
        one = damped(part, lam)(x)
        seen += weight
        if mean is None:
            mean = one
            continue
        apart = axpy(-1.0, mean, one)
        scatter += weight * (1 - weight / seen) * dot(apart, apart).double()
        mean = axpy(weight / seen, apart, mean)
    assert mean is not None
    residual = relative(axpy(-1.0, mean, v), v, alive).double()
    variance = scatter * (1 - share) / max(1, len(parts) - 1)
    floor = torch.where(alive, variance.sqrt() / torch.where(alive, norm(v).double(), 1.0), 0.0)
    whole = (residual.square() - floor.square()).clamp_min(0).sqrt()
    helps = ~alive | (dot(x, v) > 0.5 * dot(x, mean))
    return Certificate(residual, floor, whole, helps, ~alive, len(parts))


def certified(solution: Solution, certificate: Certificate, tolerance: float) -> Solution:
    """The solution with this certificate; converged where the residual on all rows is at most `tolerance`."""
    info: dict[str, Any] = {
        **solution.info,
        "floor": certificate.floor.tolist(),
        "residual_all_rows": certificate.whole.tolist(),
        "products_certificate": certificate.products,
        "zero_queries": certificate.zero.nonzero().flatten().tolist(),
        "worse_than_zero": (~certificate.helps).nonzero().flatten().tolist(),
    }
    done = bool((certificate.whole <= tolerance).all())
    return replace(solution, residual=certificate.residual, converged=done, info=info)


def _weights(parts: Sequence[Product], weights: Sequence[float] | None, share: float) -> list[float]:
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it is the part of all rows that the certificate sees, from 0 to 1")
    if not parts or (len(parts) == 1 and share < 1):
        raise ValueError(
            f"{len(parts)} part(s) came for a certificate; a sampling floor needs at least two, all rows at least one"
        )
    found = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if len(found) != len(parts) or not all(math.isfinite(w) and w > 0 for w in found):
        raise ValueError(f"weights {found[:8]} for {len(parts)} parts; give each part its number of rows, above 0")
    return [weight / sum(found) for weight in found]
