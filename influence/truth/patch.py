"""Tail-patch: what one small gradient step on one row does to the queries (Chang et al. 2024, 2410.17413).

In the limit of small steps the change over the step is the gradient dot product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from influence.model.batches import batches, columns, pad
from influence.model.likelihood import Likelihood, categorical
from influence.model.loss import Measure
from influence.model.quiet import quiet
from influence.truth.steps import logits
from influence.types import LM, Batch

if TYPE_CHECKING:
    from influence.types import Rows, Scores


def tail_patch(
    lm: LM,
    rows: Rows,
    queries: Rows,
    *,
    step: float,
    tracked: bool = False,
    measure: Measure | None = None,
    likelihood: Likelihood = categorical,
    batch_size: int = 32,
    progress: bool = True,
) -> Scores:
    """Change of f of every query after θ ← θ + step · ∇log p(row), in nats, dims (query, row); one row at a time.

    The model is never touched: its weights are replaced for the call alone. Costs a backward pass per row and a forward
    pass of all queries per row.

    Args:
        step: size of the step, a plain factor on the gradient of the row's summed log p.
        tracked: move only the weights and biases of the tracked blocks; default all parameters.

    Raises:
        ValueError: for a step that is not positive and finite.
        FloatingPointError: where f is not finite after a step; names row and query.
    """
    from tqdm.auto import tqdm

    if not (step > 0 and np.isfinite(step)):
        raise ValueError(f"step is {step}; give a positive number, for instance 1e-3")
    f = likelihood.log_p if measure is None else measure
    weights = {name: value.detach() for name, value in lm.net.named_parameters()}
    moving = {name: value for name, value in weights.items() if not tracked or name in _tracked(lm)}
    device = next(iter(weights.values())).device
    asked = list(batches(queries, batch_size, device))
    found = np.zeros((len(queries), len(rows)))

    def row_log_p(part: dict[str, Tensor], batch: Batch) -> Tensor:
        return likelihood.log_p(logits(lm.net, {**weights, **part}, batch.input_ids), batch).sum()

    with quiet(lm.net):
        before = _values(lm, weights, asked, f)
        single = zip(*columns(rows), strict=True)
        for place, (ids, mask, row) in enumerate(
            tqdm(single, "tail-patch", len(rows), unit="row", disable=not progress, leave=False)
        ):
            batch = pad([ids], [mask], np.array([row]), device)
            gradient = grad(row_log_p)(moving, batch)
            moved = {**weights, **{name: value + step * gradient[name] for name, value in moving.items()}}
            found[:, place] = _values(lm, moved, asked, f) - before
    _check(found, rows, queries, step)
    return _labelled(found, before, rows, queries, {"step": step, "moved": "tracked" if tracked else "all"})


def _values(lm: LM, weights: dict[str, Tensor], asked: list[tuple[np.ndarray, Batch]], f: Measure) -> np.ndarray:
    values = np.zeros(sum(len(places) for places, _ in asked))
    with torch.no_grad():
        for places, batch in asked:
            values[places] = f(logits(lm.net, weights, batch.input_ids), batch).double().cpu().numpy()
    return values


def _tracked(lm: LM) -> set[str]:
    """Names of the parameters of the blocks; a fused parameter counts whole."""
    own = {name for name, _ in lm.net.named_parameters()}
    paths = {block.name.partition("[")[0] for block in lm.blocks}
    return {name for name in own if name in paths or name.rpartition(".")[0] in paths}


def _check(found: np.ndarray, rows: Rows, queries: Rows, step: float) -> None:
    if not np.isfinite(found).all():
        query, row = np.argwhere(~np.isfinite(found))[0]
        raise FloatingPointError(
            f"query {columns(queries)[2][query]} is not finite after a step on row {columns(rows)[2][row]}; "
            f"give a smaller step than {step}"
        )


def _labelled(found: np.ndarray, before: np.ndarray, rows: Rows, queries: Rows, how: dict[str, Any]) -> Scores:
    import xarray

    query, row = columns(queries)[2], columns(rows)[2]
    return xarray.DataArray(
        found,
        dims=("query", "row"),
        coords={"query": query, "row": row, "measurement": ("query", before)},
        name="tail-patch",
        attrs={"method": "tail-patch", "units": "nats", "sign": "positive: the row raised the measurement", **how},
    )
