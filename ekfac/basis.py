"""Eigenbases of the covariances."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ekfac.covariance import Covariance, CovarianceState, mirrored


class BadFactor(FloatingPointError):
    """A factor that is not finite or cannot be decomposed; names the block."""


@dataclass(frozen=True)
class Basis:
    """Q_A, Q_S and the eigenvalues of A and S, ascending; None for the standard basis.

    `basis_in` is (i i), or (s k k) where the factor was split. `rank_in`, `rank_out` count eigenvalues above
    rounding error.
    """

    basis_in: Tensor | None
    basis_out: Tensor | None
    values_in: Tensor
    values_out: Tensor
    positions_per_sequence: float
    rank_in: int
    rank_out: int


def eigenbasis(state: CovarianceState, shapes: dict[str, tuple[int, int]]) -> dict[str, Basis]:
    """Decompose every block's A and S in float64.

    Raises:
        BadFactor: where a factor is NaN or infinite, or no LAPACK routine decomposes it.
    """
    return {name: _block(name, one, shapes[name]) for name, one in state.items()}


def _block(name: str, state: Covariance, shape: tuple[int, int]) -> Basis:
    count = max(state.positions, 1)
    values_in, basis_in, rank_in = _decompose(f"A of {name}", mirrored(state.a) / count, shape[1])
    values_out, basis_out, rank_out = _decompose(f"S of {name}", mirrored(state.g) / count, shape[0])
    rate = state.positions / max(state.sequences, 1)
    return Basis(basis_in, basis_out, values_in, values_out, rate, rank_in, rank_out)


def _decompose(what: str, matrices: Tensor, width: int) -> tuple[Tensor, Tensor, int]:
    if not torch.isfinite(matrices).all():
        raise BadFactor(f"{what} holds NaN or infinite values; look for rows with extreme activations or gradients")
    wide = matrices.double()
    s, k, _ = wide.shape
    real = width - (s - 1) * k  # columns of the last diagonal block that are not filling
    sizes = [k] * (s - 1) + [real]
    values, vectors = zip(*(_eigh(what, m[:size, :size]) for m, size in zip(wide, sizes, strict=True)), strict=True)
    values_all = torch.cat(values)
    rank = int((values_all > values_all.max().clamp_min(0) * width * torch.finfo(matrices.dtype).eps).sum())
    if s == 1:
        return values_all.to(matrices), vectors[0].to(matrices), rank
    filled = torch.eye(k, dtype=torch.float64, device=wide.device).repeat(s, 1, 1)
    for j, one in enumerate(vectors):
        filled[j, : len(one), : len(one)] = one
    return values_all.to(matrices), filled.to(matrices), rank


def _eigh(what: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return torch.linalg.eigh(matrix)
    except RuntimeError:  # torch.linalg.LinAlgError among them
        warnings.warn(f"{what}: the default eigensolver failed; trying a slower one", stacklevel=2)
    try:
        values, vectors = scipy.linalg.eigh(matrix.cpu().numpy(), driver="ev")
    except (np.linalg.LinAlgError, ValueError) as error:
        raise BadFactor(f"{what} cannot be decomposed: {error}; fit on more or other rows") from error
    return torch.from_numpy(values).to(matrix), torch.from_numpy(vectors).to(matrix)
