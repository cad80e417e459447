"""Charts of local learning coefficients: a dot for each part, curves across checkpoints, chains with running means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influence.report.chart import HEIGHT, WIDTH, altair_module, finish, look
from influence.report.svg import COLOUR
from influence.report.words import clean, count, shorten

if TYPE_CHECKING:
    import altair
    import pandas

LAMBDA = "local learning coefficient λ̂"
SHADES = ("lower", "raise", "accent", "ink")  # in turn by layer or chain
KINDS: dict[str, tuple[str, list[int]]] = {  # of curves, in their order
    "1": ("lower", [1, 0]),
    "2": ("raise", [1, 0]),
    "3": ("accent", [1, 0]),
    "4": ("ink", [1, 0]),
    "5": ("lower", [6, 3]),
    "6": ("raise", [6, 3]),
}
NONE = "no cluster"
MANY = 60  # parts from which the rows of dots stand closer
LAYER = re.compile(r"layer (\d+)( head \d+)?")


def layer_of(part: Any) -> int | None:
    """The layer that a part's name begins with, None for others."""
    match = LAYER.match(str(part))
    return int(match[1]) if match else None


def group_of(part: Any) -> int:
    """0 for the whole model and parts across layers, 1 for a layer or sub-block, 2 for a head."""
    match = LAYER.match(str(part))
    return 0 if match is None else 2 if match[2] else 1


def part_name(part: Any) -> str:
    return shorten(clean(part).replace("\n", " "), 40)


def part_dots(table: pandas.DataFrame) -> altair.TopLevelMixin:
    """λ̂ of every part with two standard errors on both sides, one panel for each size of parts.

    `table`: part, value, mcse, notes of one checkpoint. Hollow dots have a note; parts without a value say "withheld".
    """
    alt = altair_module()
    frame = _placed(table)
    last = frame["group"].max()
    panels = [
        _panel(alt, frame[frame["group"] == group], f"{LAMBDA}, ± 2 standard errors" if group == last else None)
        for group in sorted(frame["group"].unique())
    ]
    whole = panels[0] if len(panels) == 1 else alt.vconcat(*panels, spacing=8).resolve_scale(x="independent")
    return look(whole)


def _placed(table: pandas.DataFrame) -> pandas.DataFrame:
    """A line per part with its name (told apart where two are alike), place, group, colour and interval."""
    seen: Counter[str] = Counter()
    names = []
    for part in table["part"]:
        name = part_name(part)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    layers = [layer_of(part) for part in table["part"]]
    spread = 2 * table["mcse"].fillna(0)
    found = table[["value"]].assign(
        name=names,
        place=range(len(table)),
        group=[group_of(part) for part in table["part"]],
        shade=["muted" if layer is None else SHADES[layer % len(SHADES)] for layer in layers],
        low=table["value"] - spread,
        high=table["value"] + spread,
        noted=[bool(isinstance(note, str) and note) for note in table["notes"]],
    )
    return found


