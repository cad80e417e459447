"""Figures for notebooks: through which layers a query's influence passes, how heavy its tail is, and ready drawings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from influence.report.drawn import Figure
from influence.report.figures import layer_profile, tail_plot
from influence.report.words import number

if TYPE_CHECKING:
    from influence.types import Scores


@dataclass(frozen=True)
class Drawing:
    """A figure that is an SVG document already, with its words; a notebook shows it."""

    svg: str = field(repr=False)
    words: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.words}


def layer_figure(scores: Scores, query: Any = None) -> Figure:
    """What rows add (red) and take (blue) through each layer, in nats; the line is their signed sum.

    Args:
        scores: (query, row, layer | block [, token]) of `influence.score`.
        query: id of a query; default the first.

    Raises:
        ValueError: for a query that was not scored, and for scores without layers.
        ImportError: where the extra `report` is not installed.
    """
    from influence.analysis.layers import layers

    one = _only(scores, query)
    frame = layers(one)
    strongest = frame.loc[frame["absolute"].idxmax()]
    added, taken = number(frame["positive"].sum()), number(frame["negative"].sum())
    words = (
        f"Influence of {one.sizes['row']} rows on query {one['query'].item()} by layer: {added} nats added and {taken} "
        f"taken in all; most passes through layer "
        f"{int(strongest['layer'])} ({100 * strongest['share']:.0f} % of the absolute influence)."
    )
    return Figure(layer_profile(frame), words)


def tail_figure(scores: Scores, query: Any = None) -> Figure:
    """Share of the raising rows at or above each score, both axes logarithmic, with the fitted power laws.

    Solid line: fit to the largest scores as in Grosse et al. 2023; dashed: fit above the xmin of Clauset et al. 2009.
    A power law is straight here. Arguments and errors as `layer_figure`, and ValueError where fewer than two scores are
    positive.
    """
    from influence.analysis.tails import tail, tail_points

    one = _only(scores, query)
    fits, points = tail(one, compare=()), tail_points(one)
    if len(points) < 2:
        raise ValueError(f"query {one['query'].item()} has {len(points)} positive scores; a tail needs at least two")
    known = fits[fits["alpha_density"].notna()]
    said = "; ".join(f"{fit.rule}: density exponent {fit.alpha_density:.2f}" for fit in known.itertuples())
    words = (
        f"Tail of {int(fits['n_positive'].iloc[0])} positive scores of query {one['query'].item()}, the largest "
        f"{number(fits['largest'].iloc[0])} nats: the top 1 % of all rows hold "
        f"{100 * fits['top1_share'].iloc[0]:.0f} % of the raising influence. Fits: {said or 'none, too few scores'}."
    )
    return Figure(tail_plot(points, fits), words)


def _only(scores: Scores, query: Any) -> Scores:
    """The scores of one query, with its dimension."""
    there = scores["query"].values.tolist()
    if query is None:
        query = there[0]
    if query not in there:
        raise ValueError(f"query {query!r} was not scored; scored are {', '.join(map(str, there[:8]))}")
    return scores.sel(query=[query])
