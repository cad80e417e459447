"""Stochastic gradient Langevin dynamics: w ← w − (ε/2) ∇U(w) + √ε ξ.

Welling & Teh 2011; for the local learning coefficient Lau et al. 2023 (arXiv 2308.12108), section 4.4.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from influence.llc.sampler import Sampler


class State(NamedTuple):
    """Nothing is remembered between steps."""


def init(values: Tensor, noise: Tensor, free: int) -> State:
    return State()


def update(state: State, values: Tensor, force: Tensor, noise: Tensor, step_size: float, warm: bool) -> State:
    """One step in place; force = ∇U and noise (c p) are zero where a coordinate is held fixed."""
    values.add_(force, alpha=-step_size / 2).add_(noise, alpha=step_size**0.5)
    return state


def metric(state: State, force: Tensor) -> Tensor:
    return force


def build() -> Sampler:
    """SGLD; its step-size bias on a quadratic with curvature a is a factor 1 / (1 − εa/4) on the variance."""
    return Sampler("sgld", init, update, metric)
