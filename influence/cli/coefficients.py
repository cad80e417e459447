"""`influence.run_llc`: local learning coefficients of a model's parts, at one or several checkpoints, in a run."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import concepts, parts, show, stages
from influence.cli.result import Result, shown
from influence.cli.stages import Work
from influence.store import NotARun, read_manifest

if TYPE_CHECKING:
    import pandas

    from influence.types import LM, Rows

CHAINS = ("sampler", "n_beta", "gamma", "batch_size", "chains", "draws", "thin", "burn_in", "seed", "unit")
PARTS = "parts/llc"
TABLE = "tables/llc.parquet"
PRINTED = 12  # lines of the table in the printout, which has 20 lines at most


@dataclass(frozen=True)
class Coefficients(Result):
    """A run's directory with coefficients in the table `llc`, draws in `llc_draws`, and with several checkpoints
    clusters and stage borders in `llc_curves`."""

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """A line per part (and checkpoint): the estimate with its certificate."""
        from influence.llc.notes import kinds

        frame = self.table("llc")
        several = frame["step"].nunique() > 1
        head = [*(["step"] if several else []), "part", "λ̂", "± MC", "R-hat", "ESS", "kept", "bias ≤", "notes"]
        rows = []
        for one in frame.to_dict("records"):
            told = [show.number(one[name], 3) for name in ("value", "mcse", "rhat", "ess")]
            told += [f"{one['kept']:.0f}/{one['asked_chains']:.0f}", show.number(one["step_bias"], 2)]
            rows.append(
                [*([f"{one['step']:g}"] if several else []), one["part"], *told, ", ".join(kinds(one["notes"]))]
            )
        return head, rows

    def __str__(self) -> str:
        one = self.table("llc").iloc[-1]
        head, rows = self.summary()
        lines = show.table(head, rows[:PRINTED]).splitlines()
        if len(rows) > PRINTED:
            lines.append(f"… {len(rows) - PRINTED} more in {shown(self.folder)}/tables")
        lines.append(
            f"nβ {one['n_beta']:.4g}, γ {one['gamma']:.4g}, {one['sampler']}: a damped effective dimension; "
            "full notes in tables/llc.parquet"
        )
        lines.append(f"run      {shown(self.folder)}")
        if self.report is not None:
            lines.append(f"report   {shown(self.report)}#llc")
        return "\n".join([*lines, f"next     {self.next}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return str(self.table("llc").to_html(index=False, border=0))


def run_llc(
    model: Any,
    *,
    data: Any,
    out: str | Path | None = None,
    where: Sequence[str] = ("all",),
    checkpoints: Sequence[str] = (),
    revision: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    length: int = 128,
    pack: bool = True,
    text_column: str = "text",
    split: str = "train",
    errors: str = "strict",
    limit: int | None = None,
    unit: str = "sequence",
    sampler: str = "sgld",
    step_size: float | None = None,
    n_beta: float | None = None,
    gamma: float = 100.0,
    batch_size: int = 32,
    chains: int = 4,
    draws: int = 200,
    thin: int = 5,
    burn_in: int = 500,
    seed: int = 0,
    report: bool = True,
    progress: bool = True,
) -> Coefficients:
    """`influence.llc` for several parts and checkpoints of a model, in one directory; a second call goes on.

    Args:
        data: text for the loss, as in `influence.corpus`.
        where: what moves, one coefficient each: "all", "heads" for each head, "layers" for each sub-block, or names as
            in `influence.llc`.
        checkpoints: earlier states: folders, revisions of the hub model, or a training folder for all in it. The last
            number in a name is its step. A part has one step size at all of them, that found at `model` itself.
        report: write report.html (needs the extra `report`).

    The other arguments are those of `influence.load`, `influence.corpus` and `influence.llc`.

    Raises:
        influence.store.OtherSettings: where `out` holds a run of other settings, model or data.
        ValueError: for whatever these functions refuse.
    """
    asked = dict(locals())
    with concepts.begun("llc", asked, progress) as work:
        lm = concepts.open_model(work)
        rows = stages.load_rows(work, lm)
        concepts.keep_settings(work)
        names = _names(lm, work.asked["where"])
        if not all(work.run.piece(f"tables/{name}.parquet") for name in _tables(work)):
            _tabulate(work, list(_measured(work, lm, rows, names)))
        page = stages.report(work) if report else None
        return Coefficients(work.run.root, page, _next(work.asked))


def again(folder: Path, page: Path | None) -> Coefficients:
    """The result of a finished run."""
    manifest = read_manifest(folder)
    if TABLE not in manifest["pieces"]:
        raise NotARun(f"the run in {folder} has no coefficients yet; finish it: {manifest.get('command')}")
    return Coefficients(folder, page, _next(manifest["settings"]))


def _tables(work: Work) -> list[str]:
    return ["llc", "llc_draws", *(["llc_curves"] if work.asked["checkpoints"] else [])]


def _names(lm: LM, where: Sequence[str]) -> list[str]:
    from influence.llc.where import heads, layers

    found: list[str] = []
    for name in where:
        found += heads(lm) if name == "heads" else layers(lm) if name == "layers" else [name]
    if not found:
        raise ValueError("where names no part; give all, heads, layers or names such as 'layer 0 head 1'")
    return list(dict.fromkeys(found))


def _states(work: Work) -> list[tuple[float, str | None]]:
    """(step, folder or revision), the model itself last with None."""
    found: list[tuple[float, str]] = []
    for given in work.asked["checkpoints"]:
        inside = sorted((Path(given) / "steps").glob("step-*"))
        found += [(_step(one.name), str(one)) for one in inside] if inside else [(_step(given), given)]
    last = max((step for step, _ in found), default=-1.0)
    return [*sorted(found), (last + 1 if found else 0.0, None)]


def _step(name: str) -> float:
    numbers = re.findall(r"\d+", Path(name).name)
    if not numbers:
        raise ValueError(f"the checkpoint {name!r} has no number in its name; its last number is taken as its step")
    return float(numbers[-1])


def _measured(work: Work, lm: LM, rows: Rows, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What every part has at every state, the last state first, whose step sizes the others take."""
    sizes: dict[str, float | None] = dict.fromkeys(names, work.asked["step_size"])
    for number, (step, state) in enumerate(reversed(_states(work))):
        opened: list[LM] = [lm] if state is None else []
        for place, name in enumerate(names):
            piece = concepts.piece(f"{PARTS}-{number:03d}-", place, name)

            def compute(state: str | None = state, opened: list[LM] = opened, name: str = name) -> dict[str, Any]:
                if not opened:
                    opened.append(_open(work, str(state)))
                return _one(work, opened[0], rows, name, sizes[name])

            path = stages.ensure(work, f"{name} at {step:g}", piece, compute, concepts.save_json)
            found = concepts.load_json(path)
            sizes[name] = found["line"]["step_size"]
            yield {**found, "step": step}


