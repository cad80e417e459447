"""The rows shown for a query: one card per row, for and against, in each order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from influence.report.figures import of_query
from influence.report.payload import Limits
from influence.report.read import Run
from influence.report.words import clean, is_missing, shorten

EXCERPT = 700  # characters of a row that stand in the page itself; the rest is in the script's data
SIDES = {"for": "Rows that raise it", "against": "Rows that lower it"}
RANKINGS = {"nats": "Score in nats", "normalised": "Ranking divided by row norm"}
_VALUE = {"nats": "score", "normalised": "normalised"}


@dataclass(frozen=True)
class Cards:
    """What every card is made from. `texts` fills with the whole texts of rows too long for their card."""

    run: Run
    limits: Limits
    facts: dict[int, str]  # row -> the planted fact that it states
    maps: frozenset[str]  # "query:row" of the rows that have a heat map
    texts: dict[str, str] = field(default_factory=dict)


def facts_of_rows(run: Run) -> dict[int, str]:
    """{row: fact} for the rows of an embedded world; empty for any other corpus."""
    table = run.tables.get("rows")
    if table is None or "fact" not in table:
        return {}
    known = table[table["fact"].notna()]
    return dict(zip(known["row"].tolist(), known["fact"].tolist(), strict=True))


def sides(cards: Cards, query: int, fact: Any) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """{ranking: {side: cards in order}}; a ranking that the table does not hold is left out.

    Rows that state `fact`, where the query asks for a planted one, are marked.
    """
    top = of_query(cards.run, "top", query)
    if top is None:
        return {}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for ranking, value in _VALUE.items():
        part = top[(top["ranking"] == ranking) & (top["place"] <= cards.limits.rows)]
        if not len(part):
            continue
        found[ranking] = {}
        for side in SIDES:
            lines = part[part["side"] == side].sort_values("place").to_dict("records")
            most = max((abs(line[value]) for line in lines if not is_missing(line[value])), default=0) or 1.0
            found[ranking][side] = [
                _card(cards, line, query, fact) | {"share": _share(line[value], most)} for line in lines
            ]
    return found


def _share(value: Any, most: float) -> float:
    return 0.0 if is_missing(value) else min(1.0, abs(value) / most)


def _card(cards: Cards, line: dict[str, Any], query: int, fact: Any) -> dict[str, Any]:
    row, text = int(line["row"]), clean(line["text"])
    if len(text) > EXCERPT:
        cards.texts[str(row)] = shorten(text, cards.limits.text)
    return {
        "row": row,
        "place": int(line["place"]),
        "score": line["score"],
        "normalised": line["normalised"],
        "text": shorten(text, EXCERPT),
        "long": len(text) > EXCERPT,
        "copies": 1 if is_missing(line["copies"]) else int(line["copies"]),
        "tags": [tag for tag in (clean(line.get("form")), clean(line.get("source"))) if tag],
        "planted": not is_missing(fact) and fact != "" and cards.facts.get(row) == fact,
        "map": f"{query}:{row}" in cards.maps,
    }
