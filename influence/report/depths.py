"""Figures of concept depth: a curve per concept with its controls, a heat map over concepts, shifts of D50."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from influence.report.chart import HEIGHT, WIDTH, altair_module, finish
from influence.report.svg import COLOUR
from influence.report.words import clean, fixed, shorten

if TYPE_CHECKING:
    import altair
    import pandas

FLAT = -2  # the layer of controls that see the texts alone
# series -> colour, dashes, width
LINES: dict[str, tuple[str, list[int], float]] = {
    "probe": ("raise", [1, 0], 2.2),
    "untrained": ("lower", [1, 0], 1.4),
    "control task": ("accent", [6, 2], 1.4),
    "shuffled": ("grey", [3, 2], 1.4),
    "tfidf": ("ink", [8, 3], 1.1),
    "length": ("muted", [2, 3], 1.1),
    "majority": ("grey", [1, 3], 1.1),
}
METRICS = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "f1": "F1"}
SHIFTS = {"letters": "circle", "noise": "square", "16 bits": "diamond", "8 bits": "triangle-up"}
MOST_CELLS = 13  # layers with their numbers written into the cells of the heat map
DEPTH = "depth (0: embeddings, 1: last block)"


def depth_curve(curves: pandas.DataFrame, depths: pandas.DataFrame, over: str, metric: str) -> altair.TopLevelMixin:
    """One concept at one site: the probe with its 95 % band, every control, and D50 over `over` with its interval.

    `curves` and `depths`: the rows of one concept and site of the tables probe_curves and probe_depths.
    """
    return finish(curve_layers(curves, depths, over, metric))


def curve_layers(curves: pandas.DataFrame, depths: pandas.DataFrame, over: str, metric: str) -> Any:
    """The same as a chart that can be put beside others."""
    alt = altair_module()
    lines = _lines(curves[curves["metric"] == metric])
    shown = [name for name in LINES if (lines["series"] == name).any()]
    span = _span(lines)
    y = alt.Y("value:Q", title=_metric(metric), scale=span, axis=alt.Axis(tickCount=5, format=".1f"))
    legend = alt.Legend(title=None, orient="bottom", columns=4, symbolType="stroke", symbolSize=260, rowPadding=1)
    colour, dash, width = zip(*(LINES[name] for name in shown), strict=True)
    base = alt.Chart(lines).encode(
        x=alt.X("depth:Q", title=DEPTH, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5, ticks=False)),
        color=alt.Color(
            "series:N", scale=alt.Scale(domain=shown, range=[COLOUR[one] for one in colour]), legend=legend
        ),
        strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=shown, range=list(dash)), legend=legend),
        strokeWidth=alt.StrokeWidth("series:N", scale=alt.Scale(domain=shown, range=list(width)), legend=None),
    )
    probe = alt.Chart(lines[lines["series"] == "probe"])
    band = probe.mark_area(color=COLOUR["raise"], opacity=0.16, strokeOpacity=0)
    band = band.encode(x="depth:Q", y=alt.Y("low:Q", title=_metric(metric), scale=span), y2="high:Q")
    dots = probe.mark_point(filled=True, size=22, opacity=1, color=COLOUR["raise"]).encode(x="depth:Q", y=y)
    return alt.layer(band, base.mark_line(clip=True).encode(y=y), dots, *_reached(alt, depths, over, metric))


def _lines(curves: pandas.DataFrame) -> pandas.DataFrame:
    """By layer as they are; controls without layers from depth 0 to 1."""
    import pandas

    flat = curves[curves["layer"] == FLAT]
    ends = [flat.assign(depth=float(end)) for end in (0, 1)]
    return pandas.concat([curves[curves["layer"] != FLAT], *ends], ignore_index=True)[
        ["series", "depth", "value", "low", "high"]
    ]


def _span(lines: pandas.DataFrame) -> Any:
    """From a tenth below the least value, where D50 stands, to 1."""
    probe = lines[lines["series"] == "probe"]
    least = min(0.5, float(lines["value"].min()), float(probe["low"].min()))
    return altair_module().Scale(domain=[max(0.0, math.floor(10 * least) / 10 - 0.1), 1.0], nice=False, zero=False)


def _reached(alt: Any, depths: pandas.DataFrame, over: str, metric: str) -> list[Any]:
    """D50 with its interval, drawn at the foot of the figure; nothing where it is undefined."""
    one = depths[(depths["measure"] == "D50") & (depths["over"] == over) & (depths["metric"] == metric)]
    one = one[one["value"].notna()].assign(text=[f"D50 {fixed(value)}" for value in one["value"].dropna()])
    if not len(one):
        return []
    foot = alt.Chart(one[["value", "low", "high", "text"]].rename(columns={"value": "D50"}))
    place = {"y": alt.value(HEIGHT - 9)}
    rule = foot.mark_rule(color=COLOUR["ink"], strokeWidth=1.6).encode(x="low:Q", x2="high:Q", **place)
    dot = foot.mark_point(filled=True, shape="triangle-up", size=60, opacity=1, color=COLOUR["ink"])
    word = foot.mark_text(dy=-9, fontSize=10, color=COLOUR["ink"]).encode(x="D50:Q", text="text:N", **place)
    return [rule, dot.encode(x="D50:Q", **place), word]


def depth_heat(cells: pandas.DataFrame, marks: pandas.DataFrame, metric: str) -> altair.TopLevelMixin:
    """Concept by depth: how far the probe is above its control at each layer, and D50 with its interval.

    `cells`: name, depth, start, end, excess (see `heat_cells`); `marks`: name, D50, low, high.
    """
    alt = altair_module()
    names = [_row(name) for name in dict.fromkeys(cells["name"])]
    cells = cells.assign(name=cells["name"].map(_row), shade=cells["excess"].clip(lower=0))
    cells = cells.assign(text=[fixed(value).replace("0.", ".") for value in cells["excess"]])
    marks = marks.assign(name=marks["name"].map(_row))
    y = alt.Y(
        "name:N", sort=names, title=None, axis=alt.Axis(labelLimit=190, domain=False, ticks=False, labelPadding=6)
    )
    x = alt.X("start:Q", title=DEPTH, scale=alt.Scale(domain=[float(cells["start"].min()), float(cells["end"].max())],
              nice=False), axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format="~g", ticks=False))  # fmt: skip
    top = max(float(cells["shade"].max()), 0.1)
    opacity = alt.Opacity(
        "shade:Q",
        scale=alt.Scale(domain=[0, top], range=[0.02, 0.72]),
        legend=alt.Legend(title=f"{_metric(metric)} above the control", orient="bottom", gradientLength=160),
    )
    rects = alt.Chart(cells).mark_rect(color=COLOUR["raise"]).encode(x=x, x2="end:Q", y=y, opacity=opacity)
    parts = [rects]
    if cells["depth"].nunique() <= MOST_CELLS:
        told = alt.Chart(cells).mark_text(fontSize=9, color=COLOUR["ink"])
        parts.append(told.encode(x="depth:Q", y=y, text="text:N"))
    foot = alt.Chart(marks).encode(y=y)
    low = {"color": COLOUR["ink"], "yOffset": 9}
    parts.append(foot.mark_rule(strokeWidth=1.4, **low).encode(x="low:Q", x2="high:Q"))
    parts.append(foot.mark_point(filled=True, shape="triangle-up", size=44, opacity=1, **low).encode(x="D50:Q"))
    return finish(alt.layer(*parts), width=420, height=alt.Step(30))


def heat_cells(curves: pandas.DataFrame, table: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Cells and marks of `depth_heat` from the tables probe_curves and probe_table, a row per concept and site."""
    import pandas

    cells, marks = [], []
    several = table["site"].nunique() > 1
    for one in table.to_dict("records"):
        part = curves[(curves["concept"] == one["concept"]) & (curves["site"] == one["site"])]
        part = part[part["metric"] == one["metric"]]
        probe = part[part["series"] == "probe"].sort_values("depth")
        control = part[part["series"] == one["over"]]
        flat = control["layer"].eq(FLAT).any() or len(control) == 1
        below = float(control["value"].iloc[0]) if flat else control.sort_values("depth")["value"].to_numpy()
        name = f"{one['concept']} · {one['site']}" if several else one["concept"]
        half = 0.5 / max(int(one["layers"]), 1)
        found = pandas.DataFrame({"name": name, "depth": probe["depth"], "excess": probe["value"] - below})
        cells.append(found.assign(start=found["depth"] - half, end=found["depth"] + half))
        marks.append({"name": name, "D50": one["D50"], "low": one["D50_low"], "high": one["D50_high"]})
    kept = pandas.DataFrame(marks)
    return pandas.concat(cells, ignore_index=True), kept[kept["D50"].notna()]


