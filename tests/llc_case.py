"""Losses with known answers, and short ways to run chains on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence.llc.estimate import LLC, estimate
from influence.llc.run import plan_of
from influence.llc.space import Mask, space
from influence.llc.target import Target, of_function, of_items
from influence.llc.trace import Trace, sample


def chains(target: Target, mask: Mask | None = None, vectorised: bool | None = None, **settings: Any) -> Trace:
    coordinates = space(target, mask)
    plan = plan_of(target, coordinates, **{"batch_size": 1, "chains": 16, **settings})
    return sample(target, coordinates, plan, vectorised=vectorised, progress=False)


def llc_of(target: Target, mask: Mask | None = None, **settings: Any) -> LLC:
    return estimate(chains(target, mask, **settings))


def doubles(*values: Any) -> list[Tensor]:
    return [torch.as_tensor(value, dtype=torch.float64) for value in values]


def quadratic(h: Tensor, n: int = 1000) -> Target:
    """½ wᵀ H w for a matrix H, or ½ Σ h w² for a vector, around 0."""
    matrix = torch.diag(h) if h.ndim == 1 else h
    return of_function(lambda w: w["w"] @ matrix @ w["w"] / 2, {"w": torch.zeros(len(h), dtype=h.dtype)}, n)


def dimension(h: Tensor, n_beta: float, gamma: float, step_size: float = 0.0) -> float:
    """½ Σ nβh / [a (1 − εa/4)], a = nβh + γ, over the eigenvalues of H; with ε = 0 the damped effective dimension."""
    h = h if h.ndim == 1 else torch.linalg.eigvalsh(h)
    a = n_beta * h + gamma
    return float((n_beta * h / (a * (1 - step_size * a / 4))).sum() / 2)


def quadrature(loss: Callable[[np.ndarray, np.ndarray], np.ndarray], n_beta: float, gamma: float) -> float:
    """nβ E[L] over the plane, on a grid of eight standard deviations of the prior each way."""
    axis = np.linspace(-8, 8, 2001) / np.sqrt(gamma)
    x, y = np.meshgrid(axis, axis)
    values = loss(x, y)
    weight = np.exp(-n_beta * values - gamma / 2 * (x**2 + y**2))
    return float(n_beta * (weight * values).sum() / weight.sum())


def reduced_rank(m: int, n: int, h: int, r: int) -> tuple[Target, float]:
    """Population loss ½‖BA − B₀A₀‖² with standard normal inputs, and its learning coefficient.

    Aoyagi & Watanabe 2005, the case in which no width exceeds the others by too much; w* has the superfluous hidden
    units at zero, where the coefficient is the global one.
    """
    a, b = torch.zeros(h, m, dtype=torch.float64), torch.zeros(n, h, dtype=torch.float64)
    for k in range(r):
        a[k, k] = b[k, k] = 1
    true = b @ a
    assert n + r <= m + h and m + r <= n + h and h + r <= m + n
    odd = (m + n + h + r) % 2
    known = (-((h + r) ** 2) - m * m - n * n + 2 * (h + r) * m + 2 * (h + r) * n + 2 * m * n + odd) / 8
    return of_function(lambda w: ((w["B"] @ w["A"] - true) ** 2).sum() / 2, {"A": a, "B": b}, 1000), known


def least_squares(x: Tensor, w: Tensor) -> Target:
    """Items with the loss ½ (xᵢ·(v − w))²: every item's own gradient is 0 at w* = w, and H = mean x xᵀ."""

    def losses(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return (inputs @ (weights["w"] - w)).square() / 2

    return of_items(losses, {"w": w}, [x])
