"""The main job: from a model, its training text and some completions to scores, tables and a report.

Every stage is a piece of the run's directory, so a killed run goes on from the last whole piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import solving, stages
from influence.cli.config import is_live
from influence.cli.result import Result, shown
from influence.cli.stages import Work
from influence.store import NotARun, open_run, read_manifest

if TYPE_CHECKING:
    from torch import nn

    from influence.types import LM


def run(
    model: str | Path | nn.Module | LM,
    *,
    data: Any,
    queries: Any,
    out: str | Path | None = None,
    blocks: str | Sequence[str] = "all",
    revision: str | None = None,
    tokenizer: Any = None,
    accept_untracked: Sequence[str] = (),
    trust_remote_code: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    length: int = 128,
    pack: bool = True,
    text_column: str = "text",
    split: str = "train",
    errors: str = "strict",
    limit: int | None = None,
    labels: str = "sampled",
    seed: int = 0,
    covariance_rows: float = 1.0,
    splits: int = 1,
    damping: float = 0.1,
    solver: str = "ekfac",
    solver_steps: int | None = None,
    compute_dtype: str | None = None,
    batch_size: int = 32,
    top: int = 10,
    report: bool = True,
    progress: bool = True,
) -> Result:
    """Fit factors, score every training row for every query, and write tables and report into one directory.

    Args:
        model: what `influence.load` takes, or what it returned.
        data: training rows: what `influence.corpus` takes.
        queries: prompts with completions: what `influence.queries` takes.
        out: the run's directory; default runs/ and a name made from the settings, the same for the same settings.
        solver: of the queries' gradients. "ekfac" takes no products with the curvature and is not certified; "accurate"
            is close to the damped solve and certified: conjugate gradients over all rows, preconditioned with EK-FAC.
            "cg", "ekfac-cg", "lissa" and "ekfac-lissa" are certified too; "kfac", "diagonal" and "identity" (the dot
            product of gradients) are there to compare with. Row norms are always EK-FAC's.
        solver_steps: products at most of an iterative solver; default 20 for "accurate" and "ekfac-cg", 50 for "cg",
            100 for "ekfac-lissa", 1000 for "lissa".
        dtype: of the weights; compute_dtype: of activations and products ("bfloat16"), default the model's.
        top: rows for and against each query that are kept with their text and tokens.
        report: write report.html (needs the extra `report`).

    The other arguments are those of `influence.load`, `corpus`, `fit_ekfac` and `score`.

    Raises:
        influence.store.OtherSettings: where `out` holds a run of other settings, model, rows or queries.
        influence.store.WriteFailed, Busy, NotARun: for a directory that cannot be used.
        ValueError: for whatever the stages refuse.
    """
    asked = {name: value for name, value in locals().items() if name not in ("out", "report", "progress")}
    asked |= solving.choice(solver, solver_steps)
    with _work(out, asked, progress) as work:
        return _scored(work, report)


def fit(model: Any, *, data: Any, out: str | Path | None = None, progress: bool = True, **settings: Any) -> Result:
    """The first half of `run`: factors of a model on its training rows, without queries; settings as there."""
    known = _defaults()
    if unknown := set(settings) - set(known):
        raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    with _work(out, {"model": model, "data": data, **known, **settings}, progress) as work:
        lm = stages.load_model(work)
        rows = stages.load_rows(work, lm)
        stages.keep_settings(work)
        stages.fit(work, lm, rows)
        folder = work.run.root
    return Result(folder, None, f"influence score {shown(folder)} --queries QUERIES")


def score(
    run: str | Path,
    *,
    queries: Any,
    out: str | Path | None = None,
    solver: str | None = None,
    solver_steps: int | None = None,
    top: int = 10,
    report: bool = True,
    progress: bool = True,
    **live: Any,
) -> Result:
    """The second half of `run` for a fitted run: scores, tables and report for some queries.

    They go into the same directory, or with `out` into another one, which takes the factors over: so one fit serves
    many sets of queries, and several solvers. `solver` is by default the run's own, "ekfac" after a mere fit.
    Where the run was made from live objects (model, data, tokenizer), pass them once more.
    """
    had = read_manifest(run)["settings"]
    missing = [name for name in ("model", "data", "tokenizer") if is_live(had.get(name)) and name not in live]
    if missing:
        raise NotARun(f"{run} was made from live objects; pass them once more: {', '.join(missing)}")
    asked = {**had, **live, "queries": queries, "top": top, **_solver(had, solver, solver_steps)}
    with _work(out or run, asked, progress) as work:
        stages.take_factors(work, Path(run))
        return _scored(work, report)


def write_again(folder: str | Path) -> Result:
    """The report of a finished run of any command from what is stored; no model is opened."""
    from influence.cli import coefficients, intervening, probing, sparse

    with open_run(folder, None) as opened:
        page = stages.report(Work(opened, False, {}, [stages.REPORT]))
        pieces = opened.manifest["pieces"]
    for room in (probing, sparse, intervening, coefficients):
        if room.TABLE in pieces:
            return room.again(opened.root, page)
    return Result(opened.root, page, _more(opened.root))


def _scored(work: Work, report: bool) -> Result:
    lm = stages.load_model(work)
    queries = stages.load_queries(work, lm)
    rows = stages.load_rows(work, lm)
    stages.keep_settings(work)
    factors = stages.fit(work, lm, rows)
    solver = stages.solver(work, lm, rows, queries, factors)
    scores = stages.score(work, lm, rows, queries, factors, solver)
    stages.tabulate(work, lm, rows, queries, scores, solver)
    page = stages.report(work) if report else None
    return Result(work.run.root, page, _more(work.run.root))


@contextlib.contextmanager
def _work(out: str | Path | None, asked: dict[str, Any], progress: bool) -> Iterator[Work]:
    settings = {name: named(value) for name, value in asked.items()}
    with open_run(out or place(settings), settings) as opened:
        work = Work(opened, progress, asked)
        stages.versions(work)
        yield work


def _defaults() -> dict[str, Any]:
    """The settings of a fit with their defaults, as `run` has them."""
    own = ("model", "data", "queries", "out", "solver", "solver_steps", "top", "report", "progress")
    return {name: p.default for name, p in inspect.signature(run).parameters.items() if name not in own}


def _solver(had: dict[str, Any], solver: str | None, steps: int | None) -> dict[str, Any]:
    """The solver asked for, or that of the run; its steps are the run's where the solver is and none were given."""
    own = had.get("solver", "ekfac")
    if steps is None and solver in (None, own):
        steps = had.get("solver_steps")
    return solving.choice(own if solver is None else solver, steps)


def named(value: Any) -> Any:
    """A setting as it can be recorded: plain values as they are, live objects by their type in angle brackets."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return list(value)
    return f"<{type(value).__name__}>"


def place(settings: dict[str, Any]) -> Path:
    """runs/NAME for these settings; the same settings give the same name."""
    model = re.sub(r"[^A-Za-z0-9]+", "-", str(settings["model"]).rstrip("/").rpartition("/")[2]).strip("-")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{model or 'model'}-{digest[:8]}"


def _more(folder: Path) -> str:
    return f"influence score {shown(folder)} --queries QUERIES --out OTHER"
