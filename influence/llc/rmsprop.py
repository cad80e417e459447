"""Langevin dynamics with RMSprop's metric: w ← w − (ε/2) P ∇U(w) + √(εP) ξ with P from a mean of squared
gradients.

Li et al. 2016 (arXiv 1512.07666), without their term Γ: P adapts during burn-in only and is then held, so the
draws come from one and the same chain, whose stationary distribution is p(w) but for its step size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from influence.llc.sampler import Sampler


class State(NamedTuple):
    square: Tensor  # (c p) running mean of (∇U)²
    step: int
    scale: Tensor  # (c p) P


def build(decay: float = 0.99, floor: float = 0.1) -> Sampler:
    """P = m / (m·floor + √v̂) per coordinate, v̂ the bias-corrected mean of (∇U)² and m the root of its mean.

    So P is about 1 for a coordinate whose force is as large as the others', and never above 1/floor.

    Args:
        decay: of the running mean per step.
        floor: of √v̂, as a share of its root mean square over the chain's coordinates.

    Raises:
        ValueError: for settings out of range.
    """
    if not 0 < decay < 1 or not floor > 0:
        raise ValueError(f"decay is {decay} and floor {floor}; expected are 0 < decay < 1 and floor > 0")

    def init(values: Tensor, noise: Tensor, free: int) -> State:
        return State(torch.zeros_like(values), 0, torch.ones_like(values))

    def update(state: State, values: Tensor, force: Tensor, noise: Tensor, step_size: float, warm: bool) -> State:
        if warm:
            state = _adapted(state, force, decay, floor)
        values.addcmul_(state.scale, force, value=-step_size / 2)
        values.addcmul_(state.scale.sqrt(), noise, value=step_size**0.5)
        return state

    return Sampler("rmsprop", init, update, lambda state, force: state.scale * force)


def _adapted(state: State, force: Tensor, decay: float, floor: float) -> State:
    square = state.square.mul_(decay).addcmul_(force, force, value=1 - decay)
    seen = square / (1 - decay ** (state.step + 1))
    moving = (noted := seen > 0).sum(1, keepdim=True).clamp_min(1)
    size = (seen.sum(1, keepdim=True) / moving).sqrt().clamp_min(torch.finfo(seen.dtype).tiny)
    return State(square, state.step + 1, torch.where(noted, size / (floor * size + seen.sqrt()), 1.0))
