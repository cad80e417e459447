"""Which training rows are comparable: same form, same style, about the same length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from influence.types import Rows

BINS = 3  # of length, within a form and style
_LIKE = {"premise": "forward"}  # both are one short sentence


def strata(rows: Rows, bearing: np.ndarray, never: np.ndarray | None = None) -> np.ndarray:
    """(n) the stratum of each row: form × style (where rows have such columns) × third of the lengths among these.

    −1 are rows with nothing to compare them with: those of strata that hold only bearing rows or none, and those of
    `never` (n, bool), which are neither bearing nor free of the concept.
    """
    count = len(rows)
    table = rows.with_format("arrow")[:]  # row by row would be a hundred times slower
    length = table.column("input_ids").combine_chunks().value_lengths().to_numpy()
    there = set(rows.column_names)
    kinds = [
        list(map(str, table.column(name).to_pylist())) if name in there else [""] * count for name in ("form", "style")
    ]
    kinds[0] = [_LIKE.get(one, one) for one in kinds[0]]
    _, kind = np.unique([f"{form}/{style}" for form, style in zip(*kinds, strict=True)], return_inverse=True)
    found = np.zeros(count, np.int64)
    for number in range(int(kind.max()) + 1):
        mine = kind == number
        edges = np.quantile(length[mine], np.arange(1, BINS) / BINS)
        found[mine] = number * BINS + np.searchsorted(edges, length[mine])
    if never is not None:
        found[never & ~bearing] = -1
    for value in np.unique(found):
        mine = found == value
        if bearing[mine].all() or not bearing[mine].any():
            found[mine] = -1
    return found
