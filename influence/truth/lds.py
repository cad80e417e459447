"""Linear datamodeling score: do summed scores of the kept rows predict what retrained models say?

Park et al. 2023 (TRAK), section 2: per query the Spearman correlation, over random subsets, between the sum of the
scores of the kept rows and the measurement f of a model trained on them (mean over seeds); then the mean over queries.
Intervals are BCa bootstraps (Efron 1987) that draw queries and subsets anew, independently of each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from influence.truth.retrain import check_masks

if TYPE_CHECKING:
    import xarray

    from influence.types import Scores

    Several: TypeAlias = Scores | Mapping[str, Scores | Sequence[Scores]]

SATURATED = -1e-3
LEAST_SPREAD = 1e-4
_NUMBERS = 4_000_000  # that one batch of resamples may hold per array


def lds(
    scores: Several,
    kept: np.ndarray,
    truth: xarray.DataArray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    saturated: float | None = SATURATED,
    least_spread: float = LEAST_SPREAD,
) -> pd.DataFrame:
    """The score of every method with its interval, best first: columns method, lds, low, high.

    Queries are left out whose f, averaged over seeds, varies over subsets by a standard deviation of less than
    `least_spread`, or has a mean above `saturated` (log p of about 0: answered with certainty whatever is left out;
    only where no f is positive, as of a log p; None switches it off). A query whose predicted sums are all equal
    counts as 0.

    Args:
        scores: (query, row, …) or several by name; rows in the order of the columns of `kept`, the rest is summed. A
            list of scores, such as those of models of several seeds, counts by the mean of their LDS.
        kept: (subset, row) bool.
        truth: measured f (subset, seed, query) as `influence.retrain` returns it.

    Returns:
        `attrs` say how many queries were used and which left out, subsets, seeds, and, from two seeds on, the `ceiling`
        that seed noise allows (see `ceiling`).

    Raises:
        ValueError: for shapes or queries that do not fit, values that are not finite, or no query left.
    """
    case = _case(kept, truth, saturated, least_spread)
    lines = []
    for name, one in _named(scores).items():
        value, low, high = _interval(_terms(name, one, case), resamples, confidence, seed)
        lines.append({"method": name, "lds": value, "low": low, "high": high})
    table = pd.DataFrame(lines).sort_values("lds", ascending=False, kind="stable", ignore_index=True)
    table.attrs = _attrs(case, truth, resamples, confidence)
    if truth.sizes["seed"] > 1:
        table.attrs["ceiling"] = ceiling(truth, saturated=saturated, least_spread=least_spread)["ceiling"]
    return table


def paired(
    scores: Mapping[str, Scores | Sequence[Scores]],
    against: str,
    kept: np.ndarray,
    truth: xarray.DataArray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    saturated: float | None = SATURATED,
    least_spread: float = LEAST_SPREAD,
) -> pd.DataFrame:
    """LDS of every method minus that of `against` on the same resamples: columns method, difference, low, high.

    Arguments and errors as `lds`; ValueError also where `against` is none of the scores.
    """
    if against not in scores:
        raise ValueError(f"against is {against!r}; the scores are {', '.join(scores)}")
    case = _case(kept, truth, saturated, least_spread)
    base = _terms(against, scores[against], case, -1.0)
    lines = []
    for name, one in scores.items():
        if name != against:
            value, low, high = _interval(_terms(name, one, case) + base, resamples, confidence, seed)
            lines.append({"method": name, "difference": value, "low": low, "high": high})
    table = pd.DataFrame(lines, columns=["method", "difference", "low", "high"])
    table = table.sort_values("difference", ascending=False, kind="stable", ignore_index=True)
    table.attrs = {**_attrs(case, truth, resamples, confidence), "against": against}
    return table


def ceiling(
    truth: xarray.DataArray, *, saturated: float | None = SATURATED, least_spread: float = LEAST_SPREAD
) -> dict[str, float]:
    """What LDS a perfect prediction of the expected f could reach, given the noise between seeds.

    `between` = r is the Spearman correlation of single seeds over subsets, mean over pairs of seeds and queries;
    `reliability` of the mean over R seeds = R r / (1 + (R − 1) r) (Spearman-Brown; 0 for negative r); `ceiling` is its
    square root (attenuation). Noise that all subsets of a seed share cancels in ranks and is not in it.

    Raises:
        ValueError: for fewer than two seeds, and as `lds`.
    """
    count = truth.sizes["seed"]
    if count < 2:
        raise ValueError("the noise between seeds needs at least two seeds; retrain with seeds=(0, 1)")
    used, _ = _used(truth, saturated, least_spread)
    tables = [below(truth.isel(seed=k, query=used).transpose("query", "subset").values) for k in range(count)]
    subset = np.ones((1, truth.sizes["subset"]))
    pairs = [spearman(tables[i], tables[j], subset).mean() for i in range(count) for j in range(i)]
    r = float(np.mean(pairs))
    reliability = count * max(r, 0.0) / (1 + (count - 1) * max(r, 0.0))
    return {"between": r, "seeds": count, "reliability": reliability, "ceiling": reliability**0.5}


def per_query(
    scores: Several,
    kept: np.ndarray,
    truth: xarray.DataArray,
    *,
    saturated: float | None = SATURATED,
    least_spread: float = LEAST_SPREAD,
) -> xarray.DataArray:
    """The Spearman correlation of every query that is used, dims (method, query). As `lds`, without intervals."""
    import xarray

    case = _case(kept, truth, saturated, least_spread)
    once = np.ones((1, len(case.kept)))
    found = {
        name: spearman(below(_predicted(name, one, case)), case.below, once) for name, one in _named(scores).items()
    }
    return xarray.DataArray(
        np.concatenate(list(found.values())),
        dims=("method", "query"),
        coords={"method": list(found), "query": case.queries},
        name="lds",
    )


def below(values: np.ndarray) -> np.ndarray:
    """(q s s) how far value j stands below value i: 1, ½ for a tie, 0. Ranks of any resample are sums of it."""
    difference = values[:, :, None] - values[:, None, :]
    rounding = 1e-12 * np.abs(values).max(1)[:, None, None]  # equal sums taken in another order
    return (np.sign(np.where(np.abs(difference) <= rounding, 0.0, difference)) + 1) / 2


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B q) Spearman correlations, with average ranks for ties, of the resamples in which subset s came weights[b, s]
    times; `x` and `y` (q s s) as from `below`. 0 where one side has no variation."""
    # a rank is ½ + Σ_j w_j below_ij, and its mean over the resample ½ + ½ Σ w
    half = weights.sum(1)[:, None, None] / 2
    left, right = (np.einsum("bj,qij->bqi", weights, one, optimize=True) - half for one in (x, y))
    w = weights[:, None, :]
    both, xx, yy = ((w * a * b).sum(-1) for a, b in ((left, right), (left, left), (right, right)))
    scale = np.sqrt(xx * yy)
    return np.divide(both, scale, out=np.zeros_like(both), where=scale > 1e-9)


