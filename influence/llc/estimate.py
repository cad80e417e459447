"""The local learning coefficient from a trace: λ̂ = nβ (E[L(w)] − L(w*)), with what tells how far to trust it.

Lau et al. 2023 (arXiv 2308.12108), definition 1. With a localising γ it is a damped effective dimension: for a
quadratic loss with curvatures h it is ½ Σ nβh / (nβh + γ).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from influence.llc.diagnostics import Diagnostics, diagnose, relaxation
from influence.llc.notes import BIAS, ESS, RHAT
from influence.llc.trace import Trace

if TYPE_CHECKING:
    import pandas


class Withheld(FloatingPointError):
    """Fewer than two chains are left, so there is no estimate; `trace` holds what the chains did."""

    def __init__(self, message: str, trace: Trace):
        super().__init__(message)
        self.trace = trace


@dataclass(frozen=True, eq=False)
class LLC:
    """An estimate λ̂ with its certificate.

    `value` and its Monte Carlo standard error `mcse`; `rhat`, `ess`, `ess_tail` of nβ(L − L(w*)) along the
    chains that were kept; `chains` λ̂ of each of these; `dropped` why the others were left out. `step_bias`:
    how much of `value` the step size adds, exact for a quadratic loss with full batches, too large with the
    noise of batches, None for a sampler without Euler steps. `acceptance` of a Metropolis correction on the
    step's batch. `start`: L(w*) over `used` items. `notes` name what speaks against trusting it. `settings`
    hold all that is needed to repeat it.
    """

    value: float
    mcse: float
    rhat: float
    ess: float
    ess_tail: float
    chains: tuple[float, ...]
    dropped: tuple[str, ...]
    step_bias: float | None
    acceptance: float | None
    start: float
    used: int
    notes: tuple[str, ...]
    settings: dict[str, Any]
    trace: Trace = field(repr=False)

    def __str__(self) -> str:
        s = self.settings
        what = "" if s["where"] is None else f" of {s['where']}"
        lines = [
            f"λ̂{what} = {self.value:.4g} ± {self.mcse:.2g} (Monte Carlo) · {len(self.chains)} chains × "
            f"{s['draws']} draws · R-hat {self.rhat:.3f} · ESS {self.ess:.0f}",
            f"nβ {s['n_beta']:.4g} · γ {s['gamma']:.4g} · ε {s['step_size']:.3g} ({s['sampler']}) · "
            f"{s['free']} parameters"
            f" · L(w*) {self.start:.4g} per {s['unit']} over {self.used}" + self._checks(),
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _checks(self) -> str:
        if self.step_bias is None:
            return ""
        return f" · step-size bias up to {self.step_bias:.2g} · acceptance {self.acceptance:.2f}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def frame(self) -> pandas.DataFrame:
        """One line with the numbers and the settings, for tables."""
        import pandas

        names = ("value", "mcse", "rhat", "ess", "ess_tail", "step_bias", "acceptance", "start", "used")
        own = {name: getattr(self, name) for name in names}
        told = {"kept": len(self.chains), "dropped": len(self.dropped), "notes": "; ".join(self.notes)}
        return pandas.DataFrame([{"where": self.settings["where"] or "all", **own, **told, **self._numbers()}])

    def _numbers(self) -> dict[str, Any]:
        return {name: value for name, value in self.settings.items() if name != "where"}


def estimate(trace: Trace, where: str | None = None) -> LLC:
    """λ̂ from the chains of a trace that have not diverged.

    Raises:
        Withheld: where fewer than two are left.
    """
    plan, kept = trace.plan, trace.kept
    if kept.sum() < 2:
        raise Withheld(_withheld(trace), trace)
    energy = plan.n_beta * trace.excess[kept]
    found = diagnose(energy)
    checked = trace.bias.size > 0
    bias = float(trace.bias[kept].mean()) if checked else None
    value = float(energy.mean())
    return LLC(
        value=value,
        mcse=found.mcse,
        rhat=found.rhat,
        ess=found.ess,
        ess_tail=found.ess_tail,
        chains=tuple(energy.mean(1).tolist()),
        dropped=tuple(said for said in trace.why if said),
        step_bias=bias,
        acceptance=float(trace.acceptance[kept].mean()) if checked else None,
        start=trace.start,
        used=trace.used,
        notes=tuple(_notes(trace, value, found, bias)),
        settings=_settings(trace, where),
        trace=trace,
    )


def _settings(trace: Trace, where: str | None) -> dict[str, Any]:
    plan, target = trace.plan, trace.target
    told = {
        name: getattr(plan, name) for name in ("step_size", "n_beta", "batch_size", "draws", "thin", "burn_in", "seed")
    }
    told |= {"where": where, "sampler": plan.sampler.name, "gamma": gamma_of(trace), "n": target.n, "unit": target.unit}
    return {**told, "beta": plan.n_beta / target.count, "free": trace.space.free, "asked_chains": plan.chains}


def gamma_of(trace: Trace) -> float:
    """γ, or its mean over the coordinates that move where each has its own."""
    gamma, mask = trace.plan.gamma, trace.space.mask
    if not isinstance(gamma, torch.Tensor):
        return float(gamma)
    return float(gamma.double().mean() if mask is None else gamma.double()[mask.bool()].mean())


def _withheld(trace: Trace) -> str:
    said = [f"chain {c}: {why}" for c, why in enumerate(trace.why) if why]
    more = f"; and {len(said) - 4} more" if len(said) > 4 else ""
    return (
        f"{len(said)} of {trace.plan.chains} chains diverged, so no estimate is given "
        f"({'; '.join(said[:4])}{more}). Give a step_size below {trace.plan.step_size:.3g}, or none to have "
        "it searched"
    )


def _notes(trace: Trace, value: float, found: Diagnostics, bias: float | None) -> list[str]:
    plan = trace.plan
    notes = (
        [f"{int((~trace.kept).sum())} of {plan.chains} chains diverged and were left out"]
        if not all(trace.kept)
        else []
    )
    if np.isnan(found.rhat):
        return [*notes, "the loss does not depend on the parameters that move"]
    if value < 0:
        notes.append(_negative(trace, value, found))
    if found.rhat > RHAT:
        notes.append(
            f"R-hat {found.rhat:.3f} is above {RHAT}: the chains disagree; give more draws or a longer burn_in"
        )
    if found.ess < ESS:
        notes.append(f"only {found.ess:.0f} effective draws; give more draws, or a larger thin")
    if bias is not None and bias > BIAS * abs(value):
        notes.append(f"the step size may add up to {bias:.2g} to the estimate; give a smaller step_size")
    pull, said = (1.0, "2/ε") if plan.sampler.relative else (gamma_of(trace), "2/(εγ)")
    needed, steps = relaxation(plan.step_size, pull), plan.burn_in
    if plan.sampler.euler and needed > steps:
        notes.append(
            f"flat directions need about {said} = {needed:.3g} steps to forget w*, burn-in has {steps}: where "
            "the loss is flat, the estimate is of how far the chains have come"
        )
    return notes


def _negative(trace: Trace, value: float, found: Diagnostics) -> str:
    """A negative estimate, with its likely cause."""
    if value > -3 * found.mcse:
        return f"the estimate is negative, but only by {-value / found.mcse:.1f} standard errors: noise around zero"
    own = trace.excess[trace.kept]
    third = max(1, own.shape[1] // 3)
    falling = own[:, -third:].mean() < own[:, :third].mean() - 3 * found.mcse / trace.plan.n_beta
    said = "and it is still falling at the end of the chains" if falling else "and it stays there"
    return (
        f"the estimate is negative: away from w* the loss is lower {said}, so w* is not a minimum of this "
        "loss on these items. The likely causes: training has not converged, or these are other items, or "
        "another loss, than trained on; a larger gamma keeps the chains closer, and only a minimum gives a "
        "learning coefficient"
    )
