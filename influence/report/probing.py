"""The section of concept depth: what its figures and tables show, in words where a figure cannot be seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from influence.report.chart import Build
from influence.report.depths import METRICS, depth_curve, depth_heat, heat_cells, shift_dots
from influence.report.read import Run
from influence.report.words import clean, count, fixed, is_missing, plural

if TYPE_CHECKING:
    import pandas

LITERAL = {
    "jumping point": "first depth with a rise of 10 %",
    "converging point": "last depth with a change below 3 %",
    "comprehended": "first depth with an accuracy of 0.7",
    "C_tail": "first depth after which no change reaches 3 %",
}
NEEDED = ("probe_table", "probe_curves", "probe_depths", "probe_concepts")


def has_probes(run: Run) -> bool:
    return all(name in run.tables for name in NEEDED)


def section(run: Run) -> dict[str, Any] | None:
    """What the template shows; None for a run without probes."""
    if not has_probes(run):
        return None
    table, about = run.tables["probe_table"], run.tables["probe_concepts"].set_index("concept")
    lines = table.to_dict("records")
    several = table["site"].nunique() > 1
    blocks = [_block(run, number_, one, about.loc[one["concept"]], several) for number_, one in enumerate(lines)]
    moved = run.tables.get("probe_disturbed")
    return {
        "metric": METRICS.get(lines[0]["metric"], clean(lines[0]["metric"])) if lines else "",
        "level": float(about["level"].iloc[0]) if len(about) else 0.95,
        "blocks": blocks,
        "several": several,
        "lines": [_line(one) for one in lines],
        "literal": LITERAL,
        "disturbed": [] if moved is None else [_moved(one) for one in moved.to_dict("records")],
    }


def _line(one: dict[str, Any]) -> dict[str, Any]:
    """A row of the depth table."""
    kept = {name: one[name] for name in one if not isinstance(one[name], str)}
    return kept | {name: clean(one[name]) for name in ("concept", "model", "site", "metric", "over")}


def _block(run: Run, place: int, one: dict[str, Any], about: pandas.Series, several: bool) -> dict[str, Any]:
    curves, depths = _of(run, "probe_curves", one), _of(run, "probe_depths", one)
    defined = not is_missing(one["D50"])
    return {
        "id": f"concept-{place}",
        "figure": f"depth-{place}",
        "name": clean(one["concept"]) + (f" · {clean(one['site'])}" if several else ""),
        "classes": [clean(name) for name in about["classes"]],
        "size": f"{plural(int(about['statements']), 'statement')} in {plural(int(about['groups']), 'group')}, "
        f"{plural(int(about['splits']), 'split')}, {clean(about['probe'])} probes at the "
        f"{'last token' if about['position'] == 'last' else clean(about['position']) + ' over tokens'}",
        "over": clean(one["over"]),
        "defined": defined,
        "notes": [clean(note) for note in about["notes"]],
        "layers": _by_layer(curves, one["metric"]),
        "flat": _flat(curves, one["metric"]),
        "depths": [_depth(line) for line in depths.to_dict("records") if line["measure"] in ("excess", "D50", "D95")],
        "literal": [_depth(line) for line in depths.to_dict("records") if line["measure"] in LITERAL],
    }


def _depth(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "measure": clean(line["measure"]), "over": clean(line["over"])}


def _by_layer(curves: pandas.DataFrame, metric: str) -> dict[str, Any]:
    """Head and rows of the table by layer: the probe with its interval, then every control that has layers."""
    part = curves[(curves["metric"] == metric) & (curves["layer"] >= -1)]
    names = [name for name in dict.fromkeys(part["series"]) if name != "probe"]
    wide = part.pivot_table(index="layer", columns="series", values="value", dropna=False)
    rows = [
        {"layer": int(line["layer"]), "depth": line["depth"], "value": line["value"], "low": line["low"],
         "high": line["high"], "others": [float(wide.loc[line["layer"], name]) for name in names]}
        for line in part[part["series"] == "probe"].sort_values("layer").to_dict("records")
    ]  # fmt: skip
    return {"names": [clean(name) for name in names], "rows": rows}


def _flat(curves: pandas.DataFrame, metric: str) -> list[dict[str, Any]]:
    part = curves[(curves["metric"] == metric) & (curves["layer"] < -1)]
    return [{"name": clean(one["series"]), "value": one["value"]} for one in part.to_dict("records")]


def _moved(one: dict[str, Any]) -> dict[str, Any]:
    kept = {name: one[name] for name in ("D50", "shift", "low", "high", "at_best", "at_best_shift")}
    return kept | {name: clean(one[name]) for name in ("concept", "site", "disturbance", "how")}


def _of(run: Run, name: str, one: dict[str, Any]) -> pandas.DataFrame:
    frame = run.tables[name]
    return frame[(frame["concept"] == one["concept"]) & (frame["site"] == one["site"])]


def probing_figures(run: Run) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, what it says in words): a curve per concept and site, heat map, shifts."""
    if not has_probes(run):
        return
    table = run.tables["probe_table"]
    for place, one in enumerate(table.to_dict("records")):
        curves, depths = _of(run, "probe_curves", one), _of(run, "probe_depths", one)
        build = partial(depth_curve, curves, depths, one["over"], one["metric"])
        yield f"depth-{place}", build, curve_words(curves, one)
    if len(table) > 1:
        cells, marks = heat_cells(run.tables["probe_curves"], table)
        metric = str(table["metric"].iloc[0])
        yield "depth-heat", partial(depth_heat, cells, marks, metric), _heat_words(table)
    moved = _shifts(run)
    if moved is not None:
        yield "depth-shifts", partial(shift_dots, moved), _shift_words(moved)


