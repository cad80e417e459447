"""Accuracy against cost, one column per setting: closeness to the exact solve above, LDS with its interval below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

FAMILIES = {
    "CG": "#1b6ca8",
    "EK-FAC + CG": "#b2182b",
    "EK-FAC + block CG": "#7b3294",
    "LiSSA": "#5e9c3a",
    "EK-FAC + LiSSA": "#d98a1f",
}
CHEAP = "#444444"
ABOVE, BELOW = ("K-FAC", "diagonal", "exact"), ("EK-FAC", "gradient dot")  # of points that lie close to each other


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Write the figure as SVG or PNG, by the path's suffix."""
    import altair as alt

    columns = []
    for one in found:
        table = pd.DataFrame(one["table"]).dropna(subset=["seconds"])
        table["family"] = [_family(name) for name in table["estimator"]]
        domain = [*FAMILIES, "no products"]
        colour = alt.Color(
            "family:N", scale=alt.Scale(domain=domain, range=[*FAMILIES.values(), CHEAP]), legend=alt.Legend(title=None)
        )
        x = alt.X("seconds:Q", scale=alt.Scale(type="log"), title="seconds, factors and scoring included")
        base = alt.Chart(table)
        parts = []
        for column, title in (("pearson exact", "Pearson with the exact solve"), ("LDS", "LDS")):
            y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False))
            layers = [
                base.transform_filter("datum.family != 'no products'")
                .mark_line(strokeWidth=1)
                .encode(x, y, colour, order="products:Q"),
                base.mark_point(filled=True, size=45, opacity=1).encode(x, y, colour),
                _names(base, ABOVE, -8).encode(x, y, text="estimator"),
                _names(base, BELOW, 8).encode(x, y, text="estimator"),
            ]
            if column == "LDS":
                bar = base.mark_rule(opacity=0.35).encode(
                    x, alt.Y("LDS low:Q", title=title), alt.Y2("LDS high:Q"), colour
                )
                layers.insert(0, bar)
            parts.append(alt.layer(*layers).properties(width=300, height=200))
        heading = f"{one['setting']}: {one['rows']} rows, {one['parameters']:,} parameters"
        columns.append(alt.vconcat(*parts, title=heading))
    alt.hconcat(*columns).configure_view(stroke=None).save(str(path), **({"ppi": 96} if path.suffix == ".png" else {}))


def _names(base: Any, names: tuple[str, ...], dy: int) -> Any:
    import altair as alt

    chosen = alt.FieldOneOfPredicate(field="estimator", oneOf=list(names))
    return base.transform_filter(chosen).mark_text(dy=dy, fontSize=10)


def _family(name: str) -> str:
    stem = name.rstrip("0123456789 ")
    return stem if stem in FAMILIES else "no products"
