"""Figures of trust: the certificate of every query, and how each method stands in each measure of the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from influence.report.chart import Build, altair_module, finish
from influence.report.checks import MEASURES
from influence.report.read import Run
from influence.report.svg import COLOUR
from influence.report.words import clean, shorten

if TYPE_CHECKING:
    import altair
    import pandas

OURS = "these scores"
SMALLEST = 1e-6  # what a logarithmic axis shows of a zero


def certificate_dots(table: pandas.DataFrame) -> altair.TopLevelMixin:
    """Per query the residual (dot), its sampling floor (square) and the change of the scores (diamond); logarithmic."""
    alt = altair_module()
    names = {"residual": "residual", "floor": "sampling floor", "change": "change of scores"}
    kept = [name for name in names if table[name].notna().any() and (name != "floor" or (table[name] > 0).any())]
    one = table.sort_values("residual", ascending=False).assign(name=table["query"].astype(str))
    order = one["name"].tolist()
    long = one.melt(["name"], kept, "what", "amount").dropna()
    long = long.assign(what=long["what"].map(names), amount=long["amount"].clip(lower=SMALLEST))
    shapes = {"residual": "circle", "sampling floor": "square", "change of scores": "diamond"}
    shades = {"residual": COLOUR["ink"], "sampling floor": COLOUR["grey"], "change of scores": COLOUR["accent"]}
    shown = [names[name] for name in kept]
    powers = [10.0**power for power in range(-6, 2)]
    legend = alt.Legend(title=None, orient="top")
    chart = (
        alt.Chart(long)
        .mark_point(filled=True, size=40, opacity=1)
        .encode(
            x=alt.X(
                "name:N",
                sort=order,
                title="query, largest residual first",
                axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False),
            ),
            y=alt.Y(
                "amount:Q",
                title="relative size, logarithmic",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(values=powers, format="~g", ticks=False),
            ),
            shape=alt.Shape(
                "what:N", scale=alt.Scale(domain=shown, range=[shapes[name] for name in shown]), legend=legend
            ),
            color=alt.Color(
                "what:N", scale=alt.Scale(domain=shown, range=[shades[name] for name in shown]), legend=legend
            ),
        )
    )
    return finish(chart)


def truth_dots(table: pandas.DataFrame, measure: str) -> altair.TopLevelMixin:
    """Each method's mean correlation with one measure and its interval; these scores in colour, the others grey."""
    alt = altair_module()
    part = table[(table["measure"] == measure) & table["value"].notna()]
    part = part.assign(ours=part["method"] == OURS)
    place = {name: k for k, name in enumerate(dict.fromkeys(table["method"]))}
    part = part.assign(place=part["method"].map(place), method=[shorten(clean(name), 40) for name in part["method"]])
    order = alt.EncodingSortField(field="place", op="min")  # a list of names would become part of an expression
    least = float(table["low"].fillna(table["value"]).min())  # of all measures, so that their figures can be compared
    scale = alt.Scale(domain=[max(-1.0, math.floor(5 * min(0.0, least)) / 5), 1], nice=False)
    axis = alt.Axis(values=[-1, -0.5, 0, 0.5, 1], format=".1f", grid=True, gridColor=COLOUR["rule"])
    base = alt.Chart(part).encode(
        y=alt.Y(
            "method:N", sort=order, title=None, axis=alt.Axis(labelLimit=130, domain=False, ticks=False, grid=True)
        ),
        color=alt.condition("datum.ours", alt.value(COLOUR["raise"]), alt.value(COLOUR["muted"])),
    )
    title = "mean correlation, 95 % interval"
    ends = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    ends = ends.encode(x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q")
    dots = base.mark_point(filled=True, size=52, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=axis)
    )
    zero = alt.Chart(part.head(1)).mark_rule(color=COLOUR["grey"]).encode(x=alt.datum(0.0))
    return finish(alt.layer(zero, ends, dots), width=170, height=alt.Step(19))


def trust_figures(run: Run) -> Iterator[tuple[str, Build]]:
    """(name, what builds the chart): the certificate, and one figure per measure that was taken."""
    certificate = run.tables.get("certificate")
    if certificate is not None and len(certificate) > 1:
        yield "certificate", partial(certificate_dots, certificate)
    truth = run.tables.get("truth")
    if truth is not None:
        for measure in MEASURES:
            if truth.loc[truth["measure"] == measure, "value"].notna().any():
                yield f"truth-{measure}", partial(truth_dots, truth, measure)