def _shifts(run: Run) -> pandas.DataFrame | None:
    moved = run.tables.get("probe_disturbed")
    moved = None if moved is None else moved[moved["shift"].notna()]
    if moved is None or not len(moved):
        return None
    several = moved["site"].nunique() > 1
    names = moved["concept"] + " · " + moved["site"] if several else moved["concept"]
    return moved.assign(name=names)


def curve_words(curves: pandas.DataFrame, one: dict[str, Any]) -> str:
    """What the curve of one concept shows, in a sentence or two."""
    part = curves[(curves["series"] == "probe") & (curves["metric"] == one["metric"])].sort_values("depth")
    first, last = part.iloc[0], part.iloc[-1]
    metric = METRICS.get(one["metric"], clean(one["metric"]))
    said = f"{metric} of the probe by depth for {clean(one['concept'])}: {fixed(first['value'])} at depth "
    said += f"{fixed(first['depth'])}, {fixed(one['best'])} at the best layer (depth "
    said += f"{fixed(one['best_depth'])}), {fixed(last['value'])} at depth {fixed(last['depth'])}. "
    said += f"Control: {clean(one['over'])}, {fixed(one['control'])} there. "
    return said + (f"D50 is {_interval(one, 'D50')}." if not is_missing(one["D50"]) else "D50 is undefined.")


def _heat_words(table: pandas.DataFrame) -> str:
    told = "; ".join(f"{clean(one['concept'])} {_interval(one, 'D50')}" for one in table.head(30).to_dict("records"))
    return f"Excess of the probe over its control, concept by depth, with D50: {told}."


def _shift_words(moved: pandas.DataFrame) -> str:
    told = [
        f"{clean(one['name'])} under {clean(one['disturbance'])} {fixed(one['shift'], sign=True)} "
        f"({fixed(one['low'], sign=True)} to {fixed(one['high'], sign=True)})"
        for one in moved.head(30).to_dict("records")
    ]
    return f"Shift of D50: {'; '.join(told)}."


def _interval(one: dict[str, Any], name: str) -> str:
    if is_missing(one[name]):
        return "undefined"
    return f"{fixed(one[name])} ({fixed(one[f'{name}_low'])} to {fixed(one[f'{name}_high'])})"


def asked(run: Run, model: str) -> str:
    """The question of a run of probes alone."""
    concepts = list(dict.fromkeys(run.tables["probe_table"]["concept"]))
    which = clean(concepts[0]) if len(concepts) == 1 else f"these {count(len(concepts))} concepts"
    return f"At which depth does {model} know {which}?"


def trust(run: Run) -> list[dict[str, str]]:
    """How far the depths can be trusted, as the page's list has it."""
    if not has_probes(run):
        return []
    table, about = run.tables["probe_table"], run.tables["probe_concepts"]
    defined = table["D50"].notna()
    said = f"{int(defined.sum())} of {len(table)} concepts are read better than by their control; for the "
    said += "others D50 and D95 stay undefined."
    items = [{"head": "Above the controls", "text": said, "level": "good" if defined.all() else "note"}]
    alone = about[about["groups"] == about["statements"]]["concept"].tolist()
    if alone:
        text = f"without groups ({', '.join(map(clean, alone[:5]))}) near-twins may stand on both sides of a split."
    else:
        text = (
            "every split keeps whole groups together; strength and layer are chosen on validation, shown is the test."
        )
    items.append({"head": "Splits", "text": text, "level": "note" if alone else "good"})
    made = sorted({clean(name) for names in about["controls"] for name in names})
    items.append({"head": "Controls", "text": ", ".join(made) + ".", "level": "good" if len(made) > 4 else "note"})
    draws = ", ".join(sorted({count(value) for value in about["bootstrap"]}))
    text = f"{draws} draws of whole groups, paired across layers and controls, layers chosen anew in each."
    items.append({"head": "Intervals", "text": text, "level": "good"})
    return items
