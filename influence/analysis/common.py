"""What every analysis asks of scores and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from influence.types import Rows, Scores

RANKINGS = ("nats", "normalised")


def totals(scores: Scores, dim: str = "row") -> Scores:
    """Scores (query, row), summed over layers, blocks and tokens; or (query, place) with `dim="place"`.

    Raises ValueError for scores without queries or rows, empty ones, and values that are not finite.
    """
    if not {"query", dim} <= set(scores.dims):
        raise ValueError(
            f"scores have the dimensions {tuple(scores.dims)} but need query and {dim}; give what "
            "influence.score returns (without top), and keep a single query by a list: scores.sel(query=[0])"
        )
    if scores.size == 0:
        raise ValueError(f"there are no scores: {dict(scores.sizes)}")
    rest = [name for name in scores.dims if name not in ("query", dim)]
    total = scores.sum(rest, skipna="token" in rest) if rest else scores
    total = total.transpose("query", dim).astype(np.float64)
    bad = ~np.isfinite(total.values)
    if bad.any():
        query, place = np.argwhere(bad)[0]
        raise ValueError(
            f"{int(bad.sum())} scores are not finite, the first for query {ids(scores, 'query')[query]} and "
            f"{dim} {ids(scores, dim)[place]}; score these rows again"
        )
    return total


def ids(scores: Scores, dim: str) -> np.ndarray:
    """The ids along a dimension; 0, 1, 2, … where it has no coordinate."""
    return np.asarray(scores[dim].values)


def normalised(total: Scores) -> np.ndarray | None:
    """Scores (query, row) divided by each row's norm, or None where the scores carry no `row_norm`.

    A row of norm 0 has no gradient and gets 0. Raises ValueError for negative norms and such that are not
    finite.
    """
    if "row_norm" not in total.coords:
        return None
    norm = np.asarray(total.coords["row_norm"].values, np.float64)
    if not np.isfinite(norm).all() or (norm < 0).any():
        raise ValueError("row_norm holds values that are negative or not finite; measure it again (row_norm=True)")
    return np.divide(total.values, norm, out=np.zeros_like(total.values), where=norm > 0)


def ranked_by(total: Scores, ranking: str) -> np.ndarray:
    """The values (query, row) that a ranking sorts: "nats" (as they are) or "normalised".

    Raises ValueError for another ranking, and for "normalised" without `row_norm`.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"ranking={ranking!r} is unknown; choose from {', '.join(RANKINGS)}")
    if ranking == "nats":
        return np.asarray(total.values)
    values = normalised(total)
    if values is None:
        raise ValueError(
            "these scores carry no row_norm, so there is no normalised ranking; score with row_norm=True or "
            "use ranking='nats'"
        )
    return values


def places(rows: Rows | pd.DataFrame, wanted: np.ndarray) -> np.ndarray:
    """Where in `rows` the row ids `wanted` stand. Raises ValueError for ids that are not there."""
    found = pd.Index(column(rows, "row")).get_indexer(pd.Index(wanted))
    if (found < 0).any():
        missing = wanted[found < 0]
        raise ValueError(
            f"{len(missing)} scored rows are not among the rows given, the first with id {missing[0]}; give "
            "the rows that were scored"
        )
    return found


def column(rows: Rows | pd.DataFrame, name: str, at: np.ndarray | None = None) -> list[Any]:
    """A column of a dataset or a data frame, whole or at some places."""
    if isinstance(rows, pd.DataFrame):
        return list(rows[name] if at is None else rows[name].iloc[at])
    return list(_arrow(rows if at is None else rows.select(at), name).to_pylist())


def _arrow(rows: Rows, name: str) -> Any:
    return rows.select_columns([name]).with_format("arrow")[:].column(name)


def has(rows: Rows | pd.DataFrame, name: str) -> bool:
    return name in (rows.columns if isinstance(rows, pd.DataFrame) else rows.column_names)


def first_of_its_kind(rows: Rows | pd.DataFrame, wanted: np.ndarray) -> np.ndarray:
    """For each row id of `wanted`, the place in `wanted` of the first row with the same tokens and mask.

    Rows without tokens (a stored table of rows) are the same where their text is.
    """
    where = places(rows, wanted)
    names = ["input_ids", "loss_mask"] if has(rows, "input_ids") else ["text"]
    names = [name for name in names if has(rows, name)]
    if not names:
        raise ValueError("rows have neither input_ids nor text, so identical rows cannot be told; keep one of them")
    keys = list(zip(*(_hashable(rows, name) for name in names), strict=True))
    first: dict[Any, int] = {}
    return np.array([first.setdefault(keys[place], k) for k, place in enumerate(where)], np.int64)


def _hashable(rows: Rows | pd.DataFrame, name: str) -> list[Any]:
    """A column's values as strings or bytes, lists cut out of Arrow's own buffer."""
    if name == "text" or isinstance(rows, pd.DataFrame):
        values = column(rows, name)
        return values if name == "text" else [np.asarray(value, np.int64).tobytes() for value in values]
    found: list[Any] = []
    for chunk in _arrow(rows, name).chunks:
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(chunk.value_lengths().to_numpy(zero_copy_only=False)) * flat.itemsize
        data = flat.tobytes()
        found += [data[start:end] for start, end in zip(np.r_[0, ends[:-1]], ends, strict=True)]
    return found
