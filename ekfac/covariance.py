"""Covariances A = E[ā āᵀ] and S = E[s sᵀ] of a block's inputs and output gradients, over the positions that count.

States are sums, so they add: `merge(x, y)` of two parts of the rows is the state of all rows.
Martens & Grosse 2015, equation 1; Grosse et al. 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ekfac.rotate import split


@dataclass(frozen=True)
class Covariance:
    """Sums over positions: a (s k k) of ā āᵀ and g (s' k' k') of s sᵀ, in `s` diagonal blocks; and how many."""

    a: Tensor
    g: Tensor
    positions: int = 0
    sequences: int = 0


CovarianceState = dict[str, Covariance]


def init(
    shapes: Mapping[str, tuple[int, int]],
    *,
    splits: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CovarianceState:
    """Zero sums for blocks of these (o, i), in their order."""
    if splits < 1:
        raise ValueError(f"splits is {splits}; it must be at least 1")

    def zeros(width: int) -> Tensor:
        k = -(-width // splits)
        return torch.zeros(-(-width // k), k, k, dtype=dtype, device=device)

    return {name: Covariance(zeros(i), zeros(o)) for name, (o, i) in shapes.items()}


def update(state: Covariance, a: Tensor, g: Tensor, positions: int | None = None) -> Covariance:
    """Add one batch of a (b t i) and g (b t o), zero at positions that do not count; the sums change in place."""
    _add_products(state.a, a.flatten(0, 1))
    _add_products(state.g, g.flatten(0, 1))
    count = a.shape[0] * a.shape[1] if positions is None else positions
    return replace(state, positions=state.positions + count)


def _add_products(total: Tensor, x: Tensor) -> None:
    if total.shape[0] == 1:
        _add_symmetric(total[0], x)
        return
    parts = split(x, total.shape[0])
    products = torch.bmm(parts.mT, parts)
    total += products.to(total.dtype)


def _add_symmetric(total: Tensor, x: Tensor, panel: int = 256) -> None:
    """total += xᵀx, its lower panels only while they are wide enough to gain; `finish` mirrors them."""
    width = total.shape[0]
    if x.dtype == total.dtype and width <= panel:
        total.addmm_(x.T, x)
        return
    for start in range(0, width, panel):
        stop = min(start + panel, width)
        product = x[:, start:].T @ x[:, start:stop]
        total[start:, start:stop] += product


def counted(state: CovarianceState, sequences: int) -> CovarianceState:
    """The same state after `sequences` more rows, which every block shares (an expert counts rows it never saw too)."""
    return {name: replace(one, sequences=one.sequences + sequences) for name, one in state.items()}


def merge(x: CovarianceState, y: CovarianceState) -> CovarianceState:
    """The state of both parts of the rows.

    Raises:
        ValueError: where the two belong to different blocks.
    """
    if {n: (c.a.shape, c.g.shape) for n, c in x.items()} != {n: (c.a.shape, c.g.shape) for n, c in y.items()}:
        raise ValueError(
            "two covariance states of different blocks or splits came; merge parts of one and the same fit"
        )
    return {
        name: Covariance(
            one.a + y[name].a,
            one.g + y[name].g,
            one.positions + y[name].positions,
            one.sequences + y[name].sequences,
        )
        for name, one in x.items()
    }


def mirrored(lower: Tensor) -> Tensor:
    """The symmetric matrices (s k k) whose lower panels were summed."""
    return lower.tril() + lower.tril(-1).mT
