"""Arithmetic on a Grad: {block name: (q o i)} or its low-rank form, always in block order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from influence.types import Grad, LowRank


def dense(value: Tensor | LowRank) -> Tensor:
    """The (q o i) form of one entry."""
    return value.left @ value.right if isinstance(value, LowRank) else value


def order(grad: Grad, names: Sequence[str]) -> Grad:
    """The same entries in the order of `names`.

    Raises:
        ValueError: where the two name different blocks.
    """
    missing, extra = set(names) - set(grad), set(grad) - set(names)
    if missing or extra:
        raise ValueError(
            f"the gradient lacks blocks {sorted(missing)[:5]} and has unknown ones {sorted(extra)[:5]}; "
            "use the blocks of one and the same LM throughout"
        )
    return {name: grad[name] for name in names}


def queries(grad: Grad) -> int:
    """The number of queries q; raises ValueError for a gradient without blocks."""
    if not grad:
        raise ValueError("a gradient without blocks came; select at least one block when loading the model")
    first = next(iter(grad.values()))
    return (first.left if isinstance(first, LowRank) else first).shape[0]


def dot(x: Grad, y: Grad) -> Tensor:
    """Σ_blocks ⟨x, y⟩ per query, shape (q)."""
    y = order(y, list(x))
    parts = [torch.einsum("qoi,qoi->q", dense(x[name]), dense(y[name])) for name in x]
    return torch.stack(parts).sum(0)


def norm(x: Grad) -> Tensor:
    """Euclidean norm per query, shape (q)."""
    return dot(x, x).sqrt()


def axpy(scale: float | Tensor, x: Grad, y: Grad) -> Grad:
    """scale · x + y; `scale` is a number or one number per query (q)."""
    y = order(y, list(x))
    factor = scale[:, None, None] if isinstance(scale, Tensor) else scale
    return {name: factor * dense(x[name]) + dense(y[name]) for name in x}


def apply(function: Callable[[Tensor], Tensor], x: Grad) -> Grad:
    """The function on every block's dense entry."""
    return {name: function(dense(value)) for name, value in x.items()}


def concatenate(parts: Iterable[Grad]) -> Grad:
    """Stack gradients of several groups of queries along q."""
    parts = list(parts)
    return {name: torch.cat([dense(part[name]) for part in parts]) for name in parts[0]}
