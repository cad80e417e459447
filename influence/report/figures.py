"""The report's figures: a table in, an Altair chart out. Each is also exportable on its own as SVG or PNG."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.report.chart import Build, altair_module, finish
from influence.report.dots import trust_figures
from influence.report.interventions import edit_figures
from influence.report.llc import llc_figures
from influence.report.probing import probing_figures
from influence.report.read import Run, read_run
from influence.report.sparse import sparse_figures
from influence.report.svg import COLOUR, draw, picture
from influence.report.words import is_missing, number

if TYPE_CHECKING:
    import altair
    import pandas

SIDE = {"positive": "raise", "negative": "lower"}
DOTS = 40  # largest scores of a tail that are drawn as dots as well
EKFAC = re.compile(r"ek-?fac", re.IGNORECASE)


def layer_profile(layers: pandas.DataFrame) -> altair.TopLevelMixin:
    """What rows add and take through each layer, in nats: red up, blue down, the dot their signed sum.

    `layers`: one query's rows of the table with the columns layer, positive, negative, signed.
    """
    import pandas

    alt = altair_module()
    parts = [layers[["layer", side]].set_axis(["layer", "nats"], axis=1).assign(side=side) for side in SIDE]
    shades = alt.Scale(domain=list(SIDE), range=[COLOUR[name] for name in SIDE.values()])
    bars = alt.Chart(pandas.concat(parts)).mark_bar()
    bars = bars.encode(
        x=_layer_axis(alt),
        y=_y(alt, "nats:Q", "nats, summed over rows"),
        color=alt.Color("side:N", scale=shades, legend=None),
    )
    dot = {"filled": True, "fill": COLOUR["ink"], "size": 34, "opacity": 1}
    line = alt.Chart(layers).mark_line(color=COLOUR["ink"], strokeWidth=1.5, point=dot)
    return finish(alt.layer(bars, line.encode(x=_layer_axis(alt), y="signed:Q")))


def layer_absolute(layers: pandas.DataFrame) -> altair.TopLevelMixin:
    """The absolute influence through each layer, in nats (columns layer, absolute)."""
    alt = altair_module()
    bars = alt.Chart(layers).mark_bar(color=COLOUR["grey"])
    return finish(bars.encode(x=_layer_axis(alt), y=_y(alt, "absolute:Q", "|nats|, summed over rows")))


def tail_plot(points: pandas.DataFrame, tails: pandas.DataFrame) -> altair.TopLevelMixin:
    """Share of raising rows at or above each score, both axes logarithmic, with the fitted power laws.

    `points`: score, survival of one query; `tails`: its fits. A fit without an exponent draws no line.
    The solid line is the first fit, the dashed one the second.
    """
    import pandas

    alt = altair_module()
    points = points[(points["score"] > 0) & (points["survival"] > 0)].sort_values("score")
    x, y = (
        _log(alt, "score", "score, nats", points),
        _log(alt, "survival", "share of rows at or above", points),
    )
    base = alt.Chart(points).encode(x=x, y=y)
    layers = [
        base.mark_line(color=COLOUR["ink"], strokeWidth=1.2, interpolate="step-before", clip=True),
        alt.Chart(points.tail(DOTS)).mark_circle(color=COLOUR["ink"], size=11, opacity=1, clip=True).encode(x=x, y=y),
    ]
    for index, line in enumerate(fit_lines(points, tails)):
        mark = alt.Chart(pandas.DataFrame(line, columns=["score", "survival"]))
        dash = [1, 0] if index == 0 else [5, 3]
        layers.append(
            mark.mark_line(color=COLOUR["raise"], strokeWidth=1.8, strokeDash=dash, clip=True).encode(x=x, y=y)
        )
    return finish(alt.layer(*layers))


def fit_lines(points: pandas.DataFrame, tails: pandas.DataFrame) -> list[list[tuple[float, float]]]:
    """Per fit that has an exponent, two ends of S(x) = S(xmin) · (x / xmin)^-alpha_survival."""
    lines = []
    end = float(points["score"].max())
    for fit in tails.to_dict("records"):
        start, exponent = fit.get("xmin"), fit.get("alpha_survival")
        if is_missing(start) or is_missing(exponent) or not 0 < float(start) < end:
            continue
        share = float(points.loc[points["score"] >= float(start), "survival"].max())
        lines.append([(float(start), share), (end, share * (end / float(start)) ** -float(exponent))])
    return lines


def top_share(tails: pandas.DataFrame) -> altair.TopLevelMixin:
    """Per query the share of all raising influence that the top 1 % of its rows hold."""
    alt = altair_module()
    one = tails.drop_duplicates("query").sort_values("top1_share", ascending=False)
    one = one.assign(name=one["query"].astype(str), held=one["top1_share"])
    bars = alt.Chart(one).mark_bar(color=COLOUR["accent"])
    axis = alt.Axis(format="%", grid=True)
    chart = bars.encode(
        x=alt.X("name:N", sort=None, title="query, largest share first", axis=_plain_axis(alt)),
        y=alt.Y("held:Q", title="held by the top 1 %", axis=axis, scale=alt.Scale(domainMin=0)),
    )
    return finish(chart)


def retrieval(table: pandas.DataFrame) -> altair.TopLevelMixin:
    """Mean reciprocal rank with its interval, per method and model size; EK-FAC in colour, baselines grey."""
    alt = altair_module()
    sizes = list(dict.fromkeys(table.sort_values("parameters")["size"] if "parameters" in table else table["size"]))
    order = list(table[table["size"] == sizes[-1]].sort_values("mrr", ascending=False)["method"])
    ours = [bool(EKFAC.search(str(method))) for method in table["method"]]
    shade = [0.4 + 0.6 * (sizes.index(size) + 1) / len(sizes) for size in table["size"]]
    table = table.assign(ours=ours, shade=shade)
    colour = alt.condition("datum.ours", alt.value(COLOUR["raise"]), alt.value(COLOUR["muted"]))
    base = alt.Chart(table).encode(
        y=alt.Y("method:N", sort=order, title=None, axis=alt.Axis(labelLimit=130, domain=False, ticks=False)),
        yOffset=alt.YOffset("size:N", sort=sizes),
        color=colour,
        opacity=alt.Opacity("shade:Q", scale=None, legend=None),
    )
    scale = alt.Scale(domain=[0, 1])
    ends = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="mean reciprocal rank, 95 % interval", scale=scale), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=46).encode(
        x="mrr:Q", shape=alt.Shape("size:N", sort=sizes, legend=alt.Legend(title=None, orient="top"))
    )
    return finish(alt.layer(ends, dots), width=190, height=alt.Step(9 if len(sizes) > 1 else 20))


def write_figures(run: str | Path, folder: str | Path, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Every figure of a run as a file of its own: `layers-3.svg` is the layer profile of query 3.

    `run` is a run folder, `folder` is made where it does not exist. Raises ValueError for another format than
    svg and png, and what `read_run` raises.
    """
    unknown = sorted(set(formats) - {"svg", "png"})
    if unknown:
        raise ValueError(f"unknown figure format {unknown[0]!r}; svg and png can be written")
    stored, into = read_run(run), Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for name, build in all_figures(stored):
        chart = build()
        for kind in formats:
            path = into / f"{name}.{kind}"
            if kind == "svg":
                path.write_text(draw(chart.properties(background="white")), encoding="utf-8")
            else:
                path.write_bytes(picture(chart.properties(background="white")))
            written.append(path)
    return written