def _open(work: Work, state: str) -> LM:
    from influence.model.load import load

    asked = work.settings(("trust_remote_code", "dtype", "device"))
    if Path(state).is_dir():
        return load(state, accept_untracked=("*",), **asked)
    return load(work.given["model"], revision=state, accept_untracked=("*",), **asked)


def _one(work: Work, lm: LM, rows: Rows, name: str, step_size: float | None) -> dict[str, Any]:
    """The line of a table, and the draws nβ(L − L*) by chain; a withheld estimate is a line without a value."""
    from influence.llc.estimate import Withheld
    from influence.llc.run import llc

    options = {**work.settings(CHAINS), "step_size": step_size, "progress": work.progress}
    try:
        found = llc(lm, rows, where=name, **options)
        line, trace = found.frame().drop(columns="where").iloc[0].to_dict(), found.trace
    except Withheld as error:
        trace, plan = error.trace, error.trace.plan
        line = {"value": None, "step_size": plan.step_size, "n_beta": plan.n_beta, "gamma": work.asked["gamma"]}
        line |= {"kept": int(trace.kept.sum()), "asked_chains": plan.chains, "sampler": plan.sampler.name}
        line |= {"notes": str(error)}
    draws = [[_plain(value) for value in chain] for chain in (trace.plan.n_beta * trace.excess).tolist()]
    line = {key: _plain(value) for key, value in {"part": name, **line}.items()}
    return {"line": line, "draws": draws, "kept": trace.kept.tolist()}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tabulate(work: Work, found: Sequence[dict[str, Any]]) -> None:
    import pandas

    with stages.stage(work, "tables"):
        order = sorted(range(len(found)), key=lambda k: found[k]["step"])
        lines = [{"step": found[k]["step"], **found[k]["line"]} for k in order]
        table = stages.ensure_table(work, "llc", lambda: _numbers(pandas.DataFrame(lines)))
        draws = [
            {"step": found[k]["step"], "part": found[k]["line"]["part"], "chain": chain, "draw": draw, "energy": value,
             "kept": found[k]["kept"][chain]}
            for k in order
            for chain, values in enumerate(found[k]["draws"])
            for draw, value in enumerate(values)
        ]  # fmt: skip
        stages.ensure_table(work, "llc_draws", lambda: pandas.DataFrame(draws).astype({"energy": float}))
        if table["step"].nunique() > 1:
            stages.ensure_table(work, "llc_curves", lambda: _curves(table))
    parts.forget(work.run, PARTS)


def _numbers(frame: pandas.DataFrame) -> pandas.DataFrame:
    for name in ("value", "mcse", "rhat", "ess", "ess_tail", "step_bias", "acceptance", "start", "used"):
        frame[name] = frame[name].astype(float) if name in frame else float("nan")
    return frame


def _curves(table: pandas.DataFrame) -> pandas.DataFrame:
    """Cluster and stage borders of every part's curve; none where a value is missing or there are too few."""
    import pandas

    from influence.llc.sweep import SHORTEST, clusters, curves, stages

    found = curves(table)
    whole = found.dropna()
    labels = clusters(whole) if len(whole) >= 3 else pandas.Series(dtype=float)
    errors = curves(table, "mcse")
    lines = []
    for part, values in found.iterrows():
        fine = values.notna().all() and len(values) >= 2 * SHORTEST and (errors.loc[part] > 0).all()
        turns = stages(list(values.index), values.tolist(), errors.loc[part].tolist()) if fine else []
        lines.append({"part": part, "cluster": labels.get(part), "borders": turns})
    frame = pandas.DataFrame(lines)
    frame["silhouette"] = labels.attrs.get("silhouette")
    return frame


def _next(asked: dict[str, Any]) -> str:
    if "heads" not in asked["where"]:
        return shlex.join(["influence", "llc", str(asked["model"]), "--data", str(asked["data"]), "--where", "heads"])
    return shlex.join(["influence", "run", str(asked["model"]), "--data", str(asked["data"]), "--queries", "QUERIES"])
