"""The norm of a row's gradient in the metric of the curvature, for rankings that do not favour long rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ekfac import EKFACSolver
from ekfac.eigenvalues import coordinates
from influence.attribution.passes import chunks, compute_dtype, device_of, watched
from influence.model.batches import batches, columns
from influence.model.capture import capture
from influence.model.loss import Measure, log_p
from influence.types import LM, Block, Pair

if TYPE_CHECKING:
    from influence.types import Rows, Scores


def _weights(solver: EKFACSolver, name: str, dtype: torch.dtype | None) -> torch.Tensor:
    """1 / (Λ + λ) of a block, flattened as (i o)."""
    found = solver.divide(name, torch.ones_like(solver.factors[name].eigenvalues)).T.flatten()
    return found if dtype is None else found.to(dtype)


def row_norm(
    lm: LM,
    rows: Rows,
    solver: EKFACSolver,
    *,
    measure: Measure = log_p,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
) -> Scores:
    """√(gᵀ(G + λI)⁻¹g) of every row, g = ∇log p(row) (or of another `measure`), summed over all blocks; dims (row).

    The normalisation of RelatIF (Barshan et al. 2020). In the units of `score(raw=True)`, to the power one half.

    Raises:
        BadRows, NotFinite: for rows that cannot be scored, and for values that are not finite.
    """
    import xarray

    kind = compute_dtype(dtype)
    squares = torch.zeros(len(rows), dtype=torch.float64, device=device_of(lm))
    where: list[torch.Tensor] = []
    bases = {
        name: tuple(q if q is None or kind is None else q.to(kind) for q in (one.basis_in, one.basis_out))
        for name, one in solver.factors.items()
    }

    weights = {name: _weights(solver, name, kind) for name in solver.factors}

    def use(block: Block, pair: Pair) -> None:
        if solver.lam[block.name] is None:
            return
        for part in chunks(block, pair.a):
            turned = coordinates(pair.a[part], pair.g[part], *bases[block.name]).mT
            squares[where[-1][part]] += (turned.square().flatten(1) @ weights[block.name]).double()

    with capture(lm, dtype=kind) as run:
        for places, batch in watched(batches(rows, batch_size, device_of(lm)), "row norms", len(rows), progress):
            where.append(torch.from_numpy(places).to(squares.device))
            run(batch, measure, use)
    values = squares.sqrt().cpu().numpy()
    if not np.isfinite(values).all():
        from influence.model.capture import NotFinite

        bad = columns(rows)[2][~np.isfinite(values)].tolist()
        raise NotFinite(f"row norms of the rows {bad[:8]} are not finite")
    return xarray.DataArray(values, dims=("row",), coords={"row": columns(rows)[2]}, name="row_norm")
