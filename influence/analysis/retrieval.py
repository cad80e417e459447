"""Does a ranking put the rows first that are known to matter?

Ties: a metric is its mean over all orders of equal values, worked out exactly and not drawn. Identical rows
(same tokens and mask) count as one: it takes the value of the first of them, and is relevant where any of
them is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.analysis.common import first_of_its_kind, ids, ranked_by, totals

if TYPE_CHECKING:
    import xarray

    from influence.types import Rows, Scores

METRICS = ("mrr", "p_at_k", "ndcg")


def retrieval_by_query(
    scores: Scores,
    relevant: xarray.DataArray | np.ndarray,
    *,
    rows: Rows | pd.DataFrame | None = None,
    k: int = 5,
    ranking: str = "nats",
) -> pd.DataFrame:
    """Retrieval metrics of each query.

    Args:
        scores: (query, row[, layer | block | token]); higher is better. Any method's scores, baselines too.
        relevant: boolean (query, row); an array with coordinates is aligned by ids, a bare one is in the
            scores' order.
        rows: the rows, by whose tokens identical ones are grouped; None groups nothing.
        k: depth of the precision; where there are fewer relevant rows than k, the best possible is below 1.
        ranking: "nats" ranks by the scores themselves, "normalised" by score / row_norm.

    Returns:
        Columns `query, mrr` (1 / rank of the first relevant row), `p_at_k` (named after k, such as `p_at_5`:
        share of relevant ones in the first k), `ndcg` (of the whole ranking) and `n_relevant`.

    Raises:
        ValueError: for masks of another shape or with other ids, and queries without any relevant row.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    total = totals(scores)
    values, wanted = ranked_by(total, ranking), _mask(relevant, total)
    if rows is not None:
        kind = first_of_its_kind(rows, ids(total, "row"))
        first, starts = np.unique(np.sort(kind), return_index=True)
        together = wanted[:, np.argsort(kind, kind="stable")]
        values, wanted = values[:, first], np.logical_or.reduceat(together, starts, axis=1)
    query = ids(total, "query")
    if (none := ~wanted.any(1)).any():
        raise ValueError(f"queries {query[none].tolist()[:5]} have no relevant row among those scored; leave them out")
    found = [_metrics(one, mask, k) for one, mask in zip(values, wanted, strict=True)]
    frame = pd.DataFrame({"query": query, "n_relevant": wanted.sum(1)})
    named = dict(zip(("mrr", f"p_at_{k}", "ndcg"), np.array(found).T, strict=True))
    return frame.assign(**named)[["query", *named, "n_relevant"]]


def _mask(relevant: Any, total: Scores) -> np.ndarray:
    if hasattr(relevant, "dims"):
        for dim in ("query", "row"):
            missing = set(total[dim].values.tolist()) - set(relevant[dim].values.tolist())
            if missing:
                raise ValueError(f"relevant lacks the {dim} ids {sorted(missing)[:5]}; give all that were scored")
        relevant = relevant.sel(query=total["query"], row=total["row"]).transpose("query", "row").values
    mask = np.asarray(relevant)
    if mask.shape != total.shape or mask.dtype != bool:
        raise ValueError(
            f"relevant has shape {mask.shape} and type {mask.dtype}; expected booleans of shape {total.shape}"
        )
    return mask


def _metrics(values: np.ndarray, relevant: np.ndarray, k: int) -> tuple[float, float, float]:
    _, level = np.unique(-values, return_inverse=True)
    sizes = np.bincount(level)
    hits = np.bincount(level, weights=relevant).astype(np.int64)
    before = np.cumsum(sizes) - sizes
    discount = 1 / np.log2(np.arange(len(values)) + 2)
    gain = float((np.repeat(hits / sizes, sizes) * discount).sum())
    best = float(discount[: int(hits.sum())].sum())
    taken = np.clip(k - before, 0, sizes)
    level_of_first = int(np.flatnonzero(hits)[0])
    rank = _reciprocal(int(before[level_of_first]), int(sizes[level_of_first]), int(hits[level_of_first]))
    return rank, float((hits * taken / sizes).sum()) / k, gain / best


def _reciprocal(before: int, size: int, hits: int) -> float:
    """Mean of 1 / rank of the first of `hits` relevant rows in random order among `size`, `before` rows above them."""
    places = np.arange(1, size - hits + 2)
    # share of orders whose first j - 1 places hold no hit, times that of a hit at place j
    stays = np.r_[1.0, np.cumprod(1 - hits / (size - places[:-1] + 1))]
    at = stays * hits / (size - places + 1)
    return float((at / (before + places)).sum())


def retrieval(
    scores: Scores,
    relevant: xarray.DataArray | np.ndarray,
    *,
    rows: Rows | pd.DataFrame | None = None,
    k: int = 5,
    ranking: str = "nats",
    method: str | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Means over queries of the metrics of `retrieval_by_query`, with 95 % bootstrap intervals over queries.

    Returns one row: `method` (`method`, or the scores' name), `mrr, low, high, p_at_5, p_at_5_low,
    p_at_5_high` (5 being k), `ndcg, ndcg_low, ndcg_high, n_queries`. The draws depend on `seed` and the
    number of queries alone, so methods on the same queries are compared on the same draws. Raises ValueError
    as `retrieval_by_query` does.
    """
    frame = retrieval_by_query(scores, relevant, rows=rows, k=k, ranking=ranking)
    names = ["mrr", f"p_at_{k}", "ndcg"]
    low, high = _intervals(frame[names].to_numpy(), bootstrap, seed)
    line: dict[str, Any] = {"method": str(scores.name) if method is None else method}
    for place, name in enumerate(names):
        prefix = "" if name == "mrr" else f"{name}_"
        line |= {name: float(frame[name].mean()), f"{prefix}low": low[place], f"{prefix}high": high[place]}
    return pd.DataFrame([line | {"n_queries": len(frame)}])


def retrieval_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean difference first − second of two tables of `retrieval_by_query`, paired by query, with 95 %
    intervals.

    Returns one row per metric: `metric, difference, low, high, n_queries`. Raises ValueError where the
    queries or the metrics differ.
    """
    names = [name for name in first.columns if name not in ("query", "n_relevant")]
    if list(first.columns) != list(second.columns) or set(first["query"]) != set(second["query"]):
        raise ValueError("the two tables have other metrics or other queries; compare methods on the same queries")
    beside = second.set_index("query").loc[first["query"], names].to_numpy()
    differences = first[names].to_numpy() - beside
    low, high = _intervals(differences, bootstrap, seed)
    return pd.DataFrame(
        {"metric": names, "difference": differences.mean(0), "low": low, "high": high, "n_queries": len(first)}
    )


def _intervals(values: np.ndarray, bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 % quantiles of the mean over queries (query, metric), queries drawn with replacement."""
    if bootstrap < 1:
        raise ValueError(f"bootstrap is {bootstrap}; an interval needs at least one draw (2000 are usual)")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=bootstrap)
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975], axis=0)
    return low, high
