"""`influence truth`: how far the stored scores of a finished run can be trusted, measured without retraining.

Everything is a piece of the run's directory, so a killed check goes on; the run's own pieces are only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import comparing, measuring, parts, show, stages
from influence.cli.config import is_live
from influence.cli.result import Result, shown
from influence.cli.stages import Work
from influence.store import NotARun, Run, open_run, read_manifest

if TYPE_CHECKING:
    import pandas as pd

UNSETTLED = 0.25
HEADS = {"solve": "certified solve", "pbrf": "PBRF", "patch": "tail-patch"}


@dataclass(frozen=True)
class Checked:
    """What was measured on a run, one line per method."""

    result: Result

    @property
    def table(self) -> pd.DataFrame:
        """`measure, method, value, low, high, n_queries, n_rows`: mean correlations with 95 % intervals."""
        return self.result.table("truth")

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """One line per method, one column per measure that was taken."""
        frame = self.table
        taken = [name for name in HEADS if (frame["measure"] == name).any()]
        cells = {(one["measure"], one["method"]): _cell(one) for one in frame.to_dict("records")}
        methods = list(dict.fromkeys(frame["method"]))
        head = ["method", *(HEADS[name] for name in taken)]
        return head, [[method, *(cells.get((name, method), "") for name in taken)] for method in methods]

    def __str__(self) -> str:
        told = self.result.manifest["truth"]
        lines = [show.table(*self.summary()), ""]
        lines.append(
            "Pearson with the certified solve and with PBRF, Spearman with tail-patch; mean over queries, 95 %"
        )
        lines += self._unsettled()
        lines += [f"{HEADS[name]} left out: {show.shorten(why, 160)}" for name, why in told["left_out"].items()]
        lines.append(f"run      {shown(self.result.folder)}")
        if self.result.report is not None:
            lines.append(f"report   {shown(self.result.report)}#certain")
        return "\n".join([*lines, f"next     {self.result.next}"])

    __repr__ = __str__

    def _unsettled(self) -> list[str]:
        """A line where the certified solve itself still moved; none where it has settled."""
        pieces = self.result.manifest["pieces"]
        if "tables/truth_certificate.parquet" not in pieces:
            return []
        moved = float(self.result.table("truth_certificate")["change"].max())
        said = f"the certified solve's own scores changed by up to {moved:.0%} over its last steps"
        return [f"{said}; give more --products" if moved > UNSETTLED else said]

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))


def truth_of(
    run: str | Path,
    *,
    queries: int = 8,
    products: int = 20,
    rows: int = 256,
    patch_rows: int = 32,
    seed: int = 0,
    report: bool = True,
    progress: bool = True,
    **live: Any,
) -> Checked:
    """Compare the stored scores of a finished run with what they estimate, beside the baselines.

    Three measures, each a correlation per query, averaged over queries with a bootstrap interval: Pearson with the
    certified damped solve, over all rows; Pearson with the proximal Bregman response (Bae et al. 2022) of the same
    damping, by optimisation, over sampled rows; Spearman with the change of log p after one small gradient step on a
    row (tail-patch), over rows of which half are those that the scores put first.

    Args:
        run: directory of a run that `influence.run` or `influence score` finished.
        queries: how many of its queries, chosen evenly.
        products: of EK-FAC-preconditioned conjugate gradients; 0 leaves this measure out.
        rows: sampled for PBRF; 0 leaves it out. It takes a hundred passes or more over all rows for each query.
        patch_rows: steps for each query; 0 leaves tail-patch out.
        seed: of the rows sampled, random baseline, and bootstrap.
        live: where the run was made from live objects (model, data, tokenizer, queries), those once more.

    Raises:
        NotARun: for a directory without finished scores.
        influence.store.OtherSettings: where model, rows or queries are not those of the run any more.
        ValueError: for numbers out of range.
    """
    asked = {"queries": queries, "products": products, "rows": rows, "patch_rows": patch_rows, "seed": seed}
    _require(asked)
    had = _settings(run, live)
    with open_run(run, None) as opened:
        work = Work(opened, progress, {**had, **live})
        _begin(opened, asked)
        if opened.piece("tables/truth.parquet") is None:
            _measure(work, asked)
        page = stages.report(work) if report else None
        folder = opened.root
    return Checked(Result(folder, page, _next(folder, had.get("solver", "ekfac"))))


def _measure(work: Work, asked: dict[str, int]) -> None:
    case = measuring.case(work, asked)
    left_out: dict[str, str] = {}
    found = {}
    for name, take in measuring.MEASURES.items():
        taken = take(work, case, asked)
        if isinstance(taken, str):
            left_out[name] = taken
        else:
            found[name] = taken
    if not found:
        reasons = "; ".join(f"{HEADS[name]}: {why}" for name, why in left_out.items())
        raise ValueError(f"nothing could be measured on this run: {reasons}")
    methods = measuring.methods(work, case, asked["seed"])
    each = stages.ensure_table(work, "truth_queries", lambda: comparing.each(case.query, case.row, found, methods))
    told = work.run.manifest["truth"]
    work.run.describe(truth={**told, "left_out": left_out})
    stages.ensure_table(work, "truth", lambda: comparing.means(each, asked["seed"]))
    parts.forget(work.run, measuring.PARTS)


def _begin(opened: Run, asked: dict[str, int]) -> None:
    """Take up a check of the same settings; one of other settings is measured anew."""
    had = opened.manifest.get("truth", {}).get("settings")
    if had != asked:
        for name in _pieces(opened):
            opened.drop(name)
        opened.describe(truth={"settings": asked, "left_out": {}})


def _pieces(opened: Run) -> Iterator[str]:
    names = list(opened.manifest["pieces"])
    yield from (name for name in names if name.startswith(("tables/truth", measuring.PARTS)))


def _settings(run: str | Path, live: dict[str, Any]) -> dict[str, Any]:
    manifest = read_manifest(run)
    had: dict[str, Any] = manifest["settings"]
    if stages.SCORES not in manifest["pieces"] or stages.FACTORS not in manifest["pieces"]:
        raise NotARun(f"the run in {run} has no scores yet; finish it first: influence score {run} --queries QUERIES")
    wanted = ("model", "data", "tokenizer", "queries")
    missing = [name for name in wanted if is_live(had.get(name)) and name not in live]
    if missing:
        raise NotARun(f"{run} was made from live objects; pass them once more: {', '.join(missing)}")
    if unknown := set(live) - set(wanted):
        raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}; known here: {', '.join(wanted)}")
    return had


def _require(asked: dict[str, int]) -> None:
    least = {"queries": 1, "products": 0, "rows": 0, "patch_rows": 0}
    for name, value in least.items():
        if asked[name] < value:
            raise ValueError(f"{name} is {asked[name]}; it must be at least {value}")
    if not (asked["products"] or asked["rows"] or asked["patch_rows"]):
        raise ValueError("products, rows and patch_rows are all 0, so nothing is left to measure; leave one of them in")
    for name in ("rows", "patch_rows"):
        if 0 < asked[name] < 3:
            raise ValueError(f"{name} is {asked[name]}; a correlation needs at least 3, and 0 leaves the measure out")


def _cell(line: dict[str, Any]) -> str:
    value, low, high = line["value"], line["low"], line["high"]
    if value != value:
        return "–"
    return f"{value:.2f}" if low != low else f"{value:.2f} ({low:.2f} – {high:.2f})"


def _next(folder: Path, solver: str) -> str:
    if solver == "accurate":
        return f"influence score {shown(folder)} --queries QUERIES --out OTHER"
    return f"influence score {shown(folder)} --queries QUERIES --solver accurate --out OTHER"
