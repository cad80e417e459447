"""Iterative solvers of (G + λI) x = v beside those of dattri, bergson, pyDVL and curvlinops: accuracy, products, time.

    python benchmarks/solver_peers.py [--peer-python PATH] [--keep FOLDER] [--quick] [--json PATH]

The digits MLP of settings.py (5,962 parameters, seed 0), 1,000 rows, 40 queries, float32, one λ for all blocks:
0.1 × the mean eigenvalue of G, the Gauss-Newton matrix of −log p averaged over the rows (for a classifier, the true
Fisher). Every library gets the same net, rows, right sides (∇ log p of each query) and λ, and gives back x; we take its
residual with the dense float64 matrix, and the Pearson correlation, per query and over the rows, of x·∇log p(row) with
the exact solve.

scale      all losses are means over the rows, so the matrix is a mean everywhere and λ is the same number. bergson:
           loss_reduction="sum" over the one scored token of a row, a mean over rows. dattri's LiSSA takes damping after
           the division by its scaling: damping = λ / scaling. pyDVL's `regularization` is λ, its `dampen` stays 0.
matrix     bergson and curvlinops have the Gauss-Newton product. dattri and pyDVL know the Hessian only (pyDVL's
           GAUSS_NEWTON is the empirical Fisher): they are given the linearised net, whose Hessian is G exactly (matrix
           G), and the net itself (matrix H), where the reference is the dense solve with the Hessian and the same λ.
settings   what a library's documentation or signature gives stands first; `best of the sweep` is the
           setting with the highest Pearson on 4 queries, chosen with the reference in hand: no user could do so.
products   with the matrix of all rows, per query; a product over a batch counts as its share of the rows.
time       seconds that one thread worked (process time) for all queries after a warm-up, best of the rounds, in which
           the libraries take turns (what takes over 10 s is timed once); `fit` is what no query changes (factors).
           bergson solves query by query, so it is measured on the first 10 and its time multiplied.
diverging  each LiSSA once with 10 × the largest stable step: what does the caller learn?
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PEERS = ("ours", "curvlinops", "dattri", "pydvl", "bergson")
HERE = Path(__file__).resolve().parent
MISSING = 3
SWEPT = 4  # queries on which the settings are swept
LONG = 10.0  # seconds; what took longer is timed once
Found = dict[str, Any]


def run_peer(python: str, peer: str, folder: Path, only: list[str] | None, queries: int | None = None) -> Found | None:
    """One process of one library: what it measured; None where it is not installed."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [python, str(HERE / "solver_measure.py"), peer, str(folder)]
    command += ["--queries", str(queries)] if queries else []
    if only is not None:
        (folder / "only.json").write_text(json.dumps(only))
        command += ["--only", str(folder / "only.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == MISSING:
        print(f"{peer}: not installed in {Path(python).name}, left out", file=sys.stderr)
        return None
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise SystemExit(f"{peer} failed with status {done.returncode}; its log is above")
    return json.loads((folder / f"{peer}.json").read_text())


def judged(folder: Path, peer: str, one: Found, truth: Any, problem: Any) -> dict[str, Found]:
    """What a process of this library measured, by method, with the accuracy of every answer."""
    from safetensors.torch import load_file

    solutions = load_file(folder / f"{peer}.safetensors")
    for name, method in one["methods"].items():
        method |= {"peer": peer, "version": one["version"]}
        if name in solutions:
            method |= truth.judge(solutions[name], problem.v.double(), method["matrix"])
    return one["methods"]


def sweep(folder: Path, pythons: dict[str, str], truth: Any, problem: Any) -> tuple[dict[str, Found], list[str]]:
    """Every setting of every library once, on the first queries; and the names of the libraries that are missing."""
    found: dict[str, Found] = {}
    missing = []
    for peer, python in pythons.items():
        print(f"{peer}: every setting on {SWEPT} queries", file=sys.stderr, flush=True)
        one = run_peer(python, peer, folder, None, SWEPT)
        if one is None:
            missing.append(peer)
        else:
            found |= judged(folder, peer, one, truth, problem)
    return found, missing


def chosen(found: dict[str, Found]) -> list[str]:
    """The lines of the table: of every group and matrix the library's own setting and the best of the sweep."""
    lines = []
    for group in dict.fromkeys((one["group"], one["matrix"]) for one in found.values()):
        members = {k: one for k, one in found.items() if (one["group"], one["matrix"]) == group}
        fair = {k: one for k, one in members.items() if not one["diverging"]}
        best = max(fair, key=lambda k: fair[k].get("pearson", -2.0))
        lines += list(dict.fromkeys([*(k for k, one in fair.items() if one["default"]), best]))
    return lines


def measure(
    folder: Path,
    pythons: dict[str, str],
    names: list[str],
    peer_of: dict[str, str],
    truth: Any,
    problem: Any,
    rounds: int,
) -> Iterator[dict[str, Found]]:
    """After every round: the lines of the table on all queries, the libraries in turn, with the best times so far."""
    found: dict[str, Found] = {}
    for number in range(rounds):
        for peer, python in pythons.items():
            mine = [name for name in names if peer_of[name] == peer]
            if number:
                mine = [name for name in mine if found[name].get("seconds", LONG) < LONG]
            if not mine:
                continue
            print(f"{peer}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            again = run_peer(python, peer, folder, mine)
            for name, one in judged(folder, peer, again, truth, problem).items() if again else ():
                if "seconds" in one:
                    one["seconds"] *= one["of"] / one["queries"]
                kept = found.setdefault(name, one | {"rounds": 0})
                kept["rounds"] += 1
                for what in ("seconds", "setup", "wall"):
                    if what in one:
                        kept[what] = min(kept[what], one[what])
        yield {name: found[name] for name in names}


def line(one: Found) -> str:
    setting = one["setting"] + ("" if one["default"] else " (best of the sweep)")
    head = f"{one['group']:24}{setting:52}{one['matrix']:3}"
    if "raised" in one:
        return f"{head}  {one['raised'][:70]}"
    times = f"{one['products']:9.1f}{one['setup']:8.2f}{one['seconds']:9.2f}"
    if not one["finite"]:
        return f"{head}{times}  not finite; says: {heard(one)}"
    interval = f"{one['pearson']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{head}{times}{interval:>24}{one['residual']:10.3g}  {heard(one)[:70]}"


def heard(one: Found) -> str:
    """What the library said of the solve, without the warnings of other things."""
    of_solve = ("iteration", "terminated", "converge", "residual", "nan", "diverge", "curvature")
    return "; ".join(text for text in one["said"] if any(word in text.lower() for word in of_solve))


def table(found: dict[str, Found]) -> str:
    columns = f"{'products':>9}{'fit, s':>8}{'solve, s':>9}{'Pearson [95 %]':>24}{'residual':>10}  says"
    return "\n".join([f"{'':24}{'setting':52}{'':3}{columns}", *(line(one) for one in found.values())])


def divergence(found: dict[str, Found]) -> str:
    """What a caller learns of a step ten times too long."""
    lines = []
    for one in found.values():
        if one["diverging"]:
            said = heard(one)
            if "raised" in one:
                outcome = f"raises {one['raised']}"
            elif not one["finite"]:
                outcome = f"returns NaN or infinity; says: {said or 'nothing'}"
            else:
                outcome = f"returns x with residual {one['residual']:.2g}; says: {said or 'nothing'}"
            lines.append(f"{one['group']:24}{outcome}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has the other libraries")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--keep", type=Path, help="keep the trained model and the dense matrices here")
    parser.add_argument("--rounds", type=int, default=3, help="how often each line of the table is timed")
    parser.add_argument("--quick", action="store_true", help="60 rows, 4 queries, few steps, G only: does it run?")
    parser.add_argument("--json", type=Path, help="write every measurement here as well")
    return parser.parse_args()


def main() -> None:
    from solver_truth import prepare

    given = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        problem, truth = prepare(given.keep or folder / "settings", given.quick)
        problem.save(folder)
        pythons = {peer: sys.executable if peer == "ours" else given.peer_python for peer in given.peers}
        swept, missing = sweep(folder, pythons, truth, problem)
        peer_of = {name: one["peer"] for name, one in swept.items()}
        names = chosen(swept)
        found = {name: swept[name] for name in names}
        system = {"lam": problem.lam, "largest": problem.largest, "negative": truth.negative, "missing": missing}
        rounds = 0 if given.quick else given.rounds
        for found in measure(folder, pythons, names, peer_of, truth, problem, rounds):
            if given.json:
                given.json.write_text(json.dumps({"system": system, "methods": found, "sweep": swept}, indent=1))
    p = problem.v.shape[1]
    print(f"{len(problem.x)} rows, {len(problem.v)} queries, {p} parameters, λ {problem.lam:.3g}", end=", ")
    print(f"largest eigenvalue of G {problem.largest:.3g}")
    for name, count in truth.negative.items():
        print(f"{name} + λI: {count} negative eigenvalues")
    print(f"\n{table(found)}\n\nten times the largest stable step\n{divergence(swept)}")
    if missing:
        print(f"\nnot installed, left out: {', '.join(missing)}")
    if given.json and given.quick:
        given.json.write_text(json.dumps({"system": system, "methods": found, "sweep": swept}, indent=1))


if __name__ == "__main__":
    main()
