"""Labelled statements for probing: text, a class, and the group that must not be torn apart by a split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData
from influence.data.generated import GENERATED, generated
from influence.data.labelled import check_columns, check_texts, filled, labelled
from influence.data.paper_sets import PAPER_SETS, paper_set
from influence.data.read import read

if TYPE_CHECKING:
    import datasets

    from influence.data.read import Source


def statements(
    source: Source,
    *,
    text: str = "text",
    label: str = "label",
    group: str | Sequence[str] | None = "group",
    template: str | None = None,
    split: str = "train",
    classes: Sequence[str] | Mapping[str, str] | None = None,
    like: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> datasets.Dataset:
    """Statements with their classes, ready for `influence.probe`: columns `text, label` and, where known, `group`.

    `label` is a `datasets.ClassLabel`: 0 … k − 1 with their names in `features["label"].names`; `info.description`
    names the set.

    Args:
        source: a file (.csv .tsv .jsonl .json .parquet, also .gz), a folder or hub name as for `influence.corpus`, a
            `datasets.Dataset`, a data frame or a list of mappings; or the name of a set of the concept-depth paper
            (`influence.data.paper_sets.PAPER_SETS`) or of a generated one (`influence.data.generated.GENERATED`).
        text, label: the columns to read.
        group: the column whose equal values stay on one side of every split (a city, a subject). Several columns:
            statements are together that have the same set of values there, in whichever order. The default is used
            where there is such a column; None leaves it out.
        template: a text around each statement with columns in braces, e.g. "True or false? {text}".
        split: of a dataset that has several.
        classes: names in the order 0, 1, …; or a mapping from value to name. By default the values themselves: numbers
            by size, false/no/negative before true/yes/positive, other words alphabetically.
        like: read `source` as the set of the paper of this name: its columns, classes, groups and template.
        name: what the result is called; default after the source.
        limit: keep at most this many statements, whole groups drawn by `seed`.

    Raises:
        BadData: for what cannot be read, a missing column or value, a class that `classes` does not know; says where.
        FileNotFoundError: for a missing file.
    """
    free = isinstance(source, str) and not Path(source).expanduser().exists()
    if like is not None or (free and source in PAPER_SETS):
        found = paper_set(str(source) if like is None else like, None if like is None else source, template=template)
    elif free and source in GENERATED:
        found = generated(str(source), seed=seed, template=template)
    else:
        opened = read(source, (text,), split=split)
        keys = (group,) if isinstance(group, str) else tuple(group or ())
        chunks = [chunk for chunk in opened.chunks if chunk.number]
        where = [f"{opened.name}, {opened.noun} {number}" for chunk in chunks for number in chunk.number]
        columns = _columns([chunk.columns for chunk in chunks])
        keys = () if group == "group" and "group" not in columns else keys
        check_columns(columns, (text, label, *keys), opened.name)
        together = None if not keys else _together([columns[key] for key in keys])
        check_texts(columns[text], where)
        texts = columns[text] if template is None else filled(template, columns, opened.name)
        found = labelled(texts, columns[label], together, where=where, classes=classes, name=source_name(source))
    if name is not None:
        found.info.description = name
    return found if limit is None else drawn(found, limit, seed)


def drawn(found: datasets.Dataset, limit: int, seed: int = 0) -> datasets.Dataset:
    """At most `limit` statements in their order: whole groups in random order, those that still fit."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    if len(found) <= limit:
        return found
    groups = found["group"] if "group" in found.column_names else range(len(found))
    _, code, size = np.unique(np.asarray(list(groups)), return_inverse=True, return_counts=True)
    kept: list[int] = []
    for one in np.random.default_rng(seed).permutation(len(size)):
        if size[one] <= limit:
            kept.append(int(one))
            limit -= int(size[one])
    if not kept:
        raise BadData(f"every group has more statements than the limit; raise it to {int(size.min())} or more")
    return found.select(np.flatnonzero(np.isin(code, kept)))


def class_names(found: datasets.Dataset) -> list[str]:
    """The names of the classes 0 … k − 1 of a statements dataset."""
    feature = found.features["label"]
    return list(getattr(feature, "names", None) or map(str, sorted(set(found["label"]))))


def _columns(chunks: Iterable[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    chunks = list(chunks)
    names = dict.fromkeys(name for chunk in chunks for name in chunk)
    sizes = [len(next(iter(chunk.values()))) for chunk in chunks]
    return {
        name: [value for chunk, size in zip(chunks, sizes, strict=True) for value in chunk.get(name, [None] * size)]
        for name in names
    }


def _together(columns: Sequence[Sequence[Any]]) -> list[Any]:
    if len(columns) == 1:
        return list(columns[0])
    return [None if None in row else " / ".join(sorted(map(str, row))) for row in zip(*columns, strict=True)]


def source_name(source: object) -> str:
    """What a source is called in results: a file's name without its endings, a hub name, else its kind."""
    if isinstance(source, str | os.PathLike):
        return Path(os.fspath(source)).name.split(".")[0] or os.fspath(source)
    return type(source).__name__
