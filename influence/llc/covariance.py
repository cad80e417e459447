"""Influence and susceptibilities as covariances of losses along chains: no curvature is ever formed.

Bayesian influence functions (arXiv 2509.26544): BIF(z, f) = −Cov(ℓ_z, f) under the local posterior. In the
quadratic limit Cov(ℓ_z, ℓ_q) = g_zᵀ Σ g_q + ½ tr(H_z Σ H_q Σ) with Σ = (nβ H + γ)⁻¹, so nβ Cov is the raw score
at damping λ = γ / nβ, with the Hessian in the place of G. Susceptibilities: arXiv 2504.18274.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from influence.llc.estimate import estimate, gamma_of
from influence.llc.trace import Trace
from influence.model.tangent import to_parameters
from influence.types import LM

if TYPE_CHECKING:
    from influence.types import Scores


def covariance(
    trace: Trace, *, queries: str = "query", rows: str = "row", raw: bool = False, n: int | None = None
) -> Scores:
    """Influence of every tracked row on every tracked query by nβ Cov(ℓ_row, ℓ_query), with dims (query, row).

    A score estimates what `influence.score` computes with the damping λ = γ/nβ: in nats the predicted rise of
    log p(query) if the row stood in the training set once more; positive rows raised it. The coordinate
    `reliability` (query) says how far noise of the chains leaves the order of rows alone: the correlation of
    the scores by half of the chains with those by the other half, projected to all chains (Spearman–Brown); 1
    is free of noise. The attribute `notes` holds what speaks against the chains themselves, as in `LLC`: too long a
    step shows there alone.

    Args:
        queries, rows: names under which `llc(track=…)` kept their losses; the same for both gives rows on rows.
        raw: leave out the factor 1/n.
        n: size of the training corpus, default the items of the trace's own loss.

    Raises:
        ValueError: for names that were not tracked, or with fewer than two chains left.
    """
    import xarray

    q, r = (_losses(trace, name) for name in (queries, rows))
    corpus = trace.target.n if n is None else n
    factor = trace.plan.n_beta * trace.target.scale / (1 if raw else corpus)
    half = len(q) // 2
    first, second = _covariance(q[:half], r[:half]), _covariance(q[half:], r[half:])
    coords: dict[str, Any] = {
        "query": list(trace.others[queries].ids),
        "row": list(trace.others[rows].ids),
        "reliability": ("query", _reliability(first, second)),
    }
    return xarray.DataArray(
        factor * _covariance(q, r), coords, ("query", "row"), name="score", attrs=_attrs(trace, raw, corpus)
    )


def susceptibility(traces: Mapping[str, Trace], *, rows: str = "row") -> Scores:
    """−Cov(L(w) − L(w*), ℓ_row(w) − L(w)) under chains in which one part of the model moves, with dims (part,
    row).

    L is the mean over the tracked rows themselves. Negative: shifting weight in the data to the row makes the
    part's posterior expectation of the loss fall.

    Args:
        traces: by the name of the part, all with the same tracked rows.

    Raises:
        ValueError: for rows that were not tracked or differ between the traces.
    """
    import xarray

    first = next(iter(traces.values()))
    found = []
    for name, trace in traces.items():
        losses = _losses(trace, rows)
        if list(trace.others[rows].ids) != list(first.others[rows].ids):
            raise ValueError(f"the trace of {name!r} tracked other rows than the first; track the same in all")
        whole = losses.mean(2, keepdims=True)
        found.append(-_covariance(whole, losses - whole)[0])
    coords = {"part": list(traces), "row": list(first.others[rows].ids)}
    attrs = {"units": "nats squared", "sign": "negative: weight on the row lowers the part's expected loss"}
    return xarray.DataArray(np.stack(found), coords, ("part", "row"), name="susceptibility", attrs=attrs)


def at_damping(
    lm: LM, damping: Mapping[str, float | None], n_beta: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mask and γ for chains that move the tracked blocks alone, each localised as a solver damps it: γ_b = nβ
    λ_b.

    Args:
        damping: λ by block, such as `ekfac.solver(factors).lam`; a block with None stays where it is.
        n_beta: that of the chains, with L the mean over sequences of their summed losses.

    Raises:
        ValueError: for other blocks than the model's.
    """
    like = next(lm.net.parameters())

    def laid(values: Mapping[str, float]) -> dict[str, Tensor]:
        grad = {b.name: torch.full((1, *b.shape), values[b.name], dtype=torch.float64) for b in lm.blocks}
        return {name: value[0].to(like.device) for name, value in to_parameters(lm, dict(grad)).items()}

    if missing := [b.name for b in lm.blocks if b.name not in damping]:
        raise ValueError(f"damping lacks the blocks {missing[:5]}; give the λ of every block of this model")
    moves = laid({b.name: 0.0 if damping[b.name] is None else 1.0 for b in lm.blocks})
    gamma = laid({b.name: n_beta * (damping[b.name] or 0.0) for b in lm.blocks})
    return {name: value > 0 for name, value in moves.items()}, gamma


def _losses(trace: Trace, name: str) -> np.ndarray:
    """(c t items) float64 of the chains that are left."""
    if name not in trace.tracked:
        raise ValueError(
            f"the losses of {name!r} were not tracked (tracked: {sorted(trace.tracked) or 'none'}); give the "
            f"chains track={{{name!r}: rows}}"
        )
    kept = trace.kept
    if kept.sum() < 2:
        raise ValueError(f"{int(kept.sum())} of {len(kept)} chains have not diverged; give a smaller step_size")
    return trace.tracked[name][kept].astype(np.float64)


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x y) between a (c t x) and b (c t y), around the means over all chains."""
    x, y = a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])
    found: np.ndarray = (x - x.mean(0)).T @ (y - y.mean(0)) / (len(x) - 1)
    return found


def _reliability(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(q) correlation over rows, projected from half the chains to all."""
    found = []
    for a, b in zip(first, second, strict=True):
        flat = np.ptp(a) == 0 or np.ptp(b) == 0
        r = np.nan if flat else float(np.corrcoef(a, b)[0, 1])
        found.append(2 * r / (1 + r))
    return np.array(found)


def _attrs(trace: Trace, raw: bool, n: int) -> dict[str, Any]:
    plan = trace.plan
    return {
        "units": "nats times n" if raw else "nats",
        "sign": "positive: the row raised the measurement",
        "measure": "log p(completion)",
        "n": n,
        "solver": f"covariance ({plan.sampler.name})",
        "n_beta": plan.n_beta,
        "gamma": gamma_of(trace),
        "damping": gamma_of(trace) / (plan.n_beta * trace.target.scale),
        "step_size": plan.step_size,
        "chains": int(trace.kept.sum()),
        "draws": plan.draws,
        "notes": "; ".join(estimate(trace).notes),
    }
