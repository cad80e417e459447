"""Figures of results in memory: shown in a notebook, saved as SVG or PNG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from influence.probing.result import Probing
from influence.report.chart import HEIGHT, WIDTH, altair_module, look
from influence.report.depths import curve_layers
from influence.report.probing import curve_words
from influence.report.svg import draw, picture
from influence.report.words import clean

COLUMNS = 3


@dataclass(frozen=True)
class Figure:
    """A chart (of Altair) and what it shows in words; a notebook shows the drawing."""

    chart: Any = field(repr=False)
    words: str

    def svg(self) -> str:
        """The drawing on white, with its words for those who cannot see it."""
        drawn = draw(self.chart.properties(background="white"))
        return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(self.words)}" ', 1)

    def save(self, path: str | Path) -> Path:
        """Write .svg or .png, as the path says; raises ValueError for another ending."""
        path = Path(path)
        if path.suffix == ".svg":
            path.write_text(self.svg(), encoding="utf-8")
        elif path.suffix == ".png":
            path.write_bytes(picture(self.chart.properties(background="white")))
        else:
            raise ValueError(f"{path} ends in {path.suffix or 'nothing'!r}; a figure can be saved as .svg or .png")
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.words}


def depth_figure(results: Probing | Iterable[Probing], *, site: str | None = None) -> Figure:
    """Curves over depth of what `influence.probe` returned: one panel for each result, in rows of three.

    Red is the probe with its interval, every other line a control; D50 stands at the foot where it is defined.

    Args:
        results: one or several, of any concepts and models.
        site: default the first of each result.

    Raises:
        ValueError: without results, or for a site that one of them does not have.
        ImportError: where the extra `report` is not installed.
    """
    found = [results] if isinstance(results, Probing) else list(results)
    if not found:
        raise ValueError("no results came; give what influence.probe returned")
    models = {one.model for one in found}
    panels, words = [], []
    for one in found:
        where = site or one.sites[0]
        if where not in one.sites:
            raise ValueError(
                f"{one.concept} in {one.model} was not read at {where!r}; it was at {', '.join(one.sites)}"
            )
        curves = one.curves[one.curves["site"] == where]
        depths = one.depths[one.depths["site"] == where]
        chart = curve_layers(curves, depths, one.over[where], one.metric)
        title = one.concept if len(models) == 1 else f"{one.concept}, {one.model}"
        panels.append(chart.properties(width=WIDTH, height=HEIGHT, title=clean(title)))
        line = one.summary().set_index("site").loc[where].to_dict()
        words.append(curve_words(curves, line))
    alt = altair_module()
    whole = panels[0] if len(panels) == 1 else alt.concat(*panels, columns=COLUMNS)
    return Figure(look(whole), " ".join(words))
