"""Search a step size: the largest whose bias is small against the estimate itself.

Criterion: on short chains none diverges, and the step-size bias (exact for a quadratic loss with full batches, too
large with the noise of batches) is at most `share` of the estimate: the chains' own or, as short chains with small
steps have not come far, what longer steps gave less all their bias. The grid is geometric, a factor 2; it is crossed in
strides of three places until one has passed and one has failed, and halved between them.
"""

from __future__ import annotations

import numpy as np

from influence.llc.chains import Plan
from influence.llc.space import Space
from influence.llc.target import Target
from influence.llc.trace import Trace, sample

STEPS, CHECK = 100, 5
STRIDE, REACH = 3, 24  # places on the grid


class NoStepSize(FloatingPointError):
    """No step size passes the criterion."""


def search(
    target: Target,
    space: Space,
    plan: Plan,
    *,
    share: float = 0.05,
    start: float | None = None,
    vectorised: bool | None = None,
    progress: bool = False,
) -> float:
    """The largest step size on the grid that passes; `plan` tells everything else.

    For a sampler without Euler steps SGLD's criterion is used: what is stable for it is so for them.

    Raises:
        NoStepSize: where none within the grid's reach passes; says what the smallest did.
    """
    from influence.llc.sgld import build

    short = plan._replace(
        sampler=plan.sampler if plan.sampler.euler else build(), chains=2, draws=STEPS, thin=1, burn_in=STEPS // 2,
        check_every=CHECK,
    )  # fmt: skip
    first = guess(space, plan) if start is None else start
    failed: dict[int, str] = {}
    passed: int | None = None
    place, sure = 0, 0.0
    while abs(place) <= REACH:
        own = short._replace(step_size=first * 2.0**place)
        trace = sample(
            target, space, own, vectorised=vectorised, progress=progress, told=f"step size {own.step_size:.2g}"
        )
        sure = max(sure, _sure(trace))
        if said := verdict(trace, share, sure):
            failed[place] = said
        else:
            passed = place if passed is None else max(passed, place)
        least = min((one for one in failed if passed is None or one > passed), default=None)
        if passed is None:
            place -= STRIDE
        elif least is None:
            place += STRIDE
        elif least == passed + 1:
            break
        else:
            place = (passed + least) // 2
    if passed is not None:
        return first * 2.0**passed
    lowest = min(failed)
    largest, smallest = (first * 2.0**one for one in (max(failed), lowest))
    raise NoStepSize(
        f"no step size from {largest:.3g} down to {smallest:.3g} passes: at {smallest:.3g} {failed[lowest]}. "
        "Give a larger batch_size or a smaller n_beta (less noise of batches), a larger gamma, or a step_size "
        "of your own"
    )


def guess(space: Space, plan: Plan) -> float:
    """Where the search begins: the ε at which a direction without curvature forgets its start in 50 steps, or, for a
    sampler whose ε is relative to the curvature, the one that adds 5 % where the curvature is right."""
    if plan.sampler.relative:
        return 0.2
    gamma = float(np.mean(np.asarray(plan.gamma, dtype=np.float64)))
    return 1 / (25 * max(gamma, 1.0))


def verdict(trace: Trace, share: float, sure: float = 0.0) -> str:
    """Why a step size fails on short chains, or ""; `sure` is an estimate less its bias, from longer steps."""
    if not trace.kept.all():
        return next(said for said in trace.why if said)
    value = max(abs(float(trace.plan.n_beta * trace.excess.mean())), sure)
    bias = float(trace.bias.mean())
    if bias > share * value:
        return f"the step size adds up to {bias:.3g} to an estimate of {value:.3g}, more than {share:.0%}"
    return ""


def _sure(trace: Trace) -> float:
    """The estimate less all that the step size may have added; 0 where a chain diverged."""
    if not trace.kept.all():
        return 0.0
    return float(trace.plan.n_beta * trace.excess.mean() - trace.bias.mean())
