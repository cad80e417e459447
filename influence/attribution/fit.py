"""Fit EK-FAC factors of a language model: covariances, their eigenbases, eigenvalues corrected in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

import ekfac
from ekfac import covariance, eigenvalues
from influence.attribution.passes import (
    chunks,
    compute_dtype,
    device_of,
    require_finite,
    shapes,
    state_dtype,
    watched,
)
from influence.model.batches import BadRows, batches, columns
from influence.model.capture import capture, forward
from influence.model.likelihood import Likelihood, categorical
from influence.model.loss import Measure
from influence.model.quiet import quiet
from influence.types import LM, Block, Pair

if TYPE_CHECKING:
    from influence.types import Rows

Labels = Literal["sampled", "data", "expected"]


def fit_ekfac(
    lm: LM,
    rows: Rows,
    *,
    labels: Labels = "sampled",
    seed: int = 0,
    batch_size: int = 32,
    covariance_rows: float = 1.0,
    splits: int = 1,
    basis: ekfac.Factors | None = None,
    tolerance: float | None = None,
    dtype: str | torch.dtype | None = None,
    likelihood: Likelihood = categorical,
    progress: bool = True,
) -> ekfac.Factors:
    """EK-FAC of the Gauss-Newton matrix of the summed loss, averaged over rows.

    Args:
        rows: what to average over.
        labels: "sampled" draws labels from the model (the true Fisher), "data" takes the rows' own tokens (the
            empirical Fisher); "expected" averages over all labels exactly, in one pass per output of the model, for
            rows of one scored token such as a classifier's.
        seed: of the labels and of the choice of rows; labels depend on (seed, row id, position) only.
        batch_size: rows of the longest length taken together; shorter rows go in larger batches.
        covariance_rows: share of the rows (0, 1] whose covariances are averaged; eigenvalues always use all rows.
        splits: diagonal blocks that A and S are cut into, for huge factors (the paper uses 2 for its largest model).
        basis: earlier factors whose eigenbasis is kept; then only eigenvalues are fitted, and results merge.
        tolerance: stop once tr Λ of every block has this relative standard error; rows then come in random order.
        dtype: "bfloat16" computes activations and products in it; sums are kept in float32 (float64 for such a model).
        likelihood: what the outputs mean; default the next token's log probabilities.

    Returns:
        factors by block name; `how` records the settings, ranks and relative standard errors.

    Raises:
        BadRows, NotFinite, ekfac.BadFactor: for rows that cannot be scored, and for values that are not finite.
    """
    if labels == "expected" and tolerance is not None:
        raise ValueError("tolerance needs one pass per row; give labels='sampled', or no tolerance")
    measure = measures_of(labels, seed, likelihood, lm, rows)
    kind = compute_dtype(dtype)
    if basis is None:
        chosen = some_rows(rows, covariance_rows, seed)
        shared: dict[str, Any] = {"batch_size": batch_size, "dtype": kind, "progress": progress}
        bases = ekfac.eigenbasis(fit_covariance(lm, chosen, measure, splits=splits, **shared), shapes(lm))
    else:
        bases = _bases_of(basis, lm)
    fitted = fit_eigenvalues(
        lm,
        rows,
        measure,
        bases,
        batch_size=batch_size,
        tolerance=tolerance,
        seed=seed,
        dtype=kind,
        progress=progress,
    )
    return ekfac.factors(
        bases, fitted, how(rows, labels=labels, seed=seed, covariance_rows=covariance_rows, splits=splits, dtype=kind)
    )


def fit_diagonal(
    lm: LM,
    rows: Rows,
    *,
    labels: Labels = "sampled",
    seed: int = 0,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
    likelihood: Likelihood = categorical,
    progress: bool = True,
) -> ekfac.Factors:
    """The diagonal of the same matrix, as factors in the standard basis; arguments as `fit_ekfac`."""
    kind = compute_dtype(dtype)
    state = fit_eigenvalues(
        lm,
        rows,
        measures_of(labels, seed, likelihood, lm, rows),
        None,
        batch_size=batch_size,
        dtype=kind,
        progress=progress,
    )
    return ekfac.diagonal(state, how(rows, labels=labels, seed=seed, covariance_rows=0.0, splits=1, dtype=kind))


def fit_covariance(
    lm: LM,
    rows: Rows,
    measure: Measure | Sequence[Measure],
    *,
    splits: int = 1,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> covariance.CovarianceState:
    """Sums of ā āᵀ and s sᵀ over the counted positions of all rows, by block name.

    Several measures are passes over the same rows: positions count in each, sequences once.
    """
    measures = [measure] if callable(measure) else list(measure)
    state = covariance.init(shapes(lm), splits=splits, dtype=state_dtype(lm), device=device_of(lm))

    def use(block: Block, pair: Pair) -> None:
        state[block.name] = covariance.update(state[block.name], pair.a, pair.g, pair.counted)

    with capture(lm, dtype=dtype) as run:
        for places, batch in watched(batches(rows, batch_size, device_of(lm)), "covariances", len(rows), progress):
            for one in measures:
                run(batch, one, use)
            traces = [s for part in state.values() for s in (part.a.sum(), part.g.sum())]
            require_finite("covariances", [n for n in state for _ in (0, 1)], traces, batch.row.tolist())
            state = covariance.counted(state, len(places))
    return state


def fit_eigenvalues(
    lm: LM,
    rows: Rows,
    measure: Measure | Sequence[Measure],
    bases: dict[str, ekfac.Basis] | None,
    *,
    batch_size: int = 32,
    tolerance: float | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> eigenvalues.EigenvaluesState:
    """Sums of squared coordinates over all rows in these bases (None: the standard basis), by block name."""
    measures = [measure] if callable(measure) else list(measure)
    state = eigenvalues.init(shapes(lm), dtype=state_dtype(lm), device=device_of(lm))
    turn = _turns(lm, bases, dtype)

    def use(block: Block, pair: Pair) -> None:
        for part in chunks(block, pair.a):
            eigenvalues.update(state[block.name], turn(block, pair.a[part], pair.g[part]))

    items = batches(rows, batch_size, device_of(lm))
    if tolerance is not None:
        items = iter(_shuffled(list(items), seed))
    with capture(lm, dtype=dtype) as run:
        for places, batch in watched(items, "eigenvalues", len(rows), progress):
            for one in measures:
                run(batch, one, use)
            require_finite("eigenvalues", list(state), [part.trace for part in state.values()], batch.row.tolist())
            state = eigenvalues.counted(state, len(places))
            if tolerance is not None and _precise(state, tolerance):
                break
    if len(measures) > 1:  # a row's trace came in parts, so its square is not known
        unknown = torch.tensor(math.inf, dtype=torch.float64, device=device_of(lm))
        state = {name: replace(part, trace_squared=unknown) for name, part in state.items()}
    return state


def _turns(
    lm: LM, bases: dict[str, ekfac.Basis] | None, dtype: torch.dtype | None
) -> Callable[[Block, torch.Tensor, torch.Tensor], torch.Tensor]:
    """(block, a, g) -> coordinates (b o i) of the gradients, in the type that is computed in."""

    def turn(block: Block, a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        both = (None, None) if bases is None else (bases[block.name].basis_in, bases[block.name].basis_out)
        cast = [q if q is None or dtype is None else q.to(dtype) for q in both]
        return eigenvalues.coordinates(a, g, *cast)

    return turn


def measures_of(labels: str, seed: int, likelihood: Likelihood, lm: LM, rows: Rows) -> Measure | list[Measure]:
    """`measure_of`, and for "expected" the measures that replace the draws.

    Raises:
        ValueError: for other labels, and for "expected" where a row scores several tokens.
    """
    if labels != "expected":
        return measure_of(labels, seed, likelihood)
    several = [int(i) for i, mask in zip(columns(rows)[2], columns(rows)[1], strict=True) if mask.sum() != 1]
    if several:
        raise ValueError(
            f"labels='expected' needs rows of one scored token, but {len(several)} score several, the first with id "
            f"{several[0]}; give labels='sampled'"
        )
    _, batch = next(batches(rows.select([0]), 1, device_of(lm)))
    with torch.no_grad(), quiet(lm.net):
        return likelihood.expected(forward(lm.net, batch.input_ids).shape[-1])


def measure_of(labels: str, seed: int, likelihood: Likelihood = categorical) -> Measure:
    """The measurement whose gradients are averaged, by the name of its labels."""
    if labels == "sampled":
        return likelihood.sampled(seed)
    if labels == "data":
        return likelihood.log_p
    raise ValueError(f"labels is {labels!r}; give 'sampled' (true Fisher), 'data' (empirical Fisher) or 'expected'")


def some_rows(rows: Rows, share: float, seed: int) -> Rows:
    """This share of the rows, drawn by the seed, in their order."""
    if not 0 < share <= 1:
        raise ValueError(f"covariance_rows is {share}; it is a share of the rows, above 0 and at most 1")
    if share == 1 or len(rows) == 0:
        return rows
    count = math.ceil(share * len(rows))
    return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)))


def _bases_of(earlier: ekfac.Factors, lm: LM) -> dict[str, ekfac.Basis]:
    missing = [b.name for b in lm.blocks if b.name not in earlier]
    if missing:
        raise ValueError(f"the given basis lacks the blocks {missing[:5]}; fit it for the same selection of blocks")
    found = {}
    for block in lm.blocks:
        one = earlier[block.name]
        if one.values_in is None or one.values_out is None:
            raise ValueError(f"the given basis of {block.name} has no covariance eigenvalues; give EK-FAC factors")
        rank = earlier.how.get("ranks", {}).get(block.name, [0, 0, 0, 0])
        found[block.name] = ekfac.Basis(
            one.basis_in, one.basis_out, one.values_in, one.values_out, one.positions, rank[0], rank[2]
        )
    return found


def _precise(state: eigenvalues.EigenvaluesState, tolerance: float) -> bool:
    errors = [eigenvalues.relative_error(one) for one in state.values() if float(one.trace) > 0]
    return bool(errors) and max(errors) <= tolerance


def _shuffled(items: list[Any], seed: int) -> list[Any]:
    return [items[k] for k in np.random.default_rng(seed).permutation(len(items))]


def how(rows: Rows, *, dtype: str | torch.dtype | None, **settings: Any) -> dict[str, Any]:
    """How factors were fitted, as their record keeps it."""
    kept = {name: settings[name] for name in ("labels", "seed", "covariance_rows", "splits")}
    kind = "the model's" if dtype is None else str(dtype).removeprefix("torch.")
    return {**kept, "rows": len(rows), "dtype": kind}


__all__ = ["BadRows", "fit_covariance", "fit_diagonal", "fit_eigenvalues", "fit_ekfac"]
