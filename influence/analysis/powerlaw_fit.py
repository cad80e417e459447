"""Power laws by maximum likelihood: the arithmetic, on arrays of many samples at once.

The method is that of Clauset, Shalizi & Newman (2009): density exponent by maximum likelihood above xmin,
xmin where the Kolmogorov-Smirnov distance is least, goodness of fit by simulating samples from the fit and
fitting them again.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

LEAST = 50
"""Points that a fit needs."""
CANDIDATES = 200
"""Values tried as xmin, at most; evenly spaced in the logarithm of the tail's size."""
ALTERNATIVES = ("exponential", "lognormal", "stretched_exponential", "truncated_power_law")


class Fit(NamedTuple):
    """A fitted tail: the `n_tail` largest values, the least of which is `xmin`; `distance` is Kolmogorov-Smirnov's."""

    xmin: float
    n_tail: int
    alpha: float
    distance: float


def fit_top(sample: Array, count: int) -> Fit:
    """Fit the `count` largest values of a sample, all of them where it has fewer.

    Raises ValueError below `LEAST` points.
    """
    tail = np.sort(sample)[::-1][:count]
    _enough(len(tail))
    alpha, distance = _alphas_and_distances(np.log(tail)[None], np.array([len(tail)]))
    return _fitted(Fit(float(tail[-1]), len(tail), float(alpha[0, 0]), float(distance[0, 0])))


def fit_ks(sample: Array, least: int = LEAST) -> Fit:
    """Fit above the xmin (of those that leave at least `least` points) with the least distance.

    Raises ValueError below `LEAST` points.
    """
    tail = np.sort(sample)[::-1]
    _enough(len(tail))
    # the tail above an xmin holds every point that equals it
    sizes = np.unique(np.searchsorted(-tail, -tail[_sizes(len(tail), least) - 1], side="right"))
    alphas, distances = _alphas_and_distances(np.log(tail)[None], sizes)
    best = int(distances[0].argmin())
    size = int(sizes[best])
    return _fitted(Fit(float(tail[size - 1]), size, float(alphas[0, best]), float(distances[0, best])))


def _fitted(fit: Fit) -> Fit:
    if not np.isfinite(fit.alpha):
        raise ValueError(f"the {fit.n_tail} largest scores are all equal, so they have no tail exponent")
    return fit


def _enough(points: int) -> None:
    if points < LEAST:
        raise ValueError(f"a tail of {points} points is refused: at least {LEAST} positive scores are needed for a fit")


def _sizes(points: int, least: int) -> NDArray[np.int64]:
    """Tail sizes to try: all of them where they are few."""
    if points - least < CANDIDATES:
        return np.arange(least, points + 1)
    return np.unique(np.geomspace(least, points, CANDIDATES).round().astype(np.int64))


def _alphas_and_distances(logs: Array, sizes: NDArray[np.int64]) -> tuple[Array, Array]:
    """Exponents and distances (samples, sizes) of tails of samples, given as logarithms sorted downwards
    (samples, n).

    The distance is taken at the points, with the empirical survival that counts the point itself, as Clauset
    and the `powerlaw` package do. A tail whose values are all equal has no exponent: NaN and infinite
    distance.
    """
    sums = np.cumsum(logs, 1)
    alphas = np.empty((len(logs), len(sizes)))
    distances = np.full(alphas.shape, np.inf)
    for k, size in enumerate(sizes):
        least = logs[:, size - 1]
        mean = sums[:, size - 1] / size - least
        with np.errstate(divide="ignore"):
            alphas[:, k] = np.where(mean > 0, 1 + 1 / mean, np.nan)
        survival = np.exp((1 - alphas[:, k, None]) * (logs[:, :size] - least[:, None]))
        found = np.abs(survival - np.arange(1, size + 1) / size).max(1)
        distances[:, k] = np.where(np.isfinite(alphas[:, k]), found, np.inf)
    return alphas, distances


def interval(fit: Fit, level: float = 0.95) -> tuple[float, float]:
    """Interval of the density exponent, exact for a power law above a given order statistic.

    Σ ln(x / xmin) over the points above xmin is then a Gamma variable of n − 1 points. It does not count the
    choice of xmin by distance, which widens it.
    """
    total = fit.n_tail / (fit.alpha - 1)
    low, high = stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], 2 * (fit.n_tail - 1))
    return 1 + float(low) / (2 * total), 1 + float(high) / (2 * total)


def p_top(fit: Fit, samples: int, rng: np.random.Generator) -> float:
    """Share of simulated tails (n_tail points from the fit, fitted again) at least as far from their fit."""
    above = -np.sort(-rng.standard_exponential((samples, fit.n_tail - 1)), 1)
    logs = np.append(above, np.zeros((samples, 1)), 1)  # xmin itself is one of the points
    _, distances = _alphas_and_distances(logs, np.array([fit.n_tail]))
    return float((distances[:, 0] >= fit.distance).mean())


def p_ks(sample: Array, fit: Fit, samples: int, rng: np.random.Generator, least: int = LEAST) -> float:
    """The same for a chosen xmin: below it values are drawn from the sample's own, and xmin is chosen again."""
    body = np.log(np.sort(sample)[: len(sample) - fit.n_tail])
    sizes = _sizes(len(sample), least)
    found = 0
    for start in range(0, samples, _BATCH):
        size = (min(_BATCH, samples - start), len(sample))
        logs = np.log(fit.xmin) + rng.standard_exponential(size) / (fit.alpha - 1)
        if len(body):
            below = rng.random(size) < len(body) / len(sample)
            logs = np.where(below, rng.choice(body, size), logs)
        _, distances = _alphas_and_distances(-np.sort(-logs, 1), sizes)
        found += int((distances.min(1) >= fit.distance).sum())
    return found / samples


_BATCH = 64  # samples simulated together


def compare(sample: Array, fit: Fit, alternatives: tuple[str, ...] = ALTERNATIVES) -> dict[str, tuple[float, float]]:
    """Log likelihood ratio of the power law to each alternative on the tail, and its p; positive favours the
    power law.

    By the `powerlaw` package. (NaN, NaN) where its fit of the alternative does not converge.
    """
    import powerlaw

    tail = sample[sample >= fit.xmin] / fit.xmin
    found: dict[str, tuple[float, float]] = {}
    for name in alternatives:
        with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
            warnings.simplefilter("always")
            try:
                ratio, p = powerlaw.Fit(tail, xmin=1.0, verbose=0).distribution_compare("power_law", name)
            except (ValueError, ArithmeticError, RuntimeError, IndexError):
                ratio, p = np.nan, np.nan
        lost = any("No valid fits" in str(one.message) for one in caught)
        fitted = not lost and np.isfinite(ratio) and np.isfinite(p)
        found[name] = (float(ratio), float(p)) if fitted else (np.nan, np.nan)
    return found
