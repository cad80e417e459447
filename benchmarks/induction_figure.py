"""The figure of `benchmarks/induction.py`: λ̂ of heads across training, by cluster, above the loss by rule.

    python benchmarks/induction_figure.py runs/induction docs/llc_heads.svg

draws every seed as a column from the losses.csv and heads.csv of a finished run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from influence.data import planted
from influence.llc.sweep import stages
from influence.report.chart import look
from influence.report.drawn import Figure

COLOURS = ("#b3362b", "#2b66a8", "#d98a1f", "#1f2430", "#3aa6a0", "#c65ba0")
RULES = {"rest": "#a9aeb9", "bigram": "#8a6414", "skip-trigram": "#5e9c3a", "second copy": "#7b3294"}
WIDTH = 250


def column(one: pd.DataFrame, table: pd.DataFrame, seed: int, first: bool, top: float) -> Any:
    """Three panels of one seed over the training step: λ̂, induction score, loss by rule."""
    import altair as alt

    border = stages(one["step"].tolist(), one["second copy"].tolist())
    rules = alt.Chart(alt.Data(values=[{"at": float(step) + 1} for step in border]))
    upright = rules.mark_rule(color="#a9aeb9", strokeDash=[4, 3]).encode(x="at:Q")
    table = table.assign(
        at=table["step"] + 1, low=table["value"] - 2 * table["mcse"], high=table["value"] + 2 * table["mcse"],
        kind="cluster " + table["cluster"].astype(str), layer="layer " + table["layer"].astype(str),
    )  # fmt: skip
    steps = alt.Scale(type="log", domain=[1, float(one["step"].max()) + 1], nice=False)
    ticks = [1, 10, 100, 1000]
    x = alt.X("at:Q", title=None, scale=steps, axis=alt.Axis(labels=False, values=ticks))
    kinds = alt.Scale(domain=[f"cluster {k + 1}" for k in range(len(COLOURS))], range=list(COLOURS))
    shown = {"title": None, "orient": "top", "symbolType": "stroke", "symbolOpacity": 1}
    dash = alt.StrokeDash(
        "layer:N", scale=alt.Scale(domain=["layer 0", "layer 1"], range=[[4, 2], [1, 0]]), legend=alt.Legend(**shown)
    )
    named = alt.Legend(**shown, values=sorted(table["kind"].unique()))
    base = alt.Chart(table).encode(x=x, detail="part:N")

    def lines(name: str, title: str, domain: list[float], legend: bool) -> Any:
        y = alt.Y(f"{name}:Q", title=title if first else None, scale=alt.Scale(domain=domain, nice=False))
        own = (alt.Color("kind:N", scale=kinds, legend=named), dash)
        if not legend:
            own = (alt.Color("kind:N", scale=kinds, legend=None), dash.copy())
            own[1].legend = None
        return base.mark_line(strokeWidth=1.6).encode(y, *own)

    low = min(0.0, float(table["low"].min()))
    band = base.mark_area(opacity=0.15).encode(
        alt.Y("low:Q"), alt.Y2("high:Q"), alt.Color("kind:N", scale=kinds, legend=None)
    )
    upper = alt.layer(lines("value", "coefficient of the head", [low, top], True), band, upright)
    middle = alt.layer(lines("induction", "induction score", [0, 1], False), upright)
    long = one.melt(["step"], list(planted.RULES), "rule", "nats").assign(at=lambda t: t["step"] + 1)
    under = alt.Chart(long).mark_line(strokeWidth=1.6).encode(
        x=alt.X("at:Q", title="training step + 1", scale=steps, axis=alt.Axis(values=ticks, format="d")),
        y=alt.Y("nats:Q", title="loss, nats" if first else None),
        color=alt.Color("rule:N", scale=alt.Scale(domain=list(RULES), range=list(RULES.values())),
                        legend=alt.Legend(**{**shown, "orient": "bottom"}, columns=2)),
    )  # fmt: skip
    panels = [
        upper.properties(width=WIDTH, height=150, title=f"seed {seed}"), middle.properties(width=WIDTH, height=80),
        alt.layer(under, upright).properties(width=WIDTH, height=110),
    ]  # fmt: skip
    return alt.vconcat(*panels, spacing=8).resolve_scale(color="independent", strokeDash="independent")


def draw(one: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """Write the figure as SVG or PNG, by the path's suffix."""
    import altair as alt

    top = float((table["value"] + 2 * table["mcse"]).max()) * 1.03
    seeds = sorted(table["seed"].unique())
    columns = [
        column(one[one["seed"] == seed], table[table["seed"] == seed], seed, seed == seeds[0], top) for seed in seeds
    ]
    words = (
        f"Local learning coefficients of the attention heads of {len(seeds)} two-layer models across training, their "
        "induction scores, and the loss of bigrams, skip-trigrams, second copies and the rest."
    )
    Figure(look(alt.hconcat(*columns, spacing=18).resolve_scale(color="independent")), words).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("figure", type=Path)
    asked = parser.parse_args()
    draw(pd.read_csv(asked.run / "losses.csv"), pd.read_csv(asked.run / "heads.csv"), asked.figure)


if __name__ == "__main__":
    main()
