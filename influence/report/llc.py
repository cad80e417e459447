"""The section of local learning coefficients: what chains found for each part, and what speaks against trusting it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from influence.llc.notes import ESS, RHAT, kinds
from influence.report.chart import Build
from influence.report.coefficients import NONE, chain_lines, curve_lines, part_dots
from influence.report.drawn import Figure
from influence.report.read import Run
from influence.report.words import clean, count, is_missing, number, plural

if TYPE_CHECKING:
    import pandas

MOST_CLUSTERS = 6  # of which each has a colour
MEANS = {
    "diverged": "chains that diverged (a loss that is not finite, or an energy far above equilibrium) are in no "
    "number; with fewer than two left there is no estimate. Give a smaller step size.",
    "negative": "away from these weights the loss is lower than at them.",
    "R-hat": f"R-hat above {RHAT}: the chains disagree about the mean. Give more draws or a longer burn-in.",
    "few draws": f"fewer than {ESS:.0f} effective draws, so the standard error itself is rough. Give more draws.",
    "step size": "the step size may add more than 5 % of the estimate. Give a smaller one.",
    "short": "burn-in is shorter than a direction without curvature needs to forget the start, about 2/(εγ) steps: "
    "where the loss is flat, the estimate is of how far the chains have come, and R-hat cannot see it.",
    "no effect": "the loss does not depend on what moves.",
}
NO_MINIMUM = (
    "these weights are no minimum of this loss on these rows (training has not converged, or these are other rows than "
    "trained on)"
)
CAUSES = {
    "noise around zero": "no more than noise around zero",
    "still falling": "the loss still falls at the end of the chains: " + NO_MINIMUM,
    "stays there": "the loss stays below that at w*: " + NO_MINIMUM,
}


def has_coefficients(run: Run) -> bool:
    return "llc" in run.tables and len(run.tables["llc"]) > 0


def section(run: Run) -> dict[str, Any] | None:
    """What the template shows; None for a run without coefficients."""
    if not has_coefficients(run):
        return None
    table, asked = run.tables["llc"], run.section("settings")
    last, steps = last_of(table), sorted(table["step"].unique().tolist())
    return {
        "several": len(steps) > 1,
        "steps": steps,
        **{name: _values(table, name) for name in ("n_beta", "gamma", "sampler")},
        **{name: asked.get(name) for name in ("chains", "draws", "thin", "burn_in")},
        "item": "scored token" if asked.get("unit") == "token" else "row",
        "lines": [_line(one) for one in last.to_dict("records")],
        "kinds": _kinds(last),
        "negative": _negative(last[last["value"] < 0]),
        "withheld": [clean(one) for one in last.loc[last["value"].isna(), "part"]],
        "borders": bool(_clusters(run)[1]),
        "traces": [{"figure": f"llc-chains-{k}", **one} for k, one in enumerate(_chosen(run))],
        **_over_steps(run, steps),
    }


def last_of(table: pandas.DataFrame) -> pandas.DataFrame:
    """The lines of the last checkpoint."""
    return table[table["step"] == table["step"].max()].reset_index(drop=True)


def _values(table: pandas.DataFrame, name: str) -> str:
    """The value of a setting; several of them where parts differ."""
    found = dict.fromkeys(one for one in table[name] if not is_missing(one))
    return " and ".join(clean(one) if isinstance(one, str) else number(one) for one in found) or "–"


def _line(one: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: one.get(name) for name in ("value", "mcse", "rhat", "ess", "kept", "asked_chains", "step_bias")}
    return {**numbers, "part": clean(one["part"]), "kinds": kinds(one["notes"]), "notes": clean(one["notes"])}


def _kinds(last: pandas.DataFrame) -> list[dict[str, Any]]:
    """Every kind of note that occurs, with the number of its parts and what it means."""
    own = [kinds(note) for note in last["notes"]]
    found = [(kind, sum(kind in one for one in own)) for kind in MEANS]
    return [
        {"name": kind, "said": f"{count(amount)} of {plural(len(last), 'part')}", "means": MEANS[kind]}
        for kind, amount in found
        if amount
    ]


def _negative(below: pandas.DataFrame) -> list[dict[str, Any]]:
    """The parts with a negative estimate, by its likely cause as the notes have it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in below.to_dict("records"):
        cause = next((said for words, said in CAUSES.items() if words in str(one["notes"])), "no cause is noted")
        found.setdefault(cause, []).append({"part": clean(one["part"]), "value": one["value"]})
    return [{"cause": cause, "parts": parts} for cause, parts in found.items()]


