"""The stages of a run, each over explicit state: what is whole in the run's directory is read, the rest computed."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from influence.cli import fingerprint, solving
from influence.cli.config import to_toml
from influence.cli.packages import packages
from influence.store import OtherSettings, Run, read_manifest
from influence.store.manifest import difference

if TYPE_CHECKING:
    import pandas as pd

    import ekfac
    from ekfac import EKFACSolver
    from influence.cli.solving import Solved
    from influence.types import LM, Rows, Scores, Solution

    Solvers = Callable[[], EKFACSolver | Solved]

T = TypeVar("T")
OPENED = ("blocks", "revision", "accept_untracked", "dtype", "device", "trust_remote_code")
READ = ("length", "pack", "text_column", "split", "errors", "limit")
FITTED = ("labels", "seed", "batch_size", "covariance_rows", "splits")
FACTORS, SCORES, REPORT = "factors/ekfac.safetensors", "scores.zarr", "report.html"
DIAGONAL, SOLVED = "factors/diagonal.safetensors", "parts/solved.safetensors"
log = logging.getLogger("influence")


@dataclass
class Work:
    """A run in progress: `given` are the settings as they came, live objects too; `fresh` the pieces now written."""

    run: Run
    progress: bool
    given: dict[str, Any]
    fresh: list[str] = field(default_factory=list)

    @property
    def asked(self) -> dict[str, Any]:
        """The settings as the run has them."""
        found: dict[str, Any] = self.run.manifest["settings"]
        return found

    def settings(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Some of the settings, as keyword arguments."""
        return {name: self.asked[name] for name in names}


@contextlib.contextmanager
def stage(work: Work, name: str) -> Iterator[None]:
    """Log when a stage starts and how long it took; keep the warnings that it gave."""
    log.info("%s …", name)
    work.run.log(name, "start")
    start, said = time.perf_counter(), []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                said.append(str(message))
            show(message, category, *where, **more)

        warnings.showwarning = keep
        yield
    if said:
        work.run.warn(*said)
    seconds = time.perf_counter() - start
    work.run.log(name, "done", seconds=round(seconds, 3))
    log.info("%s done in %.1f s", name, seconds)


def ensure(work: Work, name: str, piece: str, compute: Callable[[], T], save: Callable[[T, Path], object]) -> Path:
    """The path of a piece: as it is where it is whole, computed and saved as the stage `name` where not."""
    path = work.run.piece(piece)
    if path is not None:
        work.run.log(name, "resumed", piece=piece)
        log.info("%s: %s is there", name, piece)
        return path
    with stage(work, name):
        found = compute()
        path = work.run.write(piece, lambda temporary: save(found, temporary))
    work.fresh.append(piece)
    return path


