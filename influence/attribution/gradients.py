"""Gradients of queries: the one place where per-sequence gradients of all blocks may be held."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from influence.attribution.passes import chunks, device_of, model_dtype, watched
from influence.model.batches import batches
from influence.model.capture import capture
from influence.model.loss import Measure, log_p
from influence.types import LM, Block, Grad, Pair

if TYPE_CHECKING:
    from influence.types import Rows


def query_gradients(
    lm: LM,
    queries: Rows,
    measure: Measure = log_p,
    *,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[Grad, Tensor]:
    """∇f of every query, {block: (q o i)} in block order, and the measurements f (q).

    Raises:
        BadRows, NotFinite: for queries that cannot be scored or whose measurement is not finite.
    """
    device = device_of(lm)
    kind = gradient_dtype(lm, dtype)
    grad = {block.name: torch.zeros(len(queries), *block.shape, dtype=kind, device=device) for block in lm.blocks}

    def keep(block: Block, places: Tensor, part: Tensor) -> None:
        grad[block.name][places] = part.to(kind)

    values = each_gradient(lm, queries, measure, keep, batch_size=batch_size, dtype=dtype, progress=progress)
    return dict(grad), values


def gradient_dtype(lm: LM, dtype: torch.dtype | None) -> torch.dtype:
    """What gradients are kept in: float32 for those computed in a narrower type."""
    wide = dtype if dtype not in (torch.bfloat16, torch.float16) else torch.float32
    return wide or model_dtype(lm)


def each_gradient(
    lm: LM,
    queries: Rows,
    measure: Measure,
    use: Callable[[Block, Tensor, Tensor], None],
    *,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Tensor:
    """The measurements f (q); calls use(block, places (p), ∇f (p o i)) for a few queries at a time, none kept.

    Raises:
        BadRows, NotFinite: as `query_gradients`.
    """
    values = torch.zeros(len(queries), dtype=torch.float64)
    device = device_of(lm)
    where: list[Tensor] = []

    def each(block: Block, pair: Pair) -> None:
        for part in chunks(block, pair.a, copies=16):  # few, since a solver turns them several times in float32
            use(block, where[-1][part], torch.bmm(pair.g[part].mT, pair.a[part]))

    with capture(lm, dtype=dtype) as run:
        for places, batch in watched(batches(queries, batch_size, device), "query gradients", len(queries), progress):
            where.append(torch.from_numpy(places).to(device))
            values[torch.from_numpy(places)] = run(batch, measure, each).double().cpu()
    return values