def _over_steps(run: Run, steps: list[float]) -> dict[str, Any]:
    """Of several checkpoints: λ̂ by part and step, with cluster and borders; nothing to show for one."""
    if len(steps) < 2:
        return {"curves": [], "silhouette": None}
    table, found = run.tables["llc"], run.tables.get("llc_curves")
    about = {} if found is None else {one["part"]: one for one in found.to_dict("records")}
    curves = []
    for part, own in table.groupby("part", sort=False):
        by_step = dict(zip(own["step"], own["value"], strict=True))
        cluster = about.get(part, {}).get("cluster")
        curves.append(
            {
                "part": clean(part),
                "cluster": None if is_missing(cluster) else int(cluster),
                "borders": ", ".join(number(border) for border in _borders_of(about.get(part, {}))),
                "values": [by_step.get(step) for step in steps],
            }
        )
    silhouette = None if found is None or "silhouette" not in found else found["silhouette"].iloc[0]
    return {"curves": curves, "silhouette": silhouette}


def _borders_of(one: dict[str, Any]) -> list[float]:
    found = one.get("borders")
    return [] if found is None or isinstance(found, float) else [float(border) for border in found]


def _chosen(run: Run) -> list[dict[str, Any]]:
    """Up to three parts whose chains are worth looking at, with why: worst R-hat, highest and lowest estimate."""
    if "llc_draws" not in run.tables:
        return []
    last, draws = last_of(run.tables["llc"]), run.tables["llc_draws"]
    drawn = set(draws.loc[(draws["step"] == last["step"].iloc[0]) & draws["energy"].notna(), "part"])
    there = last[last["part"].isin(drawn)]
    wanted: dict[int, list[str]] = {}
    for name, best, why in (("rhat", "idxmax", "worst R-hat"), ("value", "idxmax", "highest λ̂"),
                            ("value", "idxmin", "lowest λ̂")):  # fmt: skip
        if there[name].notna().any():
            wanted.setdefault(getattr(there[name].astype(float), best)(), []).append(why)
    for place in there.index[there["value"].isna()][:1]:
        wanted[place] = ["estimate withheld"]
    return [{**_line(there.loc[place].to_dict()), "own": there.loc[place, "part"], "why": " and ".join(why)}
            for place, why in wanted.items()]  # fmt: skip


def _draws_of(run: Run, part: Any) -> pandas.DataFrame:
    draws, step = run.tables["llc_draws"], run.tables["llc"]["step"].max()
    return draws[(draws["part"] == part) & (draws["step"] == step)]


def llc_figures(run: Run) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, what it says in words): curves or dots of all parts, and chains of a few."""
    if not has_coefficients(run):
        return
    table = run.tables["llc"]
    if table["step"].nunique() > 1 and table["value"].notna().any():
        clusters, borders = _clusters(run)
        yield "llc-curves", partial(curve_lines, table, _colours(table, clusters), borders), _words(table, borders)
    elif table["step"].nunique() == 1:
        yield "llc-parts", partial(part_dots, table), _dot_words(table)
    for place, one in enumerate(_chosen(run)):
        draws = _draws_of(run, one["own"])
        value = None if is_missing(one["value"]) else float(one["value"])
        yield f"llc-chains-{place}", partial(chain_lines, draws, value), _chain_words(draws, one)


def _clusters(run: Run) -> tuple[dict[Any, Any], list[float]]:
    """Cluster by part, and the borders of all parts."""
    found = run.tables.get("llc_curves")
    lines = [] if found is None else found.to_dict("records")
    return {one["part"]: one["cluster"] for one in lines}, [border for one in lines for border in _borders_of(one)]


def _colours(table: pandas.DataFrame, clusters: dict[Any, Any]) -> dict[str, str]:
    """What each part's curve has its colour for: its cluster, or of few parts without clusters the part itself."""
    parts = list(dict.fromkeys(table["part"]))
    numbers = {part: None if is_missing(clusters.get(part)) else int(clusters[part]) for part in parts}
    if any(value is not None for value in numbers.values()):
        return {part: NONE if value is None else f"cluster {value}" for part, value in numbers.items()}
    return {part: clean(part) for part in parts} if len(parts) <= MOST_CLUSTERS else {}


