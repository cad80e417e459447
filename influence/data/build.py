"""Token rows as a dataset, built from flat arrays without a loop over tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData
from influence.data.words import Words, decode

if TYPE_CHECKING:
    import datasets

_SLICE = 100_000  # rows per Arrow chunk, far below the 2^31 tokens that one list array can address


def first_unscored(bounds: np.ndarray) -> np.ndarray:
    """A loss mask of ones with 0 at the first token of every row."""
    mask = np.ones(int(bounds[-1]), np.int8)
    mask[bounds[:-1]] = 0
    return mask


def build(
    flat: np.ndarray,
    bounds: np.ndarray,
    mask: np.ndarray,
    row: np.ndarray,
    columns: Mapping[str, Sequence[Any]],
) -> datasets.Dataset:
    """Rows `flat[bounds[i]:bounds[i + 1]]` with their masks, ids and further columns.

    Raises BadData for a column whose values have no common type.
    """
    import datasets
    import pyarrow as pa

    tables = []
    for start in range(0, len(row), _SLICE):
        stop = min(start + _SLICE, len(row))
        edges = bounds[start : stop + 1]
        offsets = pa.array(edges - edges[0], pa.int32())
        tables.append(
            pa.table(
                {
                    "input_ids": pa.ListArray.from_arrays(offsets, pa.array(flat[edges[0] : edges[-1]], pa.int32())),
                    "loss_mask": pa.ListArray.from_arrays(offsets, pa.array(mask[edges[0] : edges[-1]], pa.int8())),
                    "row": pa.array(row[start:stop], pa.int64()),
                }
            )
        )
    table = pa.concat_tables(tables)
    for name, values in columns.items():
        try:
            table = table.append_column(name, pa.chunked_array([_array(values)]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise BadData(f"the values of column {name!r} have no common type: {error}; convert them first") from error
    return datasets.Dataset(table)


def _array(values: Sequence[Any]) -> Any:
    import pyarrow as pa

    found = pa.array(values)
    return found.cast(pa.string()) if pa.types.is_null(found.type) else found


def texts(words: Words, flat: np.ndarray, bounds: np.ndarray) -> list[str]:
    """The text of each row, decoded some thousand rows at a time."""
    found: list[str] = []
    for start in range(0, len(bounds) - 1, 1000):
        edges = bounds[start : start + 1001]
        found += decode(words, [flat[a:b].tolist() for a, b in zip(edges[:-1], edges[1:], strict=True)])
    return found
