"""Sequential subspace optimisation of many L2-penalised logistic regressions that share one design matrix.

Minimises, for each of j problems, f(w, b) = mean log loss + λ/2 ‖w‖². Every step minimises the quadratic model of f,
with its true curvature, over the preconditioned gradient and the last few steps (Narkiss & Zibulevsky 2005; the
preconditioner and its fixed bound on the curvature: Böhning & Lindsay 1988). The logits of directions are kept, so
curvature and line search cost no matrix product: a step takes one product with X and one with Xᵀ for all problems
together. Problems that are done leave the batch.

Letters: j problems, k logits, n statements, d columns, m directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from influence.probing import link
from influence.probing.matrix import Matrix, back, forward
from influence.probing.precondition import Preconditioner

MEMORY = 3  # earlier steps in the subspace
PATIENCE = 5  # steps that neither halve the gradient's power nor gain SLOW of it: the precision is used up
SLOW = 0.02
TRIED = 3  # steps that show what a new factor is worth
RATE = 3  # steps over which the fall of the gains is measured
SLOWEST = 0.98
JITTER = 1e-7  # of a diagonal of ones
HALVINGS = 60

Record = TypeVar("Record")


@dataclass
class Problems:
    """Classes as 0/1 in `target` (j k n); a point, its objective, and an estimate of how far above the least it is."""

    target: Tensor
    lam: Tensor  # (j)
    own: Tensor  # (j) place of the factor that preconditions
    weight: Tensor  # (j k d)
    bias: Tensor  # (j k)
    loss: Tensor  # (j)
    gap: Tensor  # (j)
    mu: Tensor  # (j) the least curvature met, as a share of the preconditioner's
    since: Tensor  # (j) steps since that preconditioner was made
    steps: Tensor  # (j)


@dataclass
class Directions:
    """Directions, and what the preconditioned matrix M and the design make of them; unit in M's norm, or 0."""

    w: Tensor  # (j m kd)
    b: Tensor  # (j m k)
    mw: Tensor  # (j m kd)
    mb: Tensor  # (j m k)
    z: Tensor  # (j m kn)


@dataclass
class Run:
    """Where the problems of one descent stand."""

    at: Tensor
    now: Problems
    z: Tensor
    past: Directions
    best: Tensor
    low: Tensor
    idle: Tensor
    gains: Tensor  # (j RATE + 1) what the last steps gained by the model, the latest first


@dataclass
class Slope:
    """Gradient, its preconditioned form, and their product."""

    p: Tensor
    g: Tensor
    gb: Tensor
    q: Tensor
    qb: Tensor
    power: Tensor


def descend(
    problems: Problems,
    x: Matrix,
    precondition: Preconditioner,
    *,
    tol: float,
    limit: int,
    hard: int,
    curved: Callable[[], Tensor],
) -> Problems:
    """Steps until the estimated gap is at most `tol`, `limit` steps are done, or none helps any more.

    Args:
        problems: in the precision of `weight`.
        x: products in that precision.
        hard: a problem that is not done after so many steps gets a factor of its own Hessian, each time anew; 0 gives
            one to every problem at every step, which is Newton's method.
        curved: gives x as a tensor (n d), for those.
    """
    run, ended = _start(problems, x), list[Run]()
    for step in range(limit + 1):
        slope = _slope(run, x, precondition)
        if hard == 0:
            run, slope = _refactored(run, slope, curved, precondition, hard)
        run = _judged(run, slope)
        untried = (run.now.own >= precondition.shared) & (run.now.since < TRIED)
        going = ((run.now.gap > tol) | (untried & (hard > 0))) & (run.idle < PATIENCE) & (step < limit)
        if not going.all():
            ended.append(pick(run, ~going))
            if not going.any():
                break
            run, slope = pick(run, going), pick(slope, going)
        if hard and bool((run.now.since >= hard).any()):
            run, slope = _refactored(run, slope, curved, precondition, hard)
        run = _advanced(run, slope, x)
    order = torch.cat([part.at for part in ended]).argsort()
    return joined([part.now for part in ended], order)


def pick(record: Record, keep: Tensor) -> Record:
    """The record with only the problems where `keep` (j) holds."""
    place = keep.nonzero()[:, 0]

    def chosen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, place)
        return replace(value, **{f.name: chosen(getattr(value, f.name)) for f in fields(value)})

    return chosen(record)


def joined(parts: list[Problems], order: Tensor) -> Problems:
    """The parts' problems in one record, in the order given."""
    names = [f.name for f in fields(Problems)]
    return Problems(**{name: torch.cat([getattr(part, name) for part in parts])[order] for name in names})