def llc_figure(table: pandas.DataFrame, clusters: pandas.Series | None = None, borders: Sequence[float] = ()) -> Figure:
    """λ̂ of every part over training steps (logarithmic, a step 0 at the left end), with bands of two standard errors.

    Args:
        table: lines with step, part, value, mcse, as of `influence.llc.sweep.sweep` or a run's table `llc`.
        clusters: cluster by part, such as `clusters` gives; curves of one cluster share a colour.
        borders: steps at which stages begin, drawn as upright lines, the stronger the more often they come.

    Raises:
        ValueError: for a table without these columns or without a value.
        ImportError: where the extra `report` is not installed.
    """
    needed = ["step", "part", "value", "mcse"]
    if not set(needed) <= set(table.columns) or not table["value"].notna().any():
        raise ValueError(f"the table has the columns {list(table.columns)[:8]}; expected are {needed} with some value")
    own = {} if clusters is None else clusters.to_dict()
    return Figure(curve_lines(table, _colours(table, own), borders), _words(table, borders))


def _words(table: pandas.DataFrame, borders: Sequence[float]) -> str:
    first, last = table["step"].min(), table["step"].max()
    parts = table["part"].nunique()
    ends = table[table["step"] == last].set_index("part")["value"].dropna().sort_values()
    said = (
        f"Local learning coefficients of {parts} parts at {table['step'].nunique()} steps from {first:g} to {last:g}."
    )
    if len(ends):
        said += (
            f" At the end {clean(ends.index[0])} has the lowest, {ends.iloc[0]:.3g}, and {clean(ends.index[-1])} the "
        )
        said += f"highest, {ends.iloc[-1]:.3g}."
    every = sorted(set(borders))
    return said + (f" Stages begin at {', '.join(f'{border:g}' for border in every)}." if every else "")


def _dot_words(table: pandas.DataFrame) -> str:
    told = [
        f"{clean(one['part'])} {'withheld' if is_missing(one['value']) else _estimate(one)}"
        for one in table.head(40).to_dict("records")
    ]
    more = f"; and {count(len(table) - 40)} more" if len(table) > 40 else ""
    return f"Local learning coefficients with standard errors: {'; '.join(told)}{more}."


def _estimate(one: dict[str, Any]) -> str:
    return f"{number(one['value'])} ± {number(one['mcse'], 2)}"


def _chain_words(draws: pandas.DataFrame, one: dict[str, Any]) -> str:
    kept = draws[draws["kept"]]
    means = ", ".join(number(value) for value in kept.groupby("chain")["energy"].mean().head(16))
    gone = draws["chain"].nunique() - kept["chain"].nunique()
    said = f"Energies nβ(L − L*) of the chains of {one['part']} by draw ({one['why']}). "
    said += f"The running means end at {means}; λ̂ is {_estimate(one)}." if means else "No chain is left."
    return said + (f" {plural(gone, 'chain')} diverged." if gone else "")


def asked(run: Run, model: str) -> str:
    """The question of a run of coefficients alone."""
    parts = run.tables["llc"]["part"].nunique()
    what = "this part" if parts == 1 else f"each of {count(parts)} parts"
    when = ", and when in training did that change" if run.tables["llc"]["step"].nunique() > 1 else ""
    return f"How degenerate is the loss of {model} in {what}{when}?"


def trust(run: Run) -> list[dict[str, str]]:
    """How far the coefficients can be trusted, as the page's list has it; of several checkpoints all of them."""
    if not has_coefficients(run):
        return []
    table = run.tables["llc"]
    there = table[table["value"].notna()]
    fine = int(((there["rhat"] <= RHAT) & (there["ess"] >= ESS)).sum())
    text = f"{fine} of {plural(len(table), 'estimate')} have R-hat of at most {RHAT} and {ESS:.0f} effective draws."
    level = "good" if fine == len(table) else "note" if 2 * fine >= len(table) else "bad"
    items = [{"head": "Chains agree", "text": text, "level": level}]
    lost, gone = int((table["asked_chains"] - table["kept"]).sum()), len(table) - len(there)
    text = f"{count(lost)} of {plural(int(table['asked_chains'].sum()), 'chain')} diverged and are in no number; "
    text += f"{plural(gone, 'estimate')} withheld."
    items.append({"head": "Divergence", "text": text, "level": "bad" if gone else "note" if lost else "good"})
    below = int((there["value"] < 0).sum())
    real = sum("noise around zero" not in str(note) for note in there.loc[there["value"] < 0, "notes"])
    text = f"{plural(below, 'negative estimate')}" + (f", of which {count(real)} beyond noise" if below else "") + "."
    items.append({"head": "Minimum", "text": text, "level": "bad" if real else "good"})
    text = f"nβ {_values(table, 'n_beta')}, γ {_values(table, 'gamma')}: a damped effective dimension, to be "
    return [*items, {"head": "Scale", "text": text + "compared at the same nβ, γ and rows only.", "level": "note"}]
