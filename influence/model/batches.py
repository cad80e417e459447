"""From rows to padded batches, and which positions of them count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from influence.types import Batch

if TYPE_CHECKING:
    from influence.types import Rows


class BadRows(ValueError):
    """Rows that cannot be scored."""


def columns(rows: Rows) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Tokens, masks and ids of rows as arrays, checked.

    Raises:
        BadRows: without rows, without the three columns, with a row of fewer than two tokens, with ids used twice,
            with a mask of another length, with a scored first token, or with no scored token at all.
    """
    needed = {"input_ids", "loss_mask", "row"}
    if not needed <= set(rows.column_names):
        raise BadRows(
            f"rows have the columns {sorted(rows.column_names)} but need {sorted(needed)}; "
            "make them with influence.corpus or influence.queries"
        )
    if len(rows) == 0:
        raise BadRows("there are no rows; give a corpus with at least one row of two tokens")
    plain = rows.with_format("arrow")[:]
    ids, masks = (_lists(plain.column(name)) for name in ("input_ids", "loss_mask"))
    row = plain.column("row").to_numpy().astype(np.int64)
    _check(ids, masks, row)
    return ids, masks, row


def _lists(column) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    column = column.combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    flat = column.flatten().to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(flat, np.cumsum(lengths)[:-1])


def _check(ids: list[np.ndarray], masks: list[np.ndarray], row: np.ndarray) -> None:
    for number, (tokens, mask) in enumerate(zip(ids, masks, strict=True)):
        if len(tokens) < 2:
            raise BadRows(
                f"row {row[number]} has {len(tokens)} token(s); a scored row needs at least two: leave it out"
            )
        if len(mask) != len(tokens):
            raise BadRows(f"row {row[number]} has {len(tokens)} tokens but a loss_mask of {len(mask)}")
        if mask[0]:
            raise BadRows(f"row {row[number]} scores its first token, which nothing predicts; set loss_mask[0] = 0")
        if not mask.any():
            raise BadRows(f"row {row[number]} has no scored token; set loss_mask to 1 where a prediction counts")
    if len(np.unique(row)) != len(row):
        raise BadRows("row ids are not unique; ids make labels and scores reproducible, so give each row its own")


def batches(rows: Rows, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[np.ndarray, Batch]]:
    """(places in `rows`, batch), longest rows last, each batch at most `size` times the longest row in tokens.

    Rows of similar length stand together, so little is computed on padding; sums over rows do not depend on it.
    """
    if size < 1:
        raise ValueError(f"batch_size is {size}; it must be at least 1")
    ids, masks, row = columns(rows)
    lengths = np.array([len(tokens) for tokens in ids])
    budget = size * int(lengths.max())
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= budget:
            stop += 1
        places = order[start:stop]
        yield places, pad([ids[p] for p in places], [masks[p] for p in places], row[places], device)
        start = stop


def pad(ids: list[np.ndarray], masks: list[np.ndarray], row: np.ndarray, device: torch.device | str = "cpu") -> Batch:
    """Rows side by side, zeros on the right."""
    width = max(len(tokens) for tokens in ids)
    tokens = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=bool)
    for place, (one, scored) in enumerate(zip(ids, masks, strict=True)):
        tokens[place, : len(one)] = one
        mask[place, : len(one)] = scored
    return Batch(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(np.asarray(row)),
    )


def counted(loss_mask: Tensor) -> Tensor:
    """(b t) True where some later token is scored: the positions on which a scored prediction depends."""
    later = loss_mask.flip(1).cumsum(1).flip(1)
    return later - loss_mask.long() > 0