def _start(problems: Problems, x: Matrix) -> Run:
    (j, k, n), d = problems.target.shape, problems.weight.shape[2]
    moved = bool(problems.weight.any())
    z = forward(x, problems.weight, problems.bias) if moved else problems.bias[:, :, None].repeat(1, 1, n)
    ones, none = torch.ones_like(problems.lam), torch.zeros_like(problems.since)
    past = Directions(*(z.new_zeros(j, MEMORY, size) for size in (k * d, k, k * d, k, k * n)))
    at = torch.arange(j, device=z.device)
    unknown = ones[:, None] * torch.zeros(RATE + 1, dtype=ones.dtype, device=ones.device)
    return Run(at, replace(problems), z, past, ones * torch.inf, ones * torch.inf, none, unknown)


def _slope(run: Run, x: Matrix, precondition: Preconditioner) -> Slope:
    now, p = run.now, link.probabilities(run.z)
    now.loss = link.losses(run.z, now.target) + now.lam / 2 * now.weight.square().sum((1, 2))
    residual = (p - now.target).div_(p.shape[2])
    g, gb = back(x, residual).addcmul_(now.lam[:, None, None], now.weight), residual.sum(2)
    return _preconditioned(run, p, g, gb, precondition)


def _preconditioned(run: Run, p: Tensor, g: Tensor, gb: Tensor, precondition: Preconditioner) -> Slope:
    now = run.now
    q, qb = precondition.solve(now.own, g, gb)
    return Slope(p, g, gb, q, qb, (g * q).sum((1, 2)) + (gb * qb).sum(1))


def _judged(run: Run, slope: Slope) -> Run:
    """The run with its gaps, and how long each problem has gained nothing.

    A gap is what the gradient and the least curvature met say, or what the latest gains add up to if they go on
    falling as they did, whichever is larger.
    """
    loss = run.now.loss
    gained = (slope.power < 0.5 * run.best) | (loss < run.low - noise(loss) - SLOW * slope.power)
    latest, earlier = run.gains[:, 0], run.gains[:, -1]
    rate = torch.where(earlier > 0, (latest / earlier) ** (1 / RATE), 0.0).clamp(0, SLOWEST)
    run.now.gap = torch.maximum(slope.power / (2 * run.now.mu), latest * rate / (1 - rate))
    idle = torch.where(gained, 0, run.idle + 1)
    return replace(run, best=torch.minimum(run.best, slope.power), low=torch.minimum(run.low, loss), idle=idle)


def _refactored(
    run: Run, slope: Slope, curved: Callable[[], Tensor], precondition: Preconditioner, hard: int
) -> tuple[Run, Slope]:
    """New factors for the hard problems, which forget their directions."""
    now, tired = run.now, run.now.since >= hard
    own, c, x = now.own.clone(), link.curvature(run.z, slope.p), curved()
    for j in tired.nonzero()[:, 0].tolist():
        own[j] = precondition.refactor(x, c[j].to(x), float(now.lam[j]), int(own[j]))
    past = replace(run.past, **{f.name: getattr(run.past, f.name) * ~tired[:, None, None] for f in fields(Directions)})
    ones = torch.ones_like(now.mu)
    run = replace(
        run,
        now=replace(now, own=own, mu=torch.where(tired, ones, now.mu), since=torch.where(tired, 0, now.since)),
        past=past,
        best=torch.where(tired, ones * torch.inf, run.best),
        gains=run.gains * ~tired[:, None],
    )
    return run, _preconditioned(run, slope.p, slope.g, slope.gb, precondition)


def _advanced(run: Run, slope: Slope, x: Matrix) -> Run:
    """The run after one step of every problem."""
    now, all_ = run.now, _with_gradient(run, slope, x)
    a, mu = _model(run, slope, all_)
    w, b, mw, mb, z = (torch.bmm(a[:, None], getattr(all_, f.name)) for f in fields(Directions))
    d, zd, db = w.view_as(now.weight), z.view_as(run.z), b[:, 0]
    power = -((slope.g * d).sum((1, 2)) + (slope.gb * db).sum(1))
    s = _length(run, zd, d, power)
    gains = torch.cat([(s * (1 - s / 2) * power)[:, None], run.gains[:, :-1]], 1)
    weight, bias = now.weight + s[:, None, None] * d, now.bias + s[:, None] * db
    counted = {"since": now.since + 1, "steps": now.steps + 1}
    moved = replace(now, weight=weight, bias=bias, mu=torch.minimum(now.mu, mu), **counted)
    size = ((w * mw).sum(2) + (b * mb).sum(2)).clamp_min(torch.finfo(w.dtype).tiny).rsqrt()[:, None]
    latest = {"w": w, "b": b, "mw": mw, "mb": mb, "z": z}
    past = Directions(**{k: torch.cat([v * size, getattr(run.past, k)[:, :-1]], 1) for k, v in latest.items()})
    return replace(run, now=moved, z=torch.addcmul(run.z, s[:, None, None], zd), past=past, gains=gains)


