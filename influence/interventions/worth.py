"""From numbers per question to curves and depths with intervals, all from the same draws of questions and seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from influence.interventions.metrics import Metric


class Told(NamedTuple):
    """A value with the ends of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Told(float("nan"), float("nan"), float("nan"))


class Curve(NamedTuple):
    """One edit's metric from each layer on; (1 + draws, layers), the first line the value itself."""

    edited: np.ndarray
    unedited: np.ndarray  # (1 + draws)
    layers: np.ndarray
    n_layers: int
    better: str

    @property
    def cost(self) -> np.ndarray:
        """(1 + draws, layers) by how much worse than unedited, as a share of the unedited value's size."""
        lost = self.unedited[:, None] - self.edited
        size = np.maximum(np.abs(self.unedited), np.finfo(float).tiny)[:, None]
        return (lost if self.better == "higher" else -lost) / size


def draws(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(1 + count, n) how often each question counts: once, and in `count` draws of whole groups with replacement."""
    rng = np.random.default_rng([seed, 1])
    names, member = np.unique(groups, return_inverse=True)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return np.concatenate([np.ones((1, len(groups))), times[:, member]])


def seed_draws(seeds: int, count: int, seed: int) -> np.ndarray:
    """(1 + count, seeds) the share of each seed: equal, and in draws with replacement."""
    rng = np.random.default_rng([seed, 2, seeds])
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
    return np.concatenate([np.full((1, seeds), 1 / seeds), times / seeds])


def means(values: np.ndarray, weight: np.ndarray, drawn: np.ndarray, metric: Metric) -> np.ndarray:
    """(draws, …) the finished average over questions of values (…, n), with `weight` (n) and draws (draws, n).

    Draws in which no question is left are NaN.
    """
    there = np.isfinite(values.reshape(-1, values.shape[-1])).all(0)
    own = drawn[:, there] * weight[there]
    total = own.sum(1)
    with np.errstate(invalid="ignore"):
        mean = np.einsum("bn,...n->b...", own, values[..., there]) / total.reshape(-1, *[1] * (values.ndim - 1))
    return metric.finished(mean)


def curve(
    edited: np.ndarray, unedited: np.ndarray, weight: np.ndarray, drawn: np.ndarray, layers: np.ndarray, n_layers: int,
    metric: Metric, seed: int,
) -> Curve:  # fmt: skip
    """The curve of `edited` (seeds, layers, n) beside `unedited` (n), over the questions that were edited."""
    plain = np.where(np.isfinite(edited).all((0, 1)), unedited, np.nan)
    by_seed = means(edited, weight, drawn, metric)  # (draws, seeds, layers)
    share = seed_draws(edited.shape[0], len(drawn) - 1, seed)
    return Curve(
        np.einsum("bs,bsl->bl", share, by_seed), means(plain, weight, drawn, metric), layers, n_layers, metric.better
    )


def interval(values: np.ndarray, level: float) -> Told:
    """A value (the first) with the quantiles of its draws."""
    if not np.isfinite(values[0]):
        return UNDEFINED
    there = values[1:][np.isfinite(values[1:])]
    if not there.size:
        return Told(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Told(float(values[0]), float(low), float(high))


def depth_within(found: Curve, share: float, level: float) -> Told:
    """The depth k / n_layers from which on no edit costs more than `share`; 1: even the last layer's edit does.

    Undefined where the edit from the lowest layer on costs nothing that can be told from 0.
    """
    if not interval(found.cost[:, 0], level).low > 0:
        return UNDEFINED
    bad = found.cost > share
    reached = np.append(found.layers, found.n_layers) / found.n_layers
    last = np.where(bad.any(1), bad.shape[1] - np.argmax(bad[:, ::-1], 1), 0)
    return interval(reached[last], level)
