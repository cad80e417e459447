"""Small panels drawn directly, since a study has a hundred and more and the plotting library takes half a second each.

A drawing is made of elements with colours by name; `page_svg` writes them with the classes of the page's style sheet,
so that light, dark and print colours apply, `file_svg` with the colours themselves on white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import numpy as np

from influence.report.svg import COLOUR
from influence.report.words import MINUS, clean

Points = Sequence[tuple[float, float]]
FONT = "Helvetica, Arial, sans-serif"


class Element(NamedTuple):
    """A tag with its attributes; `fill` and `stroke` are names of colours, `text` what a <text> says."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    seed: bool = False


@dataclass(frozen=True)
class Frame:
    """A rectangle on a panel with its ranges; `x` and `y` map data to pixels, clipped to the rectangle."""

    left: float
    top: float
    width: float
    height: float
    span: tuple[float, float] = (0.0, 1.0)
    rise: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        low, high = self.span
        share = (min(max(value, low), high) - low) / (high - low)
        return self.left + share * self.width

    def y(self, value: float) -> float:
        low, high = self.rise
        share = (min(max(value, low), high) - low) / (high - low)
        return self.top + (1 - share) * self.height


@dataclass(frozen=True)
class Panel:
    """A drawing of width × height pixels, and what it says in words."""

    width: float
    height: float
    words: str
    elements: list[Element] = field(default_factory=list)


def line(points: Points, stroke: str, width: float = 1.2, dash: str = "", seed: bool = False, opacity: float = 1.0
         ) -> list[Element]:  # fmt: skip
    """A line through the points that are numbers, broken where they are not."""
    parts, pen = [], "M"
    for x, y in points:
        if not (np.isfinite(x) and np.isfinite(y)):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    if not parts:
        return []
    told = {"d": "".join(parts), "fill": "none", "stroke": stroke, "stroke-width": f"{width:g}"}
    told |= {"stroke-dasharray": dash} if dash else {}
    told |= {"stroke-opacity": f"{opacity:g}"} if opacity < 1 else {}
    return [Element("path", told, seed=seed)]


def area(upper: Points, lower: Points, fill: str, opacity: float) -> list[Element]:
    """What lies between two lines, where both are numbers."""
    both = [(a, b) for a, b in zip(upper, lower, strict=True) if np.isfinite([*a, *b]).all()]
    if len(both) < 2:
        return []
    outline = [a for a, _ in both] + [b for _, b in reversed(both)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in outline) + "Z"
    return [Element("path", {"d": path, "fill": fill, "fill-opacity": f"{opacity:g}"})]


def bar(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> Element:
    told = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{max(width, 0):.1f}", "height": f"{max(height, 0):.1f}"}
    return Element("rect", told | {"fill": fill} | ({"fill-opacity": f"{opacity:g}"} if opacity < 1 else {}))


def dot(x: float, y: float, fill: str, radius: float = 2.2, hollow: bool = False, opacity: float = 1.0) -> Element:
    told = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}"}
    if hollow:
        return Element("circle", told | {"fill": "none", "stroke": fill, "stroke-width": "1"})
    return Element("circle", told | {"fill": fill} | ({"fill-opacity": f"{opacity:g}"} if opacity < 1 else {}))


def readable(text: str) -> str:
    """Text that may stand in XML: no control characters, none of the two code points that are no characters."""
    return clean(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")


def said(x: float, y: float, text: str, fill: str = "muted", anchor: str = "start", size: float = 10, bold: bool = False
         ) -> Element:  # fmt: skip
    told = {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": fill, "font-size": f"{size:g}", "text-anchor": anchor}
    return Element("text", told | ({"font-weight": "600"} if bold else {}), readable(text))


def axes(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], form: str = "{:.1f}", below: bool = True
         ) -> list[Element]:  # fmt: skip
    """Rules at the y ticks, the x axis with its ticks' numbers below."""
    drawn = []
    for value in y_ticks:
        y = frame.y(value)
        drawn += line([(frame.left, y), (frame.left + frame.width, y)], "rule", 1)
        drawn.append(said(frame.left - 4, y + 3.2, _tick(form, value), anchor="end", size=9))
    bottom = frame.top + frame.height
    drawn += line([(frame.left, bottom), (frame.left + frame.width, bottom)], "grey", 1)
    for value in x_ticks if below else ():
        drawn += line([(frame.x(value), bottom), (frame.x(value), bottom + 3)], "grey", 1)
        drawn.append(said(frame.x(value), bottom + 12, _tick("{:g}", value), anchor="middle", size=9))
    return drawn


def _tick(form: str, value: float) -> str:
    return form.format(value).replace("-", MINUS) if value else "0"


def _write(elements: Iterable[Element], coloured: bool) -> str:
    out = []
    for one in elements:
        told, classes = [], ["seed"] if one.seed and not coloured else []
        for key, value in one.attributes.items():
            if key in ("fill", "stroke") and value in COLOUR and not coloured:
                classes.append(f"{key[0]}-{value}")
            else:
                told.append(f'{key}="{escape(COLOUR.get(value, value) if key in ("fill", "stroke") else value)}"')
        told += [f'class="{" ".join(classes)}"'] if classes else []
        inside = escape(one.text, quote=False)
        out.append(f"<{one.tag} {' '.join(told)}" + (f">{inside}</{one.tag}>" if inside else "/>"))
    return "".join(out)


def page_svg(panel: Panel) -> str:
    """The drawing to stand in a page."""
    head = f'viewBox="0 0 {panel.width:g} {panel.height:g}" width="{panel.width:g}" height="{panel.height:g}"'
    return f'<svg {head} role="img" aria-label="{escape(readable(panel.words))}">{_write(panel.elements, False)}</svg>'


def file_svg(panels: Sequence[Panel], title: str = "", columns: int = 6) -> str:
    """Panels beside each other as one SVG document on white, in rows of `columns`."""
    gap, head = 12.0, 22.0 if title else 4.0
    columns = min(columns, len(panels)) or 1
    wide, tall = max(p.width for p in panels), max(p.height for p in panels)
    rows = -(-len(panels) // columns)
    width, height = columns * (wide + gap) + gap, head + rows * (tall + gap)
    parts = [_write([bar(0, 0, width, height, "white")], True)]
    if title:
        parts.append(_write([said(gap, 16, title, "ink", size=12, bold=True)], True))
    for place, panel in enumerate(panels):
        x, y = gap + place % columns * (wide + gap), head + place // columns * (tall + gap)
        parts.append(f'<g transform="translate({x:g} {y:g})">{_write(panel.elements, True)}</g>')
    words = escape(readable(" ".join(panel.words for panel in panels)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="{FONT}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
    )
