"""Figures over sizes: what moves with the number of parameters, a dot per training seed; removal; signatures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from influence.report.chart import Build, altair_module, finish
from influence.report.study.cells import centroids
from influence.report.study.read import CHANCE, Study
from influence.report.svg import COLOUR
from influence.report.words import clean, fixed, number, shorten

if TYPE_CHECKING:
    import altair
    import pandas

ALL, KNOWN, NULL = "all concepts", "concepts", "nulls (expected at chance)"
LEAST_COMMON = 5
ARMS = ("top", "random")


class Trend(NamedTuple):
    """One figure of scale; `values` has a line per model and series: model, size, seed, parameters, series, value.

    `sizes`: numbers of parameters of all sizes, also those without a value.
    """

    name: str
    title: str
    about: str
    unit: str
    values: pandas.DataFrame
    sizes: tuple[float, ...]


def trends(study: Study) -> Iterator[Trend]:
    """Every outcome that the tables have, one number per model."""
    models = study.models[["model", "size", "seed", "parameters"]]
    sizes = tuple(sorted(set(models["parameters"].astype(float))))
    if "loss" in study.models and study.models["loss"].notna().any():
        values = models.assign(value=study.models["loss"].astype(float), series=ALL).dropna(subset=["value"])
        yield Trend("loss", "Held-out loss", "Of rows that no model was shown.", "nats per token", values, sizes)
    depth = study.tables.get("depth")
    sources = (
        ("recall", "Recall", "Share of a concept's prompts answered as the data do.", "share", depth, "recall"),
        ("d50", "D50", "Depth at which half of what a probe reads is reached.", "depth", depth, "d50"),
        ("centroid", "Centroid of influence", "Mean depth of a concept's influence.", "depth", centroids(study),
         "centroid"),
        ("effective-count", "Effective count", "How many rows, in effect, carry a query's influence.",
         "rows, geometric mean", _logged(study.tables.get("tails"), "effective_count"), "effective_count"),
        ("k95", "k95", "Neurons for 95 % of what a dense probe reads.", "neurons, geometric mean",
         _logged(depth, "k95"), "k95"),
    )  # fmt: skip
    for name, title, about, unit, table, column in sources:
        if table is None or column not in table or not table[column].notna().any():
            continue
        values, note = per_model(study, table, column)
        if name in ("effective-count", "k95"):
            values = values.assign(value=np.exp(values["value"]))
        yield Trend(name, title, f"{about} {note}", unit, values, sizes)


def _logged(table: pandas.DataFrame | None, column: str) -> pandas.DataFrame | None:
    if table is None or column not in table:
        return None
    return table.assign(**{column: np.log(table[column].astype(float).where(table[column] > 0))})


def per_model(study: Study, table: pandas.DataFrame, column: str) -> tuple[pandas.DataFrame, str]:
    """(model, size, seed, parameters, series, value; which concepts): means over a model's concepts.

    Where at least five concepts are defined in every model, the mean is over those alone, so that a size does not move
    because it defines other concepts.
    """
    cell = table.groupby(["model", "concept"])[column].mean().dropna().reset_index()
    null = set(study.concepts.loc[study.concepts["expected"] == CHANCE, "concept"])
    cell = cell.assign(series=[NULL if one in null else KNOWN if null else ALL for one in cell["concept"]])
    count = cell.groupby("concept")["model"].nunique()
    common = set(count[count == len(study.models)].index) - null
    note = "Mean over all concepts that a model defines, which may differ between models."
    if len(common) >= LEAST_COMMON:
        cell = cell[cell["concept"].isin(common | null)]
        note = f"Mean over the {len(common)} concepts that every model defines."
    values = cell.groupby(["model", "series"])[column].mean().rename("value").reset_index()
    models = study.models[["model", "size", "seed", "parameters"]]
    return models.merge(values, on="model"), note


def trend_chart(trend: Trend) -> altair.TopLevelMixin:
    """Dots per training seed over the number of parameters (logarithmic), a line through the means of sizes."""
    alt = altair_module()
    values = trend.values
    means = values.groupby(["series", "size"], sort=False)[["parameters", "value"]].mean().reset_index()
    parameters = list(trend.sizes)
    x = alt.X("parameters:Q", title="parameters, logarithmic", scale=_log_scale(alt, parameters),
              axis=alt.Axis(values=_thinned(parameters), labelExpr=_short_labels(parameters), ticks=False))  # fmt: skip
    y = alt.Y("value:Q", title=trend.unit, scale=_room(alt, values["value"]), axis=alt.Axis(tickCount=5))
    shades = {ALL: "raise", KNOWN: "raise", NULL: "muted"}
    shown = [name for name in shades if (values["series"] == name).any()]
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=shown, range=[COLOUR[shades[name]] for name in shown]),
        legend=alt.Legend(title=None, orient="top") if len(shown) > 1 else None,
    )
    lines = alt.Chart(means).mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour)
    dots = alt.Chart(values).mark_point(filled=True, size=34, opacity=0.75).encode(x=x, y=y, color=colour)
    return finish(alt.layer(lines, dots))


def _log_scale(alt: Any, parameters: list[float]) -> Any:
    low, high = parameters[0] / 1.3, parameters[-1] * 1.3
    return alt.Scale(type="log", domain=[low, high], nice=False)


def _room(alt: Any, values: pandas.Series) -> Any:
    """A scale that holds the values with some room, also where they are all the same."""
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 0.3 * abs(high) or 1.0
    return alt.Scale(domain=[low - room, high + room], nice=False, zero=False)


def _thinned(parameters: list[float]) -> list[float]:
    """The sizes to be named on an axis: neighbours that would overprint are left out."""
    kept: list[float] = []
    room = max(math.log(parameters[-1] / parameters[0]), 1e-9) / 8
    for value in parameters:
        if not kept or math.log(value / kept[-1]) > room:
            kept.append(value)
    return kept


def short_count(value: float) -> str:
    """133696 as 134k, 7_400_000 as 7.4M."""
    for unit, power in (("", 1), ("k", 1e3), ("M", 1e6), ("B", 1e9)):
        if value < 999.5 * power or unit == "B":
            return f"{value / power:.3g}{unit}" if value < 999.5 * power else f"{value / power:.0f}{unit}"
    raise AssertionError("the last unit holds every number")


def _short_labels(parameters: list[float]) -> str:
    names = {f"{value:.0f}": short_count(value) for value in parameters}
    return f"{json.dumps(names)}[format(datum.value, '.0f')]"


def trend_words(trend: Trend) -> str:
    told = []
    for (series, size), part in trend.values.groupby(["series", "size"], sort=False):
        name = f"{clean(size)} ({short_count(float(part['parameters'].iloc[0]))}"
        told.append(f"{name}, {series}) " + ", ".join(number(value) for value in part["value"]))
    return f"{trend.title}, {trend.unit}, by size, a number per seed: {'; '.join(told)}."


def depth_rows(study: Study) -> pandas.DataFrame | None:
    """concept, name, size, rank, d50: means over seeds, in the study's order of concepts; None without any D50."""
    table = study.tables.get("depth")
    if table is None or not table["d50"].notna().any():
        return None
    means = table.groupby(["concept", "size"])["d50"].mean().dropna().reset_index()
    order = {name: place for place, name in enumerate(study.concepts["concept"])}
    null = {name: study.is_null(name) for name in means["concept"].unique()}
    means = means.assign(
        place=means["concept"].map(order).astype(int),
        name=[
            shorten(clean(one).replace("\n", " "), 28) + (" (null)" if null[one] else "") for one in means["concept"]
        ],
        rank=[study.sizes.index(size) for size in means["size"]],
    )
    return means.sort_values(["place", "rank"]).reset_index(drop=True)


