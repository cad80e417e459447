"""Influence by covariance along chains, EK-FAC and the exact damped solve at equal damping: Pearson per query,
and LDS.

The settings of `settings.py` (language models on prose and on facts, digits, diabetes). Every method has the
same absolute λ of every block: the exact solve and EK-FAC in G + λ, the chains through γ_b = nβ λ_b. Trained
models and retrainings are kept in `--out` and not made again.

    python benchmarks/llc_influence.py --setting digits --quick
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
from influence.llc.covariance import at_damping, covariance
from influence.llc.run import llc
from influence.truth.exact import dense_gauss_newton, exact_solver
from influence.types import LM, Scores

DAMPING = 0.1
FACTORS = (0.25, 1.0, 4.0)  # of nβ, around n: how far the limit of a quadratic holds


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
    start = time.perf_counter()
    factors = influence.fit_ekfac(lm, rows, labels=chosen.labels, **likelihood)
    plain = ekfac.solver(factors, damping=DAMPING)
    fast = influence.score(lm, rows, queries, plain, per="sequence", **likelihood)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    best, said = reference(lm, chosen, rows, queries, plain, likelihood)
    found = {"reference": (best, time.perf_counter() - start, said), "EK-FAC": (fast, seconds, "")}
    for factor in FACTORS[1:2] if args.quick else FACTORS:
        found[f"covariance, nβ = {factor:g} n"] = by_chains(lm, chosen, rows, queries, plain.lam, factor, args)
    return found


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
    lm: LM, chosen: Setting, rows: Any, queries: Any, lam: Any, factor: float, args: argparse.Namespace
) -> tuple[Scores, float, str]:
    start = time.perf_counter()
    n_beta = factor * len(rows)
    where, gamma = at_damping(lm, lam, n_beta)
    done = llc(
        lm, rows, where=where, n_beta=n_beta, gamma=gamma, sampler=args.sampler, step_size=args.step_size,
        batch_size=args.batch_size or len(rows), chains=args.chains, draws=args.draws, thin=args.thin,
        burn_in=args.burn_in, likelihood=chosen.likelihood, track={"row": rows, "query": queries},
        progress=args.progress,
    )  # fmt: skip
    scores = covariance(done.trace)
    reliable = float(scores["reliability"].mean())
    said = f"λ̂ {done.value:.1f}, R-hat {done.rhat:.2f}, ESS {done.ess:.0f}, ε {done.settings['step_size']:.2g}, "
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

    count = 10 if args.quick else 60
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
    parser.add_argument("--quick", action="store_true", help="fewer rows and one temperature")
    parser.add_argument("--lds", action="store_true", help="also retrain on halves (long)")
    parser.add_argument("--rows", type=int, help="at most this many rows")
    parser.add_argument("--sampler", default="sgnht")
    parser.add_argument("--step-size", type=float)
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
