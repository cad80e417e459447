"""Langevin dynamics with momentum and a Nosé–Hoover thermostat, which takes up the noise of the batches as
well.

Ding et al. 2014; here in the symmetric splitting of Leimkuhler & Shang 2016 (arXiv 1505.06889, "BADODAB"): half
a move, thermostat, friction and noise, thermostat, half a move, with the kick by the force between two such
steps. Without noise in the force the positions on a quadratic have no step-size bias; a force with noise of
variance s per coordinate makes the thermostat settle at a higher friction instead of a higher temperature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from influence.llc.sampler import Sampler


class State(NamedTuple):
    momentum: Tensor  # (c p)
    friction: Tensor  # (c 1) per step
    free: int


def build(friction: float = 0.2, coupling: float = 0.01) -> Sampler:
    """A step is as long in time as √ε.

    Args:
        friction: the part of the momentum that is lost, and given back as noise, in one step; where the
            thermostat starts.
        coupling: how fast the thermostat answers, per step, to a temperature that is off by 1.

    Raises:
        ValueError: for settings out of range.
    """
    if not 0 < friction < 2 or not coupling > 0:
        raise ValueError(f"friction is {friction} and coupling {coupling}; expected are 0 < friction < 2, coupling > 0")

    def init(values: Tensor, noise: Tensor, free: int) -> State:
        return State(noise.clone(), values.new_full((len(values), 1), friction), free)

    def update(state: State, values: Tensor, force: Tensor, noise: Tensor, step_size: float, warm: bool) -> State:
        time = step_size**0.5
        p = state.momentum.add_(force, alpha=-time)
        values.add_(p, alpha=time / 2)
        rate = state.friction + coupling / 2 * _too_hot(p, state.free)
        keep = (-rate).exp()
        safe = torch.where(rate.abs() < 1e-6, torch.full_like(rate, 1e-6), rate)
        given = (2 * friction * (-torch.expm1(-2 * safe)) / (2 * safe)).sqrt()
        p.mul_(keep).addcmul_(given, noise)
        values.add_(p, alpha=time / 2)
        return State(p, rate + coupling / 2 * _too_hot(p, state.free), state.free)

    return Sampler("sgnht", init, update, lambda state, force: force, euler=False)


def _too_hot(p: Tensor, free: int) -> Tensor:
    """(c 1) the temperature of the momenta, less 1."""
    return p.square().sum(1, keepdim=True) / free - 1
