"""Scores of training rows for queries: (1/n) ∇fᵀ (G + λI)⁻¹ ∇log p(row), only the query side preconditioned.

Grosse et al. 2023, equations 5 and 11.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ekfac import EKFACSolver
from influence.attribution.collect import Collected, keep_all, keep_top, levels
from influence.attribution.gradients import each_gradient, gradient_dtype, query_gradients
from influence.attribution.norm import row_norm as norm_of_rows
from influence.attribution.passes import chunks, compute_dtype, device_of, model_dtype, require_finite, watched
from influence.grads import dense, order
from influence.model.batches import batches
from influence.model.capture import capture
from influence.model.likelihood import Likelihood, categorical
from influence.model.loss import Measure, log_p
from influence.types import LM, Block, LowRank, Pair, Solution, Solver

if TYPE_CHECKING:
    from influence.types import Rows, Scores


def score(
    lm: LM,
    rows: Rows,
    queries: Rows,
    solver: Solver,
    *,
    per: str | Sequence[str] = "block",
    raw: bool = False,
    row_norm: bool | EKFACSolver = False,
    measure: Measure | None = None,
    likelihood: Likelihood = categorical,
    n: int | None = None,
    top: int | None = None,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
) -> Scores:
    """Influence of every row on every query, in nats; positive rows raised the measurement.

    A score is the predicted rise of the measurement if the row stood in the training set once more.

    Args:
        solver: Grad -> Solution, for instance `ekfac.solver(factors)`.
        per: "block", "layer", "sequence", "token", or a pair such as ("layer", "token").
        raw: leave out the factor 1/n.
        row_norm: also measure √(gᵀ(G + λI)⁻¹g) of every row, kept as the coordinate `row_norm`; needs an EK-FAC solver,
            either `solver` itself (True) or the one given here.
        measure: f of a query, any differentiable function (logits (b t v), batch) -> (b) that is called on a few rows
            at a time; default log p(completion).
        likelihood: what the outputs mean, for the rows' log p and the default measure; default the next token's.
        n: size of the training corpus, default len(rows); give it where `rows` is a part of the corpus.
        top: keep only this many highest and lowest rows per query while streaming; dims are then (query, place, …) with
            places 1, 2, … from the highest and −1, −2, … from the lowest, and the coordinate `row` (query, place).
        batch_size: rows of the longest length taken together.
        dtype: "bfloat16" computes activations and products in it.

    Returns:
        an array with dims (query, row, layer or block, token) as asked, units and settings in `attrs`. A token's score
        stands at the position whose input it used: the prediction it affects is the next one.

    Raises:
        ValueError: for an unknown `per`, row_norm without an EK-FAC solver, n below 1.
        BadRows, NotFinite: for rows or queries that cannot be scored, and for values that are not finite.
    """
    kind = compute_dtype(dtype)
    measure = likelihood.log_p if measure is None else measure
    norms = _norm_solver(row_norm, solver)
    corpus = len(rows) if n is None else n
    if corpus < 1:
        raise ValueError(f"n is {n}; it is the size of the training corpus and must be at least 1")
    if top is not None and (top < 1 or "token" in levels(per)):
        raise ValueError(f"top={top} with per={per!r}: top needs at least 1 and scores of whole rows")
    options: dict[str, Any] = {"batch_size": batch_size, "dtype": kind, "progress": progress}
    solution, v, values = solved_queries(lm, queries, solver, measure, **options)
    collected = contract(lm, rows, v, levels(per), top=top, measure=likelihood.log_p, **options)
    attrs = {**_attrs(solver, solution, measure, corpus, raw, kind), "n_layers": lm.n_layers}
    found = collected.array(queries, 1.0 if raw else 1.0 / corpus, attrs)
    found = found.assign_coords(measurement=("query", values.numpy()))
    if norms is not None:
        norm = norm_of_rows(lm, rows, norms, measure=likelihood.log_p, **options)
        found = found.assign_coords(row_norm=norm.sel(row=found["row"]).drop_vars("row") if top else norm)
    return found


def contract(
    lm: LM,
    rows: Rows,
    v: dict[str, Tensor],
    per: tuple[str, ...],
    *,
    top: int | None = None,
    measure: Measure = log_p,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Collected:
    """One pass over the rows: ⟨V, Σ_t g_t a_tᵀ⟩ per query, row and whatever `per` names; V as `laid` by block."""
    q = len(next(iter(v.values())))
    collected = keep_all(lm, rows, q, per) if top is None else keep_top(lm, rows, q, per, top)
    product = _token_products if "token" in per else _row_products
    parts: dict[str, Tensor] = {}

    def use(block: Block, pair: Pair) -> None:
        parts[block.name] = product(block, pair, v[block.name], width[-1])

    width: list[int] = []
    with capture(lm, dtype=dtype) as run:
        for places, batch in watched(batches(rows, batch_size, device_of(lm)), "scores", len(rows), progress):
            parts.clear()
            width.append(batch.input_ids.shape[1])
            run(batch, measure, use)
            require_finite("scores", list(parts), [p.sum() for p in parts.values()], batch.row.tolist())
            collected.add(places, parts)
    return collected


def laid(value: Tensor | LowRank, dtype: torch.dtype | None = None) -> Tensor:
    """A solved query gradient (q o i) as (q i o), the layout of the pass, in the type that is computed in."""
    return dense(value).to(dtype).mT.contiguous()


def solved_queries(
    lm: LM,
    queries: Rows,
    solver: Solver,
    measure: Measure = log_p,
    *,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[Solution, dict[str, Tensor], Tensor]:
    """The solution for the queries' gradients, its value as `laid` by block for the pass, and measurements (q).

    EK-FAC solves each block of each query by itself, so there no gradient is kept, and the solution is empty.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "dtype": dtype, "progress": progress}
    if not isinstance(solver, EKFACSolver):
        grad, values = query_gradients(lm, queries, measure, **options)
        solution = solver(grad)
        kept = dtype or model_dtype(lm)  # a solver may answer in another type
        return solution, {name: laid(value, kept) for name, value in solution.value.items()}, values
    order(dict.fromkeys(solver.factors, torch.empty(0)), [block.name for block in lm.blocks])
    wide, kept = gradient_dtype(lm, dtype), dtype or model_dtype(lm)
    v = {
        block.name: torch.zeros(len(queries), *block.shape[::-1], dtype=kept, device=device_of(lm))
        for block in lm.blocks
    }

    def solve(block: Block, places: Tensor, grad: Tensor) -> None:
        v[block.name][places] = solver.block(block.name, grad.to(wide)).mT.to(kept)

    values = each_gradient(lm, queries, measure, solve, **options)
    return Solution({}), v, values


