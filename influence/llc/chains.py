"""Run chains: every chain's losses along its way, and what tells whether they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from influence.llc import gradient, mala
from influence.llc.chance import Noise, Picks
from influence.llc.sampler import Sampler
from influence.llc.space import Space
from influence.llc.target import Target

# parameters that move, and tokens in a batch, up to which chains run under vmap; benchmarks/llc.py
VECTORISED = {"cpu": 20_000, "cuda": 1_000_000}
TOKENS = {"cpu": 512}
# one by one, any attention kernel will do: a chain's own batches have one size, and noise drowns the rounding
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ROWS = 64  # items evaluated at a time


class Plan(NamedTuple):
    """How chains run. `gamma` is one number or one per coordinate (p); `thin` steps belong to each of `draws` draws."""

    sampler: Sampler
    step_size: float
    n_beta: float
    gamma: float | Tensor
    batch_size: int
    chains: int
    draws: int
    thin: int
    burn_in: int
    check_every: int
    seed: int

    @property
    def steps(self) -> int:
        return self.burn_in + self.draws * self.thin


@dataclass
class Part:
    """What some chains have left behind.

    Mean losses of every step's batch (c steps) and its items (c steps b; None where they are always all),
    squared distances and losses of tracked items at every draw (c t …), the checks (c k), and where the chains
    end (c p).
    """

    means: Tensor
    picks: Tensor | None
    distance: Tensor
    tracked: dict[str, Tensor]
    acceptance: Tensor
    bias: Tensor
    ends: Tensor


def run(
    target: Target, space: Space, plan: Plan, track: Mapping[str, Target], vectorised: bool | None, bar: Any
) -> list[Part]:
    """All chains of a plan: at once under vmap, or one after the other.

    The default goes by the number of parameters and the size of the batches, and one after the other where vmap cannot
    follow the model.
    """
    numbers = list(range(plan.chains))
    with target.borrowed():
        if vectorised is None:
            vectorised = small(target, space, plan) and _can_be_vectorised(target, space)
        groups = [numbers] if vectorised else [[number] for number in numbers]
        with nullcontext() if vectorised else sdpa_kernel(FUSED):
            return [_run(target, space, plan, group, track, vectorised, bar) for group in groups]


def small(target: Target, space: Space, plan: Plan) -> bool:
    """Whether finding a step's operations takes longer than their arithmetic, as measured."""
    device = space.center.device.type
    tokens = min(plan.batch_size, target.n) * target.tokens
    few = len(space.center) <= VECTORISED.get(device, VECTORISED["cuda"])
    return few and tokens <= TOKENS.get(device, float("inf"))


def _can_be_vectorised(target: Target, space: Space) -> bool:
    """False for models with experts (their shapes depend on the data) or derivatives written by hand."""
    values = space.center.repeat(2, 1)
    places = torch.arange(min(2, target.n)).repeat(2, 1)
    try:
        gradient.together(target, space, values)(target.items(places))
    except RuntimeError:
        return False
    return True


