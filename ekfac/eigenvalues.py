"""Corrected eigenvalues Λ = E over sequences of (Q_Sᵀ (Σ_t s_t ā_tᵀ) Q_A)², squared after the sum over tokens.

George et al. 2018, equation 10; Grosse et al. 2023, equation 20. States are sums, so they add in a fixed basis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ekfac.rotate import into


@dataclass(frozen=True)
class Eigenvalues:
    """Sums over sequences of squared coordinates (o i), of their traces, of squared traces; and how many."""

    total: Tensor
    trace: Tensor
    trace_squared: Tensor
    sequences: int = 0


EigenvaluesState = dict[str, Eigenvalues]


def init(
    shapes: Mapping[str, tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> EigenvaluesState:
    """Zero sums for blocks of these (o, i), in their order."""
    return {
        name: Eigenvalues(
            torch.zeros(o, i, dtype=dtype, device=device),
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.float64, device=device),
        )
        for name, (o, i) in shapes.items()
    }


def coordinates(a: Tensor, g: Tensor, basis_in: Tensor | None, basis_out: Tensor | None) -> Tensor:
    """Q_Sᵀ (Σ_t g_t a_tᵀ) Q_A per sequence, (b o i), from a (b t i) and g (b t o).

    Each side is rotated where that costs fewer operations: its t tokens, or the columns of the product.
    """
    t, i, o = a.shape[1], a.shape[2], g.shape[2]
    tokens_in, tokens_out = t <= o, t <= i
    if tokens_in:
        a = into(a, basis_in)
    if tokens_out:
        g = into(g, basis_out)
    product = torch.bmm(a.mT, g).mT  # this order is the faster one on CPUs
    if not tokens_in:
        product = into(product, basis_in)
    if not tokens_out:
        product = into(product.mT, basis_out).mT
    return product


def update(state: Eigenvalues, turned: Tensor) -> Eigenvalues:
    """Add the coordinates (b o i) of some sequences; the sums change in place, and `turned` is used up."""
    flat = turned.mT if turned.mT.is_contiguous() else turned  # sums run along memory
    squares = flat.square_()
    summed = squares.sum(0)
    state.total.add_(summed if flat is turned else summed.mT)
    traces = squares.flatten(1).sum(1).double()
    state.trace.add_(traces.sum())
    state.trace_squared.add_(traces.square().sum())
    return state


def counted(state: EigenvaluesState, sequences: int) -> EigenvaluesState:
    """The same state after `sequences` more rows; an expert averages over rows it never saw too."""
    return {name: replace(one, sequences=one.sequences + sequences) for name, one in state.items()}


def merge(x: EigenvaluesState, y: EigenvaluesState) -> EigenvaluesState:
    """The state of both parts of the rows, fitted in the same basis.

    Raises:
        ValueError: where the two belong to different blocks.
    """
    if {n: e.total.shape for n, e in x.items()} != {n: e.total.shape for n, e in y.items()}:
        raise ValueError("two eigenvalue states of different blocks came; merge parts of one and the same fit")
    return {
        name: Eigenvalues(
            one.total + y[name].total,
            one.trace + y[name].trace,
            one.trace_squared + y[name].trace_squared,
            one.sequences + y[name].sequences,
        )
        for name, one in x.items()
    }


def relative_error(state: Eigenvalues) -> float:
    """Standard error of tr Λ over tr Λ, from the spread between sequences; inf for fewer than two or a zero trace."""
    n, total = state.sequences, float(state.trace)
    if n < 2 or total <= 0:
        return math.inf
    variance = max(float(state.trace_squared) / n - (total / n) ** 2, 0.0) * n / (n - 1)
    return math.sqrt(variance / n) / (total / n)
