"""What a sampler is: functions over the parameters of all chains, one flat buffer (c p) that is changed in
place.

U(w) = nβ L(w) + (γ/2)‖w − w*‖², so that p(w) ∝ exp(−U). The step size ε means the same in every sampler:
without forces a coordinate moves by √ε in a step (times its metric), and a quadratic of curvature a needs εa <
4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Sampler(NamedTuple):
    """One method of sampling.

    `init` (values, noise, free) -> state, with standard normal noise (c p) and the number of coordinates that
    move. `update` (state, values, force, noise, step_size, warm) -> state, moving `values` in place along force
    = ∇U(values) (c p); `warm` is True during burn-in, when it may still adapt.
    `metric` (state, force) -> P ∇U (c p), P what multiplies ε in a step.
    `euler`: a step is w − (ε/2) P ∇U + √(εP) ξ, so that its step-size bias and acceptance are known.
    `relative`: P undoes the curvature, so that ε has no unit and every direction is forgotten in 2/ε steps.
    """

    name: str
    init: Callable[[Tensor, Tensor, int], Any]
    update: Callable[[Any, Tensor, Tensor, Tensor, float, bool], Any]
    metric: Callable[[Any, Tensor], Tensor]
    euler: bool = True
    relative: bool = False
