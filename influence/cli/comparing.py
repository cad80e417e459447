"""Correlations of methods with measures, per query, and their means with bootstrap intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESAMPLES = 10_000
RANKED = ("patch",)  # measures compared by ranks


def each(
    query: np.ndarray, row: np.ndarray, measured: Mapping[str, pd.DataFrame], methods: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """`measure, method, query, value, n_rows`; NaN where a method or a measure is the same for all rows.

    Args:
        query, row: ids (q), (n).
        measured: `query, row, measured` by measure; which rows may differ from query to query.
        methods: (q n) by name.
    """
    return pd.DataFrame(_lines(query, pd.Index(row), measured, methods))


def _lines(
    query: np.ndarray, row: pd.Index, measured: Mapping[str, pd.DataFrame], methods: Mapping[str, np.ndarray]
) -> Iterator[dict[str, object]]:
    for measure, frame in measured.items():
        parts = dict(iter(frame.groupby("query")))
        places = {one: row.get_indexer(part["row"]) for one, part in parts.items()}
        for name, values in methods.items():
            if measure == "solve" and name == "certified solve":
                continue
            for place, one in enumerate(query):
                x, y = values[place][places[one]], parts[one]["measured"].to_numpy()
                found = correlation(x, y, measure in RANKED)
                yield {"measure": measure, "method": name, "query": one, "value": found, "n_rows": len(y)}


def correlation(x: np.ndarray, y: np.ndarray, ranked: bool = False) -> float:
    """Pearson's, or Spearman's of ranks with ties averaged; NaN where one side is constant or not finite."""
    if ranked:
        x, y = pd.Series(x).rank().to_numpy(), pd.Series(y).rank().to_numpy()
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # tiny numbers would vanish when squared
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def means(each: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`measure, method, value, low, high, n_queries, n_rows`: means over queries with 95 % percentile intervals.

    The same resamples for every method of a measure; no interval from fewer than two queries.
    """
    lines = []
    for (measure, method), part in each.groupby(["measure", "method"], sort=False):
        values = part["value"].dropna().to_numpy()
        value = float(values.mean()) if len(values) else float("nan")
        low, high = interval(values, seed)
        line = {"measure": measure, "method": method, "value": value, "low": low, "high": high}
        lines.append({**line, "n_queries": len(values), "n_rows": int(part["n_rows"].max())})
    return pd.DataFrame(lines)


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng([seed, 3]).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)
