"""LiSSA: the Neumann series of (G + λI)⁻¹ v, every term on a mini-batch of its own.

x_0 = 0, x_j = x_{j−1} + α M⁻¹(v − (G̃_j + λI) x_{j−1}); after J products the answer is α times the r_J of Agarwal et al.
2017 and Koh & Liang 2017. One α serves all blocks: a step of its own per block would solve another problem. Without
noise it converges for α below 2 / λ_max(M⁻¹A), and the energy ⟨r, M⁻¹r⟩ of the residual then never grows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from influence.grads import axpy
from influence.types import Grad, Solution, Solver
from lissa import change
from lissa.certify import Certificate, certified, certify
from lissa.power import Largest, largest
from lissa.problem import Diverged, Lam, Product, damped, energy, inverse, prepare, residual_of, shown

GROWTH = 100.0  # of √energy over its first value, above which an iteration counts as diverging
BACKOFFS = 8
PARTS = 16


class State(NamedTuple):
    """`mean` is the average of iterates with weights that grow like step^η, `size` √energy of the last residual (q)."""

    x: Grad
    mean: Grad
    size: Tensor
    steps: int


class Grew(Exception):
    """An iteration whose residual grew; caught by `neumann`."""

    def __init__(self, step: int, growth: float):
        super().__init__(step, growth)
        self.step, self.growth = step, growth


class Ask(NamedTuple):
    """What one pass needs beside its α."""

    v: Grad
    alive: Tensor
    lam: Lam
    solve: Product
    steps: int
    average: float | None
    probes: Grad | None


def neumann(
    draws: Iterator[Product],
    v: Grad,
    lam: Lam,
    *,
    generator: torch.Generator,
    steps: int = 1000,
    scale: float | None = None,
    safety: float = 1.5,
    repeats: int = 1,
    average: float | None = None,
    precondition: Solver | None = None,
    tolerance: float = 0.05,
    probes: Grad | None = None,
    parts: Sequence[Product] | None = None,
    weights: Sequence[float] | None = None,
    share: float = 0.0,
) -> Solution:
    """x with (G + λI) x = v, for products that are each the mean over a mini-batch of its own.

    Args:
        draws: endless products x -> G̃x for all queries (q o i) at once; `itertools.repeat(product)` for a full batch.
        v: right-hand sides by block (q o i).
        lam: absolute λ by block; None for a block that takes no part.
        generator: of the power iteration's first vectors.
        steps: products per pass.
        scale: α; default 1 / (safety · largest eigenvalue), measured by power iteration on five mini-batches.
        repeats: independent passes that are averaged.
        average: η of the averaging over iterates of Shamir & Zhang 2013 (weights grow like step^η), against the noise
            of mini-batches; default the last iterate.
        precondition: a solver r -> M⁻¹r, linear, M positive definite.
        tolerance: `converged` says that the residual on all rows is estimated at no more than this.
        probes: gradients of a few rows (m o i), by whose scores ⟨x, probe⟩ the change of the answer is followed.
        parts, weights, share: the certificate's products, see `certify`; default 16 more of `draws`.

    Returns:
        the solution with its residual on the certificate's rows; `info` has the floor of that residual, α, the largest
        eigenvalue, products, repeats, how often an automatic α was halved, the change of the scores and a trace.

    Raises:
        ValueError: for values that are not finite, λ below 0, other blocks, settings out of range.
        Diverged: for a given α whose iteration grows (an automatic one is halved and the pass starts again, at most 8
            times), and where the answers of most queries are worse than zero: farther from the solution in the norm
            of A, or, without a preconditioner, of residual above 1. The message names an α that works. Where fewer
            are, a warning names them, and `info` lists those farther away.
        Indefinite: where the preconditioner or G + λI is not positive definite.
    """
    _check(steps, scale, safety, repeats, average)
    v, alive = prepare(v, lam)
    ask = Ask(v, alive, lam, inverse(precondition, lam), steps, average, probes)

    def power() -> Largest:
        return largest(draws, v, lam, generator=generator, precondition=precondition)

    found = power() if scale is None else None
    alpha = 1 / (safety * found.value) if found else float(scale)  # type: ignore[arg-type]
    done = passes(ask, draws, alpha, repeats, 0 if found is None else BACKOFFS, lambda: _works(power(), safety))
    x = _mean([one.mean if average is not None else one.x for one in done.answers])
    checks = list(islice(draws, PARTS)) if parts is None else parts
    certificate = certify(x, v, lam, checks, weights=weights, share=share)
    _require_useful(certificate, done.alpha, precondition is None, lam, lambda: _works(power(), safety))
    info = {
        "method": "lissa",
        "products": done.products,
        "products_scale": found.products if found else 0,
        "scale": done.alpha,
        "scale_given": scale is not None,
        "largest": found.value if found else None,
        "largest_by_batch": found.batches if found else None,
        "repeats": repeats,
        "backoffs": done.backoffs,
        "trace": done.trace,
        **change.summary(change.averaged(done.records), alive),
    }
    return certified(Solution(x, None, steps, None, info), certificate, tolerance)


class Passes(NamedTuple):
    """The passes that went through, the α of the last, how often it was halved, and all products used."""

    answers: list[State]
    records: list[change.Record]
    trace: list[list[float]]
    alpha: float
    backoffs: int
    products: int


def passes(
    ask: Ask, draws: Iterator[Product], alpha: float, repeats: int, allowed: int, works: Callable[[], str]
) -> Passes:
    """So many independent passes; one that grows starts again with half the α, at most `allowed` times in all.

    Raises:
        Diverged: after that; `works` says which α would do.
    """
    answers: list[State] = []
    records: list[change.Record] = []
    trace: list[list[float]] = []
    backoffs, used = 0, 0
    while len(answers) < repeats:
        try:
            state, record, trace = run(ask, draws, alpha)
        except Grew as grew:
            used += grew.step
            if backoffs == allowed:
                by = f"{grew.growth:.3g}-fold" if math.isfinite(grew.growth) else "beyond all numbers"
                raise Diverged(
                    f"α = {alpha:.4g} ({shown(ask.lam)}) diverges: the residual grew {by} within {grew.step} steps; "
                    f"{works()}"
                ) from None
            alpha, backoffs = alpha / 2, backoffs + 1
            continue
        used += ask.steps
        answers.append(state)
        records.append(record)
    return Passes(answers, records, trace, alpha, backoffs, used)


def run(ask: Ask, draws: Iterator[Product], alpha: float) -> tuple[State, change.Record, list[list[float]]]:
    """One pass: the state after all steps, the scores on the way, and [step, largest √energy over its first].

    Raises:
        Grew: where the energy of the residual grew.
    """
    state, record = init(ask, alpha), change.init(ask.probes, ask.steps)
    first = torch.where(ask.alive, state.size, 1.0)
    trace: list[list[float]] = []
    for step in range(1, ask.steps + 1):
        state = update(ask, state, damped(next(draws), ask.lam), alpha)
        growth = float((state.size / first).max())
        if not growth <= GROWTH:
            raise Grew(step, growth)
        if change.due(record, step, step == ask.steps):
            change.add(record, step, state.mean if ask.average is not None else state.x)
        if step % record.every == 0:
            trace.append([step, growth])
    return state, record, trace


def init(ask: Ask, alpha: float) -> State:
    """The first iterate α M⁻¹v, which needs no product."""
    z = ask.solve(ask.v)
    x: Grad = {name: alpha * part for name, part in z.items()}  # type: ignore[operator]
    return State(x, x, energy(ask.v, z, ask.alive).sqrt(), 0)


def update(ask: Ask, state: State, matrix: Product, alpha: float) -> State:
    """One step with this mini-batch's G̃ + λI."""
    r = residual_of(matrix, state.x, ask.v)
    z = ask.solve(r)
    x, steps = axpy(alpha, z, state.x), state.steps + 1
    if ask.average is None:
        mean = x
    else:
        weight = min(1.0, (ask.average + 1) / (steps + ask.average))
        mean = axpy(weight, axpy(-1.0, state.mean, x), state.mean)
    size = energy(r, z, ask.alive).sqrt()
    return State(x, mean, size, steps)


