"""Small panels, one per size: centroid against D50, tail exponents by layer, AUC of the margin by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from influence.report.study.cells import centroids
from influence.report.study.pens import Element, Frame, Panel, area, axes, dot, line, said
from influence.report.study.read import CHANCE, Study
from influence.report.words import clean, fixed, plural, shorten

if TYPE_CHECKING:
    import pandas

WIDTH, HEIGHT, LEFT, TOP, FOOT = 176.0, 118.0, 26.0, 19.0, 16.0
BINS = np.linspace(-1, 1, 11)  # of depth − D50
LEAST = 5  # values in a bin that a mean is drawn of


def _frame(rise: tuple[float, float], span: tuple[float, float] = (0, 1)) -> Frame:
    return Frame(LEFT, TOP, WIDTH - LEFT - 6, HEIGHT - TOP - FOOT, span, rise)


def panel_head(size: str, note: str) -> list[Element]:
    """A panel's name and what stands at its right."""
    name = said(LEFT, 11, shorten(clean(size), 14), "ink", size=11, bold=True)
    return [name, said(WIDTH - 6, 11, note, anchor="end", size=10)]


def meeting(study: Study) -> dict[str, Panel]:
    """Per size a dot per concept: D50 to the right, the centroid of influence upwards, means over seeds."""
    middle, depth = centroids(study), study.tables.get("depth")
    if middle is None or depth is None:
        return {}
    both = middle.merge(depth[["model", "concept", "d50"]], on=["model", "concept"]).dropna(subset=["centroid", "d50"])
    if not len(both):
        return {}
    low = math.floor(10 * both["centroid"].min()) / 10
    rise = (low, max(math.ceil(10 * both["centroid"].max()) / 10, low + 0.2))
    found = {}
    for size in study.sizes:
        part = both[both["size"] == size].groupby("concept")[["d50", "centroid"]].mean()
        frame = _frame(rise)
        drawn = [*panel_head(size, plural(len(part), "concept")), *axes(frame, [0, 0.5, 1], [*rise])]
        for concept, one in part.iterrows():
            null = study.is_null(str(concept))
            place = frame.x(one["d50"]), frame.y(one["centroid"])
            drawn.append(dot(*place, "muted" if null else "lower", 2.6, hollow=null, opacity=1 if null else 0.8))
        text = "; ".join(
            f"{clean(c)} D50 {fixed(o['d50'])}, centroid {fixed(o['centroid'])}" for c, o in part.iterrows()
        )
        found[size] = Panel(WIDTH, HEIGHT, f"{clean(size)}: {text or 'no concept has both'}.", drawn)
    return found


def paired_tails(study: Study) -> pandas.DataFrame | None:
    """model, size, seed, concept, layer, depth, bearing, matched, gap: exponents of cells' layers that have both."""
    table = study.tables.get("layer_tail")
    if table is None:
        return None
    keys = ["model", "size", "seed", "concept", "layer", "depth"]
    wide = table.assign(side=np.where(table["bearing"].astype(bool), "bearing", "matched"))
    wide = wide.pivot_table(index=keys, columns="side", values="exponent", observed=True)
    if not {"bearing", "matched"} <= set(wide.columns):
        return None
    wide = wide.dropna().reset_index()
    return wide.assign(gap=wide["bearing"] - wide["matched"]) if len(wide) else None


def tails(study: Study) -> dict[str, Panel]:
    """Per size the exponent by depth of rows that bear the concept and of matched rows; bands are quartiles."""
    table = paired_tails(study)
    if table is None:
        return {}
    series = {"bearing": ("raise", ""), "matched": ("ink", "4 2")}
    quart = table.groupby(["size", "depth"])[list(series)].quantile([0.25, 0.75])
    low, high = float(quart.min().min()), float(quart.max().max())
    rise = (math.floor(2 * low) / 2, max(math.ceil(2 * high) / 2, math.floor(2 * low) / 2 + 0.5))
    return {
        size: _bands(size, table[table["size"] == size], series, rise, "exponent of the density")
        for size in study.sizes
        if (table["size"] == size).any()
    }