def _panel(alt: Any, frame: pandas.DataFrame, title: str | None) -> Any:
    there, withheld = frame[frame["value"].notna()], frame[frame["value"].isna()]
    # a list of names would become part of an expression
    y = alt.Y(
        "name:N",
        sort=alt.EncodingSortField(field="place", op="min"),
        title=None,
        axis=alt.Axis(labelLimit=190, domain=False, ticks=False, labelPadding=6, labelOverlap=True, grid=True),
    )
    shown = [*SHADES, "muted"]
    colour = alt.Color("shade:N", scale=alt.Scale(domain=shown, range=[COLOUR[one] for one in shown]), legend=None)
    axis = alt.Axis(tickCount=5, ticks=False)
    base = alt.Chart(there).encode(y=y, color=colour)
    at = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=False))
    layers = [base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q", title=title, axis=axis), x2="high:Q")]
    for noted in (False, True):
        some = alt.Chart(there[there["noted"] == noted]).encode(y=y, color=colour)
        dot = {"filled": not noted, "size": 34, "opacity": 1}
        layers.append(some.mark_point(**dot).encode(x=at))
    if len(there) and float(there["low"].min()) < 0:
        layers.append(alt.Chart(there.head(1)).mark_rule(color=COLOUR["grey"]).encode(x=alt.datum(0.0)))
    said = alt.Chart(withheld.assign(said="withheld")).mark_text(align="left", fontSize=10, color=COLOUR["muted"])
    layers.append(said.encode(y=y, x=alt.value(4), text="said:N"))
    return alt.layer(*layers).properties(width=WIDTH - 10, height=alt.Step(8 if len(frame) > MANY else 14))


def curve_lines(table: pandas.DataFrame, kinds: Mapping[str, str], borders: Sequence[float]) -> altair.TopLevelMixin:
    """λ̂ of every part over training steps (logarithmic, step 0 at the left end), with bands of two standard errors.

    Args:
        table: lines with step, part, value, mcse.
        kinds: of each part, what its curve's colour stands for; the empty dictionary for one kind.
        borders: steps at which a stage of some part begins; one that comes more often is drawn stronger.
    """
    alt = altair_module()
    shown = table[["step", "part", "value", "mcse"]].dropna(subset=["value"])
    spread = 2 * shown["mcse"].fillna(0)
    shown = shown.assign(
        at=shown["step"] + 1,
        low=shown["value"] - spread,
        high=shown["value"] + spread,
        kind=[kinds.get(part, "") for part in shown["part"]],
        part=shown["part"].map({part: place for place, part in enumerate(dict.fromkeys(shown["part"]))}),
    )
    few = shown["part"].nunique() <= 12
    x = alt.X(
        "at:Q", title="training step + 1, logarithmic", scale=alt.Scale(type="log", nice=False), axis=_powers(shown)
    )
    base = alt.Chart(shown).encode(x=x, detail="part:N", **_kinds(alt, kinds))
    span = alt.Scale(zero=False)
    band = base.mark_area(opacity=0.15 if few else 0.06, strokeOpacity=0)
    band = band.encode(y=alt.Y("low:Q", title=LAMBDA, scale=span), y2="high:Q")
    line = base.mark_line(strokeWidth=1.6 if few else 1.1, point={"size": 12, "filled": True})
    line = line.encode(y=alt.Y("value:Q", title=LAMBDA, scale=span, axis=alt.Axis(tickCount=5)))
    marks = _borders(alt, borders, shown["part"].nunique())
    return finish(alt.layer(*marks, band, line), width=2 * WIDTH, height=1.5 * HEIGHT)


def _powers(shown: pandas.DataFrame) -> Any:
    top = float(shown["at"].max())
    return altair_module().Axis(values=[10.0**k for k in range(10) if 10.0**k <= top], format="~s", ticks=False)


def _kinds(alt: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Colour and dashes of the kinds, at most as many as there are styles; one style without kinds."""
    names = list(dict.fromkeys(kinds.values()))
    if not names:
        return {"color": alt.value(COLOUR["lower"])}
    named = [name for name in names if name != NONE]
    styles = dict(zip(sorted(named), KINDS.values(), strict=False)) | {NONE: ("grey", [2, 2])}
    order = [name for name in styles if name in names]
    legend = alt.Legend(
        title=None, orient="top", symbolType="stroke", symbolSize=260, symbolOpacity=1, symbolStrokeWidth=2
    )
    shades = alt.Scale(domain=order, range=[COLOUR[styles[name][0]] for name in order])
    dash = [styles[name][1] for name in order]
    return {
        "color": alt.Color("kind:N", scale=shades, legend=legend),
        "strokeDash": alt.StrokeDash("kind:N", scale=alt.Scale(domain=order, range=dash), legend=legend),
    }


def _borders(alt: Any, borders: Sequence[float], parts: int) -> list[Any]:
    """An upright line at each border; with several parts, of how many of them it is one."""
    found = Counter(float(border) for border in borders)
    if not found:
        return []
    most = max(found.values())
    lines = [
        {"at": step + 1, "share": 0.25 + 0.75 * number / most, "said": count(number) if parts > 1 else ""}
        for step, number in sorted(found.items())
    ]
    base = alt.Chart(alt.Data(values=lines)).encode(x="at:Q")
    rule = base.mark_rule(color=COLOUR["muted"], strokeDash=[4, 3])
    word = base.mark_text(dx=3, dy=5, align="left", fontSize=10, color=COLOUR["muted"])
    return [
        rule.encode(opacity=alt.Opacity("share:Q", scale=None, legend=None)),
        word.encode(text="said:N", y=alt.value(2)),
    ]


def chain_lines(draws: pandas.DataFrame, value: float | None) -> altair.TopLevelMixin:
    """The chains of one part: nβ(L − L*) of each draw (thin) and its running mean (thick), λ̂ as a level line.

    `draws`: chain, draw, energy, kept of one part at one checkpoint. Chains that diverged are grey and dashed.
    """
    alt = altair_module()
    draws = draws[draws["energy"].notna()]
    kept = draws[draws["kept"]]
    kept = kept.assign(
        running=kept.groupby("chain")["energy"].transform(lambda one: one.expanding().mean()),
        shade=[SHADES[chain % len(SHADES)] for chain in kept["chain"]],
    )
    scale = alt.Scale(domain=_span(kept if len(kept) else draws), nice=False, zero=False)
    title = "nβ (L − L*)"
    x = alt.X("draw:Q", title="draw", axis=alt.Axis(tickCount=5, ticks=False), scale=alt.Scale(nice=False))
    y = alt.Y("energy:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    gone = alt.Chart(draws[~draws["kept"]]).encode(x=x, y=y, detail="chain:N")
    colour = alt.Color(
        "shade:N", scale=alt.Scale(domain=list(SHADES), range=[COLOUR[one] for one in SHADES]), legend=None
    )
    base = alt.Chart(kept).encode(x=x, color=colour, detail="chain:N")
    layers = [
        gone.mark_line(clip=True, strokeWidth=1, color=COLOUR["grey"], strokeDash=[4, 3]),
        base.mark_line(clip=True, strokeWidth=0.7, opacity=0.35).encode(y=y),
        base.mark_line(clip=True, strokeWidth=2).encode(y=alt.Y("running:Q", title=title, scale=scale)),
    ]
    if value is not None:
        level = alt.Chart(alt.Data(values=[{"level": value}])).mark_rule(color=COLOUR["muted"], strokeDash=[3, 2])
        layers.append(level.encode(y=alt.Y("level:Q", title=title, scale=scale)))
    return finish(alt.layer(*layers))


def _span(draws: pandas.DataFrame) -> list[float]:
    low, high = draws["energy"].quantile(0.005), draws["energy"].quantile(0.995)
    room = 0.06 * (high - low) or 1.0
    return [float(low - room), float(high + room)]
