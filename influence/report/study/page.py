"""The page of a study, one HTML file that loads nothing, and its figures, each also a file beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from influence.report import words
from influence.report.extra import needed
from influence.report.page import FILTERS, asset, source_hash, write_page
from influence.report.payload import script_json
from influence.report.study import bysize, local
from influence.report.study.cells import Cell, cells, metric_of
from influence.report.study.context import context
from influence.report.study.maps import map_names, metric_name, panel, scales
from influence.report.study.pens import Panel, file_svg, page_svg
from influence.report.study.read import Study, read_study
from influence.report.study.trends import charts
from influence.report.svg import COLOUR, draw, inline

SMALL: dict[str, tuple[str, Callable[[Study], dict[str, Panel]]]] = {
    "centroid-d50": ("Centroid of influence against D50", bysize.meeting),
    "tail-exponents": ("Tail exponents of bearing and matched rows", bysize.tails),
    "tail-gaps": ("Bearing less matched exponent by depth less D50", bysize.gaps),
    "margin-auc": ("AUC of influence on the margin", bysize.margins),
    "llc-heads": ("Local learning coefficients of heads", local.heads),
}


@dataclass(frozen=True)
class Drawn:
    """All figures of a study: drawings to stand in the page by name (several of one figure), and whole files."""

    inside: dict[str, list[str]]
    whole: dict[str, str]


def write_study_report(out_html: str | Path, payload: Mapping[str, Any]) -> Path:
    """Writes the report of a study as one self-contained HTML file, its figures into figures/ beside it.

    `payload` holds plain data, see `influence.report.study`. Sections whose tables are missing are replaced by a
    sentence. The page is written beside and renamed, so an old report stays whole until the new one is.

    Raises:
        ValueError: for no models, an unknown key, and a table that lacks a column.
        ImportError: where the extra `report` is not installed. WriteFailed: where the disk refuses.
    """
    study = read_study(payload)
    drawn = _drawn(study)
    path = Path(out_html)
    page = render(context(study, drawn.inside)).encode("utf-8", "replace")
    for name, svg in drawn.whole.items():
        write_page(path.parent / "figures" / f"{name}.svg", svg.encode("utf-8", "replace"))
    return write_page(path, page)


def study_figures(payload: Mapping[str, Any]) -> dict[str, str]:
    """Every figure of a study as an SVG document on white, by the name of its file without .svg.

    "map-CONCEPT" has depth × influence of one concept at every size; others: `SMALL`, `trends.charts`, `local.charts`.
    Raises what `write_study_report` does.
    """
    return _drawn(read_study(payload)).whole


def _drawn(study: Study) -> Drawn:
    found = Drawn({}, {})
    by_concept: dict[str, list[Cell]] = {}
    everything = list(cells(study))
    for cell in everything:
        by_concept.setdefault(cell.concept, []).append(cell)
    scale, metric = scales(everything), metric_of(study)
    for concept, name in map_names(study).items():
        if concept in by_concept:
            panels = [panel(cell, scale, metric_name(metric)) for cell in by_concept[concept]]
            _keep(found, name, panels, words.clean(concept))
    for name, (title, build) in SMALL.items():
        small = list(build(study).values())
        if small:
            _keep(found, name, small, title)
    for name, make, label in (*charts(study), *local.charts(study)):
        chart = make()
        drawing = draw(chart)
        found.inside[name] = [inline(drawing, name, label)]
        found.whole[name] = _on_white(drawing)
    return found


def _keep(found: Drawn, name: str, panels: list[Panel], title: str) -> None:
    found.inside[name] = [page_svg(one) for one in panels]
    found.whole[name] = file_svg(panels, title)


def _on_white(drawing: str) -> str:
    """The drawing with a white ground, without drawing it a second time."""
    head = re.match(r"<svg[^>]*>", drawing)
    if head is None:
        raise ValueError(f"the plotting library drew no <svg>, it began with {drawing[:40]!r}")
    return f'{head.group()}<rect width="100%" height="100%" fill="white"/>{drawing[head.end() :]}'


def render(filled: Mapping[str, Any]) -> str:
    """The page's text for a filled context; every text in it is escaped by the template engine."""
    with needed():
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(words, name)
    style, script = asset("page.css") + _asset("study.css"), _asset("study.js")
    return str(
        environment.get_template("study.html").render(
            **filled,
            is_missing=words.is_missing,
            style=style,
            script=script,
            style_hash=source_hash(style),
            script_hash=source_hash(script),
            data=script_json({"colours": COLOUR}),
        )
    )


def _asset(name: str) -> str:
    return (files("influence.report.study") / name).read_text(encoding="utf-8")
