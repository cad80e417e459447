"""Local learning coefficients in a study's report: λ̂ of layers by depth and size, of heads by size, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from influence.report.chart import Build, altair_module, finish
from influence.report.study.bysize import HEIGHT, LEFT, TOP, WIDTH, panel_head
from influence.report.study.pens import Frame, Panel, axes, dot, line
from influence.report.study.read import Study
from influence.report.svg import COLOUR
from influence.report.words import clean, number, plural, shorten

if TYPE_CHECKING:
    import altair
    import pandas

UNTRAINED = "llc_untrained"
NOT_MIXED = 1.05  # an R-hat above it carries a note of the estimate


def layers_of(study: Study, name: str = "llc") -> pandas.DataFrame | None:
    """The lines of layers with an estimate; None without any."""
    return _some(study.tables.get(name), "layer")


def _some(table: pandas.DataFrame | None, part: str) -> pandas.DataFrame | None:
    if table is None:
        return None
    found = table[(table["part"] == part) & table["llc"].notna()]
    return found if len(found) else None


def layer_chart(rows: pandas.DataFrame, sizes: list[str]) -> altair.TopLevelMixin:
    """λ̂ of every layer at its depth: a line per size through means over seeds, a dot per seed; faint is small."""
    alt = altair_module()
    here = [size for size in sizes if (rows["size"] == size).any()]
    rows = rows.assign(rank=[here.index(size) for size in rows["size"]])
    means = rows.groupby(["rank", "depth"])["llc"].mean().reset_index()
    faintest = 0.3 if len(here) > 1 else 1.0
    names = {str(rank): shorten(clean(size), 14) for rank, size in enumerate(here)}
    legend = alt.Legend(title=None, orient="top", labelExpr=f"{json.dumps(names)}[datum.label]", symbolType="circle",
                        symbolFillColor=COLOUR["accent"], symbolStrokeColor=COLOUR["accent"])  # fmt: skip
    shade = alt.Opacity("rank:O", scale=alt.Scale(domain=list(range(len(here))), range=[faintest, 1.0]), legend=legend)
    x = alt.X("depth:Q", title="depth", scale=alt.Scale(domain=[0, 1.02], nice=False),
              axis=alt.Axis(values=[0, 0.5, 1]))  # fmt: skip
    y = alt.Y("llc:Q", title="λ̂ of a layer", axis=alt.Axis(tickCount=5))
    lines = alt.Chart(means).mark_line(strokeWidth=1.6, color=COLOUR["accent"]).encode(x=x, y=y, opacity=shade)
    dots = alt.Chart(rows).mark_point(filled=True, size=34, color=COLOUR["accent"]).encode(x=x, y=y, opacity=shade)
    return finish(alt.layer(lines, dots))


def layer_words(rows: pandas.DataFrame, sizes: list[str]) -> str:
    told = []
    for size in sizes:
        means = rows[rows["size"] == size].groupby("depth")["llc"].mean()
        if len(means):
            told.append(f"{clean(size)}: " + ", ".join(f"{number(v, 3)} at depth {x:.2f}" for x, v in means.items()))
    return f"Local learning coefficient of each layer by size, means over seeds: {'; '.join(told)}."


def charts(study: Study) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, its words) of the figure of layers, where there is something to draw."""
    rows = layers_of(study)
    if rows is not None:
        yield "llc-layers", partial(layer_chart, rows, study.sizes), layer_words(rows, study.sizes)


def heads(study: Study) -> dict[str, Panel]:
    """Per size a dot per head and seed at its layer's depth, and a line through the medians of layers."""
    table = _some(study.tables.get("llc"), "head")
    if table is None:
        return {}
    low, high = min(0.0, float(table["llc"].min())), max(0.0, float(table["llc"].max()))
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9))) / 2
    rise = (math.floor(low / step) * step, math.ceil(high / step) * step)
    return {size: _heads(size, table[table["size"] == size], rise) for size in study.sizes
            if (table["size"] == size).any()}  # fmt: skip


def _heads(size: str, part: pandas.DataFrame, rise: tuple[float, float]) -> Panel:
    frame = Frame(LEFT + 8, TOP, WIDTH - LEFT - 18, HEIGHT - TOP - 16, (0, 1), rise)
    count = part.groupby("model")["llc"].size().max()
    ticks = sorted({rise[0], 0.0, rise[1]})
    drawn = [*panel_head(size, plural(int(count), "head")), *axes(frame, [0, 0.5, 1], ticks, "{:.3g}")]
    drawn += [dot(frame.x(x), frame.y(y), "accent", 2.2, opacity=0.6)
              for x, y in zip(part["depth"], part["llc"], strict=True)]  # fmt: skip
    middle = part.groupby("depth")["llc"].median()
    drawn += line([(frame.x(float(x)), frame.y(float(y))) for x, y in middle.items()], "ink", 1.4)
    told = []
    for depth, one in part.groupby("depth")["llc"]:
        told.append(f"at depth {depth:.2f} {number(one.min(), 3)} to {number(one.max(), 3)}, median "
                    f"{number(one.median(), 3)}")  # fmt: skip
    words = f"{clean(size)}, local learning coefficients of heads over all seeds: {'; '.join(told)}."
    return Panel(WIDTH, HEIGHT, words, drawn)


def lines(study: Study) -> list[dict[str, Any]]:
    """By size: means over seeds of the sum over layers and of their centre, the untrained sum, and what is doubtful."""
    table = study.tables.get("llc")
    if table is None:
        return []
    found = []
    for size in study.sizes:
        part, models = table[table["size"] == size], study.models[study.models["size"] == size]
        if not len(part):
            continue
        means = {name: float(models[name].mean()) if name in models else None for name in ("llc_layers", "llc_depth")}
        found.append(
            {"size": clean(size), "seeds": int(part["model"].nunique()), "parts": len(part), **means}
            | {"untrained": _untrained(study, size), "withheld": int(part["llc"].isna().sum())}
            | {"unmixed": int((part["rhat"] > NOT_MIXED).sum())}
        )
    return found


def _untrained(study: Study, size: str) -> float | None:
    """The mean over seeds of the sum over layers of the untrained twins, as far as every layer has an estimate."""
    table = study.tables.get(UNTRAINED)
    if table is None:
        return None
    part = table[(table["size"] == size) & (table["part"] == "layer")]
    sums = part.groupby("model")["llc"].agg(lambda values: values.sum(skipna=False)).dropna()
    return float(sums.mean()) if len(sums) else None