def depth_chart(rows: pandas.DataFrame, sizes: list[str]) -> altair.TopLevelMixin:
    """D50 of every concept at every size: the fainter a dot, the smaller the model."""
    alt = altair_module()
    shade = [0.25 + 0.75 * (rank + 1) / len(sizes) for rank in rows["rank"]]
    rows = rows.assign(shade=shade)
    order = alt.EncodingSortField(field="place", op="min")
    axis = alt.Axis(labelLimit=160, domain=False, ticks=False, grid=True, gridColor=COLOUR["rule"])
    x = alt.X("d50:Q", title="D50, mean over seeds", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    base = alt.Chart(rows).encode(x=x, y=alt.Y("name:N", sort=order, title=None, axis=axis))
    dots = base.mark_point(filled=True, shape="circle", size=52, color=COLOUR["accent"])
    dots = dots.encode(opacity=alt.Opacity("shade:Q", scale=None, legend=None))
    return finish(dots, width=230, height=alt.Step(17))


def removal_rows(study: Study) -> pandas.DataFrame | None:
    """size, seed, arm, shift (of D50), recall (its change), concepts, lost: means over concepts of each retraining.

    A concept that had no D50 before is left out of the shift; one that has none afterwards counts as known at depth 1,
    as in the test, and is counted in `lost`.
    """
    table = study.tables.get("removal")
    if table is None:
        return None
    before = table["d50_before"].notna()
    table = table.assign(shift=(table["d50_after"].fillna(1.0) - table["d50_before"]).where(before))
    both = {"recall_before", "recall_after"} <= set(table)
    table = table.assign(recall=table["recall_after"] - table["recall_before"] if both else np.nan)
    table = table.assign(lost=before & table["d50_after"].isna(), known=before)
    keys = ["size", "seed", "arm"]
    found = table.groupby(keys, sort=False).agg(
        shift=("shift", "mean"), recall=("recall", "mean"), concepts=("known", "sum"), lost=("lost", "sum")
    )
    return found.reset_index()


def removal_chart(rows: pandas.DataFrame, column: str, title: str) -> altair.TopLevelMixin:
    """Both arms of every retraining joined by a line: top rows removed, and as many random matched ones."""
    alt = altair_module()
    rows = rows[rows["arm"].isin(ARMS)].dropna(subset=[column])
    rows = rows.assign(pair=rows["size"].astype(str) + " " + rows["seed"].astype(str), size=rows["size"].astype(str))
    sizes = list(dict.fromkeys(rows["size"]))
    x = alt.X("arm:N", sort=list(ARMS), title=None, scale=alt.Scale(padding=0.4),
              axis=alt.Axis(labelAngle=0, ticks=False))  # fmt: skip
    y = alt.Y(f"{column}:Q", title=title, axis=alt.Axis(tickCount=5))
    base = alt.Chart(rows).encode(x=x, y=y)
    joined = base.mark_line(color=COLOUR["grey"], strokeWidth=1).encode(detail="pair:N")
    shape = alt.Shape("size:N", sort=sizes, legend=alt.Legend(title=None, orient="top") if len(sizes) > 1 else None)
    shade = alt.Color("arm:N", scale=alt.Scale(domain=list(ARMS), range=[COLOUR["raise"], COLOUR["muted"]]),
                      legend=None)  # fmt: skip
    zero = alt.Chart(rows.head(1)).mark_rule(color=COLOUR["grey"], strokeDash=[3, 2]).encode(y=alt.datum(0.0))
    return finish(alt.layer(zero, joined, base.mark_point(filled=True, size=46, opacity=0.9)
                            .encode(shape=shape, color=shade)))  # fmt: skip


def removal_words(rows: pandas.DataFrame, column: str) -> str:
    told = [
        f"{clean(one['size'])} seed {one['seed']}, {clean(one['arm'])}: {fixed(one[column], 3, True)}"
        for one in rows.to_dict("records")
    ]
    return f"Mean change of {'D50' if column == 'shift' else 'recall'} by retraining: {'; '.join(told)}."


def signature_rows(study: Study) -> pandas.DataFrame | None:
    """model, size, seed, parameters, series, value: mean AUC over concepts of signature, backward signal, random."""
    table = study.tables.get("signature")
    if table is None:
        return None
    series = {"auc_signature": "signature", "auc_backward": "backward signal", "auc_random": "random labels"}
    kept = [name for name in series if name in table]
    means = table.groupby("model")[kept].mean().rename(columns=series).reset_index()
    long = means.melt("model", var_name="series", value_name="value").dropna()
    return study.models[["model", "size", "seed", "parameters"]].merge(long, on="model") if len(long) else None


def signature_chart(rows: pandas.DataFrame) -> altair.TopLevelMixin:
    """AUC by size, a dot per seed: the probe on influence signatures, on the backward signal, on random labels."""
    alt = altair_module()
    shades = {"signature": "raise", "backward signal": "accent", "random labels": "muted"}
    shown = [name for name in shades if (rows["series"] == name).any()]
    sizes = list(dict.fromkeys(rows["size"]))
    base = alt.Chart(rows.assign(size=rows["size"].astype(str))).encode(
        x=alt.X("size:N", sort=[str(size) for size in sizes], title=None, axis=alt.Axis(labelAngle=0, ticks=False)),
        xOffset=alt.XOffset("series:N", sort=shown),
        y=alt.Y("value:Q", title="AUC, mean over concepts", scale=alt.Scale(zero=False, padding=8)),
        color=alt.Color(
            "series:N",
            scale=alt.Scale(domain=shown, range=[COLOUR[shades[name]] for name in shown]),
            legend=alt.Legend(title=None, orient="top"),
        ),
    )
    return finish(base.mark_point(filled=True, size=34, opacity=0.8))


def charts(study: Study) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, its words) of every figure over sizes that the tables allow."""
    rows = depth_rows(study)
    if rows is not None:
        told = "; ".join(f"{one['name']} {clean(one['size'])} {fixed(one['d50'])}" for one in rows.to_dict("records"))
        yield "depths", partial(depth_chart, rows, study.sizes), f"D50 by concept and size: {told}."
    for trend in trends(study):
        yield f"scale-{trend.name}", partial(trend_chart, trend), trend_words(trend)
    moved = removal_rows(study)
    for column, title in (("shift", "change of D50"), ("recall", "change of recall")):
        if moved is not None and moved.loc[moved["arm"].isin(ARMS), column].notna().any():
            yield f"removal-{column}", partial(removal_chart, moved, column, title), removal_words(moved, column)
    seen = signature_rows(study)
    if seen is not None:
        told = "; ".join(
            f"{clean(size)} {series} " + ", ".join(fixed(value, 3) for value in part["value"])
            for (size, series), part in seen.groupby(["size", "series"], sort=False)
        )
        yield "signature", partial(signature_chart, seen), f"AUC by size, a number per seed: {told}."
