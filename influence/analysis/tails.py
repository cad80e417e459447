"""How heavy the tail of a query's positive influence is, and how few rows carry it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.analysis import powerlaw_fit as law
from influence.analysis.common import ids, totals

if TYPE_CHECKING:
    from influence.types import Scores

REJECTED = 0.1
"""A power law is rejected below this bootstrap p (Clauset, Shalizi & Newman 2009)."""


def tail(
    scores: Scores,
    *,
    top: int = 500,
    bootstrap: int = 0,
    compare: Sequence[str] = law.ALTERNATIVES,
    seed: int = 0,
) -> pd.DataFrame:
    """Power law and sparsity of the positive scores of each query.

    Two fits by maximum likelihood: one to the `top` largest scores, as Grosse et al. (2023) do, and one above
    the xmin with the least Kolmogorov-Smirnov distance (Clauset, Shalizi & Newman 2009). Fewer than 50
    positive scores are not fitted, which the verdict says.

    Args:
        scores: (query, row[, layer | block | token]), summed over everything but query and row.
        top: how many of the largest scores the first rule takes.
        bootstrap: samples for the goodness of fit (100 give p to ±.05, 2500 to ±.01); 0 leaves p out.
        compare: alternatives for likelihood ratios, by the `powerlaw` package; about half a second per query
            and rule, nearly all of it for "truncated_power_law". () leaves them out.
        seed: of the bootstrap; a query's p depends on it and the query's id only.

    Returns:
        Two rows per query, columns
        `query, rule` ("top500" after `top`, or "ks"), `xmin` (nats), `n_tail`;
        `alpha_density` (p(x) ∝ x^-α) and `alpha_survival` = α − 1 (P(X > x) ∝ x^-(α−1), the inverse of Hill's
        estimate), `low, high` (95 % interval of alpha_density, for this xmin), `distance`, `p_value`,
        `verdict`; `ratio_NAME, p_NAME` per alternative (log likelihood ratio, positive favours the power law;
        NaN: not fitted); `top1_share` (share of the positive influence in the top 1 % of all rows scored),
            `rows_for_half` (rows that
        together have half of it), `effective_count` ((Σm)²/Σm² over positive scores), `largest`,
        `n_positive`.

    Raises:
        ValueError: for scores without queries or rows or with values that are not finite, and for unknown
            alternatives.
    """
    unknown = set(compare) - set(law.ALTERNATIVES)
    if unknown or top < law.LEAST or bootstrap < 0:
        raise ValueError(
            f"got {top=}, {bootstrap=} and the unknown alternatives {sorted(unknown)}; top must be at least "
            f"{law.LEAST}, bootstrap at least 0, alternatives from {', '.join(law.ALTERNATIVES)}"
        )
    total = totals(scores)
    part = _part(scores, total.sizes["row"])
    lines = []
    for query, values in zip(ids(total, "query"), total.values, strict=True):
        positive, beside = values[values > 0], sparsity(values)
        for rule in (f"top{top}", "ks"):
            rng = np.random.default_rng([seed, zlib.crc32(f"{query}/{rule}".encode())])
            fitted = _fit(positive, None if rule == "ks" else top, bootstrap, tuple(compare), rng)
            fitted["verdict"] += part
            lines.append({"query": query, "rule": rule, **fitted, **beside})
    return pd.DataFrame(lines)


def _part(scores: Scores, scored: int) -> str:
    n = scores.attrs.get("n")
    return f"; only {scored} of {n} rows were scored" if isinstance(n, int | np.integer) and n > scored else ""


def _fit(
    positive: np.ndarray, top: int | None, bootstrap: int, compare: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Any]:
    try:
        fit = law.fit_ks(positive) if top is None else law.fit_top(positive, top)
    except ValueError as refusal:
        return _refused(str(refusal), compare)
    p = np.nan
    if bootstrap:
        p = law.p_ks(positive, fit, bootstrap, rng) if top is None else law.p_top(fit, bootstrap, rng)
    ratios = law.compare(positive, fit, compare)
    low, high = law.interval(fit)
    found = {
        "xmin": fit.xmin,
        "n_tail": fit.n_tail,
        "alpha_density": fit.alpha,
        "alpha_survival": fit.alpha - 1,
        "low": low,
        "high": high,
        "distance": fit.distance,
        "p_value": p,
        "verdict": _verdict(p, ratios),
    }
    return found | _columns(ratios)


def _columns(ratios: dict[str, tuple[float, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (ratio, p) in ratios.items():
        found |= {f"ratio_{name}": ratio, f"p_{name}": p}
    return found


def _refused(why: str, compare: tuple[str, ...]) -> dict[str, Any]:
    numbers = ("xmin", "alpha_density", "alpha_survival", "low", "high", "distance", "p_value")
    empty: dict[str, Any] = dict.fromkeys(numbers, np.nan) | {"n_tail": 0, "verdict": f"not fitted: {why}"}
    return empty | _columns(dict.fromkeys(compare, (np.nan, np.nan)))


def _verdict(p: float, ratios: dict[str, tuple[float, float]]) -> str:
    """In words: the goodness of fit, then how the power law compares."""
    if np.isnan(p):
        said = ["goodness of fit not tested"]
    else:
        said = [f"power law {'rejected' if p < REJECTED else 'not rejected'} (p = {p:.2f})"]
    groups: dict[str, list[str]] = {}
    for name, (ratio, certainty) in ratios.items():
        groups.setdefault(_comparison(ratio, certainty), []).append(name.replace("_", " "))
    said += [f"{words} {', '.join(names)}" for words, names in groups.items()]
    return "; ".join(said)


def _comparison(ratio: float, p: float) -> str:
    if np.isnan(ratio):
        return "not fitted:"
    if p >= REJECTED:
        return "not told apart from"
    return "fits better than" if ratio > 0 else "fits worse than"


def sparsity(values: np.ndarray) -> dict[str, float | int]:
    """How concentrated the positive influence of one query is; see `tail`. NaN where no score is positive."""
    ordered = np.sort(values[values > 0])[::-1]
    found: dict[str, float | int] = {"largest": float(values.max()), "n_positive": len(ordered)}
    if not len(ordered):
        return dict.fromkeys(("top1_share", "rows_for_half", "effective_count"), np.nan) | found
    shares = np.cumsum(ordered / ordered.sum())
    one_percent = min(int(np.ceil(len(values) / 100)), len(ordered))
    scaled = ordered / ordered[0]  # squares of scores may underflow
    return {
        "top1_share": float(shares[one_percent - 1]),
        "rows_for_half": int(np.searchsorted(shares, 0.5 - 1e-12) + 1),
        "effective_count": float(scaled.sum() ** 2 / (scaled**2).sum()),
        **found,
    }


def tail_points(scores: Scores, n: int = 300) -> pd.DataFrame:
    """At most `n` points per query of the empirical survival function of the positive scores, for plotting.

    Returns `query, score` (nats) and `survival`, the share of the positive scores that are at least as large;
    the points are evenly spaced in the logarithm of the rank, the largest scores all kept.
    """
    if n < 2:
        raise ValueError(f"n is {n}; a curve needs at least two points")
    total = totals(scores)
    frames = []
    for query, values in zip(ids(total, "query"), total.values, strict=True):
        ordered = np.sort(values[values > 0])[::-1]
        kept = _spread(len(ordered), n)
        frames.append(
            pd.DataFrame({"query": query, "score": ordered[kept], "survival": (kept + 1) / max(len(ordered), 1)})
        )
    return pd.concat(frames, ignore_index=True)


def _spread(points: int, n: int) -> np.ndarray:
    if points <= n:
        return np.arange(points)
    return np.unique(np.geomspace(1, points, n).round().astype(np.int64)) - 1
