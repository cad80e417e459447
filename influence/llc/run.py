"""`influence.llc`: the local learning coefficient of a model, of a part of it, on any data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from influence.llc.chains import Plan
from influence.llc.check import check
from influence.llc.estimate import LLC, estimate
from influence.llc.sampler import Sampler
from influence.llc.samplers import sampler_of
from influence.llc.space import Space, space
from influence.llc.step_size import search
from influence.llc.target import Target, of_model
from influence.llc.trace import sample
from influence.llc.where import Where, masks, told
from influence.model.likelihood import Likelihood, categorical
from influence.model.loss import Measure
from influence.types import LM

if TYPE_CHECKING:
    from influence.types import Rows


Gamma: TypeAlias = float | Mapping[str, float | Tensor] | Tensor


def theory(n: float) -> float:
    """nβ = n / log n, at which the free energy expansion gives the learning coefficient (Watanabe 2013)."""
    return n / math.log(n)


def plan_of(
    target: Target,
    coordinates: Space,
    *,
    sampler: str | Sampler = "sgld",
    step_size: float,
    n_beta: float | None = None,
    gamma: Gamma = 100.0,
    batch_size: int = 32,
    chains: int = 4,
    draws: int = 200,
    thin: int = 5,
    burn_in: int = 500,
    check_every: int = 50,
    seed: int = 0,
) -> Plan:
    """Checked settings of chains; raises ValueError for those out of range."""
    own = theory(target.count) if n_beta is None else n_beta
    low = {"batch_size": 1, "chains": 2, "draws": 8, "thin": 1, "burn_in": 0, "check_every": 1, "seed": 0}
    for name, least in low.items():
        if locals()[name] < least:
            raise ValueError(f"{name} is {locals()[name]}; it must be at least {least}")
    for name, value in (("step_size", step_size), ("n_beta", own)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number")
    first = (sampler_of(sampler), float(step_size), float(own), gamma_at(coordinates, gamma))
    return Plan(*first, batch_size, chains, draws, thin, burn_in, check_every, seed)


def gamma_at(coordinates: Space, gamma: Gamma) -> float | Tensor:
    """γ as one number, or one per coordinate (p) from what each parameter's name has; ValueError below 0."""
    if isinstance(gamma, Mapping):
        missing = [name for name in coordinates.shapes if name not in gamma]
        if missing:
            raise ValueError(f"gamma lacks the parameters {missing[:5]}; give one number, or one for each that moves")
        like, asked = coordinates.center, gamma
        gamma = coordinates.flat(
            {n: torch.as_tensor(asked[n]).to(like).expand(s) for n, s in coordinates.shapes.items()}
        )
    least = float(gamma.min()) if isinstance(gamma, Tensor) else float(gamma)
    if not 0 <= least < math.inf:
        raise ValueError(f"gamma is {least}; it must be a number of at least 0")
    return gamma if isinstance(gamma, Tensor) else float(gamma)


def llc(
    model: LM | Target,
    rows: Rows | None = None,
    *,
    where: Where = None,
    sampler: str | Sampler = "sgld",
    step_size: float | None = None,
    n_beta: float | None = None,
    gamma: Gamma = 100.0,
    batch_size: int = 32,
    chains: int = 4,
    draws: int = 200,
    thin: int = 5,
    burn_in: int = 500,
    seed: int = 0,
    likelihood: Likelihood = categorical,
    loss: Measure | None = None,
    unit: str = "sequence",
    track: Mapping[str, Rows] | None = None,
    vectorised: bool | None = None,
    progress: bool = True,
) -> LLC:
    """Local learning coefficient λ̂ = nβ (E[L(w)] − L(w*)) at the model's weights w*, by chains that start
    there.

    The chains sample p(w) ∝ exp(−nβ L(w) − (γ/2)‖w − w*‖²), L the mean over the rows of their losses. Burn-in
    is in no mean, L(w*) is measured on all items that were used, a chain that diverges is dropped and named.
    The model is left as it was; it runs in evaluation mode.

    Args:
        model: an `LM`, also of a `Supervised` net; or a `Target` for any other loss (`influence.llc.target`).
        rows: the data of the loss (any, for a data-refined coefficient); not with a `Target`.
        where: what moves, for a weight-refined coefficient: None for all parameters, names such as "layer 0
            head 1", "layer 0 mlp", "attention", "embed" (see `influence.llc.where`), a list of them, or masks
            by parameter.
        sampler: "sgld", "rmsprop", "sgnht", or one built with other settings.
        step_size: ε; None searches one (`influence.llc.step_size`).
        n_beta: inverse temperature times n; default n / log n.
        gamma: localisation γ; one number, or by parameter's name a number or a tensor of its shape.
        draws, thin, burn_in: draws kept per chain, steps for each of them, and steps before the first.
        likelihood, loss: what the outputs mean, or the loss itself, (outputs (b t v), batch) -> (b).
        unit: "sequence" or "token", see `of_model`.
        track: other rows by name, whose losses are kept at every draw, for `covariance` and `susceptibility`.
        vectorised: run all chains at once under vmap; default by the number of parameters and the size of batches.
            Same chains up to rounding.

    Raises:
        Withheld: (a FloatingPointError) where fewer than two chains have not diverged.
        BadLoss: (a ValueError) for a loss that is not one number per item, of that item alone, and free of
            chance.
        EmptyMask: (a ValueError) where nothing would move.
        ValueError: for settings out of range. BadRows: for rows that cannot be scored.
    """
    measure = loss if loss is not None else None if likelihood is categorical else _negative(likelihood)
    target = _target(model, rows, measure, unit)
    others = {name: _other(target, some, measure, unit) for name, some in (track or {}).items()}
    coordinates = space(target, masks(target, where))
    check(target, coordinates)
    settings: dict[str, Any] = {
        "sampler": sampler, "n_beta": n_beta, "gamma": gamma, "batch_size": batch_size, "chains": chains,
        "draws": draws, "thin": thin, "burn_in": burn_in, "seed": seed,
    }  # fmt: skip
    found = step_size
    if found is None:
        first = plan_of(target, coordinates, step_size=1.0, **settings)
        found = search(target, coordinates, first, vectorised=vectorised, progress=progress)
    plan = plan_of(target, coordinates, step_size=found, **settings)
    trace = sample(target, coordinates, plan, others, vectorised=vectorised, progress=progress)
    return estimate(trace, told(where))


def _target(model: LM | Target, rows: Rows | None, measure: Measure | None, unit: str) -> Target:
    if isinstance(model, Target):
        if rows is not None:
            raise ValueError("a Target brings its own items; leave rows out, or give an LM")
        return model
    if rows is None:
        raise ValueError("rows are missing: the data of the loss, from influence.corpus or influence.queries")
    return of_model(model, rows, loss=measure, unit=unit)


def _other(target: Target, rows: Rows, measure: Measure | None, unit: str) -> Target:
    if target.lm is None:
        raise ValueError("track is for models on rows; for other targets give sample() a Target of the other items")
    return of_model(target.lm, rows, loss=measure, unit=unit)


def _negative(likelihood: Likelihood) -> Measure:
    return lambda outputs, batch: -likelihood.log_p(outputs, batch)
