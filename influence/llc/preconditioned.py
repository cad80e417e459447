"""Langevin dynamics in the metric of EK-FAC: w ← w − (ε/2) M ∇U(w) + √(εM) ξ with M = (nβ (G + λ))⁻¹ by EK-FAC.

Plain Langevin steps are as short as the steepest direction wants, and the flattest then takes thousands of them; here
all directions have a curvature of about 1, so that a chain forgets where it was in 2/ε steps (a constant metric as of
Girolami & Calderhead 2011). It leaves the stationary distribution as it is, but for the size of the steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ekfac import EKFACSolver
from ekfac.rotate import both_into, both_out_of
from influence.grads import dense
from influence.llc.sampler import Sampler
from influence.model.tangent import from_parameters, parameters, to_parameters
from influence.types import LM, Grad


class State(NamedTuple):
    """Nothing is remembered between steps."""


def build(lm: LM, solver: EKFACSolver, n_beta: float) -> Sampler:
    """The sampler for chains that move the solver's blocks: `llc(where=mask, gamma=gamma, sampler=…)`, with mask and γ
    from `influence.llc.covariance.at_damping`.

    ε is in units of the metric, with a bias of about ε/4 of every variance where EK-FAC is right. Where the curvature
    is above EK-FAC's, steps are unstable from an ε on that can be far below 1: look at `step_bias` and `acceptance`,
    or have ε searched.

    Raises:
        ValueError: for an n_beta that is not positive; from the chains, where other coordinates move than the solver's.
    """
    if not n_beta > 0:
        raise ValueError(f"n_beta is {n_beta}; it must be positive, and that of the chains")
    moving = [block.name for block in lm.blocks if solver.lam[block.name] is not None]
    like = next(iter(parameters(lm).values()))
    scale, bases = {}, {}
    for name in moving:
        one = solver.factors[name]
        scale[name] = (n_beta * (one.eigenvalues + float(solver.lam[name] or 0.0))).reciprocal().to(like)
        bases[name] = tuple(None if basis is None else basis.to(like) for basis in (one.basis_in, one.basis_out))
    shapes = _shapes(lm, moving)

    def init(values: Tensor, noise: Tensor, free: int) -> State:
        size = sum(shape.numel() for shape in shapes.values())
        if values.shape[1] != size:
            raise ValueError(
                f"{values.shape[1]} coordinates move, the solver's blocks have {size}; give the chains mask and γ from "
                "influence.llc.covariance.at_damping(lm, solver.lam, n_beta)"
            )
        return State()

    def update(state: State, values: Tensor, force: Tensor, noise: Tensor, step_size: float, warm: bool) -> State:
        pulls, drawn = _blocks(lm, shapes, force), _blocks(lm, shapes, noise)
        moves = {}
        for name in moving:
            d = scale[name].to(values)
            turned = both_into(dense(pulls[name]), *bases[name])
            fresh = dense(drawn[name])
            moves[name] = both_out_of(-step_size / 2 * d * turned + (step_size * d).sqrt() * fresh, *bases[name])
        values.add_(_flat(lm, shapes, moves))
        return state

    def metric(state: State, force: Tensor) -> Tensor:
        pulls = _blocks(lm, shapes, force)
        turned = {name: both_into(dense(pulls[name]), *bases[name]) * scale[name].to(force) for name in moving}
        return _flat(lm, shapes, {name: both_out_of(one, *bases[name]) for name, one in turned.items()})

    return Sampler("ekfac", init, update, metric, relative=True)


def _shapes(lm: LM, moving: list[str]) -> dict[str, torch.Size]:
    """The parameters of these blocks with their shapes, in the order of the chains' coordinates."""
    some: Grad = {block.name: torch.full((1, *block.shape), float(block.name in moving)) for block in lm.blocks}
    held = {name: bool(value.any()) for name, value in to_parameters(lm, some).items()}
    return {name: p.shape for name, p in lm.net.named_parameters() if held.get(name)}


def _flat(lm: LM, shapes: dict[str, torch.Size], moves: dict[str, Tensor]) -> Tensor:
    """Coordinates (c p) from {block: (c o i)}; zero where a block is missing."""
    like = next(iter(moves.values()))
    whole: Grad = {b.name: moves[b.name] if b.name in moves else like.new_zeros(len(like), *b.shape) for b in lm.blocks}
    laid = to_parameters(lm, whole)
    return torch.cat([laid[name].flatten(1) for name in shapes], 1)


def _blocks(lm: LM, shapes: dict[str, torch.Size], flat: Tensor) -> Grad:
    """{block: (c o i)} of coordinates (c p); zero where nothing moves."""
    parts = flat.split([shape.numel() for shape in shapes.values()], 1)
    tensors = {name: part.view(len(flat), *shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    for name, one in parameters(lm).items():
        if name not in tensors:
            tensors[name] = flat.new_zeros(len(flat), *one.shape)
    return from_parameters(lm, tensors)
