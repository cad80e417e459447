"""Influence along the training run: EK-FAC scores of several checkpoints, standardised per query and summed.

What a row taught was often taught early, when its gradient was still large; late in training what remains is small and
particular to the run. So the sum over checkpoints predicts retraining better than the last one alone (figures in
docs/measurements.md). It is a ranking, in standard deviations: for amounts in nats, score the final model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import ekfac
from influence.attribution.fit import fit_ekfac
from influence.attribution.rank import ranked_values
from influence.attribution.score import score
from influence.model.likelihood import Likelihood, categorical
from influence.model.load import load
from influence.types import LM

if TYPE_CHECKING:
    from torch import nn

    from influence.types import Rows, Scores

FIRST_SHARE = 0.1


def predictive(
    checkpoints: Iterable[LM | nn.Module | str | Path],
    rows: Rows,
    queries: Rows,
    *,
    damping: float = 0.1,
    normalize: str | None = None,
    weights: Sequence[float] | None = None,
    blocks: str | Sequence[str] = "all",
    labels: Literal["sampled", "data", "expected"] = "sampled",
    seed: int = 0,
    covariance_rows: float = 1.0,
    likelihood: Likelihood = categorical,
    batch_size: int = 32,
    dtype: str | None = None,
    progress: bool = True,
) -> Scores:
    """The ranking that predicts retraining best: dims (query, row), in standard deviations, summed over checkpoints.

    Each checkpoint gets EK-FAC factors of its own; its scores are standardised per query before they are added, so
    none outweighs the others by its scale. About five checkpoints, log-spaced from a tenth of the training to its end
    (`spaced`), are enough. The cost is one fit and one pass per checkpoint.

    Args:
        checkpoints: opened one after the other; folders, hub names, modules or LMs of one training run, the last one
            included. Several runs with other seeds may be added: they help too.
        normalize: "row" divides by each checkpoint's own row norms first, for retrieval.
        weights: one per checkpoint, default equal.

    Raises:
        ValueError: without checkpoints, or for weights of another number or all zero.
    """
    scores = []
    for one in checkpoints:
        lm = one if isinstance(one, LM) else load(one, blocks=blocks)
        factors = fit_ekfac(
            lm, rows, labels=labels, seed=seed, covariance_rows=covariance_rows, likelihood=likelihood,
            batch_size=batch_size, dtype=dtype, progress=progress,
        )  # fmt: skip
        solver = ekfac.solver(factors, damping=damping)
        found = score(
            lm, rows, queries, solver, per="sequence", row_norm=normalize is not None, likelihood=likelihood,
            batch_size=batch_size, dtype=dtype, progress=progress,
        )  # fmt: skip
        scores.append(ranked_values(found, normalize=normalize))
    return combine(scores, weights)


def combine(scores: Sequence[Scores], weights: Sequence[float] | None = None) -> Scores:
    """The weighted sum of scores (query, row), each standardised per query (mean 0, standard deviation 1 over rows).

    A query without any variation in some of the scores takes nothing from it.

    Raises:
        ValueError: for no scores, other queries or rows than the first one's, or weights of another number or all zero.
    """
    if not scores:
        raise ValueError("no scores came; give at least one checkpoint")
    factors = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    if factors.shape != (len(scores),) or not np.isfinite(factors).all() or not factors.any():
        raise ValueError(f"weights are {weights} for {len(scores)} checkpoints; give one finite number for each")
    first = scores[0]
    for one in scores:
        same = all(np.array_equal(one[dim].values, first[dim].values) for dim in ("query", "row"))
        if one.dims != ("query", "row") or not same:
            raise ValueError("scores of other queries or rows came; score the same ones at every checkpoint")
    total = sum(factor * standardised(one.values) for factor, one in zip(factors, scores, strict=True))
    attrs: dict[str, Any] = {
        **first.attrs,
        "units": "standard deviations, summed over checkpoints",
        "checkpoints": len(scores),
        "weights": factors.tolist(),
        "ranking": "predictive: EK-FAC standardised per query, summed over checkpoints",
    }
    return first.copy(data=total).assign_attrs(attrs)


def standardised(values: np.ndarray) -> np.ndarray:
    """(q n) less their mean over n, by their standard deviation; zeros for a query without variation."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    scale = np.abs(values).max(1, keepdims=True)
    varied = spread > 1e-12 * scale
    result: np.ndarray = np.where(varied, centred / np.where(varied, spread, 1.0), 0.0)
    return result


def spaced(steps: Iterable[int], count: int = 5) -> list[int]:
    """Those of the kept steps that lie nearest to `count` log-spaced ones, from a tenth of the training to its end.

    A rule that needs no retraining; the last step is always among them, and a step is chosen once.

    Raises:
        ValueError: without a step above 0, or for a count below 1.
    """
    known = sorted({int(step) for step in steps if step > 0})
    if not known or count < 1:
        raise ValueError(f"steps are {known} and count is {count}; give at least one step above 0 and a count of 1")
    if count == 1:
        return known[-1:]
    wanted = np.geomspace(FIRST_SHARE, 1.0, count) * known[-1]
    logs = np.log(known)
    return sorted({known[int(np.abs(logs - np.log(one)).argmin())] for one in wanted})


__all__ = ["combine", "predictive", "spaced"]
