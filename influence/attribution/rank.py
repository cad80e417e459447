"""Order the rows of every query: by the score in nats, or by the score over the row's norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from influence.types import Scores


def rank(scores: Scores, *, normalize: str | None = None) -> Scores:
    """Row ids best first, dims (query, place), with the ranked value as the coordinate `value`.

    Args:
        scores: dims (query, row, …); whatever follows `row` is summed.
        normalize: None ranks by the score in nats, where long rows with large gradients win; "row" divides by the
            coordinate `row_norm`, for retrieval; "leverage" divides by √(1 + h) with h = row_norm² / n the row's
            influence on itself in nats, which tempers the few rows that the model bends to most, for predicting
            retraining where the last checkpoint is all there is. A row without gradient has value 0.

    Raises:
        ValueError: for another `normalize`, without a `row` dimension, or for "row" where no norms were measured.
    """
    import xarray

    values = ranked_values(scores, normalize=normalize)
    order = np.argsort(-values.values, axis=1, kind="stable")
    rows = scores["row"].values[order]
    return xarray.DataArray(
        rows,
        dims=("query", "place"),
        coords={
            "query": scores["query"].values,
            "place": np.arange(1, rows.shape[1] + 1),
            "value": (("query", "place"), np.take_along_axis(values.values, order, 1)),
        },
        name="ranking",
        attrs=dict(values.attrs),
    )


def ranked_values(scores: Scores, *, normalize: str | None = None) -> Scores:
    """The values that `rank` orders by, dims (query, row); `attrs["ranking"]` names them."""
    if normalize not in (None, "row", "leverage"):
        raise ValueError(
            f"normalize is {normalize!r}; give None (nats), 'row' (divided by the row's norm) or 'leverage'"
        )
    if "row" not in scores.dims:
        raise ValueError(f"scores have the dims {scores.dims}; ranking needs (query, row, …), as score() without top")
    total = scores.sum([d for d in scores.dims if d not in ("query", "row")], keep_attrs=True)
    total = total.transpose("query", "row")
    if normalize is None:
        return total.assign_attrs(ranking="score in nats")
    if "row_norm" not in scores.coords:
        raise ValueError("these scores carry no row norms; compute them with score(…, row_norm=True)")
    norm = scores["row_norm"].values
    if normalize == "leverage":
        values = total.values / np.sqrt(1 + norm**2 / scores.attrs["n"])
        return total.copy(data=values).assign_attrs(ranking="score over √(1 + self-influence)", units="nats, tempered")
    safe = np.where(norm > 0, norm, 1.0)
    values = np.where(norm > 0, total.values / safe, 0.0)
    return total.copy(data=values).assign_attrs(ranking="score divided by row norm", units="root nats")
