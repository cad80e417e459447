"""Influence by covariance along chains, EK-FAC and the exact damped solve at equal damping: Pearson per query,
and LDS.

The settings of `settings.py` (language models on prose and on facts, digits, diabetes). Every method has the
same absolute λ of every block: the exact solve and EK-FAC in G + λ, the chains through γ_b = nβ λ_b. Trained
models and retrainings are kept in `--out` and not made again.

Chains that are held at trained weights w₀ gather around the minimum of L(w) + ½ Σ λ (w − w₀)², which is w₀ itself only
where training has converged. With `--at mode` the exact solve and EK-FAC are taken at that minimum (by L-BFGS), so
that all three speak of the same point; with `--at trained` they are taken at w₀, as everywhere else.

    python benchmarks/llc_influence.py --setting facts --quick --lds --at mode
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from settings import NAMES, Setting, setting

import ekfac
import influence
from influence.llc import preconditioned
from influence.llc.covariance import at_damping, covariance
from influence.llc.gradient import alone
from influence.llc.run import _negative as negative
from influence.llc.run import gamma_at, llc
from influence.llc.space import space
from influence.llc.target import of_model
from influence.model.likelihood import categorical
from influence.model.tangent import from_parameters, to_parameters
from influence.truth.exact import dense_gauss_newton, exact_solver
from influence.types import LM, Scores


def main() -> None:
    args = parsed()
    torch.set_num_threads(args.threads)
    chosen = setting(args.setting, Path(args.out), args.quick)
    found = compared(chosen, args)
    table = summary(found, chosen if args.lds else None, args)
    table.to_csv(Path(args.out) / f"llc-influence-{args.setting.replace(' ', '-')}.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def compared(chosen: Setting, args: argparse.Namespace) -> dict[str, tuple[Scores, float, str]]:
    """Scores of every method with seconds and a remark, the reference first."""
    lm = chosen.lm(chosen.trained(range(1), progress=False), 0)
    rows, queries = chosen.rows, chosen.queries
    if args.rows:
        rows = rows.select(range(min(args.rows, len(rows))))
    likelihood: dict[str, Any] = {"likelihood": chosen.likelihood, "progress": False}
    own = ekfac.solver(influence.fit_ekfac(lm, rows, labels=chosen.labels, **likelihood), damping=args.damping)
    there, moved = lm, ""
    if args.at == "mode":
        there = chosen.lm(chosen.trained(range(1), progress=False), 0)
        moved = mode(there, chosen, rows, own)
    start = time.perf_counter()
    factors = influence.fit_ekfac(there, rows, labels=chosen.labels, **likelihood)
    plain = ekfac.solver(factors, absolute=own.lam)
    fast = influence.score(there, rows, queries, plain, per="sequence", **likelihood)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    best, said = reference(there, chosen, rows, queries, plain, likelihood)
    found = {"reference": (best, time.perf_counter() - start, said), "EK-FAC": (fast, seconds, moved)}
    for factor in args.factors:
        found[f"covariance, nβ = {factor:g} n"] = by_chains(lm, chosen, rows, queries, own, factor, args)
    return found


def lbfgs(energy: Any, solved: Any, x: np.ndarray, steps: int = 100, kept: int = 20, least: float = 1e-3) -> np.ndarray:
    """The minimum by L-BFGS with `solved` (slope -> Newton step) in the place of the first inverse Hessian.

    Nocedal & Wright 2006, algorithm 7.4; ends when the slope has fallen to `least` of its first norm.
    """
    f, g = energy(x)
    end = least * np.linalg.norm(g)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(steps):
        q, shares = g.copy(), []
        for s, y in reversed(pairs):
            shares.append(s @ q / (s @ y))
            q -= shares[-1] * y
        way = solved(q)
        for (s, y), share in zip(pairs, reversed(shares), strict=True):
            way += s * (share - y @ way / (s @ y))
        size = 1.0
        while (found := energy(x - size * way))[0] > f - 1e-4 * size * (g @ way) and size > 1e-3:
            size /= 2
        if not found[0] < f:
            break  # what is left is below the precision of the losses
        s, y = -size * way, found[1] - g
        x, (f, g) = x + s, found
        pairs = [*pairs[-kept + 1 :], (s, y)] if s @ y > 0 else pairs
        if np.linalg.norm(g) < end:
            break
    return x


def mode(lm: LM, chosen: Setting, rows: Any, own: Any) -> str:
    """Move the tracked weights to the minimum of L(w) + ½ Σ λ (w − w₀)², and say how far that was."""
    measure = None if chosen.likelihood is categorical else negative(chosen.likelihood)
    target = of_model(lm, rows, loss=measure)
    mask, lam_of = at_damping(lm, own.lam, 1.0)
    coordinates = space(target, mask)
    pull = gamma_at(coordinates, lam_of).double()
    values = coordinates.center.clone()[None]
    find = alone(target, coordinates, values)
    items = tuple(one[None] for one in target.items(torch.arange(target.n)))

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values.copy_(torch.from_numpy(flat)[None])
        losses, slope = find(items)
        away = torch.from_numpy(flat) - coordinates.center.double()
        found = float(losses.double().mean() * target.scale + (pull * away.square()).sum() / 2)
        force = slope[0].double() * (1 if coordinates.mask is None else coordinates.mask) + pull * away
        return found, force.numpy()

    def solved(slope: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(slope).to(coordinates.center)
        tensors = {name: value[None] for name, value in coordinates.weights(flat).items()}
        found = to_parameters(lm, own(from_parameters(lm, tensors)).value)
        return np.concatenate([found[name].flatten().double().numpy() for name in coordinates.shapes])

    first = coordinates.center.double().numpy()
    with target.borrowed():
        before = energy(first)
        last = lbfgs(energy, solved, first)
        after = energy(last)
    weights = coordinates.weights(torch.from_numpy(last).to(coordinates.center))
    with torch.no_grad():
        for name, parameter in lm.net.named_parameters():
            parameter.copy_(weights[name])
    norms = [float(np.linalg.norm(one[1])) for one in (before, after)]
    return f"energy {before[0]:.3f} → {after[0]:.3f}, its slope {norms[0]:.2g} → {norms[1]:.2g}"


def reference(
    lm: LM, chosen: Setting, rows: Any, queries: Any, plain: Any, likelihood: dict[str, Any]
) -> tuple[Scores, str]:
    """The exact solve where the matrix fits, else conjugate gradients to a small residual."""
    if sum(block.size for block in lm.blocks) <= 8000:
        matrix = dense_gauss_newton(lm, rows, **likelihood)
        solver = exact_solver(lm, rows, plain.lam, matrix=matrix, **likelihood)
        return influence.score(lm, rows, queries, solver, per="sequence", **likelihood), "exact"
    solver = influence.cg_solver(lm, rows, absolute=plain.lam, precondition=plain, steps=60, **likelihood)
    scores = influence.score(lm, rows, queries, solver, per="sequence", **likelihood)
    return scores, f"CG, residual {np.max(scores.attrs['residual']):.1e}"


def by_chains(
    lm: LM, chosen: Setting, rows: Any, queries: Any, own: Any, factor: float, args: argparse.Namespace
) -> tuple[Scores, float, str]:
    start = time.perf_counter()
    n_beta = factor * len(rows)
    where, gamma = at_damping(lm, own.lam, n_beta)
    sampler = preconditioned.build(lm, own, n_beta) if args.sampler == "ekfac" else args.sampler
    done = llc(
        lm, rows, where=where, n_beta=n_beta, gamma=gamma, sampler=sampler, step_size=args.step_size,
        batch_size=args.batch_size or len(rows), chains=args.chains, draws=args.draws, thin=args.thin,
        burn_in=args.burn_in, likelihood=chosen.likelihood, track={"row": rows, "query": queries},
        progress=args.progress,
    )  # fmt: skip
    scores = covariance(done.trace)
    reliable = float(scores["reliability"].mean())
    said = f"λ̂ {done.value:.1f}, R-hat {done.rhat:.2f}, ESS {done.ess:.0f}, ε {done.settings['step_size']:.2g}, "
    if done.step_bias is not None:
        said += f"bias ≤ {done.step_bias:.3g}, acceptance {done.acceptance:.2f}, "
    return scores, time.perf_counter() - start, said + f"reliability {reliable:.2f}"


def summary(
    found: dict[str, tuple[Scores, float, str]], truth: Setting | None, args: argparse.Namespace
) -> pd.DataFrame:
    """A line per method: Pearson over rows with the reference, mean over queries, and the slope of scores on its."""
    best = next(iter(found.values()))[0].values
    told = measured(truth, {name: scores for name, (scores, _, _) in found.items()}, args)
    lines = []
    for name, (scores, seconds, said) in found.items():
        per_query = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(scores.values, best, strict=True)])
        low, high = interval(per_query)
        slope = float((scores.values * best).sum() / (best**2).sum())
        line = {"method": name, "pearson": per_query.mean(), "low": low, "high": high, "slope": slope}
        lines.append({**line, **told.get(name, {}), "seconds": seconds, "remark": said})
    return pd.DataFrame(lines)


def measured(truth: Setting | None, scores: dict[str, Scores], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """LDS over the setting's retrained halves: rank correlation of predicted and measured f."""
    if truth is None:
        return {}
    from influence.truth.lds import lds

    count = args.subsets
    table = lds(scores, truth.halves(count), truth.truth(count, progress=False)).set_index("method")
    names = {"lds": "lds", "low": "lds_low", "high": "lds_high"}
    return {name: {new: float(table.loc[name, old]) for old, new in names.items()} for name in scores}


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % by the bootstrap over queries."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=NAMES, default="digits")
    parser.add_argument("--out", default="runs/benchmarks/llc")
    parser.add_argument("--at", choices=("mode", "trained"), default="mode")
    parser.add_argument("--damping", type=float, default=10.0, help="in mean eigenvalues of a block")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0], help="of nβ, in units of n")
    parser.add_argument("--subsets", type=int, default=60, help="retrained halves")
    parser.add_argument("--quick", action="store_true", help="fewer rows and one temperature")
    parser.add_argument("--lds", action="store_true", help="also retrain on halves (long)")
    parser.add_argument("--rows", type=int, help="at most this many rows")
    parser.add_argument("--sampler", default="ekfac", help="or sgld, rmsprop, sgnht")
    parser.add_argument("--step-size", type=float, help="searched unless given")
    parser.add_argument("--batch-size", type=int, help="default all rows")
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--draws", type=int, default=250)
    parser.add_argument("--thin", type=int, default=4)
    parser.add_argument("--burn-in", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