class _Case(NamedTuple):
    """Subsets, the queries that are used, and the comparisons of their measured f (q s s)."""

    kept: np.ndarray
    queries: np.ndarray
    left_out: list[int]
    below: np.ndarray


def _case(kept: np.ndarray, truth: xarray.DataArray, saturated: float | None, least_spread: float) -> _Case:
    masks = check_masks(kept, np.asarray(kept).shape[-1])
    if set(truth.dims) != {"subset", "seed", "query"} or truth.sizes["subset"] != len(masks):
        raise ValueError(
            f"truth has {dict(truth.sizes)}; expected are the dims subset, seed and query with {len(masks)} subsets"
        )
    if len(masks) < 3:
        raise ValueError(f"{len(masks)} subsets came; a rank correlation needs at least three")
    used, left = _used(truth, saturated, least_spread)
    mean = truth.isel(query=used).mean("seed").transpose("query", "subset")
    return _Case(masks, truth["query"].values[used], left, below(mean.values))


def _used(truth: xarray.DataArray, saturated: float | None, least_spread: float) -> tuple[np.ndarray, list[int]]:
    if not np.isfinite(truth.values).all():
        raise ValueError("the measured f has values that are not finite; retrain those models")
    mean = truth.mean("seed").transpose("query", "subset").values
    good = mean.std(1) >= least_spread
    if saturated is not None and mean.max() <= 0:
        good &= mean.mean(1) <= saturated
    if not good.any():
        raise ValueError(
            f"all {len(mean)} queries are left out: f varies over subsets by less than {least_spread} or its mean is "
            f"above {saturated}; ask harder queries, or change the rule with least_spread and saturated"
        )
    return np.flatnonzero(good), truth["query"].values[~good].tolist()


