"""The section of edits: what editing previous tokens costs, by the depth from which it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from influence.interventions.result import Interventions
from influence.report.chart import HEIGHT, WIDTH, Build, altair_module, finish, look
from influence.report.drawn import COLUMNS, Figure
from influence.report.read import Run
from influence.report.svg import COLOUR
from influence.report.words import clean, count, fixed, is_missing, percent, plural, shorten

if TYPE_CHECKING:
    import altair
    import pandas

NEEDED = ("intervene_curves", "intervene_depths", "intervene_tasks")
LINES: dict[str, tuple[str, list[int]]] = {
    "noise": ("raise", [1, 0]),
    "freeze": ("lower", [1, 0]),
    "skip": ("accent", [1, 0]),
    "shuffle": ("ink", [6, 2]),
    "swap": ("muted", [3, 2]),
}
OTHERS = (("ink", [1, 0]), ("grey", [6, 2]), ("muted", [8, 3]), ("accent", [3, 2]))
DEPTH = "depth below the edit (0: all layers edited)"
MODES = {
    "paper": "at every scored token all tokens before the last were edited",
    "prompt": "the tokens of the prompt but its last were edited once",
}


def has_edits(run: Run) -> bool:
    return all(name in run.tables for name in NEEDED)


def section(run: Run) -> dict[str, Any] | None:
    """What the template shows; None for a run without edits."""
    if not has_edits(run) or not len(run.tables["intervene_tasks"]):
        return None
    depths, about = run.tables["intervene_depths"], run.tables["intervene_tasks"]
    first: dict[str, Any] = about.iloc[0].to_dict()
    notes = dict.fromkeys(clean(note) for notes in about["notes"] for note in notes)
    return {
        "mode": MODES.get(str(first["mode"]), clean(first["mode"])),
        "share": float(first["share"]),
        "level": float(first["level"]),
        "lines": [_line(one) for one in depths.to_dict("records")],
        "blocks": [_block(run, place, *one) for place, one in enumerate(_panels(run))],
        "notes": list(notes),
    }


def _panels(run: Run) -> list[tuple[str, str]]:
    table = run.tables["intervene_depths"]
    return list(dict.fromkeys(zip(table["task"], table["metric"], strict=True)))


def _line(one: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in one.items() if not isinstance(value, str)}
    return kept | {name: clean(one[name]) for name in ("task", "edit", "metric")}


def _block(run: Run, place: int, task: str, metric: str) -> dict[str, Any]:
    about = run.tables["intervene_tasks"]
    own = about[about["task"] == task].iloc[0]
    curves = _of(run.tables["intervene_curves"], task, metric)
    names = list(dict.fromkeys(curves["edit"]))
    layers = [
        {"layer": int(layer), "depth": float(part["depth"].iloc[0]),
         "cells": [_cell(part, name) for name in names]}
        for layer, part in curves.groupby("layer")
    ]  # fmt: skip
    return {
        "id": f"edits-{place}",
        "name": f"{clean(task)}: {clean(metric)}",
        "about": clean(own["about"]),
        "size": f"{plural(int(own['questions']), 'question')} in {plural(int(own['groups']), 'group')}",
        "unedited": float(curves["unedited"].iloc[0]),
        "names": [clean(name) for name in names],
        "layers": layers,
    }


def _cell(part: pandas.DataFrame, name: str) -> dict[str, Any]:
    one = part[part["edit"] == name].iloc[0]
    return {key: one[f"value{end}"] for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))}


def _of(frame: pandas.DataFrame, task: str, metric: str) -> pandas.DataFrame:
    return frame[(frame["task"] == task) & (frame["metric"] == metric)]


def edit_figures(run: Run) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, what it says in words) for each task and metric."""
    if not has_edits(run):
        return
    for place, (task, metric) in enumerate(_panels(run)):
        curves = _of(run.tables["intervene_curves"], task, metric)
        depths = _of(run.tables["intervene_depths"], task, metric)
        yield f"edits-{place}", partial(edit_curves, curves, depths, metric), curve_words(curves, depths)


