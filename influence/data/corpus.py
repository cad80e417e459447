"""Text of any origin -> token rows with stable ids."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from influence.data.build import build, first_unscored, texts
from influence.data.files import BadData
from influence.data.read import Chunk, Documents, read
from influence.data.tokenised import from_tokens
from influence.data.words import Words, check_ids, check_short, encode, flatten, words

if TYPE_CHECKING:
    import datasets

    from influence.data.read import Source
    from influence.types import Rows

OURS = ("input_ids", "loss_mask", "row", "source", "text")


class Encoded(NamedTuple):
    """Tokens of a chunk of documents end to end, and what goes with each document."""

    tokens: np.ndarray
    lengths: np.ndarray
    names: list[str]
    columns: dict[str, list[Any]]


def corpus(
    source: Source,
    lm: Any,
    *,
    length: int = 128,
    pack: bool = True,
    text_column: str = "text",
    split: str = "train",
    errors: str = "strict",
    limit: int | None = None,
) -> Rows:
    """Token rows of a training corpus; every token but the first of a row is scored.

    Args:
        source: a file (.txt .md .jsonl .json .csv .tsv .parquet, all but the last also .gz), a local dataset
            folder, a dataset of the hub ("owner/name" or "owner/name:configuration", data files only), a
            `datasets.Dataset`, a data frame, or a list of strings or dicts. What already has `input_ids` is
            taken row by row as it is (`length` and `pack` do not apply): positions with `attention_mask` 0
            are cut off at either end, those with `loss_mask` 0 or `labels` -100 are not scored, `row` is
            kept.
        lm: an LM, or a bare tokenizer (then nothing is checked against a model's vocabulary and context).
        length: tokens per row.
        pack: True: documents stand end to end, with the end-of-text token between two of them (unless the
            tokenizer starts every text with that token), and are cut every `length` tokens; a last row of at
            least two tokens is kept. A text file is one document, exactly as it is written. False: one
            document per row, cut after `length` tokens; a text file is cut into documents at blank lines.
        text_column: the column (or JSON key) with the text.
        split: which split of a folder, hub dataset or DatasetDict.
        errors: what invalid UTF-8 in a file does: "strict" (an error), "replace" or "ignore".
        limit: at most this many rows, read no further than needed.

    Returns:
        Columns `input_ids` (int32), `loss_mask` (int8), `row` (int64: the row's place, 0 first), `source`
        (where the row comes from: its document, the first and last of them when packed, or the data's own
        column `source`), `text` (decoded, without the start token), and with pack=False every other column of
        the data.

    Raises:
        BadData: (a ValueError) for unreadable files and bytes, missing columns, no text at all, rows of one
            token, tokens that the model does not have, and rows longer than the model's context.
        FileNotFoundError: for a missing file.
    """
    tokens = words(lm)
    _check_settings(length, limit)
    opened = read(source, (text_column,), split=split, errors=errors, paragraphs=not pack, stream=limit is not None)
    first = next(opened.chunks, None)
    if first is None:
        raise BadData(f"{opened.name} holds no documents; give at least one row of two tokens")
    opened = opened._replace(chunks=_after(first, opened.chunks))
    if "input_ids" in first.columns:
        return from_tokens(opened, tokens, limit)
    if tokens.context is not None and length > tokens.context:
        raise BadData(
            f"length={length} is more than the model's context of {tokens.context} tokens; pass "
            f"length={tokens.context} or less"
        )
    encoded = _encoded(opened, tokens, text_column, keep=not pack)
    return _packed(encoded, opened, tokens, length, limit) if pack else _single(encoded, opened, tokens, length, limit)


def _check_settings(length: int, limit: int | None) -> None:
    if length < 2:
        raise ValueError(f"length is {length}; a row needs at least 2 tokens, one to predict from and one predicted")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1, or None for every row")


def _after(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def _encoded(opened: Documents, tokens: Words, text_column: str, keep: bool) -> Iterator[Encoded]:
    """Tokenise chunk by chunk; blank documents are left out, with one warning at the end."""
    from tqdm.auto import tqdm

    blank = total = 0
    for chunk in tqdm(opened.chunks, desc="tokenising", unit="k documents", delay=2, disable=None):
        given = chunk.columns[text_column]
        total += len(given)
        kept = [place for place, text in enumerate(given) if not _is_blank(text)]
        blank += len(given) - len(kept)
        if not kept:
            continue
        where = [f"{opened.name}, {opened.noun} {chunk.number[place]}" for place in kept]
        ids = encode(tokens, [given[place] for place in kept], where)["input_ids"]
        flat, lengths = flatten(ids)
        names = _names(opened, chunk, kept)
        extra = _extra(chunk, kept, text_column) if keep else {}
        yield Encoded(flat, lengths, names, extra)
    if blank:
        warnings.warn(f"{blank} of {total} documents of {opened.name} are blank and were left out")


def _is_blank(text: object) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _names(opened: Documents, chunk: Chunk, kept: list[int]) -> list[str]:
    own = chunk.columns.get("source")
    named = [None if own is None else own[place] for place in kept]
    numbers = ["" if opened.noun == "file" else f":{chunk.number[place]}" for place in kept]
    return [opened.name + at if name is None else str(name) for at, name in zip(numbers, named, strict=True)]


def _extra(chunk: Chunk, kept: list[int], text_column: str) -> dict[str, list[Any]]:
    names = [name for name in chunk.columns if name not in (*OURS, text_column)]
    return {name: [chunk.columns[name][place] for place in kept] for name in names}


def _packed(
    encoded: Iterator[Encoded], opened: Documents, tokens: Words, length: int, limit: int | None
) -> datasets.Dataset:
    pieces: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    names: list[str] = []
    total = 0
    for part in encoded:
        flat, lengths = _joined(part, tokens, first=not names)
        pieces.append(flat)
        ends.append(total + np.cumsum(lengths))
        names += part.names
        total += len(flat)
        if limit is not None and total >= limit * length:
            break
    stream = np.concatenate([*pieces, np.zeros(0, np.int32)])
    full, rest = divmod(total, length)
    bounds = np.r_[np.arange(full + 1) * length, [total] * (rest > 1)].astype(np.int64)[: limit and limit + 1]
    if len(bounds) < 2:
        raise BadData(f"{opened.name} has {total} token(s) of text in all; give at least two")
    return _rows(stream, bounds, tokens, _spans(np.concatenate(ends), bounds, names), {})


def _rows(
    flat: np.ndarray, bounds: np.ndarray, tokens: Words, names: list[str], extra: dict[str, list[Any]]
) -> datasets.Dataset:
    check_ids(tokens, flat)
    columns = {"source": names, "text": texts(tokens, flat, bounds), **extra}
    return build(flat, bounds, first_unscored(bounds), np.arange(len(bounds) - 1), columns)


def _joined(part: Encoded, tokens: Words, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """A chunk's tokens, one separator between documents in place of end tokens that a tokenizer adds."""
    flat, lengths = part.tokens, part.lengths
    starts = np.cumsum(lengths) - lengths
    if tokens.separator is None:
        return flat, lengths
    if tokens.end:
        keep = np.ones(len(flat), bool)
        for back in range(1, len(tokens.end) + 1):
            keep[starts + lengths - back] = False
        flat, lengths = flat[keep], lengths - len(tokens.end)
        starts = np.cumsum(lengths) - lengths
    places = starts[1:] if first else starts
    lengths = lengths + np.r_[0 if first else 1, np.ones(len(lengths) - 1, np.int64)]
    return np.insert(flat, places, np.int32(tokens.separator)), lengths


def _spans(ends: np.ndarray, bounds: np.ndarray, names: list[str]) -> list[str]:
    """For each row the name of its document, or of its first and last."""
    first = np.searchsorted(ends, bounds[:-1], side="right")
    last = np.searchsorted(ends, bounds[1:] - 1, side="right")
    return [names[a] if names[a] == names[b] else f"{names[a]} … {names[b]}" for a, b in zip(first, last, strict=True)]


def _single(
    encoded: Iterator[Encoded], opened: Documents, tokens: Words, length: int, limit: int | None
) -> datasets.Dataset:
    parts: list[Encoded] = []
    count = 0
    for part in encoded:
        parts.append(part)
        count += len(part.names)
        if limit is not None and count >= limit:
            break
    names = [name for part in parts for name in part.names][:limit]
    if not names:
        raise BadData(f"{opened.name} holds no text: all its documents are blank")
    full = np.concatenate([part.lengths for part in parts])[: len(names)]
    check_short(full, names)
    if cut := int((full > length).sum()):
        warnings.warn(f"{cut} of {len(names)} documents of {opened.name} are longer than {length} tokens and were cut")
    flat = np.concatenate([part.tokens for part in parts])[: full.sum()]
    within = np.arange(len(flat)) - np.repeat(np.cumsum(full) - full, full)
    bounds = np.r_[0, np.cumsum(np.minimum(full, length))]
    return _rows(flat[within < length], bounds, tokens, names, _merged(parts, len(names)))


def _merged(parts: list[Encoded], count: int) -> dict[str, list[Any]]:
    columns = dict.fromkeys(name for part in parts for name in part.columns)
    return {
        name: [value for part in parts for value in part.columns.get(name, [None] * len(part.names))][:count]
        for name in columns
    }