def _named(scores: Several) -> dict[str, Any]:
    return dict(scores) if isinstance(scores, Mapping) else {str(scores.name or "score"): scores}


def _predicted(name: str, scores: Scores, case: _Case) -> np.ndarray:
    """(q s) sums of the scores of the kept rows."""
    if not {"query", "row"} <= set(scores.dims) or scores.sizes["row"] != case.kept.shape[1]:
        raise ValueError(
            f"the scores {name} have {dict(scores.sizes)}; expected are query and row, with {case.kept.shape[1]} rows"
        )
    if missing := sorted(set(case.queries.tolist()) - set(scores["query"].values.tolist())):
        raise ValueError(f"the scores {name} lack the queries {missing[:8]}; score the queries that were measured")
    total = scores.sum([d for d in scores.dims if d not in ("query", "row")]).transpose("query", "row")
    values = total.sel(query=case.queries).values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"the scores {name} have values that are not finite")
    sums = values @ case.kept.T.astype(np.float64)
    sums[np.ptp(values, axis=1) == 0] = 0.0
    return sums


Terms: TypeAlias = "list[tuple[float, np.ndarray, np.ndarray]]"


def _terms(name: str, scores: Scores | Sequence[Scores], case: _Case, sign: float = 1.0) -> Terms:
    several: list[Any] = list(scores) if isinstance(scores, list | tuple) else [scores]
    if not several:
        raise ValueError(f"no scores came for {name}; give at least one")
    return [(sign / len(several), below(_predicted(name, one, case)), case.below) for one in several]


def _interval(terms: Terms, resamples: int, confidence: float, seed: int) -> tuple[float, float, float]:
    """Σ sign · mean over queries of the correlation, and its BCa interval over subsets and (of several) queries."""
    from scipy import stats

    q, s = terms[0][1].shape[:2]
    data = (np.arange(s),) if q == 1 else (np.arange(q), np.arange(s))

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        *query, subset = drawn
        by_subset, by_query = _counts(subset, s), _counts(query[0], q) if query else np.ones((1, 1))
        each: Any = sum(sign * spearman(x, y, by_subset) for sign, x, y in terms)
        found = (each * by_query).sum(1) / by_query.sum(1)
        return found if subset.ndim > 1 else found[0]

    value = float(statistic(*data))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            data,
            statistic,
            n_resamples=resamples,
            batch=max(1, min(resamples, _NUMBERS // (q * s))),
            vectorized=True,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if np.ptp(found.bootstrap_distribution) == 0:
        return value, value, value
    return value, float(low), float(high)


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """(B size) how often each number below `size` was drawn in each line of (…, B, k)."""
    lines = drawn.reshape(-1, drawn.shape[-1])
    flat = lines + size * np.arange(len(lines))[:, None]
    return np.bincount(flat.ravel(), minlength=size * len(lines)).reshape(len(lines), size).astype(np.float64)


def _attrs(case: _Case, truth: xarray.DataArray, resamples: int, confidence: float) -> dict[str, Any]:
    return {
        "queries": len(case.queries),
        "left_out": len(case.left_out),
        "left_out_queries": case.left_out,
        "subsets": len(case.kept),
        "seeds": truth.sizes["seed"],
        "interval": f"{confidence:.0%} BCa over queries and subsets, {resamples} resamples",
    }
