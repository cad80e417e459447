"""Depth × influence of one concept at one size: the probe's curve above, the layer mass below, on one axis of depth."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from influence.report.depths import METRICS
from influence.report.study.cells import Cell, Spread
from influence.report.study.pens import Element, Frame, Panel, area, axes, bar, line, said
from influence.report.study.read import Study
from influence.report.words import clean, fixed, plural, shorten

WIDTH, CURVE, MASS = 176.0, 72.0, 32.0
LEFT, TOP, GAP, FOOT = 24.0, 19.0, 8.0, 15.0
HIGHEST = 5.0  # times an even share; bars beyond are cut, and say so


class Scales(NamedTuple):
    """Ranges that all panels of a page share: of the probe's metric, and of m̃ times layers (1: an even share)."""

    metric: tuple[float, float]
    even: float


def map_names(study: Study) -> dict[str, str]:
    """Concept -> the name of its figure, different for each; it cannot lead out of a folder."""
    found: dict[str, str] = {}
    for concept in study.concepts["concept"]:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", str(concept)).strip("-").lower()[:48].strip("-") or "concept"
        name, again = f"map-{plain}", 1
        while name in found.values():
            again += 1
            name = f"map-{plain}-{again}"
        found[concept] = name
    return found


def metric_name(metric: str) -> str:
    return METRICS.get(metric, clean(metric).replace("_", " "))


def scales(found: Sequence[Cell]) -> Scales:
    """Ranges that hold every value and control of these cells; wide intervals are cut at their edge."""
    values = [one.curve[["value", "control"]].to_numpy(float).ravel() for one in found if one.curve is not None]
    known = np.concatenate(values) if values else np.array([])
    known = known[np.isfinite(known)]
    least = math.floor(10 * min(0.5, known.min(initial=0.5))) / 10
    most = max([1.0, *(float(one.curve["value"].max()) for one in found if one.curve is not None)])
    even = max([2.0, *(float(one.mass["even"].max()) for one in found if one.mass is not None)])
    return Scales((max(least, -1.0), most), min(even, HIGHEST))


def panel(cell: Cell, scale: Scales, metric: str) -> Panel:
    """The drawing of one cell; what is not measured is left out, and its words say so."""
    upper = Frame(LEFT, TOP, WIDTH - LEFT - 5, CURVE, (0, 1), scale.metric)
    lower = Frame(LEFT, TOP + CURVE + GAP, upper.width, MASS, (0, 1), (0, scale.even))
    drawn = [said(LEFT, 11, shorten(clean(cell.size), 14), "ink", size=11, bold=True)]
    drawn.append(said(WIDTH - 5, 11, _d50_word(cell), anchor="end", size=10))
    drawn += _curve(cell, upper)
    drawn += _mass(cell, lower)
    drawn += _marks(cell, upper, lower)
    return Panel(WIDTH, lower.top + MASS + FOOT, words(cell, metric), drawn)


def _curve(cell: Cell, frame: Frame) -> list[Element]:
    low, high = frame.rise
    drawn = axes(frame, (), [low, (low + high) / 2, high] if high - low > 0.3 else [low, high], "{:.2g}", below=False)
    if cell.curve is None:
        return [*drawn, said(frame.left + 6, frame.top + CURVE / 2, "no probe here", size=10)]
    table = cell.curve
    depth = table["depth"].to_numpy(float)

    def points(name: str) -> list[tuple[float, float]]:
        return [
            (frame.x(x), frame.y(y) if np.isfinite(y) else np.nan)
            for x, y in zip(depth, table[name].to_numpy(float), strict=True)
        ]

    drawn += area(points("high"), points("low"), "raise", 0.16)
    for seed in cell.seed_curves if cell.count > 1 else ():
        drawn += line([(frame.x(x), frame.y(y)) for x, y in seed], "raise", 0.8, seed=True, opacity=0.55)
    drawn += line(points("control"), "ink", 1.1, "4 2")
    return drawn + line(points("value"), "raise", 2)


def _mass(cell: Cell, frame: Frame) -> list[Element]:
    even = frame.y(1.0)
    drawn = axes(frame, [0, 0.5, 1], [])
    drawn.append(said(frame.left - 4, even + 3.2, "1", anchor="end", size=9))
    if cell.mass is None:
        return [*drawn, said(frame.left + 6, frame.top + MASS / 2, "no influence here", size=10)]
    step = 1.0 / max(cell.steps, 1)
    for depth, value in zip(cell.mass["depth"], cell.mass["even"], strict=True):
        if not np.isfinite(value):
            continue
        left = frame.x(depth - step) + 0.6
        top = frame.y(value)
        drawn.append(bar(left, top, max(frame.x(depth) - left - 0.6, 1.2), frame.top + MASS - top, "lower", 0.75))
        if value > frame.rise[1]:
            drawn.append(said((left + frame.x(depth)) / 2, frame.top - 1, f"{value:.1f}", "lower", "middle", 8))
    for seed in cell.seed_mass if cell.count > 1 else ():
        middle = [(frame.x(x - step / 2), frame.y(y)) for x, y in seed]
        drawn += line(middle, "ink", 0.8, seed=True, opacity=0.6)
    return drawn + line([(frame.left, even), (frame.left + frame.width, even)], "ink", 0.9, "2 2")


def _marks(cell: Cell, upper: Frame, lower: Frame) -> list[Element]:
    """D50 solid and D95 dotted through both parts, and the range of D50 over seeds at the foot of the curve."""
    drawn: list[Element] = []
    foot = lower.top + MASS
    for found, dash in ((cell.d50, ""), (cell.d95, "1.5 2")):
        if found.seeds:
            x = upper.x(found.mean)
            drawn += line([(x, upper.top), (x, foot)], "accent", 1.4, dash)
    if cell.d50.seeds > 1:
        y = upper.top + CURVE + GAP / 2
        drawn += line([(upper.x(cell.d50.low), y), (upper.x(cell.d50.high), y)], "accent", 2.6)
    return drawn


def _d50_word(cell: Cell) -> str:
    if not cell.d50.seeds:
        return "D50 undefined"
    part = "" if cell.d50.seeds == cell.count else f", {cell.d50.seeds} of {cell.count}"
    return f"D50 {fixed(cell.d50.mean)}{part}"


def words(cell: Cell, metric: str) -> str:
    """The panel in words."""
    told = [f"{clean(cell.concept)} at {clean(cell.size)}, {plural(cell.count, 'training seed')}."]
    if cell.curve is not None:
        first, last = cell.curve.iloc[0], cell.curve.iloc[-1]
        best = cell.curve.loc[cell.curve["value"].idxmax()] if cell.curve["value"].notna().any() else last
        told.append(
            f"{metric} of the probe {fixed(first['value'])} at depth {fixed(first['depth'])}, {fixed(best['value'])} "
            f"at its best depth {fixed(best['depth'])} (control there {fixed(best['control'])})."
        )
        told.append(f"D50 {_spread(cell.d50, cell.count)}, D95 {_spread(cell.d95, cell.count)}.")
    if cell.mass is not None:
        parts = ", ".join(fixed(value) for value in cell.mass["mass"])
        told.append(f"Layer mass from the first to the last layer: {parts}; centroid {fixed(cell.centroid.mean)}.")
    return " ".join(told)


def _spread(found: Spread, count: int) -> str:
    if not found.seeds:
        return "undefined"
    told = fixed(found.mean)
    if found.seeds > 1:
        told += f" ({fixed(found.low)} to {fixed(found.high)} over seeds)"
    return told + ("" if found.seeds == count else f" in {found.seeds} of {count} seeds")
