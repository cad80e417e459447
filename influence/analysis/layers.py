"""Through which layers influence passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from influence.analysis.common import ids, totals

if TYPE_CHECKING:
    from influence.types import Scores

THIRDS = ("lower", "middle", "upper")
OUTSIDE = -1
"""The layer of blocks outside the decoder's layers (embedding, unembedding)."""


def by_layer(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Layer numbers (l) and scores (query, row, l), blocks of a layer and tokens summed.

    Blocks need a coordinate `layer` along `block`; blocks without a layer count as layer -1. Raises
    ValueError for scores without layers or blocks, and for what `totals` refuses.
    """
    totals(scores)
    dim = next((dim for dim in ("layer", "block") if dim in scores.dims), None)
    if dim is None or (dim == "block" and "layer" not in scores.coords):
        raise ValueError(
            f"scores have the dimensions {tuple(scores.dims)} and no layers; score with per='layer', or "
            "per='block' (which notes each block's layer)"
        )
    if "token" in scores.dims:
        scores = scores.sum("token", skipna=True)
    values = scores.transpose("query", "row", dim).values.astype(np.float64)
    named = np.array([_number(layer) for layer in np.asarray(scores["layer"].values).tolist()])
    found = np.unique(named)
    return found, np.stack([values[..., named == layer].sum(-1) for layer in found], -1)


def _number(layer: object) -> int:
    if layer is None or (isinstance(layer, float) and not np.isfinite(layer)):
        return OUTSIDE
    return int(layer)  # type: ignore[call-overload]


def layers(scores: Scores, *, control: Scores | None = None) -> pd.DataFrame:
    """Influence by layer, summed over rows, for each query.

    Args:
        scores: (query, row, layer | block [, token]).
        control: scores of matched control queries with the same layers: gradient norm and number of
            parameters differ between layers, and dividing by the control's mean absolute influence takes that
            out.

    Returns:
        Columns `query, layer, signed, positive, negative, absolute` (sums over rows of the score, its
        positive and negative part and its absolute value, in nats), `share` (of the query's absolute
        influence), and with a control `mass` (absolute over the control's mean, made to sum to 1 over the
        layers).

    Raises:
        ValueError: for scores without layers or such that are not finite, a query without any influence, and
            a control with other layers or none in one of them.
    """
    number, values = by_layer(scores)
    parts = {
        "signed": values.sum(1),
        "positive": values.clip(min=0).sum(1),
        "negative": values.clip(max=0).sum(1),
        "absolute": np.abs(values).sum(1),
    }
    query = ids(scores, "query")
    parts["share"] = _shares(parts["absolute"], query)
    if control is not None:
        parts["mass"] = _shares(parts["absolute"] / _control(control, number), query)
    frame = pd.DataFrame({"query": np.repeat(query, len(number)), "layer": np.tile(number, len(query))})
    return frame.assign(**{name: part.ravel() for name, part in parts.items()})


def _shares(absolute: np.ndarray, query: np.ndarray) -> np.ndarray:
    whole = absolute.sum(1, keepdims=True)
    if (whole == 0).any():
        raise ValueError(f"query {query[int(whole.argmin())]} has no influence in any layer, so there are no shares")
    return np.asarray(absolute / whole)


def _control(control: Scores, number: np.ndarray) -> np.ndarray:
    found, values = by_layer(control)
    mean = np.abs(values).sum(1).mean(0)
    if not np.array_equal(found, number) or (mean == 0).any():
        raise ValueError(
            f"the control has layers {found.tolist()} with mean absolute influence {mean.tolist()}; it "
            f"needs some in each of the layers {number.tolist()}"
        )
    return mean


def _inside(scores: Scores) -> tuple[np.ndarray, np.ndarray, int]:
    """Layers of the decoder, their scores and how many layers the model has."""
    number, values = by_layer(scores)
    keep = number >= 0
    if not keep.any():
        raise ValueError("no score belongs to a layer of the decoder")
    return number[keep], values[..., keep], int(scores.attrs.get("n_layers", number.max() + 1))


def thirds(scores: Scores) -> pd.DataFrame:
    """Influence by lower, middle and upper third of the model's layers, for each query.

    Layer l of L (0 first) belongs to third ⌊3l / L⌋; L is `scores.attrs["n_layers"]`, or one more than the
    last layer scored. Returns `query, third, signed, absolute` (nats, summed over rows and the third's
    layers) and `share`.
    """
    number, values, n_layers = _inside(scores)
    which = 3 * number // n_layers
    query = ids(scores, "query")
    signed = np.stack([values[..., which == third].sum((1, 2)) for third in range(3)], 1)
    absolute = np.stack([np.abs(values[..., which == third]).sum((1, 2)) for third in range(3)], 1)
    parts = {"signed": signed, "absolute": absolute, "share": _shares(absolute, query)}
    frame = pd.DataFrame({"query": np.repeat(query, 3), "third": THIRDS * len(query)})
    return frame.assign(**{name: part.ravel() for name, part in parts.items()})


def centroid(scores: Scores) -> pd.DataFrame:
    """Where in depth the absolute influence of each query lies.

    Returns `query, centroid` (mean layer, 0 first), `spread` (standard deviation, in layers), and `depth` =
    (centroid + 1) / L, so that 1 is the output of the last of L layers.
    """
    number, values, n_layers = _inside(scores)
    query = ids(scores, "query")
    share = _shares(np.abs(values).sum(1), query)
    mean = share @ number
    spread = np.sqrt((share * (number - mean[:, None]) ** 2).sum(1))
    return pd.DataFrame({"query": query, "centroid": mean, "spread": spread, "depth": (mean + 1) / n_layers})