def shift_dots(table: pandas.DataFrame) -> altair.TopLevelMixin:
    """Per concept and disturbance the shift of D50 with its interval; 0 means that nothing moved.

    `table`: the rows of probe_disturbed whose shift is defined, with a column name.
    """
    alt = altair_module()
    part = table.assign(name=table["name"].map(_row))
    shown = [name for name in SHIFTS if (part["disturbance"] == name).any()]
    shades = dict(zip(SHIFTS, ("accent", "lower", "ink", "raise"), strict=True))
    names = list(dict.fromkeys(part["name"]))
    legend = alt.Legend(title=None, orient="top")
    base = alt.Chart(part).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=120, domain=False, ticks=False, grid=True)),
        yOffset=alt.YOffset("disturbance:N", sort=shown),
        color=alt.Color(
            "disturbance:N", scale=alt.Scale(domain=shown, range=[COLOUR[shades[one]] for one in shown]), legend=legend
        ),
    )
    title = "shift of D50, 95 % interval"
    axis = alt.Axis(format="+.2f", tickCount=5, ticks=False)
    ends = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, axis=axis), x2="high:Q")
    shape = alt.Scale(domain=shown, range=[SHIFTS[one] for one in shown])
    dots = base.mark_point(filled=True, size=48, opacity=1).encode(
        x=alt.X("shift:Q", title=title, axis=axis), shape=alt.Shape("disturbance:N", scale=shape, legend=legend)
    )
    zero = alt.Chart(part.head(1)).mark_rule(color=COLOUR["grey"]).encode(x=alt.datum(0.0))
    return finish(alt.layer(zero, ends, dots), width=WIDTH - 70, height=alt.Step(max(13, 26 // len(shown))))


def _metric(name: str) -> str:
    return METRICS.get(name, clean(name).replace("_", " "))


def _row(name: Any) -> str:
    return shorten(clean(name).replace("\n", " "), 40)