def _with_gradient(run: Run, slope: Slope, x: Matrix) -> Directions:
    """The preconditioned gradient in front of the earlier steps."""
    least = torch.finfo(slope.power.dtype).tiny
    unit = torch.where(slope.power > least, -slope.power.clamp_min(least).rsqrt(), 0.0)  # rounding may turn its sign
    w, b = slope.q * unit[:, None, None], slope.qb * unit[:, None]
    new = Directions(w, b, slope.g * unit[:, None, None], slope.gb * unit[:, None], forward(x, w, b))
    names = [f.name for f in fields(Directions)]
    return Directions(**{k: torch.cat([getattr(new, k).flatten(1)[:, None], getattr(run.past, k)], 1) for k in names})


def _model(run: Run, slope: Slope, all_: Directions) -> tuple[Tensor, Tensor]:
    """Where the quadratic model is least: coefficients (j m); and the least curvature in M's norm (j)."""
    j, m, _ = all_.z.shape
    c = link.curvature(run.z, slope.p)
    z = all_.z.view(j, m, *c.shape[1:])
    bent = torch.stack([link.bend(c, z[:, i]) for i in range(m)], 1).flatten(2)
    h = torch.bmm(all_.z, bent.mT) + run.now.lam[:, None, None] * torch.bmm(all_.w, all_.w.mT)
    expected = torch.bmm(all_.w, all_.mw.mT) + torch.bmm(all_.b, all_.mb.mT)
    g = torch.bmm(all_.w, slope.g.flatten(1)[..., None])[..., 0] + torch.bmm(all_.b, slope.gb[..., None])[..., 0]
    h, expected, g = h.double(), expected.double(), g.double()
    eye = torch.eye(m, dtype=h.dtype, device=h.device)
    empty = torch.diag_embed((expected.diagonal(dim1=1, dim2=2) == 0).double())
    h, expected = (h + h.mT) / 2 + empty, (expected + expected.mT) / 2 + empty
    root = h.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(h.dtype).tiny).rsqrt()
    scaled = h * root[:, :, None] * root[:, None, :] + JITTER * eye
    a = -torch.linalg.solve_ex(scaled, (g * root)[..., None])[0][..., 0] * root
    lower = torch.linalg.cholesky_ex(expected + JITTER * eye)[0]
    half = torch.linalg.solve_triangular(lower, h, upper=False)
    ritz = _least(torch.linalg.solve_triangular(lower, half.mT, upper=False))
    return a.nan_to_num(0.0, 0.0, 0.0).to(run.z), ritz.clamp_min(torch.finfo(run.z.dtype).eps).to(run.z)


def _least(h: Tensor) -> Tensor:
    """(j) least eigenvalues of h (j m m); 1, which says nothing new, where directions fell together or overflowed."""
    known = h.isfinite().all(2).all(1)
    eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    return torch.linalg.eigvalsh(torch.where(known[:, None, None], h, eye))[:, 0]


def _length(run: Run, zd: Tensor, d: Tensor, power: Tensor) -> Tensor:
    """How far to go along d (j): 1, or less where the slope has turned or the objective has risen."""
    now, s = run.now, torch.ones_like(power)
    wd, dd, n = (now.weight * d).sum((1, 2)), d.square().sum((1, 2)), zd.shape[2]
    before = now.loss - now.lam / 2 * now.weight.square().sum((1, 2))
    for _ in range(HALVINGS):
        z = torch.addcmul(run.z, s[:, None, None], zd)
        slope = ((link.probabilities(z) - now.target) * zd).sum((1, 2)) / n + now.lam * (wd + s * dd)
        rise = link.losses(z, now.target) - before + now.lam * s * (wd + s * dd / 2)
        turned = slope > 0.5 * power
        bad = turned | ~(rise <= noise(now.loss))
        if not bad.any():
            break
        s = torch.where(bad, s * torch.where(turned, power / (power + slope), 0.5), s)
    return torch.where(bad, 0.0, s)


def noise(loss: Tensor) -> Tensor:
    """Differences of an objective that are rounding, (j)."""
    return 4 * torch.finfo(loss.dtype).eps * (1 + loss)
