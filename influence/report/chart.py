"""What all charts of the report share: their size and looks.

All are 330 px wide, so that one fills a phone and three stand beside each other on a desk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from influence.report.extra import needed
from influence.report.svg import COLOUR

if TYPE_CHECKING:
    import altair

Build = Callable[[], "altair.TopLevelMixin"]
WIDTH, HEIGHT = 272, 168


def altair_module() -> Any:
    with needed():
        import altair
    return altair


def finish(chart: Any, width: Any = WIDTH, height: Any = HEIGHT) -> altair.TopLevelMixin:
    """A chart of that size in the report's looks."""
    return look(chart.properties(width=width, height=height))


def look(chart: Any) -> altair.TopLevelMixin:
    """The report's looks, for a chart or several beside each other."""
    font = "Helvetica, Arial, sans-serif"
    text = {
        "labelColor": COLOUR["muted"],
        "titleColor": COLOUR["muted"],
        "labelFont": font,
        "titleFont": font,
    }
    axis = {
        **text,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridColor": COLOUR["rule"],
        "domainColor": COLOUR["grey"],
        "tickColor": COLOUR["grey"],
    }
    return (
        chart.properties(background="transparent", padding=2)
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_axisX(grid=False)
        .configure_legend(**text, labelFontSize=11, symbolFillColor=COLOUR["muted"])
    )
