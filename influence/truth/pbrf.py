"""The proximal Bregman response: what influence functions estimate, found by optimising it (Bae et al. 2022).

θ(ε) = argmin (1/n) Σ_i D(h(θ, x_i), h(θ_s, x_i)) − ε log p(z | θ) + Σ_b (λ_b / 2) ‖θ_b − θ_s,b‖², over the tracked
parameters, from the model's own θ_s. No Gauss-Newton product enters, so it checks them and whatever inverts them.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ekfac import EKFACSolver
from ekfac.rotate import both_into, both_out_of
from influence.attribution.passes import device_of
from influence.model.batches import batches, columns
from influence.model.capture import call
from influence.model.likelihood import Likelihood, categorical
from influence.model.quiet import quiet
from influence.model.tangent import from_parameters, parameters, to_parameters

if TYPE_CHECKING:
    from influence.model.loss import Measure
    from influence.types import LM, Batch, Grad, Rows, Scores

KEPT_OUTPUTS = 1 << 27  # numbers of the model's own outputs that are kept rather than computed at every step
PAIRS = 200  # L-BFGS's memory: with 20 pairs an ill-conditioned case took several times the steps
PAIR_NUMBERS = 1 << 26


def pbrf(
    lm: LM,
    rows: Rows,
    upweighted: Rows,
    measured: Rows,
    solver: EKFACSolver,
    *,
    epsilon: float = 2.0**-14,
    central: bool = True,
    measure: Measure | None = None,
    likelihood: Likelihood = categorical,
    tolerance: float = 1e-5,
    steps: int = 300,
    batch_size: int = 256,
    progress: bool = True,
) -> Scores:
    """(f(θ(ε)) − f(θ_s)) / ε for every upweighted row z and measured query f: the score in nats times n.

    As ε → 0 it equals `score(..., raw=True)` with the exact inverse of the whole damped Gauss-Newton matrix. That is
    symmetric, so queries may be upweighted and rows measured, which takes fewer optimisations.

    Args:
        rows: the training corpus that the divergence is averaged over, n rows.
        upweighted: one optimisation each (two where `central`), by preconditioned L-BFGS in float64.
        measured: what f is measured on, at each optimum.
        solver: gives λ of every block, and the coordinates in which the problem is well conditioned. A block whose
            λ is None stays as it is.
        epsilon: weight of the row; 1/n asks for what one more copy does, to all orders.
        central: (f(θ(ε)) − f(θ(−ε))) / 2ε, whose error is of second order in ε.
        tolerance: of the objective's gradient, relative to that at θ_s, in the solver's coordinates.
        steps: of L-BFGS at most.

    Returns:
        dims (query, row), query ids those of `measured`, row ids those of `upweighted`; coordinates `gradient` (row),
        the relative gradient reached, and `steps` (row). A warning names rows that did not reach the tolerance.

    Raises:
        ValueError: for an epsilon or tolerance that is not positive.
        BadRows, FloatingPointError: for rows that cannot be scored, and for an objective that is not finite.
    """
    import xarray
    from tqdm.auto import tqdm

    if not epsilon > 0 or not tolerance > 0 or steps < 1:
        raise ValueError(f"got {epsilon=}, {tolerance=}, {steps=}; all must be positive")
    problem = _problem(lm, rows, solver, likelihood, batch_size)
    f = likelihood.log_p if measure is None else measure
    asked = list(batches(measured, batch_size, device_of(lm)))
    one = [next(batches(upweighted.select([k]), 1, device_of(lm)))[1] for k in range(len(upweighted))]
    values = np.zeros((len(measured), len(upweighted)))
    reached, taken = np.zeros(len(upweighted)), np.zeros(len(upweighted), int)
    with quiet(lm.net), tqdm(total=len(one), desc="PBRF", unit="row", delay=2, disable=not progress) as bar:
        here = _measured(problem, problem.start, asked, f, len(measured))
        for place, batch in enumerate(one):
            signs = (1.0, -1.0) if central else (1.0,)
            for sign in signs:
                found = _optimum(problem, batch, sign * epsilon, tolerance, steps)
                there = _measured(problem, found.point, asked, f, len(measured))
                values[:, place] += (there - here) / (sign * epsilon * len(signs))
                reached[place] = max(reached[place], found.gradient)
                taken[place] += found.steps
            bar.update()
    ids = columns(upweighted)[2]
    if (reached > tolerance).any():
        worst = int(reached.argmax())
        warnings.warn(
            f"{int((reached > tolerance).sum())} of {len(ids)} optimisations missed the tolerance {tolerance:g}; "
            f"row {ids[worst]} stopped at {reached[worst]:.2g}: give more steps, or a smaller epsilon",
            stacklevel=2,
        )
    return xarray.DataArray(
        values,
        dims=("query", "row"),
        coords={
            "query": columns(measured)[2],
            "row": ids,
            "gradient": ("row", reached),
            "steps": ("row", taken),
        },
        name="PBRF",
        attrs={"units": "nats times n", "epsilon": epsilon, "damping": solver.damping, "n": len(rows)},
    )


class _Problem(NamedTuple):
    lm: LM
    solver: EKFACSolver
    likelihood: Likelihood
    n: int
    weights: dict[str, Tensor]  # all of the model's, float64
    start: dict[str, Tensor]  # the tracked ones among them
    data: list[Batch]
    own: list[Tensor] | None  # the model's own outputs on `data`


class _Found(NamedTuple):
    point: dict[str, Tensor]
    gradient: float
    steps: int


def _problem(lm: LM, rows: Rows, solver: EKFACSolver, likelihood: Likelihood, batch_size: int) -> _Problem:
    weights = {
        name: p.detach().double() if p.is_floating_point() else p.detach()
        for name, p in lm.net.named_parameters(remove_duplicate=False)
    }
    start = {name: weights[name] for name in parameters(lm)}
    data = [batch for _, batch in batches(rows, batch_size, device_of(lm))]
    problem = _Problem(lm, solver, likelihood, len(rows), weights, start, data, None)
    with quiet(lm.net):
        first = _outputs(problem, start, data[0])
        numbers = first.shape[-1] * sum(batch.input_ids.numel() for batch in data)
        if numbers > KEPT_OUTPUTS:
            return problem
        return problem._replace(own=[first, *(_outputs(problem, start, batch) for batch in data[1:])])


def _outputs(problem: _Problem, point: dict[str, Tensor], batch: Batch) -> Tensor:
    with torch.no_grad():
        return call(problem.lm.net, {**problem.weights, **point}, batch.input_ids)


def _measured(problem: _Problem, point: dict[str, Tensor], asked: list[Any], f: Measure, q: int) -> np.ndarray:
    values = np.zeros(q)
    for places, batch in asked:
        with torch.no_grad():
            values[places] = f(_outputs(problem, point, batch), batch).double().cpu().numpy()
    return values


def _optimum(problem: _Problem, z: Batch, epsilon: float, tolerance: float, steps: int) -> _Found:
    """Minimise over u with θ = θ_s + ε (Λ + λ)^(−1/2) u in the eigenbasis: there the Hessian is near the identity."""
    from scipy.optimize import minimize

    first: list[float] = []
    last: list[float] = []

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _evaluate(problem, _grad_of(problem, u), z, epsilon)
        flat = _flat(problem, gradient)
        last[:] = [float(np.linalg.norm(flat))]
        first.extend(last if not first else [])
        if not np.isfinite(value) or not np.isfinite(last[0]):
            raise FloatingPointError(
                f"the PBRF objective of row {z.row.tolist()[0]} is not finite at epsilon {epsilon:g}; use a smaller one"
            )
        return value, flat

    size = sum(problem.solver.factors[name].eigenvalues.numel() for name in _free(problem))
    state = minimize(
        objective,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        callback=_until(lambda: last[0] <= tolerance * first[0]),
        options={
            "maxiter": steps,
            "maxcor": max(10, min(PAIRS, PAIR_NUMBERS // max(size, 1))),
            "ftol": 0.0,
            "gtol": 0.0,
        },
    )
    objective(state.x)
    point = _moved(problem, _grad_of(problem, state.x), epsilon)
    return _Found(point, last[0] / first[0] if first[0] > 0 else 0.0, int(state.nit))


def _until(done):  # type: ignore[no-untyped-def]
    def callback(intermediate_result) -> None:  # type: ignore[no-untyped-def]
        if done():
            raise StopIteration

    return callback


def _free(problem: _Problem) -> list[str]:
    """The blocks that move."""
    return [block.name for block in problem.lm.blocks if problem.solver.lam[block.name] is not None]


def _spread(problem: _Problem, name: str) -> Tensor:
    """(Λ + λ)^(−1/2), (o i) float64."""
    lam = problem.solver.lam[name]
    assert lam is not None
    return (problem.solver.factors[name].eigenvalues.double() + lam).rsqrt()


def _bases(problem: _Problem, name: str) -> tuple[Tensor | None, Tensor | None]:
    one = problem.solver.factors[name]
    found = [q if q is None else q.double() for q in (one.basis_in, one.basis_out)]
    return found[0], found[1]


def _grad_of(problem: _Problem, u: np.ndarray) -> Grad:
    """The change of every block (1 o i), over ε, from its flat coordinates."""
    found: Grad = {}
    device, start = device_of(problem.lm), 0
    for block in problem.lm.blocks:
        if problem.solver.lam[block.name] is None:
            found[block.name] = torch.zeros(1, *block.shape, dtype=torch.float64, device=device)
            continue
        own = torch.from_numpy(u[start : start + block.size]).to(device).view(1, *block.shape)
        found[block.name] = both_out_of(own * _spread(problem, block.name), *_bases(problem, block.name))
        start += block.size
    return found


def _flat(problem: _Problem, gradient: Grad) -> np.ndarray:
    parts = [
        (both_into(gradient[name], *_bases(problem, name)) * _spread(problem, name)).flatten()  # type: ignore[arg-type]
        for name in _free(problem)
    ]
    found: np.ndarray = torch.cat(parts).cpu().numpy()
    return found


def _moved(problem: _Problem, change: Grad, epsilon: float) -> dict[str, Tensor]:
    return {name: problem.start[name] + epsilon * value[0] for name, value in to_parameters(problem.lm, change).items()}


def _evaluate(problem: _Problem, change: Grad, z: Batch, epsilon: float) -> tuple[float, Grad]:
    """The objective over ε² (less its value at θ_s), and its gradient in the change over ε."""
    point = {name: p.requires_grad_() for name, p in _moved(problem, change, epsilon).items()}
    value = 0.0
    for place, batch in enumerate(problem.data):
        own = problem.own[place] if problem.own is not None else _outputs(problem, problem.start, batch)
        with torch.enable_grad():
            outputs = call(problem.lm.net, {**problem.weights, **point}, batch.input_ids)
            part = problem.likelihood.divergence(outputs, own, batch).sum() / (problem.n * epsilon**2)
            part.backward()
        value += float(part.detach())
    with torch.enable_grad():
        gain = problem.likelihood.log_p(call(problem.lm.net, {**problem.weights, **point}, z.input_ids), z).sum()
        (-gain / epsilon).backward()
    before = problem.likelihood.log_p(_outputs(problem, problem.start, z), z).sum()
    value -= float((gain.detach() - before) / epsilon)
    found = from_parameters(problem.lm, {name: epsilon * _gradient(p)[None] for name, p in point.items()})
    for name in _free(problem):
        lam = problem.solver.lam[name]
        assert lam is not None
        value += 0.5 * lam * float(change[name].square().sum())  # type: ignore[union-attr]
        found[name] = found[name] + lam * change[name]  # type: ignore[operator]
    return value, found


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


__all__ = ["pbrf"]
