"""Training rows of an embedded world with what each of them states."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from influence.data.files import BadData

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.types import Rows

STATING = ("forward", "paraphrase", "passage", "reversed", "premise")
"""Forms of rows that state their fact in words in which it can be asked; "relabelled" rows do so in words of the second
language only, so they neither bear a concept nor are free of it."""


class Tags(NamedTuple):
    """The rows of a world (n): their number in `world.documents`, fact, form and text."""

    rows: Rows
    number: np.ndarray
    fact: np.ndarray
    form: np.ndarray
    text: tuple[str, ...]

    def stating(self, facts: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """(n) rows that state one of the facts, and (n) those that do so in the second language only."""
        mine = np.isin(self.fact, sorted(facts))
        plain = np.isin(self.form, STATING)
        return mine & plain, mine & ~plain


def tagged(world: World, rows: Rows) -> Tags:
    """The tags of `world.documents`, by the ids of the rows: also for rows that lost their columns on the way.

    Raises BadData where the rows are not those of this world.
    """
    number = np.asarray(rows["row"], np.int64)
    total = len(world.documents)
    if not len(number) or number.min() < 0 or number.max() >= total:
        raise BadData(f"the rows have ids up to {number.max(initial=-1)}, but the world has {total} rows: not its rows")
    told = [world.documents[k] for k in number]
    if "text" in rows.column_names:
        wrong = [k for k, one, text in zip(number, told, rows["text"], strict=True) if not one["text"].startswith(text)]
        if wrong:
            raise BadData(
                f"{len(wrong)} rows are not those of this world, row {wrong[0]} among them; give the world that the "
                "rows were made from (ladder.world())"
            )
    fact, form = (np.array([one[name] for one in told]) for name in ("fact", "form"))
    return Tags(rows, number, fact, form, tuple(one["text"] for one in told))