def ensure_table(work: Work, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table of the run, read or computed and saved."""
    import pandas

    piece = f"tables/{name}.parquet"
    path = work.run.piece(piece)
    if path is None:
        frame = compute()
        path = work.run.write(piece, lambda temporary: frame.to_parquet(temporary, index=False))
        work.fresh.append(piece)
    return pandas.read_parquet(path)


def keep_settings(work: Work) -> None:
    """The settings as a file that `influence run --config` takes."""
    text = "# influence run --config config.toml does the same again\n" + to_toml(work.asked)
    path = work.run.piece("config.toml")
    if path is None or path.read_text(encoding="utf-8") != text:
        work.run.write("config.toml", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def take_factors(work: Work, folder: Path) -> None:
    """Take over the factors of another run; `fit` reads them only if they are whole."""
    source = folder.resolve() / FACTORS
    if folder.resolve() == work.run.root or work.run.piece(FACTORS) is not None or not source.is_file():
        return
    work.run.identify(**{name: read_manifest(folder)["hashes"][name] for name in ("model", "tokenizer", "rows")})
    work.run.write(FACTORS, lambda temporary: shutil.copyfile(source, temporary))


def versions(work: Work) -> None:
    """Record the versions, with a warning where the run was begun with others."""
    now = packages()
    before = work.run.manifest["versions"]
    changed = [f"{k} {before[k]} → {v}" for k, v in now.items() if before.get(k, v) != v]
    if changed:
        work.run.warn(f"begun with other versions ({', '.join(changed)}): earlier pieces were made by those")
    work.run.describe(versions={**now, **before})


def load_model(work: Work) -> LM:
    """Open the model as the settings say; record what it is and how much of it is tracked."""
    from influence.model.load import load
    from influence.types import LM

    with stage(work, "model"):
        lm = work.given["model"]
        if not isinstance(lm, LM):
            lm = load(lm, tokenizer=work.given["tokenizer"], **work.settings(OPENED))
        work.run.identify(model=fingerprint.of_model(lm.net), tokenizer=fingerprint.of_tokenizer(lm.tokenizer))
        share = lm.tracked
        found = {"of_all": share.of_all, "of_selected": share.of_selected, "untracked": list(share.untracked)}
        work.run.describe(tracked=found)
        parameters = sum(p.numel() for p in lm.net.parameters())
        work.run.note(model=work.asked["model"], parameters=parameters, n_layers=lm.n_layers, n_blocks=len(lm.blocks))
        log.info("  %s", lm)
    return lm


def load_rows(work: Work, lm: LM) -> Rows:
    """The training rows, identified by their hash and kept as a table."""
    from influence.cli import tables
    from influence.data.corpus import corpus

    with stage(work, "rows"):
        rows = corpus(work.given["data"], lm, **work.settings(READ))
        work.run.identify(rows=fingerprint.of_rows(rows))
        frame = ensure_table(work, "rows", lambda: tables.rows(rows))
        tokens = int(frame["n_tokens"].sum())
        work.run.note(corpus=work.asked["data"], n_rows=len(rows), n_tokens=tokens)
        log.info("  %d rows, %d tokens", len(rows), tokens)
    return rows


def load_queries(work: Work, lm: LM) -> Rows:
    """The queries, identified by their hash."""
    from influence.data.queries import queries

    with stage(work, "queries"):
        found = queries(work.given["queries"], lm)
        work.run.identify(queries=fingerprint.of_rows(found))
        work.run.note(n_queries=len(found))
        log.info("  %d queries", len(found))
    return found


def fit(work: Work, lm: LM, rows: Rows) -> ekfac.Factors:
    """The factors: read where they are whole, fitted and saved where not."""
    import ekfac
    from influence.attribution.passes import device_of
    from influence.cli import fitting, parts, tables

    asked = work.asked

    def compute() -> ekfac.Factors:
        options = {"dtype": asked["compute_dtype"], "progress": work.progress, **work.settings(FITTED)}
        return fitting.fitted(work.run, lm, rows, options)

    factors = ekfac.load(ensure(work, "factors", FACTORS, compute, ekfac.save), device=device_of(lm))
    parts.forget(work.run, "parts/covariance", "parts/eigenvalues")
    count = max((one.count for one in factors.values()), default=0)
    work.run.note(labels=asked["labels"], seed=asked["seed"], damping=asked["damping"], factor_rows=count)
    ensure_table(work, "blocks", lambda: tables.blocks(lm, factors, asked["damping"]))
    return factors


def solver(work: Work, lm: LM, rows: Rows, queries: Rows, factors: ekfac.Factors) -> Solvers:
    """What gives the solver asked for; an iterative one solves all queries once, as a piece that lasts till the end."""
    import ekfac
    from influence.attribution.fit import fit_diagonal
    from influence.attribution.gradients import query_gradients
    from influence.attribution.passes import compute_dtype, device_of

    asked, device = work.asked, device_of(lm)
    options = {"batch_size": asked["batch_size"], "dtype": asked["compute_dtype"], "progress": work.progress}
    name = asked["solver"]

    def diagonal() -> ekfac.Factors:
        own = {**options, **work.settings(("labels", "seed"))}
        path = ensure(work, "diagonal", DIAGONAL, lambda: fit_diagonal(lm, rows, **own), ekfac.save)
        return ekfac.load(path, device=device)

    def solution() -> Solution:
        plain = ekfac.solver(factors, asked["damping"])
        own = {**options, "seed": asked["seed"]}
        kind = compute_dtype(asked["compute_dtype"])
        grad, _ = query_gradients(lm, queries, batch_size=asked["batch_size"], dtype=kind, progress=work.progress)
        return solving.iterative(name, asked["solver_steps"], lm, rows, plain, own)(grad)

    @functools.cache
    def found() -> EKFACSolver | Solved:
        if name in solving.DIRECT:
            return solving.direct(name, factors, asked["damping"], diagonal)
        path = ensure(work, "solve", SOLVED, solution, solving.save)
        return solving.Solved(name, asked["damping"], solving.load(path, device))

    return found


def score(work: Work, lm: LM, rows: Rows, queries: Rows, factors: ekfac.Factors, solver: Solvers) -> Scores:
    """Scores (query, row, layer) in nats with the rows' norms, computed part by part so that a kill loses one part."""
    import ekfac
    from influence.cli import parts

    asked = work.asked
    norms = ekfac.solver(factors, asked["damping"])

    def compute() -> Scores:
        options = {"batch_size": asked["batch_size"], "dtype": asked["compute_dtype"], "progress": work.progress}
        return parts.scored(work.run, lm, rows, queries, solver(), norms, options).assign_attrs(asked=asked["solver"])

    found = parts.from_zarr(ensure(work, "scores", SCORES, compute, parts.to_zarr))
    had = found.attrs.get("asked", "ekfac")
    if had != asked["solver"]:
        raise OtherSettings(difference(work.run.root, {"solver": (had, asked["solver"])}, "was asked with"))
    parts.forget(work.run, "parts/scores")
    if (told := solving.told(found, asked["solver"])) is not None:
        ensure_table(work, "certificate", lambda: solving.certificate(found))
        work.run.describe(certificate=told)
    return found


def tabulate(work: Work, lm: LM, rows: Rows, queries: Rows, scores: Scores, solver: Solvers) -> None:
    """The tables that the report and the command read: queries, top rows, their tokens, layers, tails."""
    from influence.analysis import layers, tail, tail_points
    from influence.cli import parts, tables

    asked = work.asked
    with stage(work, "tables"):
        ensure_table(work, "queries", lambda: tables.queries(queries, scores))
        best = ensure_table(work, "top", lambda: tables.top_rows(scores, rows, asked["top"]))
        ensure_table(work, "layers", lambda: layers(scores))
        ensure_table(work, "tails", lambda: tail(scores, compare=tables.ALTERNATIVES, seed=asked["seed"]))
        ensure_table(work, "tail_points", lambda: tail_points(scores))
    with stage(work, "tokens"):
        options = {"batch_size": asked["batch_size"], "dtype": asked["compute_dtype"]}
        ensure_table(work, "tokens", lambda: tables.tokens(lm, rows, queries, solver(), best, options))
    parts.forget(work.run, SOLVED)


def report(work: Work) -> Path | None:
    """The report, written anew where anything it shows was; None where the parts to draw it are not installed."""
    from influence.report.page import write_report

    if not work.fresh and (path := work.run.piece(REPORT)) is not None:
        return path
    work.run.drop(REPORT)
    with stage(work, "report"):
        try:
            return work.run.write(
                REPORT, lambda temporary: write_report(work.run.root, temporary, progress=work.progress)
            )
        except ImportError as error:
            warnings.warn(f"no report: {error}", stacklevel=2)
            return None
