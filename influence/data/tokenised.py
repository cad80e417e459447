"""Rows that come with their tokens: taken as they are, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.build import build, texts
from influence.data.files import BadData
from influence.data.read import Documents
from influence.data.words import Words, check_ids, check_long, check_short

if TYPE_CHECKING:
    import datasets

_USED = ("input_ids", "loss_mask", "labels", "attention_mask", "token_type_ids", "row")


def from_tokens(opened: Documents, words: Words, limit: int | None) -> datasets.Dataset:
    """Rows from documents with `input_ids`; see `influence.corpus` for what happens to the other columns.

    Raises BadData for masks of another length than the row, scored first tokens, rows without a scored token,
    ids given twice, and what the checks of tokens and lengths find.
    """
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    names: list[str] = []
    columns: dict[str, list[Any]] = {}
    for chunk in opened.chunks:
        where = [f"{opened.name}, {opened.noun} {number}" for number in chunk.number]
        rows += [_row(chunk.columns, place, name) for place, name in enumerate(where)]
        for name in chunk.columns.keys() - columns.keys():
            columns[name] = [None] * len(names)
        names += where
        for name, values in columns.items():
            values += chunk.columns.get(name, [None] * len(where))
        if limit is not None and len(rows) >= limit:
            break
    rows, names = rows[:limit], names[:limit]
    columns = {name: values[:limit] for name, values in columns.items()}
    return _checked(rows, names, columns, words)


def _checked(
    rows: list[tuple[np.ndarray, np.ndarray]], names: list[str], columns: dict[str, list[Any]], words: Words
) -> datasets.Dataset:
    lengths = np.array([len(ids) for ids, _ in rows])
    check_short(lengths, names)
    check_long(words, lengths, names, "cut them, or give the text and a length")
    flat = np.concatenate([ids for ids, _ in rows])
    check_ids(words, flat)
    bounds = np.r_[0, np.cumsum(lengths)]
    mask = np.concatenate([scored for _, scored in rows])
    if (none := np.flatnonzero(np.add.reduceat(mask, bounds[:-1]) == 0)).size:
        raise BadData(f"{names[none[0]]} (and {none.size - 1} more) has no scored token; leave it out")
    kept = {name: values for name, values in columns.items() if name not in _USED}
    kept.setdefault("source", names)
    if "text" not in kept and words.tokenizer is not None:
        kept["text"] = texts(words, flat, bounds)
    row = row_ids(columns.get("row"), len(rows))
    return build(flat.astype(np.int32), bounds, mask.astype(np.int8), row, kept)


def _row(columns: dict[str, list[Any]], place: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask of one row, padding cut off."""
    given = columns["input_ids"][place]
    try:
        ids = np.asarray([] if given is None else given, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadData(f"{name}: input_ids are not a list of integers: {error}") from error
    mask, attended = np.ones(len(ids), np.int64), np.ones(len(ids), bool)
    if (labels := _beside(columns, "labels", place, ids, name)) is not None:
        mask = (labels != -100).astype(np.int64)
    if (scored := _beside(columns, "loss_mask", place, ids, name)) is not None:
        if len(ids) and scored[0]:
            raise BadData(f"{name}: loss_mask[0] is {scored[0]}, but nothing predicts a first token; set it to 0")
        mask = (scored != 0).astype(np.int64)
    if (attention := _beside(columns, "attention_mask", place, ids, name)) is not None:
        attended = attention != 0
        inside = np.flatnonzero(attended)
        if inside.size and not attended[inside[0] : inside[-1] + 1].all():
            raise BadData(f"{name}: attention_mask has zeros between ones; only padding at either end can be cut off")
    ids, mask = ids[attended], mask[attended]
    mask[:1] = 0
    return ids, mask


def _beside(columns: dict[str, list[Any]], column: str, place: int, ids: np.ndarray, name: str) -> np.ndarray | None:
    values = columns[column][place] if column in columns else None
    if values is None:
        return None
    if len(values) != len(ids):
        raise BadData(f"{name}: {len(ids)} input_ids but {len(values)} values in {column}")
    return np.asarray(values, np.int64)


def row_ids(given: list[Any] | None, count: int) -> np.ndarray:
    """The ids that rows bring along, or 0, 1, 2, …; BadData where they are no integers or not unique."""
    if given is None:
        return np.arange(count)
    given = [int(one) if isinstance(one, str) and one.isdecimal() else one for one in given]  # CSV
    if not all(isinstance(one, int | np.integer) for one in given):
        raise BadData("column 'row' must hold an integer for every row; rename the column if it means something else")
    ids = np.asarray(given, np.int64)
    found, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise BadData(f"column 'row' holds id {found[times > 1][0]} more than once; ids must be unique")
    return ids