def _check(steps: int, scale: float | None, safety: float, repeats: int, average: float | None) -> None:
    if steps < 1 or repeats < 1:
        raise ValueError(f"steps={steps}, repeats={repeats}: both must be at least 1")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale (α) is {scale}; it must be a finite number above 0, or None to have it measured")
    if not (math.isfinite(safety) and safety > 0.5):
        raise ValueError(f"safety is {safety}; α = 1/(safety · largest) is only stable for safety above 0.5")
    if average is not None and not (math.isfinite(average) and average >= 0):
        raise ValueError(f"average is {average}; it must be a finite number of at least 0, or None")


def _mean(parts: list[Grad]) -> Grad:
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}  # type: ignore[misc]


def _works(found: Largest, safety: float) -> str:
    return (
        f"the largest eigenvalue over {len(found.batches)} mini-batches is {found.value:.4g}, so α must stay below "
        f"{2 / found.value:.4g}; use scale={1 / (safety * found.value):.4g}, or leave scale out"
    )


def _require_useful(found: Certificate, alpha: float, plain: bool, lam: Lam, works: Callable[[], str]) -> None:
    """An error where most queries, or what is not finite, say that the answer diverged; a warning where some say so."""
    wild = ~torch.isfinite(found.residual)
    bad = ~found.helps | wild | ((found.whole > 1) & plain)
    if not bad.any():
        return
    places = bad.nonzero().flatten().tolist()
    said = (
        f"with α = {alpha:.4g} ({shown(lam)}) the answers of {len(places)} of {len(bad)} queries are worse than none, "
        f"the first, {places[0]}, with a residual of {float(found.residual[places[0]]):.3g} on the certificate's rows"
    )
    advice = "mini-batches are noisy: take larger ones, more repeats, or average="
    if wild.any() or 2 * len(places) > len(bad):
        raise Diverged(f"{said}; {works()}. If α is below that, {advice}")
    warnings.warn(f"{said}; {advice}", stacklevel=4)
