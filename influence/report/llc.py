"""Figures of local learning coefficients: curves across checkpoints, and the draws of chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from influence.report.drawn import Figure
from influence.report.figures import HEIGHT, WIDTH, altair_module, look
from influence.report.svg import COLOUR
from influence.report.words import clean

if TYPE_CHECKING:
    import pandas


def llc_figure(table: pandas.DataFrame, clusters: pandas.Series | None = None, borders: Sequence[float] = ()) -> Figure:
    """λ̂ of every part over training steps (logarithmic, a step 0 at the left end), with bands of two standard errors.

    Args:
        table: lines with step, part, value, mcse, as of `influence.llc.sweep.sweep` or a run's table `llc`.
        clusters: cluster by part, such as `clusters` gives; curves of one cluster share a colour.
        borders: steps at which stages begin, drawn as upright lines.

    Raises:
        ValueError: for a table without these columns or without a value.
        ImportError: where the extra `report` is not installed.
    """
    needed = ["step", "part", "value", "mcse"]
    if not set(needed) <= set(table.columns) or not table["value"].notna().any():
        raise ValueError(f"the table has the columns {list(table.columns)[:8]}; expected are {needed} with some value")
    alt = altair_module()
    kind = {} if clusters is None else {part: f"cluster {number}" for part, number in clusters.items()}
    shown = table[needed].dropna(subset=["value"])
    shown = shown.assign(
        at=shown["step"] + 1,
        low=shown["value"] - 2 * shown["mcse"].fillna(0),
        high=shown["value"] + 2 * shown["mcse"].fillna(0),
        kind=[kind.get(part, clean(part)) for part in shown["part"]],
        part=[clean(part) for part in shown["part"]],
    )
    x = alt.X("at:Q", title="training step + 1", scale=alt.Scale(type="log"))
    colour = alt.Color("kind:N", title=None, legend=alt.Legend(orient="right"))
    base = alt.Chart(shown).encode(x=x, color=colour, detail="part:N")
    band = base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("value:Q", title="local learning coefficient λ̂"))
    layers = [band, line]
    if len(borders):
        rules = alt.Chart(alt.Data(values=[{"at": float(border) + 1} for border in borders]))
        layers.append(rules.mark_rule(color=COLOUR["grey"], strokeDash=[4, 3]).encode(x="at:Q"))
    whole = alt.layer(*layers).properties(width=2 * WIDTH, height=HEIGHT)
    return Figure(look(whole), _words(table, borders))


def _words(table: pandas.DataFrame, borders: Sequence[float]) -> str:
    first, last = table["step"].min(), table["step"].max()
    parts = table["part"].nunique()
    ends = table[table["step"] == last].set_index("part")["value"].dropna().sort_values()
    said = (
        f"Local learning coefficients of {parts} parts at {table['step'].nunique()} steps from {first:g} to {last:g}."
    )
    if len(ends):
        said += (
            f" At the end {clean(ends.index[0])} has the lowest, {ends.iloc[0]:.3g}, and {clean(ends.index[-1])} the "
        )
        said += f"highest, {ends.iloc[-1]:.3g}."
    return said + (f" Stages begin at {', '.join(f'{border:g}' for border in borders)}." if len(borders) else "")
