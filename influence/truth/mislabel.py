"""Mislabelled rows: does self-influence find labels that were planted wrong? (Koh & Liang 2017, section 5.4)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from influence.types import Scores


def planted_labels(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which round(share · n) were moved to another class, and where (n) bool.

    Raises ValueError for a share outside (0, 1), nothing to move, or fewer than two classes.
    """
    known = np.asarray(labels)
    classes, count = np.unique(known), round(share * len(known))
    if len(classes) < 2 or not 0 < count < len(known):
        raise ValueError(
            f"{count} of {len(known)} labels of {len(classes)} classes: give a share inside (0, 1) and at least two"
        )
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(known), bool)
    wrong[rng.permutation(len(known))[:count]] = True
    shifted = (np.searchsorted(classes, known) + rng.integers(1, len(classes), len(known))) % len(classes)
    return np.where(wrong, classes[shifted], known), wrong


def mislabel_auc(
    scores: Scores | Mapping[str, Scores], planted: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Area under the ROC curve of self-influence against planted label noise, best first: method, auc, low, high.

    The interval is a 95 % bootstrap over rows, drawn within wrong and right ones (percentiles).

    Args:
        scores: higher = more suspicious. Dims (row) such as `row_norm`, which is squared, or (query, row) with the rows
            themselves as queries, of which the diagonal counts: raw self-influence gᵀ(G + λI)⁻¹g either way.
        planted: (row) bool, True where the label was made wrong.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or rows all wrong or all right.
    """
    from sklearn.metrics import roc_auc_score

    wrong = np.asarray(planted)
    if wrong.dtype != bool or wrong.ndim != 1 or wrong.all() or not wrong.any():
        raise ValueError(f"planted is {wrong.dtype} of shape {wrong.shape}; expected is (row) bool with both values")
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(wrong), np.flatnonzero(~wrong)]
    drawn = [np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]) for _ in range(resamples)]
    lines = []
    for name, one in (scores if isinstance(scores, Mapping) else {str(scores.name or "score"): scores}).items():
        values = self_influence(one, len(wrong))
        spread = [roc_auc_score(wrong[places], values[places]) for places in drawn]
        low, high = np.quantile(spread, [0.025, 0.975]) if spread else (np.nan, np.nan)
        lines.append({"method": name, "auc": float(roc_auc_score(wrong, values)), "low": low, "high": high})
    table = pd.DataFrame(lines).sort_values("auc", ascending=False, kind="stable", ignore_index=True)
    table.attrs = {"rows": len(wrong), "wrong": int(wrong.sum()), "interval": f"95% bootstrap, {resamples} resamples"}
    return table


def self_influence(scores: Scores, n: int) -> np.ndarray:
    """(row) the diagonal of scores (query, row, …) whose queries are the rows, or the squares of norms (row).

    Raises ValueError where the shape is neither.
    """
    values: Any
    if scores.dims == ("row",):
        values = np.square(scores.values)
    elif {"query", "row"} <= set(scores.dims) and scores.sizes["query"] == scores.sizes["row"]:
        total = scores.sum([d for d in scores.dims if d not in ("query", "row")]).transpose("query", "row")
        if not np.array_equal(total["query"].values, total["row"].values):
            raise ValueError("the queries of these scores are not the rows themselves, in the same order")
        values = np.diagonal(total.values)
    else:
        raise ValueError(f"scores have {dict(scores.sizes)}; expected are norms (row), or (query, row) of rows on rows")
    if len(values) != n or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} self-influences came for {n} rows, finite: {bool(np.isfinite(values).all())}")
    return np.asarray(values, np.float64)