def _run(
    target: Target,
    space: Space,
    plan: Plan,
    chains: Sequence[int],
    track: Mapping[str, Target],
    vectorised: bool,
    bar: Any,
) -> Part:
    values = space.center.repeat(len(chains), 1)
    noise = Noise(plan.seed, chains, space.center, space.mask)
    picks = Picks(plan.seed, chains, target.n, plan.batch_size)
    find = (gradient.together if vectorised else gradient.alone)(target, space, values)
    part = _empty(target, values, plan, track)
    state = plan.sampler.init(values, noise(), space.free)
    for step in range(plan.steps):
        places = picks()
        if part.picks is not None:
            part.picks[:, step] = places
        items = target.items(places)
        losses, slope = find(items)
        mean, away = losses.mean(1, dtype=torch.float64) * target.scale, values - space.center
        part.means[:, step] = mean
        force, fresh = _force(slope, away, plan, space), noise()
        since = step - plan.burn_in
        if since >= 0 and (since + 1) % plan.thin == 0:
            _keep(part, since // plan.thin, space, values, away, track, vectorised)
        if since >= 0 and since % plan.check_every == 0 and plan.sampler.euler:
            at = _Here(items, values, away, mean, slope, force, fresh, target.scale)
            _check(part, since // plan.check_every, find, at, state, plan, space)
        state = plan.sampler.update(state, values, force, fresh, plan.step_size, since < 0)
        bar.update(len(chains))
    return part


class _Here(NamedTuple):
    """A step before it is taken."""

    items: tuple[Tensor, ...]
    values: Tensor
    away: Tensor
    mean: Tensor
    slope: Tensor
    force: Tensor
    noise: Tensor
    scale: float


def _keep(
    part: Part,
    draw: int,
    space: Space,
    values: Tensor,
    away: Tensor,
    track: Mapping[str, Target],
    vectorised: bool,
) -> None:
    part.distance[:, draw] = torch.linalg.vecdot(away, away)
    for name, other in track.items():
        part.tracked[name][:, draw] = evaluated(other, space, values, vectorised).cpu()


def _force(slope: Tensor, away: Tensor, plan: Plan, space: Space) -> Tensor:
    """∇U = nβ ∇L + γ (w − w*), zero where a coordinate is held."""
    force = slope * plan.n_beta
    if isinstance(plan.gamma, Tensor):
        force.addcmul_(away, plan.gamma)
    else:
        force.add_(away, alpha=plan.gamma)
    return force if space.mask is None else force.mul_(space.mask)


def _check(part: Part, place: int, find: gradient.Gradient, at: _Here, state: Any, plan: Plan, space: Space) -> None:
    """Step-size bias and acceptance at this step, on its batch; the chain stays where it is."""
    pulled = plan.sampler.metric(state, at.force)
    part.bias[:, place] = plan.step_size / 8 * plan.n_beta * (at.slope.double() * pulled.double()).sum(1)
    here = at.values.clone()
    before = _energy(at.mean, at.away, plan)
    plan.sampler.update(state, at.values, at.force, at.noise, plan.step_size, False)
    losses, slope = find(at.items)
    away = at.values - space.center
    drop = before - _energy(losses.double().mean(1) * at.scale, away, plan)
    back = _force(slope, away, plan, space)
    fall, rise = (at.force, pulled), (back, plan.sampler.metric(state, back))
    part.acceptance[:, place] = mala.acceptance(at.values - here, fall, rise, drop, plan.step_size)
    at.values.copy_(here)


def _energy(mean: Tensor, away: Tensor, plan: Plan) -> Tensor:
    """U (c) of the batch whose mean loss is given."""
    gamma = plan.gamma.double() if isinstance(plan.gamma, Tensor) else plan.gamma
    return plan.n_beta * mean + (gamma * away.double().square()).sum(1) / 2


def _empty(target: Target, values: Tensor, plan: Plan, track: Mapping[str, Target]) -> Part:
    c, batch = len(values), min(plan.batch_size, target.n)
    checks = -(-(plan.draws * plan.thin) // plan.check_every) if plan.sampler.euler else 0
    return Part(
        means=torch.zeros(c, plan.steps, dtype=torch.float64),
        picks=torch.empty(c, plan.steps, batch, dtype=torch.int32) if batch < target.n else None,
        distance=torch.zeros(c, plan.draws, dtype=torch.float64),
        tracked={name: torch.zeros(c, plan.draws, one.n, dtype=values.dtype) for name, one in track.items()},
        acceptance=torch.zeros(c, checks, dtype=torch.float64),
        bias=torch.zeros(c, checks, dtype=torch.float64),
        ends=values,
    )


def evaluated(target: Target, space: Space, values: Tensor, vectorised: bool) -> Tensor:
    """Losses ℓ (c n) of all items at the weights `values` (c p)."""
    with torch.no_grad():
        return torch.cat([_losses(target, space, values, places, vectorised) for places in _parts(target.n)], 1)


def at_center(target: Target, space: Space, places: np.ndarray) -> np.ndarray:
    """Losses ℓ of some items at w*, float64."""
    with torch.no_grad(), target.borrowed():
        parts = [
            _losses(target, space, space.center[None], torch.from_numpy(places)[some], False)[0]
            for some in _parts(len(places))
        ]
    return torch.cat(parts).double().cpu().numpy()


def _losses(target: Target, space: Space, values: Tensor, places: Tensor, vectorised: bool) -> Tensor:
    items = target.items(places)
    if not vectorised:
        return torch.stack([target.losses(space.weights(one), items) for one in values])
    every = vmap(lambda flat: target.losses(space.weights(flat), items))
    found: Tensor = every(values)
    return found


def _parts(n: int) -> Iterator[Tensor]:
    return iter(torch.arange(n).split(ROWS))
