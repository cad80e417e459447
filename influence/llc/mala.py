"""Which share of a sampler's proposals a Metropolis correction would accept: a measure of what its step size
distorts.

Roberts & Tweedie 1996. With batches, acceptance is that for the posterior of the step's own batch: the noise of
batches is not in it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def acceptance(
    move: Tensor, fall: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor], drop: Tensor, step_size: float
) -> Tensor:
    """min(1, p(w') q(w | w') / (p(w) q(w' | w))) per chain (c), float64; 0 where it is not a number.

    A proposal w' is normal around w − (ε/2) P ∇U with covariance εP, so that the logarithm is
    U(w) − U(w') + ½ (w' − w)ᵀ(∇U + ∇U') + (ε/8) (∇Uᵀ P ∇U − ∇U'ᵀ P ∇U').

    Args:
        move: w' − w (c p).
        fall, back: ∇U and P ∇U (c p) at w and at w' on the same batch, zero where a coordinate is held.
        drop: U(w) − U(w') (c).
    """
    (f, pf), (b, pb) = (tuple(one.double() for one in pair) for pair in (fall, back))
    log = drop.double() + (move.double() * (f + b)).sum(1) / 2 + step_size / 8 * (f * pf - b * pb).sum(1)
    return torch.where(torch.isfinite(log), log.clamp_max(0).exp(), 0.0)
