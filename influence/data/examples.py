"""Rows for classifiers and regressions: the number of an example, then its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from influence.types import Rows


def examples(labels: Sequence[int] | np.ndarray, places: Sequence[int] | np.ndarray | None = None) -> Rows:
    """One row [place, label] per example, with the place as its id; only the label is scored.

    Args:
        labels: class numbers of all N examples of the table; zeros for a regression, whose targets
            `influence.gaussian(targets)` holds.
        places: which examples, default all, in this order.

    Raises:
        ValueError: for labels that are not class numbers, or places outside the table.
    """
    from datasets import Dataset

    table = np.asarray(labels)
    if table.ndim != 1 or not len(table) or not np.array_equal(table, table.astype(np.int64)) or table.min() < 0:
        raise ValueError(
            f"labels of shape {table.shape} came; expected is a list of class numbers 0, 1, … (zeros for real targets)"
        )
    chosen = np.arange(len(table)) if places is None else np.asarray(places, np.int64)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(table)):
        raise ValueError(f"places reach from {chosen.min()} to {chosen.max()}, but there are {len(table)} examples")
    ids = np.stack([chosen, table.astype(np.int64)[chosen]], 1)
    return Dataset.from_dict({"input_ids": ids.tolist(), "loss_mask": [[0, 1]] * len(chosen), "row": chosen.tolist()})