def margins(study: Study) -> dict[str, Panel]:
    """Per size the AUC by depth of influence on the probe's margin for bearing rows; bands are quartiles."""
    table = study.tables.get("margin")
    if table is None:
        return {}
    styles = {"auc": ("raise", ""), "auc_control": ("accent", "5 2"), "auc_random": ("grey", "2 2")}
    series = {name: style for name, style in styles.items() if name in table}
    depth = table["depth"] if "depth" in table else _depths(study, table)
    table = table.assign(depth=depth).dropna(subset=["auc"])
    low = min(0.5, float(table[list(series)].quantile(0.05).min())) if len(table) else 0.5
    most = max(0.7, float(table[list(series)].quantile(0.99).max())) if len(table) else 1.0
    rise = (math.floor(10 * low) / 10, min(1.0, math.ceil(10 * most) / 10))
    return {
        size: _bands(size, table[table["size"] == size], series, rise, "AUC")
        for size in study.sizes
        if (table["size"] == size).any()
    }


def _depths(study: Study, table: pandas.DataFrame) -> pandas.Series:
    layers = table["model"].map(study.models.set_index("model")["n_layers"])
    return (table["layer"] + 1) / layers.astype(float)


def _bands(size: str, part: pandas.DataFrame, series: Mapping[str, tuple[str, str]], rise: tuple[float, float],
           what: str) -> Panel:  # fmt: skip
    frame = _frame(rise)
    ticks = [rise[0], (rise[0] + rise[1]) / 2, rise[1]]
    drawn = [
        *panel_head(size, plural(part["concept"].nunique(), "concept")),
        *axes(frame, [0, 0.5, 1], ticks, "{:.3g}"),
    ]
    told = []
    for name, (colour, dash) in series.items():
        by = part.groupby("depth")[name]
        middle, low, high = by.mean(), by.quantile(0.25), by.quantile(0.75)
        if name in ("bearing", "auc", "matched"):
            drawn += area(_points(frame, high), _points(frame, low), colour, 0.13)
        drawn += line(_points(frame, middle), colour, 2 if not dash else 1.3, dash)
        if len(middle) == 1:
            drawn.append(dot(*_points(frame, middle)[0], colour))
        values = ", ".join(fixed(value) for value in middle)
        told.append(f"{name.replace('_', ' ')} {values}")
    words = f"{clean(size)}, {what} from the first to the last layer, means over concepts and seeds: {'; '.join(told)}."
    return Panel(WIDTH, HEIGHT, words, drawn)


def _points(frame: Frame, values: pandas.Series) -> list[tuple[float, float]]:
    return [(frame.x(float(x)), frame.y(float(y)) if np.isfinite(y) else np.nan) for x, y in values.items()]


def gaps(study: Study) -> dict[str, Panel]:
    """Per size: exponent of bearing rows less that of matched rows, against depth − D50; dots are layers of cells."""
    table, depth = paired_tails(study), study.tables.get("depth")
    if table is None or depth is None:
        return {}
    table = table.merge(depth[["model", "concept", "d50"]], on=["model", "concept"]).dropna(subset=["d50"])
    if not len(table):
        return {}
    table = table.assign(beyond=table["depth"] - table["d50"])
    most = max(0.2, float(table["gap"].abs().max()))
    most = math.ceil(5 * most) / 5
    return {
        size: _gap(size, table[table["size"] == size], most) for size in study.sizes if (table["size"] == size).any()
    }


def _gap(size: str, part: pandas.DataFrame, most: float) -> Panel:
    frame = _frame((-most, most), (-1, 1))
    drawn = [*panel_head(size, plural(part["concept"].nunique(), "concept"))]
    drawn += axes(frame, [-1, 0, 1], [-most, 0, most], "{:+.2g}")
    drawn += line([(frame.x(0), frame.top), (frame.x(0), frame.top + frame.height)], "accent", 1.2)
    drawn += [dot(frame.x(x), frame.y(y), "muted", 1.3, opacity=0.35)
              for x, y in zip(part["beyond"], part["gap"], strict=True)]  # fmt: skip
    middles, told = [], []
    for low, high in zip(BINS[:-1], BINS[1:], strict=True):
        inside = part.loc[(part["beyond"] >= low) & (part["beyond"] < high), "gap"]
        if len(inside) >= LEAST:
            middles.append((frame.x((low + high) / 2), frame.y(float(inside.mean()))))
            told.append(f"{fixed((low + high) / 2, 1, True)}: {fixed(inside.mean(), 2, True)}")
    drawn += line(middles, "raise", 2)
    words = (
        f"{clean(size)}, bearing less matched exponent by depth less D50, means of bins: {'; '.join(told) or 'none'}."
    )
    return Panel(WIDTH, HEIGHT, words, drawn)


def has_nulls(study: Study) -> bool:
    return bool((study.concepts["expected"] == CHANCE).any())