def edit_curves(curves: pandas.DataFrame, depths: pandas.DataFrame, metric: str) -> altair.TopLevelMixin:
    """One task and metric: each edit with its band by the depth below it, and the unedited value as a level line.

    `curves` and `depths`: the rows of one task and metric of the tables intervene_curves and intervene_depths.
    """
    return finish(curve_layers(curves, depths, metric))


def curve_layers(curves: pandas.DataFrame, depths: pandas.DataFrame, metric: str) -> Any:
    """The same as a chart that can be put beside others. Triangles: depths from which nothing is lost."""
    alt = altair_module()
    names, colours, dashes = _styles(curves)
    frame = _to_the_end(curves, depths)
    x = alt.X("depth:Q", title=DEPTH, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5, ticks=False))
    title = shorten(clean(metric).replace("\n", " "), 40)
    scale = alt.Scale(type="log", nice=False) if metric == "perplexity" else alt.Scale(zero=False)
    legend = alt.Legend(
        title=None, orient="bottom", columns=4, symbolType="stroke", symbolSize=260, symbolOpacity=1, rowPadding=1
    )
    colour = alt.Color("edit:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    dash = alt.StrokeDash("edit:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    base = alt.Chart(frame).encode(x=x, color=colour)
    y = alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    low = alt.Y("value_low:Q", title=title, scale=scale)
    band = base.mark_area(opacity=0.13, strokeOpacity=0).encode(y=low, y2="value_high:Q")
    line = base.mark_line(strokeWidth=1.8, point={"size": 18, "filled": True}).encode(y=y, strokeDash=dash)
    level = alt.Chart(frame.head(1)).mark_rule(color=COLOUR["grey"], strokeWidth=1.2, strokeDash=[2, 2])
    level = level.encode(y=alt.Y("unedited:Q", title=title, scale=scale))
    return alt.layer(band, level, line, *_reached(alt, depths, colour))


def _to_the_end(curves: pandas.DataFrame, depths: pandas.DataFrame) -> pandas.DataFrame:
    """The curves with their names shortened, each ended at depth 1, where nothing is edited."""
    import pandas

    ends = [
        {"edit": one["edit"], "depth": 1.0, "value": one["unedited"], "value_low": one["unedited_low"],
         "value_high": one["unedited_high"], "unedited": one["unedited"]}
        for one in depths.to_dict("records")
    ]  # fmt: skip
    frame = pandas.concat([curves, pandas.DataFrame(ends)], ignore_index=True)
    return frame.assign(edit=frame["edit"].map(_name))


def _styles(curves: pandas.DataFrame) -> tuple[list[str], list[str], list[list[int]]]:
    """Edits in their order with colour and dashes; edits of the user's own take turns."""
    names = list(dict.fromkeys(curves["edit"]))
    own = [name for name in names if name not in LINES]
    styles = [LINES.get(name) or OTHERS[own.index(name) % len(OTHERS)] for name in names]
    return [_name(name) for name in names], [COLOUR[colour] for colour, _ in styles], [dash for _, dash in styles]


def _name(edit: Any) -> str:
    return shorten(clean(edit).replace("\n", " "), 24)


def _reached(alt: Any, depths: pandas.DataFrame, colour: Any) -> list[Any]:
    """Depths of need at the edge of the figure, one row per edit; nothing where none is defined."""
    found = depths[depths["depth"].notna()]
    marks = []
    for place, one in enumerate(found.to_dict("records")):
        line = {"edit": _name(one["edit"]), "from": one["depth"], "low": one["depth_low"], "high": one["depth_high"]}
        data = alt.Chart(alt.Data(values=[line]))
        beside = 5 + 8 * place  # where the curves are not
        at = {"y": alt.value(HEIGHT - beside if one["better"] == "higher" else beside), "color": colour}
        marks.append(data.mark_rule(strokeWidth=1.6).encode(x="low:Q", x2="high:Q", **at))
        dot = data.mark_point(filled=True, shape="triangle-up", size=46, opacity=1)
        marks.append(dot.encode(x="from:Q", **at))
    return marks


def curve_words(curves: pandas.DataFrame, depths: pandas.DataFrame) -> str:
    """What the curves of one task and metric show, in a sentence per edit."""
    first = depths.iloc[0]
    said = f"{clean(first['metric'])} on {clean(first['task'])} by the depth below the edit; unedited "
    said += f"{fixed(first['unedited'])}. "
    for one in depths.to_dict("records"):
        part = curves[curves["edit"] == one["edit"]].sort_values("depth")
        values = ", ".join(f"{fixed(line['value'])} at {fixed(line['depth'])}" for line in part.to_dict("records")[:13])
        ending = (
            "no depth is defined" if is_missing(one["depth"]) else f"nothing is lost from depth {_interval(one)} on"
        )
        said += f"{clean(one['edit'])}: {values}; {ending}. "
    return said.strip()


def _interval(one: dict[str, Any]) -> str:
    return f"{fixed(one['depth'])} ({fixed(one['depth_low'])} to {fixed(one['depth_high'])})"


def asked(run: Run, model: str) -> str:
    """The question of a run of edits alone."""
    tasks = run.tables["intervene_tasks"]["task"].tolist()
    which = clean(tasks[0]) if len(tasks) == 1 else f"these {count(len(tasks))} tasks"
    return f"From which layer on does {model} no longer need its previous tokens for {which}?"


def trust(run: Run) -> list[dict[str, str]]:
    """How far the costs can be trusted, as the page's list has it."""
    if not has_edits(run):
        return []
    depths, about = run.tables["intervene_depths"], run.tables["intervene_tasks"]
    defined = depths["depth"].notna()
    said = f"for {int(defined.sum())} of {len(depths)} curves editing all layers costs something; for the others no "
    items = [{"head": "Baselines", "text": said + "depth is defined.", "level": "good" if defined.all() else "note"}]
    first = about.iloc[0]
    text = f"{MODES.get(str(first['mode']), clean(first['mode']))}; noise, shuffle and swap with "
    text += f"{plural(int(first['seeds']), 'draw')}."
    items.append({"head": "Edits", "text": text, "level": "good" if int(first["seeds"]) > 1 else "note"})
    text = f"{percent(first['level'], 0)}, {count(first['bootstrap'])} draws of whole groups of questions and of seeds."
    items.append({"head": "Intervals of edits", "text": text, "level": "good"})
    if bool(about["parallel"].any()):
        text = "attention and MLP read the same stream, so skipping attention takes nothing from the MLP of its layer."
        items.append({"head": "Parallel residuals", "text": text, "level": "note"})
    return items


def intervention_figure(results: Interventions | Iterable[Interventions], *, metric: str | None = None) -> Figure:
    """Curves of what `influence.intervene` returned: one panel for each model, task and metric, in rows of three.

    The level line is the unedited model, triangles at the edge the depths from which on an edit costs nothing.

    Args:
        results: one or several, of any tasks and models.
        metric: only this one.

    Raises:
        ValueError: without results, or for a metric that none of them has.
        ImportError: where the extra `report` is not installed.
    """
    found = [results] if isinstance(results, Interventions) else list(results)
    panels, words = [], []
    for one in found:
        for task, name in dict.fromkeys(zip(one.depths["task"], one.depths["metric"], strict=True)):
            if metric in (None, name):
                curves, depths = _of(one.curves, task, name), _of(one.depths, task, name)
                chart = curve_layers(curves, depths, name).properties(width=WIDTH, height=HEIGHT)
                title = task if len({each.model for each in found}) == 1 else f"{task}, {one.model}"
                panels.append(chart.properties(title=clean(title)))
                words.append(curve_words(curves, depths))
    if not panels:
        there = sorted({name for one in found for name in one.depths["metric"]})
        raise ValueError(
            f"there is nothing to draw: metric={metric!r}, and the results have {', '.join(there) or 'none'}"
        )
    whole = panels[0] if len(panels) == 1 else altair_module().concat(*panels, columns=COLUMNS)
    return Figure(look(whole), " ".join(words))
