"""Change of basis, for a whole basis (k k), for one split in diagonal blocks (s k k), and for none.

A width w that s does not divide is filled up: the last diagonal block then has an identity in its unused corner,
so that coordinates from w on stay zero.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def split(x: Tensor, splits: int) -> Tensor:
    """(… w) as (s … k) with s·k ≥ w, zeros at the end."""
    k = -(-x.shape[-1] // splits)
    x = F.pad(x, (0, splits * k - x.shape[-1]))
    return x.unflatten(-1, (splits, k)).movedim(-2, 0)


def into(x: Tensor, basis: Tensor | None) -> Tensor:
    """x Q along the last axis: coordinates of x (… w) in the basis; None is the standard basis."""
    if basis is None:
        return x
    if basis.ndim == 2:
        return x @ basis
    return _by_parts(x, basis)


def out_of(x: Tensor, basis: Tensor | None) -> Tensor:
    """x Qᵀ along the last axis: back from the coordinates."""
    if basis is None:
        return x
    if basis.ndim == 2:
        return x @ basis.T
    return _by_parts(x, basis.mT)


def _by_parts(x: Tensor, basis: Tensor) -> Tensor:
    parts = split(x, basis.shape[0])
    turned = torch.einsum("s...k,skj->s...j", parts, basis)
    return turned.movedim(0, -2).flatten(-2)[..., : x.shape[-1]]


def both_into(grad: Tensor, basis_in: Tensor | None, basis_out: Tensor | None) -> Tensor:
    """Q_outᵀ G Q_in for G (… o i)."""
    return into(into(grad, basis_in).mT, basis_out).mT


def both_out_of(grad: Tensor, basis_in: Tensor | None, basis_out: Tensor | None) -> Tensor:
    """Q_out G Q_inᵀ for G (… o i)."""
    return out_of(out_of(grad, basis_in).mT, basis_out).mT