def _row_products(block: Block, pair: Pair, v: Tensor, t: int) -> Tensor:
    """(q b) by the sequences' gradients."""
    found = [torch.bmm(pair.a[part].mT, pair.g[part]).flatten(1) @ v.flatten(1).T for part in chunks(block, pair.a)]
    return torch.cat(found).T


def _token_products(block: Block, pair: Pair, v: Tensor, t: int) -> Tensor:
    """(q b t) as g_tᵀ V a_t, without any sequence's gradient."""
    found = torch.stack([((pair.a @ one) * pair.g).sum(-1) for one in v])
    if pair.position is None:
        return found
    laid = found.new_zeros(*found.shape[:2], t + 1)  # unused entries have position −1: the last place
    laid.scatter_(2, pair.position.remainder(t + 1).expand_as(found), found)
    return laid[..., :t]


def _norm_solver(row_norm: bool | EKFACSolver, solver: Solver) -> EKFACSolver | None:
    if row_norm is False:
        return None
    found = solver if row_norm is True else row_norm
    if not isinstance(found, EKFACSolver):
        raise ValueError(
            "row norms are always measured with EK-FAC factors; pass row_norm=ekfac.solver(factors) beside this solver"
        )
    return found


def _attrs(
    solver: Solver, solution: Any, measure: Measure, n: int, raw: bool, dtype: torch.dtype | None
) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "units": "nats times n" if raw else "nats",
        "sign": "positive: the row raised the measurement",
        "measure": _name(measure),
        "n": n,
        "dtype": "the model's" if dtype is None else str(dtype).removeprefix("torch."),
        "solver": _name(solver),
        "residual": "not certified" if solution.residual is None else solution.residual.tolist(),
    }
    if isinstance(solver, EKFACSolver):
        attrs["solver"] = str(solver.factors.how.get("curvature", "ekfac"))
        attrs["damping"] = solver.damping
    if solution.info:
        attrs["damping"] = getattr(solver, "damping", None)
        attrs |= {"steps": solution.steps, "converged": solution.converged, "certificate": solution.info}
    return attrs


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    named = getattr(function, "__name__", None) or getattr(function, "name", None)
    return "log p(completion)" if function is log_p else str(named or type(function).__name__)


__all__ = ["contract", "score", "solved_queries"]
