"""Figures of k-sparse probes: score against k, by layer, in rotated bases, and what switching neurons off costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influence.report.chart import WIDTH, altair_module, finish
from influence.report.svg import COLOUR
from influence.report.words import clean, shorten

if TYPE_CHECKING:
    import altair
    import pandas

CONTROL, BEST = "random", "best"
SHADES = ("lower", "accent", "ink", "muted", "grey", "lower", "accent", "ink")
DASHES = ([1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [5, 2], [5, 2], [5, 2])
AXES = {"mcc": "MCC", "f1": "F1", "pr_auc": "PR-AUC", "balanced_accuracy": "balanced accuracy"}


def k_curve(curves: pandas.DataFrame, metric: str) -> altair.TopLevelMixin:
    """One feature: the metric on test items against k, the best of all with its band, each method, and the controls.

    `curves`: the rows of one feature of the table sparse_curves.
    """
    alt = altair_module()
    lines = curves[curves["k"].notna()].assign(
        series=[clean(name).replace("_", " ") for name in curves["series"][curves["k"].notna()]]
    )
    methods = [name for name in dict.fromkeys(lines["series"]) if name not in (BEST, CONTROL, "shuffled")]
    looks = {BEST: ("raise", [1, 0], 2.2)}
    looks |= {name: (SHADES[k % 8], DASHES[k % 8], 1.2) for k, name in enumerate(methods)}
    looks |= {CONTROL: ("grey", [3, 2], 1.4), "shuffled": ("grey", [1, 2], 1.4)}
    shown = [name for name in looks if (lines["series"] == name).any()]
    colour, dash, width = zip(*(looks[name] for name in shown), strict=True)
    legend = alt.Legend(title=None, orient="bottom", columns=3, symbolType="stroke", symbolSize=260, rowPadding=1)
    x, y = _k_axis(alt, lines), _score(alt, "value:Q", metric)
    shades = alt.Scale(domain=shown, range=[COLOUR[one] for one in colour])
    base = alt.Chart(lines).encode(
        x=x, y=y, color=alt.Color("series:N", scale=shades, legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=shown, range=list(dash)), legend=legend),
        strokeWidth=alt.StrokeWidth("series:N", scale=alt.Scale(domain=shown, range=list(width)), legend=None),
    )  # fmt: skip
    best = alt.Chart(lines[lines["series"] == BEST])
    band = best.mark_area(color=COLOUR["raise"], opacity=0.16, strokeOpacity=0).encode(x=x, y="low:Q", y2="high:Q")
    dots = best.mark_point(filled=True, size=22, opacity=1, color=COLOUR["raise"]).encode(x=x, y="value:Q")
    dense = curves[curves["series"] == "dense"][["value", "low", "high"]].dropna()
    level = alt.Chart(dense.assign(text="all neurons"))
    rule = level.mark_rule(color=COLOUR["ink"], strokeDash=[7, 3]).encode(y="value:Q")
    word = level.mark_text(align="right", dx=-2, dy=-5, fontSize=10, color=COLOUR["ink"])
    word = word.encode(x=alt.value(WIDTH), y="value:Q", text="text:N")
    return finish(alt.layer(band, base.mark_line(clip=True), dots, rule, word))


def layer_curve(layers: pandas.DataFrame, metric: str) -> altair.TopLevelMixin:
    """One feature by layer: the probe on few neurons and the probe on all.

    `layers`: the rows of one feature of the table sparse_layers (depth, first, first_value, dense).
    """
    import pandas

    alt = altair_module()
    first = f"k = {int(layers['first'].iloc[0])}"
    kept = [layers[["depth", name]].set_axis(["depth", "value"], axis=1).assign(series=told)
            for name, told in (("first_value", first), ("dense", "all neurons"))]  # fmt: skip
    long = pandas.concat(kept).dropna()
    looks = alt.Scale(domain=[first, "all neurons"], range=[COLOUR["raise"], COLOUR["ink"]])
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke")
    point = {"filled": True, "size": 24, "opacity": 1}
    chart = alt.Chart(long).mark_line(strokeWidth=1.6, point=point)
    return finish(
        chart.encode(
            x=alt.X("depth:Q", title="depth (0: embeddings, 1: last block)", scale=alt.Scale(domain=[0, 1]),
                    axis=alt.Axis(tickCount=5, ticks=False)),
            y=_score(alt, "value:Q", metric),
            color=alt.Color("series:N", scale=looks, legend=legend),
        )
    )  # fmt: skip


def rotation_curve(table: pandas.DataFrame, metric: str) -> altair.TopLevelMixin:
    """One feature: k neurons, and k directions of random bases with their range over bases.

    `table`: the rows of one feature of sparse_rotation (k, neurons, rotated, rotated_low, rotated_high).
    """
    import pandas

    alt = altair_module()
    long = pandas.concat(
        [table[["k", name]].set_axis(["k", "value"], axis=1).assign(series=told)
         for name, told in (("neurons", "neurons"), ("rotated", "random directions"))]
    )  # fmt: skip
    looks = alt.Scale(domain=["neurons", "random directions"], range=[COLOUR["raise"], COLOUR["grey"]])
    x, y = _k_axis(alt, long), _score(alt, "value:Q", metric)
    band = alt.Chart(table).mark_area(color=COLOUR["grey"], opacity=0.3, strokeOpacity=0)
    band = band.encode(x=_k_axis(alt, table), y="rotated_low:Q", y2="rotated_high:Q")
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke")
    lines = alt.Chart(long).mark_line(strokeWidth=1.8, point={"filled": True, "size": 24, "opacity": 1})
    return finish(alt.layer(band, lines.encode(x=x, y=y, color=alt.Color("series:N", scale=looks, legend=legend))))


def cost_dots(table: pandas.DataFrame) -> altair.TopLevelMixin:
    """Per feature the rise of the loss without its neurons: with the feature (dot), without (square), random (grey).

    `table`: rows of sparse_ablation of one kind of value.
    """
    import pandas

    alt = altair_module()
    part = table.assign(name=[shorten(clean(name), 30) for name in table["feature"]])
    part = part.assign(who=part["texts"].map({"concept": "with it", "others": "without"}))
    own = part[["name", "who", "nats", "low", "high"]].assign(series="these neurons")
    random = part[["name", "who", "random", "random_low", "random_high"]].set_axis(own.columns[:5], axis=1)
    long = pandas.concat([own, random.dropna().assign(series="random alike")], ignore_index=True)
    looks = alt.Scale(domain=["these neurons", "random alike"], range=[COLOUR["raise"], COLOUR["grey"]])
    shapes = alt.Scale(domain=["with it", "without"], range=["circle", "square"])
    names = list(dict.fromkeys(part["name"]))
    legend = alt.Legend(title=None, orient="top", columns=2)
    long = long.assign(place=long["who"] + long["series"])
    order = [who + series for who in ("with it", "without") for series in ("these neurons", "random alike")]
    base = alt.Chart(long).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=120, domain=False, ticks=False, grid=True)),
        yOffset=alt.YOffset("place:N", sort=order),
        color=alt.Color("series:N", scale=looks, legend=legend),
    )
    title = "rise of the loss, nats per token"
    axis = alt.Axis(tickCount=4, ticks=False)
    ends = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, axis=axis), x2="high:Q")
    dots = base.mark_point(filled=True, size=46, opacity=1).encode(
        x=alt.X("nats:Q", title=title, axis=axis), shape=alt.Shape("who:N", scale=shapes, legend=legend)
    )
    zero = alt.Chart(part.head(1)).mark_rule(color=COLOUR["grey"]).encode(x=alt.datum(0.0))
    return finish(alt.layer(zero, ends, dots), width=WIDTH - 70, height=alt.Step(11))


def _k_axis(alt: Any, lines: pandas.DataFrame) -> Any:
    ks = sorted(lines["k"].dropna().unique().tolist())
    scale = alt.Scale(type="log", base=2, domain=[ks[0], max(ks[-1], ks[0] * 2)], nice=False)
    axis = alt.Axis(values=ks, format="d", labelOverlap=True, ticks=False)
    return alt.X("k:Q", title="neurons k, logarithmic", scale=scale, axis=axis)


def _score(alt: Any, field: str, metric: str) -> Any:
    return alt.Y(field, title=axis_name(metric), axis=alt.Axis(tickCount=5, format=".1f"))


def axis_name(metric: str) -> str:
    return AXES.get(metric, clean(metric).replace("_", " "))
