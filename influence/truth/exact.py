"""The exact damped solve, by the dense Gauss-Newton matrix: the reference for every estimate, on small models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from influence.attribution.passes import device_of
from influence.grads import dense, order
from influence.model.batches import batches
from influence.model.gauss_newton import gauss_newton
from influence.model.likelihood import Likelihood, categorical
from influence.types import LM, Grad, Solution, Solver

if TYPE_CHECKING:
    from influence.types import Rows

LARGEST = 12_000


def dense_gauss_newton(
    lm: LM,
    rows: Rows,
    *,
    likelihood: Likelihood = categorical,
    batch_size: int = 64,
    at_once: int = 256,
    largest: int = LARGEST,
    progress: bool = True,
) -> Tensor:
    """The whole matrix (p p) over the p tracked parameters in block order, (o i) flattened; float64, mean over rows.

    Raises:
        ValueError: for more tracked parameters than `largest`; the matrix takes 8 p² bytes.
    """
    from tqdm.auto import tqdm

    p = sum(block.size for block in lm.blocks)
    if p > largest:
        raise ValueError(
            f"{p} parameters are tracked, and a dense matrix of them takes {8 * p * p / 2**30:.1f} GiB; raise largest "
            "where that fits, select fewer blocks, or use cg_solver with a small tolerance as the reference"
        )
    matrix = torch.zeros(p, p, dtype=torch.float64, device=device_of(lm))
    data = [batch for _, batch in batches(rows, batch_size, device_of(lm))]
    with (
        gauss_newton(lm, likelihood=likelihood, dtype=torch.float64) as product,
        tqdm(total=p, desc="dense matrix", unit="column", delay=2, disable=not progress, leave=False) as bar,
    ):
        for start in range(0, p, at_once):
            unit = torch.eye(min(at_once, p - start), p - start, dtype=torch.float64, device=matrix.device)
            v = laid_out(lm, torch.nn.functional.pad(unit, (start, 0)))
            for batch in data:
                matrix[start : start + len(unit)] += flattened(product(batch, v))
            bar.update(len(unit))
    return (matrix + matrix.T) / (2 * len(rows))


def exact_solver(
    lm: LM,
    rows: Rows,
    absolute: Mapping[str, float | None],
    *,
    likelihood: Likelihood = categorical,
    batch_size: int = 64,
    largest: int = LARGEST,
    matrix: Tensor | None = None,
    progress: bool = True,
) -> Solver:
    """Solve with the whole damped matrix, what couples the blocks included, by Cholesky in float64.

    Args:
        absolute: λ of every block, such as `ekfac.solver(factors).lam`; a block with None is left out and gives zero.
        matrix: from an earlier `dense_gauss_newton`.

    Raises:
        ValueError: for too many parameters, or a matrix that is not positive definite with this λ.
    """
    if matrix is None:
        options = {"likelihood": likelihood, "batch_size": batch_size, "largest": largest, "progress": progress}
        matrix = dense_gauss_newton(lm, rows, **options)  # type: ignore[arg-type]
    zeros = torch.zeros(sum(b.size for b in lm.blocks), dtype=torch.float64, device=matrix.device)
    lam, kept = zeros.clone(), zeros.bool()
    start = 0
    for block in lm.blocks:
        value = absolute[block.name]
        if value is not None:
            lam[start : start + block.size], kept[start : start + block.size] = value, True
        start += block.size
    damped = (matrix + torch.diag(lam))[kept][:, kept]
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError(
            f"the damped matrix is not positive definite (smallest λ {float(lam[kept].min()):g}); use a larger damping"
        )

    def solve(grad: Grad) -> Solution:
        given = flattened(order(grad, [block.name for block in lm.blocks]))
        v = given.double()
        x = torch.zeros_like(v)
        x[:, kept] = torch.cholesky_solve(v[:, kept].T, factor).T
        left = torch.linalg.vector_norm(x[:, kept] @ damped - v[:, kept], dim=1)
        norm = torch.linalg.vector_norm(v[:, kept], dim=1)
        residual = torch.where(norm > 0, left / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
        return Solution(laid_out(lm, x.to(given)), residual, steps=0, converged=True, info={"solver": "exact"})

    return solve


def flattened(grad: Grad) -> Tensor:
    """(q p) from (q o i) by block."""
    return torch.cat([dense(value).flatten(1) for value in grad.values()], 1)


def laid_out(lm: LM, flat: Tensor) -> Grad:
    """The inverse of `flattened`."""
    parts = flat.split([block.size for block in lm.blocks], 1)
    return {block.name: part.unflatten(1, block.shape) for block, part in zip(lm.blocks, parts, strict=True)}
