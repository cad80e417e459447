"""What chains leave behind: the one record from which estimates, covariances and diagnostics are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence.llc.chains import Part, Plan, at_center, run
from influence.llc.space import Space
from influence.llc.target import Target

HOT = 5.0  # a chain whose energy is this many times the number of coordinates has left (equilibrium: at most 1/2)


@dataclass(frozen=True, eq=False)
class Trace:
    """Chains after burn-in, in float64.

    `excess` (c t): L(w) − L(w*) at every draw, the mean over the draw's steps, each on its batch at both
    points; `warm` (c burn_in): the same during burn-in, in no estimate. `distance` (c t): ‖w − w*‖². `tracked`:
    losses ℓ (c t items) of other items at every draw, in the model's own precision. `acceptance`, `bias` (c
    checks): see `mala` and `step_bias`; without checks for a sampler whose steps are not Euler steps. `why`
    says for each chain why it is left out, "" where it is not. `start`: L(w*) over the items used, `used` of
    them. `ends` (c p): the last weights.
    """

    excess: np.ndarray
    warm: np.ndarray
    distance: np.ndarray
    tracked: dict[str, np.ndarray]
    acceptance: np.ndarray
    bias: np.ndarray
    why: tuple[str, ...]
    start: float
    used: int
    ends: Tensor
    plan: Plan
    target: Target
    space: Space
    others: dict[str, Target]

    @property
    def kept(self) -> np.ndarray:
        """(c) True for chains that have not diverged."""
        return np.array([not said for said in self.why])


def sample(
    target: Target,
    space: Space,
    plan: Plan,
    track: Mapping[str, Target] | None = None,
    *,
    vectorised: bool | None = None,
    progress: bool = True,
    told: str = "chains",
) -> Trace:
    """Run the chains of `plan` around w*; the model is as before afterwards, also after an exception.

    L(w*) is measured on exactly the items that the chains have seen, each loss once.
    """
    from tqdm.auto import tqdm

    others = dict(track or {})
    total = plan.steps * plan.chains
    with tqdm(total=total, desc=told, unit="step", delay=2, disable=not progress, leave=False) as bar:
        parts = run(target, space, plan, others, vectorised, bar)
    whole = _joined(parts)
    start, used, reference = _reference(target, space, whole)
    excess = whole.means.numpy() - reference
    drawn = excess[:, plan.burn_in :].reshape(plan.chains, plan.draws, plan.thin).mean(2)
    distance = whole.distance.numpy()
    return Trace(
        excess=drawn,
        warm=excess[:, : plan.burn_in],
        distance=distance,
        tracked={name: value.numpy() for name, value in whole.tracked.items()},
        acceptance=whole.acceptance.numpy(),
        bias=whole.bias.numpy(),
        why=tuple(_why(excess[c], drawn[c], distance[c], plan, space) for c in range(plan.chains)),
        start=start,
        used=used,
        ends=whole.ends,
        plan=plan,
        target=target,
        space=space,
        others=others,
    )


def _joined(parts: list[Part]) -> Part:
    def cat(name: str) -> Any:
        return torch.cat([getattr(part, name) for part in parts])

    picks = None if parts[0].picks is None else cat("picks")
    tracked = {name: torch.cat([part.tracked[name] for part in parts]) for name in parts[0].tracked}
    return Part(cat("means"), picks, cat("distance"), tracked, cat("acceptance"), cat("bias"), cat("ends"))


def _reference(target: Target, space: Space, whole: Part) -> tuple[float, int, np.ndarray]:
    """L(w*) over the items used, how many they are, and the mean over every step's own items (c steps, or 1)."""
    if whole.picks is None:
        losses = at_center(target, space, np.arange(target.n)) * target.scale
        return float(losses.mean()), target.n, losses.mean()[None]
    seen, place = np.unique(whole.picks.numpy(), return_inverse=True)
    losses = at_center(target, space, seen.astype(np.int64)) * target.scale
    return float(losses.mean()), len(seen), losses[place].reshape(whole.picks.shape).mean(-1)


def _why(steps: np.ndarray, drawn: np.ndarray, distance: np.ndarray, plan: Plan, space: Space) -> str:
    """Why a chain counts as diverged, or ""."""
    if not (np.isfinite(steps).all() and np.isfinite(distance).all()):
        bad = np.flatnonzero(~np.isfinite(steps))
        return f"its loss was not finite from step {bad[0] + 1} on" if len(bad) else "its weights were not finite"
    away = float(torch.as_tensor(plan.gamma).double().mean()) * distance.mean() / 2
    energy = plan.n_beta * drawn.mean() + away
    if energy > HOT * space.free:
        return f"its mean energy is {energy:.3g}, {energy / space.free:.3g} for each of {space.free} coordinates"
    return ""
