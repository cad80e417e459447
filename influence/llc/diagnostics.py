"""Whether chains have mixed and how far their mean can be trusted: split rank-normalised R-hat, ESS, MCSE.

Vehtari et al. 2021 (arXiv 1903.08008), by arviz-stats. All chains start at w*, so none of these can see a
region that no chain has reached; `relaxation` says how many steps the slowest direction needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Diagnostics(NamedTuple):
    """Of one scalar along chains: R-hat (1 = mixed), effective draws of the mean and of the 5 and 95 %
    quantiles, and the Monte Carlo standard error of the mean. NaN where the scalar never changes."""

    rhat: float
    ess: float
    ess_tail: float
    mcse: float


def diagnose(draws: np.ndarray) -> Diagnostics:
    """Of (chains, draws), at least one chain of four draws; float64."""
    if np.ptp(draws) == 0:
        return Diagnostics(float("nan"), float("nan"), float("nan"), 0.0)
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    return Diagnostics(
        rhat=float(array_stats.rhat(draws, method="rank", **axes)),
        ess=float(array_stats.ess(draws, method="bulk", **axes)),
        ess_tail=float(array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **axes)),
        mcse=float(array_stats.mcse(draws, method="mean", **axes)),
    )


def relaxation(step_size: float, gamma: float) -> float:
    """Steps in which a direction without curvature forgets its start, for Langevin steps: 2/(εγ)."""
    return float("inf") if gamma <= 0 else 2 / (step_size * gamma)