def all_figures(run: Run) -> Iterator[tuple[str, Build]]:
    """(name, what builds the chart) for every figure that the run's tables allow."""
    for name, build, _ in (*probing_figures(run), *sparse_figures(run), *edit_figures(run), *llc_figures(run)):
        yield name, build
    if "queries" not in run.tables:
        return
    yield from trust_figures(run)
    if "retrieval" in run.tables and len(run.tables["retrieval"]):
        yield "retrieval", partial(retrieval, run.tables["retrieval"])
    if "tails" in run.tables and len(run.tables["tails"]):
        yield "top-share", partial(top_share, run.tables["tails"])
    for query in run.tables["queries"]["query"].tolist():
        yield from query_figures(run, int(query))


def query_figures(run: Run, query: int) -> Iterator[tuple[str, Build]]:
    """The same for one query: layers, layers-absolute, tail; each only where its table has the query."""
    layers = of_query(run, "layers", query)
    if layers is not None:
        yield f"layers-{query}", partial(layer_profile, layers)
        yield f"layers-absolute-{query}", partial(layer_absolute, layers)
    points, tails = of_query(run, "tail_points", query), of_query(run, "tails", query)
    if points is not None and (points["score"] > 0).sum() > 1:
        yield f"tail-{query}", partial(tail_plot, points, run.tables["tails"].head(0) if tails is None else tails)


def of_query(run: Run, name: str, query: int) -> pandas.DataFrame | None:
    """A table's rows for one query, or None where the table or the query's rows are missing."""
    table = run.tables.get(name)
    if table is None:
        return None
    rows = table[table["query"] == query]
    return rows if len(rows) else None


def _layer_axis(alt: Any) -> Any:
    return alt.X("layer:O", title="layer", axis=_plain_axis(alt))


def _plain_axis(alt: Any) -> Any:
    return alt.Axis(labelAngle=0, labelOverlap=True, ticks=False)


def _y(alt: Any, field: str, title: str) -> Any:
    return alt.Y(field, title=title, axis=alt.Axis(tickCount=5))


def _log(alt: Any, field: str, title: str, points: pandas.DataFrame) -> Any:
    """A logarithmic axis with a line at each power of ten, or at 1, 2, 5 where only one power lies inside."""
    low, high = float(points[field].min()) / 1.15, float(points[field].max()) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    whole = [10.0**power for power in powers if low <= 10.0**power <= high]
    fine = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    values = whole if len(whole) > 1 else [value for value in fine if low <= value <= high]
    # the keys as d3 writes them: 1e-3, 2e+0
    names = {
        re.sub(r"e([+-])0+(?=\d)", r"e\1", f"{value:.0e}"): number(value, 1).removeprefix("1·") for value in values
    }
    label = f"{json.dumps(names)}[format(datum.value, '.0e')]"
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    axis = "X" if field == "score" else "Y"
    return getattr(alt, axis)(
        f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=values, labelExpr=label, ticks=False)
    )
