"""How heavy the tails of influence are in each layer, for some rows beside others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from influence.analysis import powerlaw_fit as law
from influence.analysis.layers import by_layer

if TYPE_CHECKING:
    from influence.types import Scores


def layer_exponents(scores: Scores, groups: dict[str, np.ndarray], *, top: int = law.LEAST) -> pd.DataFrame:
    """Density exponent of the positive scores in each layer, over each group of rows, as a mean over queries.

    The tail is the `top` largest positive scores of a query in a layer and a group (maximum likelihood above that order
    statistic, as Hill's estimate), so give groups of like size: an exponent moves with the share of a sample that is
    called its tail.

    Args:
        scores: (query, row, layer | block).
        groups: places of rows by name.
        top: scores in a tail, at least 50.

    Returns:
        `layer, group, exponent, low, high, queries, rows`: the mean over the queries that have `top` positive scores
        there, with the 95 % interval of that mean (NaN with fewer than two such queries).

    Raises:
        ValueError: for scores without layers or such that are not finite, and for `top` below 50.
    """
    if top < law.LEAST:
        raise ValueError(f"top is {top}; a tail needs at least {law.LEAST} scores")
    number, values = by_layer(scores)
    lines = []
    for place, layer in enumerate(number):
        for name, rows in groups.items():
            found = [_exponent(one, top) for one in values[:, rows, place]]
            known = np.array([alpha for alpha in found if np.isfinite(alpha)])
            mean = float(known.mean()) if len(known) else np.nan
            half = 1.96 * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
            told = {"layer": int(layer), "group": name, "exponent": mean, "low": mean - half, "high": mean + half}
            lines.append({**told, "queries": len(known), "rows": len(rows)})
    return pd.DataFrame(lines)


def _exponent(values: np.ndarray, top: int) -> float:
    positive = values[values > 0]
    if len(positive) < top:
        return np.nan
    try:
        return law.fit_top(positive, top).alpha
    except ValueError:  # all equal
        return np.nan
