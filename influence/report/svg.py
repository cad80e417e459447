"""Charts as SVG that may stand inside a page: only drawing elements, no links, no styles, no scripts.

Every chart is drawn with the colours of `INK`; inside a page each becomes a class, so that the page's own
light, dark and print colours apply.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import escape
from typing import TYPE_CHECKING

from influence.report.extra import needed

if TYPE_CHECKING:
    import altair

# sentinel colour -> class of the page's style sheet
INK = {
    "#1f2430": "ink",
    "#6a7080": "muted",
    "#e3ded2": "rule",
    "#b3362b": "raise",
    "#2b66a8": "lower",
    "#8a6414": "accent",
    "#a9aeb9": "grey",
}
COLOUR = {name: colour for colour, name in INK.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_ELEMENTS = {"svg", "g", "path", "rect", "line", "circle", "text", "tspan", "defs", "clipPath"}
# fmt: off
_ATTRIBUTES = {
    "width", "height", "viewBox", "d", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry",
    "dx", "dy", "transform", "opacity", "fill-opacity", "stroke-opacity", "stroke-width", "stroke-dasharray",
    "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "text-anchor", "font-size", "font-weight",
    "font-style",
}
# fmt: on
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")  # digits beyond a hundredth of a pixel
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")


def draw(chart: altair.TopLevelMixin) -> str:
    """The chart as an SVG document, drawn on this machine (no browser, no network)."""
    with needed():
        import vl_convert
    return str(vl_convert.vegalite_to_svg(chart.to_json(validate=False)))


def picture(chart: altair.TopLevelMixin, scale: float = 2.0) -> bytes:
    """The chart as a PNG, `scale` pixels to each of its units."""
    with needed():
        import vl_convert
    return bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=scale))


def inline(svg: str, name: str, label: str) -> str:
    """`svg` made safe to stand in a page: ids begin with `name`, `label` is what a screen reader says.

    Raises ValueError where the document is no SVG or declares entities.
    """
    if "<!" in svg:
        raise ValueError("the SVG holds a declaration or comment; a drawing without one was expected")
    root = ET.fromstring(svg)
    if root.tag != f"{_SVG}svg":
        raise ValueError(f"expected an <svg> document, got <{root.tag}>")
    # numbered anew, since the drawing library counts its ids on from chart to chart
    marks = [node.get("id", "") for node in root.iter() if node.get("id")]
    ids = {mark: f"{name}-{index}" for index, mark in enumerate(marks)}
    body = "".join(_element(child, ids) for child in root)
    shape = " ".join(_attributes(root, ids))
    return f'<svg {shape} role="img" aria-label="{escape(label)}">{body}</svg>'


def _element(node: ET.Element, ids: dict[str, str]) -> str:
    tag = node.tag.removeprefix(_SVG)
    if tag not in _ELEMENTS or node.get("display") == "none" or _paints_nothing(node, tag):
        return ""
    inner = escape(node.text or "", quote=False) if tag in ("text", "tspan") else ""
    inner += "".join(_element(child, ids) for child in node)
    if tag in ("g", "defs") and not inner:
        return ""
    attributes = "".join(f" {item}" for item in _attributes(node, ids))
    return f"<{tag}{attributes}>{inner}</{tag}>" if inner else f"<{tag}{attributes}/>"


def _paints_nothing(node: ET.Element, tag: str) -> bool:
    """Backgrounds without colour, of which every axis brings some: without them a page is half as large."""
    unseen = not (node.get("fill") or node.get("stroke"))
    return tag == "path" and (unseen or not node.get("d"))


def _attributes(node: ET.Element, ids: dict[str, str]) -> list[str]:
    kept, classes = [], []
    for key, value in node.attrib.items():
        if key in ("fill", "stroke"):
            colour = value.lower()
            if colour in INK:
                classes.append(f"{key[0]}-{INK[colour]}")
            elif re.fullmatch(r"#[0-9a-f]{3,8}|none|transparent|white|black", colour):
                kept.append(f'{key}="{colour}"')
        elif key == "id":
            kept.append(f'id="{escape(ids[value])}"')
        elif key == "clip-path" and (match := _REFERENCE.fullmatch(value)) and match.group(1) in ids:
            kept.append(f'clip-path="url(#{escape(ids[match.group(1)])})"')
        elif key in _ATTRIBUTES:
            short = _LONG.sub(lambda found: f"{float(found.group()):.2f}", value)
            kept.append(f'{key}="{escape(short)}"')
    if classes:
        kept.append(f'class="{" ".join(classes)}"')
    return kept
