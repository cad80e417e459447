"""The rows that speak most strongly for and against each query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from influence.analysis.common import column, first_of_its_kind, has, ids, normalised, places, ranked_by, totals

if TYPE_CHECKING:
    from influence.types import Rows, Scores

_SHOWN = ("source", "text", "form", "fact", "style")


def top(scores: Scores, rows: Rows | pd.DataFrame, k: int = 10, ranking: str = "nats") -> pd.DataFrame:
    """Per query the `k` rows that raise its log p most ("for") and the `k` that lower it most ("against").

    Only positive scores are for, only negative ones against, so a side may have fewer rows. Rows with the
    same tokens and mask count once, as the first of them, with their number in `copies`. Ties stand in the
    order of the rows.

    Args:
        scores: (query, row[, layer | block | token]), summed over everything but query and row; or what
            influence.score keeps with top=…, (query, place, …), of which only the rows kept can be ranked or
            grouped.
        rows: the rows that were scored, or a table of them; matched by their ids.
        k: rows per side.
        ranking: "nats" sorts by the score itself, "normalised" by score / row_norm.

    Returns:
        Columns `query, ranking, side, place` (1 first), `row, score` (nats, or the scores' own units),
        `normalised` (NaN without row_norm), `copies, source, text, form`, and `fact, style` where the rows
        have them.

    Raises:
        ValueError: for k < 1, scores that are not finite, rows that are missing, "normalised" without
            row_norm.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one row per side")
    query = ids(scores, "query")
    lines: list[dict[str, Any]] = []
    for number, found in enumerate(_candidates(scores, rows, ranking)):
        for side, best in _sides(found.ranked, k):
            lines += [
                {"query": query[number], "ranking": ranking, "side": side, "place": place, **found.line(at)}
                for place, at in enumerate(best, 1)
            ]
    return _with_texts(pd.DataFrame(lines, columns=_COLUMNS), rows)


class _Found(NamedTuple):
    """The rows of one query, each kind once; all arrays run over rows."""

    ranked: np.ndarray
    row: np.ndarray
    score: np.ndarray
    normalised: np.ndarray | None
    copies: np.ndarray

    def line(self, at: int) -> dict[str, Any]:
        beside = np.nan if self.normalised is None else self.normalised[at]
        found = {"row": self.row[at], "score": self.score[at]}
        return found | {"normalised": beside, "copies": self.copies[at]}


def _candidates(scores: Scores, rows: Rows | pd.DataFrame, ranking: str) -> Iterator[_Found]:
    """Per query; kinds of rows are told once where all queries share the rows."""
    shared = "place" not in scores.dims
    total = totals(scores, "row" if shared else "place")
    values, beside = ranked_by(total, ranking), normalised(total)
    row = np.broadcast_to(ids(total, "row"), total.shape)
    kinds = first_of_its_kind(rows, row[0] if shared else np.unique(row))
    for number in range(len(row)):
        kind = kinds if shared else kinds[np.searchsorted(np.unique(row), row[number])]
        first, copies = _first(kind, row[number])
        yield _Found(
            values[number, first],
            row[number, first],
            total.values[number, first],
            None if beside is None else beside[number, first],
            copies,
        )


def _first(kind: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each kind stands first, and how many different rows are of it."""
    _, once = np.unique(row, return_index=True)  # a short corpus may have a row among the highest and the lowest
    once = np.sort(once)
    _, first, copies = np.unique(kind[once], return_index=True, return_counts=True)
    order = np.argsort(first)
    return once[first[order]], copies[order]


_COLUMNS = ["query", "ranking", "side", "place", "row", "score", "normalised", "copies"]


def _sides(values: np.ndarray, k: int) -> list[tuple[str, np.ndarray]]:
    down, up = np.argsort(-values, kind="stable")[:k], np.argsort(values, kind="stable")[:k]
    return [("for", down[values[down] > 0]), ("against", up[values[up] < 0])]


def _with_texts(frame: pd.DataFrame, rows: Rows | pd.DataFrame) -> pd.DataFrame:
    where = places(rows, frame["row"].to_numpy(np.int64)) if len(frame) else np.zeros(0, np.int64)
    for name in _SHOWN:
        if has(rows, name):
            frame[name] = pd.Series(column(rows, name, where), dtype=object)
        elif name in _SHOWN[:3]:
            frame[name] = pd.Series([None] * len(frame), dtype=object)
    return frame
