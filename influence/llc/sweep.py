"""Coefficients of many parts at many checkpoints, with the same settings throughout; clusters of curves;
stages.

Wang et al. 2024 (arXiv 2410.02984): the curves of attention heads across training tell their kinds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.llc.estimate import Withheld
from influence.llc.run import llc
from influence.llc.where import Where, told
from influence.types import LM

if TYPE_CHECKING:
    import pandas

    from influence.types import Rows

SHORTEST = 3  # points of a stage


def sweep(
    checkpoints: Mapping[float, LM | Callable[[], LM]],
    rows: Rows,
    parts: Sequence[Where] = (None,),
    *,
    step_size: float | None = None,
    progress: bool = True,
    **settings: Any,
) -> pandas.DataFrame:
    """λ̂ of every part at every checkpoint: a line each with `step`, `part`, and what `LLC.frame` has.

    A curve is of one quantity only where nothing but the weights changes along it, so a part has one step size
    at all checkpoints: the one given, or the one found at the last of them. Where too many chains diverge the
    line has no value and says so in `notes`.

    Args:
        checkpoints: models by training step, or functions that open them, called one after the other.
        parts: what `llc(where=…)` takes.
        settings: those of `llc`.

    Raises what `llc` raises, but for `Withheld`.
    """
    import pandas

    found: dict[tuple[float, str], pandas.DataFrame] = {}
    sizes: dict[str, float | None] = {}
    for step in sorted(checkpoints, reverse=True):
        opened = checkpoints[step]
        lm = opened if isinstance(opened, LM) else opened()
        for where in parts:
            name = told(where) or "all"
            own = sizes.get(name, step_size)
            line = _one(lm, rows, where, {**settings, "step_size": own, "progress": progress})
            sizes[name] = float(line["step_size"].iloc[0])
            line.insert(0, "step", step)
            found[step, name] = line.rename(columns={"where": "part"}).assign(part=name)
    order = [(step, told(where) or "all") for step in sorted(checkpoints) for where in parts]
    return pandas.concat([found[key] for key in order], ignore_index=True)


def _one(lm: LM, rows: Rows, where: Where, settings: dict[str, Any]) -> pandas.DataFrame:
    import pandas

    try:
        return llc(lm, rows, where=where, **settings).frame()
    except Withheld as error:
        plan = error.trace.plan
        line = {"where": told(where) or "all", "value": np.nan, "step_size": plan.step_size, "n_beta": plan.n_beta}
        return pandas.DataFrame([{**line, "kept": int(error.trace.kept.sum()), "notes": str(error)}])


def curves(frame: pandas.DataFrame, column: str = "value") -> pandas.DataFrame:
    """Parts × steps of a sweep."""
    found: pandas.DataFrame = frame.pivot(index="part", columns="step", values=column)
    return found.loc[list(dict.fromkeys(frame["part"]))]


def clusters(table: pandas.DataFrame, count: int | None = None, *, shape: bool = False) -> pandas.Series:
    """Cluster (1, 2, …, in the order of the parts) of every curve, by Ward's method on their distances.

    The series' `attrs["silhouette"]` is the mean silhouette of the clustering, near 1 for clusters far apart
    and near 0 where there are none.

    Args:
        table: parts × steps, such as `curves` gives; at least three parts.
        count: how many; default the number from 2 to 6 with the largest silhouette.
        shape: scale every curve to mean 0 and spread 1 first, so that only its course counts.

    Raises:
        ValueError: for values that are not finite, fewer than three parts, or a count they do not allow.
    """
    import pandas
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.metrics import silhouette_score

    values = table.to_numpy(dtype=np.float64)
    most = len(values) - 1
    if most < 2 or not np.isfinite(values).all() or (count is not None and not 2 <= count <= most):
        raise ValueError(
            f"{len(values)} curves came, {int((~np.isfinite(values).all(1)).sum())} of them not finite, "
            f"{count=}; expected are three or more finite curves and a count from 2 to {most}"
        )
    if shape:
        spread = values.std(1, keepdims=True)
        values = (values - values.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    tree = linkage(values, "ward")
    best: tuple[float, np.ndarray] | None = None
    for k in [count] if count is not None else range(2, min(6, most) + 1):
        labels = fcluster(tree, k, "maxclust")
        some = 1 < len(np.unique(labels)) < len(values)
        said = float(silhouette_score(values, labels)) if some else -1.0
        if best is None or said > best[0]:
            best = said, labels
    assert best is not None
    numbers = {label: k + 1 for k, label in enumerate(dict.fromkeys(best[1].tolist()))}
    found = pandas.Series([numbers[label] for label in best[1].tolist()], index=table.index, name="cluster")
    found.attrs["silhouette"] = best[0]
    return found


def stages(
    steps: Sequence[float], values: Sequence[float], errors: Sequence[float] | None = None, *, most: int = 5
) -> list[float]:
    """Steps at which a curve turns: borders between the straight pieces, in log(1 + step), that fit it best.

    The number of pieces, up to `most`, is the one with the least Bayesian information criterion; a piece has
    three points or more, and a border is the first step of the piece after it.

    Args:
        errors: standard errors of the values; default one unknown error for all.

    Raises:
        ValueError: for values that are not finite or of other lengths, or steps that do not rise.
    """
    x, y = np.log1p(np.asarray(steps, np.float64)), np.asarray(values, np.float64)
    weight = np.ones_like(y) if errors is None else 1 / np.maximum(np.asarray(errors, np.float64), 1e-12)
    if (
        x.shape != y.shape
        or y.shape != weight.shape
        or not np.isfinite([x, y, weight]).all()
        or (np.diff(x) <= 0).any()
    ):
        raise ValueError("steps, values and errors must be finite, of one length, and the steps must rise")
    n = len(x)
    cost = np.full((n + 1, n + 1), np.inf)
    for start in range(n):
        for stop in range(start + SHORTEST, n + 1):
            cost[start, stop] = _misfit(x[start:stop], y[start:stop], weight[start:stop])
    best: tuple[float, list[int]] = (np.inf, [])
    for pieces in range(1, min(most, n // SHORTEST) + 1):
        total, borders = _cut(cost, n, pieces)
        free = 3 * pieces - 1  # a line each, and the borders
        fit = total if errors is not None else n * np.log(max(total / n, 1e-300))
        if (said := fit + free * np.log(n)) < best[0]:
            best = said, borders
    at = np.asarray(steps, np.float64)
    return [float(at[border]) for border in best[1]]


def _misfit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Weighted squares left by the best straight line."""
    design = np.stack([np.ones_like(x), x], 1) * weight[:, None]
    left = weight * y - design @ np.linalg.lstsq(design, weight * y, rcond=None)[0]
    return float(left @ left)


def _cut(cost: np.ndarray, n: int, pieces: int) -> tuple[float, list[int]]:
    """The least cost of `pieces` pieces, and where they meet, by dynamic programming."""
    best, before = cost[0], []
    for _ in range(pieces - 1):
        total = best[:, None] + cost
        before.append(total.argmin(0))
        best = total.min(0)
    borders, stop = [], n
    for choice in reversed(before):
        stop = int(choice[stop])
        borders.append(stop)
    return float(best[n]), borders[::-1]
