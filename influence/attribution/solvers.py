"""LiSSA and conjugate gradients on a model: Gauss-Newton products over its rows, λ per block, certificates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import lissa
from ekfac import EKFACSolver, Factors
from influence.attribution.damping import lambdas, preconditioner, relative
from influence.attribution.gradients import query_gradients
from influence.attribution.passes import compute_dtype
from influence.attribution.products import Products, products, rows_at_once
from influence.grads import queries
from influence.model.likelihood import Likelihood, categorical
from influence.types import LM, Grad, Solution, Solver

if TYPE_CHECKING:
    from influence.types import Rows

CERTIFICATE_ROWS = 1024
PROBES, PROBE_NUMBERS = 64, 1 << 28  # rows, and numbers that their gradients may take
PARTS = 16


@dataclass(frozen=True, eq=False)
class IterativeSolver:
    """A solver Grad -> Solution on a model's Gauss-Newton matrix; `lam` has the absolute λ of every block."""

    name: str
    damping: float | None
    lam: dict[str, float | None]
    solve: Callable[[Grad], Solution]

    def __call__(self, grad: Grad) -> Solution:
        return self.solve(grad)


def lissa_solver(
    lm: LM,
    rows: Rows,
    *,
    damping: float | None = None,
    factors: Factors | None = None,
    absolute: Mapping[str, float | None] | None = None,
    precondition: Solver | bool | None = None,
    steps: int = 1000,
    batch_size: int = 32,
    scale: float | None = None,
    safety: float = 1.5,
    repeats: int = 1,
    average: float | None = None,
    tolerance: float = 0.05,
    blockwise: bool = False,
    likelihood: Likelihood = categorical,
    certify: int | None = None,
    probes: int | Rows | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
) -> IterativeSolver:
    """LiSSA (Agarwal et al. 2017; Koh & Liang 2017): the Neumann series on mini-batches, α by power iteration.

    Args:
        rows: what G is the mean over; every step takes `batch_size` of them, without replacement within an epoch.
        damping: λ of each block in units of its mean eigenvalue; default 0.1, or the preconditioner's own λ.
        factors: EK-FAC factors that say the mean eigenvalue (default: the preconditioner's; else one pass measures it).
        absolute: λ by block name, used instead.
        precondition: an EK-FAC solver or any other Grad -> Solution, linear and positive definite; True makes one of
            `factors` with the same λ.
        steps: products per pass; the cost is that of `steps` passes over `batch_size` rows for every query.
        scale: α, default measured; `safety`, `repeats` and `average` are those of `lissa.neumann`.
        tolerance: `converged` says that the residual on all rows is estimated at no more than this.
        blockwise: leave out what couples different blocks; costs one product per block.
        likelihood: what the outputs mean.
        certify: rows drawn for the certificate, independently of those used; default 1024, or all where fewer.
        probes: by how many rows' scores (or by those of which rows) the change over the last quarter is followed;
            default 64, fewer in large models, whose gradients would fill the memory; 0 leaves it out.
        seed: of mini-batches, the certificate's rows, probes, and the power iteration.
        dtype: compute the products in this type; default the model's own.

    Returns:
        a solver for `influence.score`. Its solutions carry the residual per query, and in `info` the residual's
        sampling floor, the estimate on all rows, the change of the scores, α, products and repeats.

    Raises:
        ValueError: for settings out of range; when called, for gradients that are not finite or of other blocks, and
            for a model whose products differ from call to call (dropout).
        lissa.Diverged, lissa.Indefinite: when called, see `lissa.neumann`.
        BadRows, NotFinite, NoForwardDerivative: for rows and models that no product can be taken of.
    """
    _require_rows("batch_size", batch_size, 1)
    kind = compute_dtype(dtype)
    lam = lambdas(lm, rows, damping, factors, absolute, precondition, likelihood, dtype, progress)
    inner = preconditioner(precondition, factors, lam)
    _require_probes(probes)

    def solve(grad: Grad) -> Solution:
        with products(lm, rows, likelihood=likelihood, blockwise=blockwise, dtype=kind, progress=progress) as all_rows:
            lissa.prepare(grad, lam)
            all_rows.require_same_twice(grad)
            parts, weights, share, said = _certificate(all_rows, certify, seed)
            total = steps * repeats
            found = lissa.neumann(
                all_rows.draws(min(batch_size, len(rows)), seed, total),
                grad,
                lam,
                generator=torch.Generator().manual_seed(seed),
                steps=steps,
                scale=scale,
                safety=safety,
                repeats=repeats,
                average=average,
                precondition=inner,
                tolerance=tolerance,
                probes=_probes(lm, rows, probes, queries(grad), seed, likelihood, kind),
                parts=parts,
                weights=weights,
                share=share,
            )
        settings = {"batch_size": min(batch_size, len(rows)), "rows": len(rows), "average": average, **said}
        return _described(found, settings, precondition, blockwise)

    return IterativeSolver("lissa", relative(damping, absolute, precondition), lam, solve)


