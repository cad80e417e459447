"""Gradients of queries, kept whole: the one place where per-sequence gradients of all blocks are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from influence.attribution.passes import device_of, watched
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
    q = len(queries)
    grad: dict[str, Tensor] = {}
    values = torch.zeros(q, dtype=torch.float64)
    device = device_of(lm)
    wide = dtype if dtype not in (torch.bfloat16, torch.float16) else torch.float32
    for block in lm.blocks:
        kind = wide or next(lm.net.parameters()).dtype
        grad[block.name] = torch.zeros(q, *block.shape, dtype=kind, device=device)
    where: list[Tensor] = []

    def use(block: Block, pair: Pair) -> None:
        target = grad[block.name]
        target[where[-1]] = torch.bmm(pair.g.mT, pair.a).to(target.dtype)

    with capture(lm, dtype=dtype) as run:
        for places, batch in watched(batches(queries, batch_size, device), "query gradients", q, progress):
            where.append(torch.from_numpy(places).to(device))
            values[torch.from_numpy(places)] = run(batch, measure, use).double().cpu()
    return dict(grad), values
