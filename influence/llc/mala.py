"""Which share of a sampler's proposals a Metropolis correction would accept: a measure of what its step size
distorts.

Roberts & Tweedie 1996. With batches, acceptance is that for the posterior of the step's own batch: the noise of
batches is not in it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def proposal(values: Tensor, force: Tensor, noise: Tensor, step_size: float, metric: Tensor | None) -> Tensor:
    """w − (ε/2) P ∇U + √(εP) ξ, all (c p); held coordinates, where force and noise are zero, stay."""
    p = 1.0 if metric is None else metric
    root = 1.0 if metric is None else metric.sqrt()
    return values - step_size / 2 * p * force + step_size**0.5 * root * noise


def acceptance(
    here: Tensor, there: Tensor, fall: Tensor, back: Tensor, drop: Tensor, step_size: float, metric: Tensor | None
) -> Tensor:
    """min(1, p(w') q(w | w') / (p(w) q(w' | w))) per chain (c), float64; 0 where it is not a number.

    Args:
        here, there: w and the proposal w' (c p).
        fall, back: ∇U at w and at w' on the same batch, zero where a coordinate is held.
        drop: U(w) − U(w') (c).
    """
    p = 1.0 if metric is None else metric.double()
    move = there.double() - here.double()
    forward = (move + step_size / 2 * p * fall.double()).square() / p
    backward = (move - step_size / 2 * p * back.double()).square() / p
    log = drop.double() + (forward - backward).sum(1) / (2 * step_size)
    return torch.where(torch.isfinite(log), log.clamp_max(0).exp(), 0.0)