def cg_solver(
    lm: LM,
    rows: Rows,
    *,
    damping: float | None = None,
    factors: Factors | None = None,
    absolute: Mapping[str, float | None] | None = None,
    precondition: Solver | bool | None = None,
    together: bool = True,
    steps: int = 20,
    tolerance: float = 0.01,
    sample: int | None = None,
    batch_size: int | None = None,
    blockwise: bool = False,
    likelihood: Likelihood = categorical,
    certify: int | None = None,
    probes: int | Rows | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
) -> IterativeSolver:
    """Conjugate gradients on the Gauss-Newton matrix of a fixed sample of rows, preconditioned where asked.

    Args:
        together: all queries search in one space (block conjugate gradients, `lissa.block_cg`): as many products, and
            far nearer to the solution with many queries; an answer that has not converged then depends on which other
            queries were asked with it. False solves each query by itself.
        steps: at most so many products, each over the whole sample.
        tolerance: a query is done once its residual is at most this.
        sample: how many of the rows, drawn by the seed, the product takes; default all. The solution is that of these
            rows: too few of them cost more accuracy than too few steps.
        batch_size: rows of the longest length that a product takes at a time; it changes memory and time only. The
            default is as many as give about a million outputs on a CPU: more fall out of its cache.
        certify: rows of the certificate, drawn independently; default 1024 where there is a sample, and with all rows
            in the product these, so that the residual is exact.
        Others as in `lissa_solver`.

    Returns:
        a solver for `influence.score`; see `lissa_solver`.

    Raises:
        ValueError: for settings out of range; when called, for gradients that are not finite or of other blocks, and
            for a model whose products differ from call to call (dropout).
        lissa.Indefinite: when called, where G + λI is not positive definite.
        BadRows, NotFinite, NoForwardDerivative: for rows and models that no product can be taken of.
    """
    if batch_size is None:
        batch_size = rows_at_once(lm, rows)
    _require_rows("batch_size", batch_size, 1)
    if sample is not None:
        _require_rows("sample", sample, 1)
    kind = compute_dtype(dtype)
    lam = lambdas(lm, rows, damping, factors, absolute, precondition, likelihood, dtype, progress)
    inner = preconditioner(precondition, factors, lam)
    _require_probes(probes)
    taken = len(rows) if sample is None else min(sample, len(rows))

    def solve(grad: Grad) -> Solution:
        options: dict[str, Any] = {"likelihood": likelihood, "blockwise": blockwise, "dtype": kind}
        with products(lm, rows, progress=progress, batch_size=batch_size, **options) as all_rows:
            lissa.prepare(grad, lam)
            all_rows.require_same_twice(grad)
            found = (lissa.block_cg if together else lissa.cg)(
                all_rows.sample(taken, seed, watched="conjugate gradients"),
                grad,
                lam,
                precondition=inner,
                steps=steps,
                tolerance=tolerance,
                probes=_probes(lm, rows, probes, queries(grad), seed, likelihood, kind),
            )
            said: dict[str, Any] = {"certificate_rows": len(rows), "certificate": "exact: all rows"}
            if taken < len(rows) or certify is not None:
                found = replace(found, info={**found.info, "residual_on_sample": _list(found.residual)})
                parts, weights, share, said = _certificate(all_rows, certify, seed)
                checked = lissa.certify(found.value, grad, lam, parts, weights=weights, share=share)
                found = _warned(lissa.certified(found, checked, tolerance), taken)
        return _described(found, {"sample": taken, "rows": len(rows), **said}, precondition, blockwise)

    return IterativeSolver("cg", relative(damping, absolute, precondition), lam, solve)


def _require_rows(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it is a number of rows and must be at least {least}")


def _require_probes(probes: int | Rows | None) -> None:
    if isinstance(probes, int) and probes < 0:
        raise ValueError(f"probes is {probes}; give a number of rows, 0 for none, or the rows themselves")


def _probes(
    lm: LM,
    rows: Rows,
    probes: int | Rows | None,
    q: int,
    seed: int,
    likelihood: Likelihood,
    dtype: torch.dtype | None,
) -> Grad | None:
    """The gradients of the rows by whose scores the answer is followed; few in large models."""
    if probes is None:
        probes = min(PROBES, max(8, q, PROBE_NUMBERS // sum(block.size for block in lm.blocks)))
    if isinstance(probes, int):
        chosen = np.random.default_rng([seed, 2]).permutation(len(rows))[:probes]
        if len(chosen) == 0:
            return None
        probes = rows.select(np.sort(chosen))
    return query_gradients(lm, probes, likelihood.log_p, dtype=dtype, progress=False)[0]


def _certificate(
    all_rows: Products, certify: int | None, seed: int
) -> tuple[list[lissa.Product], list[int], float, dict[str, Any]]:
    """Products on disjoint parts of the certificate's rows, their sizes, the share of all rows, and what to record.

    The rows are drawn from all rows, independently of those used, so some may be both: leaving the used ones out would
    measure the distance to other rows than the ones G is over, and overstate the residual.
    """
    count = min(CERTIFICATE_ROWS if certify is None else certify, all_rows.n)
    _require_rows("certify", count, min(2, all_rows.n))
    places = np.random.default_rng([seed, 1]).permutation(all_rows.n)[:count]
    parts = np.array_split(places, min(PARTS, count))
    said = {
        "certificate_rows": count,
        "certificate": "all rows" if count == all_rows.n else "rows drawn from all, independently of those used",
    }
    return [all_rows.over(part) for part in parts], [len(part) for part in parts], count / all_rows.n, said


def _described(
    found: Solution, settings: dict[str, Any], precondition: Solver | bool | None, blockwise: bool
) -> Solution:
    kind = "none" if precondition is None or precondition is False else "ekfac"
    if callable(precondition) and not isinstance(precondition, EKFACSolver):
        kind = str(getattr(precondition, "__name__", "given"))
    return replace(found, info={**found.info, **settings, "precondition": kind, "blockwise": blockwise})


def _warned(found: Solution, taken: int) -> Solution:
    if bad := found.info["worse_than_zero"]:
        warnings.warn(
            f"conjugate gradients on {taken} rows: on other rows the answers of the queries {bad[:8]} are farther from "
            "the solution than zero is; take a larger sample or a larger damping",
            stacklevel=3,
        )
    return found


def _list(values: Any) -> list[float]:
    return [float(value) for value in values]


__all__ = ["IterativeSolver", "cg_solver", "lissa_solver"]
