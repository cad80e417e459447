"""One library in a process of its own: `python solver_measure.py PEER FOLDER`, run by solver_peers.py.

Reads the problem in FOLDER; writes FOLDER/PEER.json (seconds, products, what was said) and FOLDER/PEER.safetensors (x).
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from solver_jobs import Method, Problem
from torch import Tensor

MISSING = 3
FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def run(problem: Problem, method: Method) -> tuple[dict[str, Any], Tensor | None]:
    """Seconds of the process after a short warm-up, products, and what the library said; x where it came back."""
    found: dict[str, Any] = {"group": method.group, "setting": method.setting, "matrix": method.matrix}
    found |= {"default": method.default, "diverging": method.diverging, "steps": method.steps}
    heard, handler = listen()
    try:
        with warnings.catch_warnings(record=True) as warned, torch.random.fork_rng():
            torch.manual_seed(0)
            warnings.simplefilter("always")
            if method.setup is None and not method.diverging:
                method.solve(problem.v[:2].clone(), min(2, method.steps), None)
            warned.clear()
            heard.truncate(0)
            heard.seek(0)
            start, wall = time.process_time(), time.perf_counter()
            made = method.setup() if method.setup else None
            ready = time.process_time()
            x, products = method.solve(problem.v.clone(), method.steps, made)
            found |= {"setup": ready - start, "seconds": time.process_time() - ready, "products": products}
            found["wall"] = time.perf_counter() - wall
    except FAILURES as error:  # a finding, shown in the table
        found["raised"] = f"{type(error).__name__}: {error}"[:300]
        x = None
    finally:
        logging.getLogger().removeHandler(handler)
    said = [str(one.message) for one in warned if not issubclass(one.category, DeprecationWarning | FutureWarning)]
    found["said"] = sorted({line[:200] for line in [*said, *heard.getvalue().splitlines()] if line})[:5]
    return found, x


def listen() -> tuple[io.StringIO, logging.Handler]:
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    return heard, handler


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=Path, help="a file with the names of the methods to run")
    parser.add_argument("--queries", type=int, help="the first so many only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        module = importlib.import_module(f"solver_tools.with_{given.peer}")
    except ModuleNotFoundError as error:
        print(f"{given.peer}: {error}", file=sys.stderr)
        raise SystemExit(MISSING) from error
    problem = Problem.read(given.folder)
    total = len(problem.v)
    problem = replace(problem, v=problem.v[: given.queries or getattr(module, "ONE_BY_ONE", None)])
    only = set(json.loads(given.only.read_text())) if given.only else None
    found, solutions = {}, {}
    for method in module.methods(problem):
        name = f"{method.group} | {method.setting} | {method.matrix}"
        if method.matrix not in problem.matrices or (only is not None and name not in only):
            continue
        print(name, file=sys.stderr, flush=True)
        found[name], x = run(problem, method)
        found[name] |= {"queries": len(problem.v), "of": total}
        if x is not None:
            solutions[name] = x.detach().to(torch.float64).contiguous()
    report = {"version": module.version(), "torch": torch.__version__, "methods": found}
    (given.folder / f"{given.peer}.json").write_text(json.dumps(report))
    save_file(solutions, given.folder / f"{given.peer}.safetensors")


if __name__ == "__main__":
    main()
