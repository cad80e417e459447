"""Columns of texts, labels and groups as a dataset of labelled statements, checked."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData

if TYPE_CHECKING:
    import datasets

_WORDS = {"false": 0, "true": 1, "no": 0, "yes": 1, "negative": 0, "positive": 1}


def labelled(
    texts: Sequence[Any],
    labels: Sequence[Any],
    groups: Sequence[Any] | None = None,
    *,
    where: Sequence[str] | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    name: str = "statements",
) -> datasets.Dataset:
    """The dataset that `statements` returns, from its columns; `where` names each statement in errors.

    Raises BadData for an empty text, a missing or unknown class, a missing group, and for no statement at all.
    """
    import datasets

    where = [f"{name}, statement {k}" for k in range(1, len(texts) + 1)] if where is None else where
    if not texts:
        raise BadData(f"{name} has no statements; give at least 20 of each class")
    check_texts(texts, where)
    names, numbers = _numbered([_value(one, place) for one, place in zip(labels, where, strict=True)], where, classes)
    columns: dict[str, Any] = {"text": list(texts), "label": numbers}
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    if groups is not None:
        columns["group"] = [_key(one, place) for one, place in zip(groups, where, strict=True)]
        features["group"] = datasets.Value("string")
    info = datasets.DatasetInfo(description=name, features=datasets.Features(features))
    return datasets.Dataset.from_dict(columns, features=info.features, info=info)


def check_texts(texts: Sequence[Any], where: Sequence[str]) -> None:
    """Raise BadData for a text that is no string, or empty."""
    for one, place in zip(texts, where, strict=True):
        if not isinstance(one, str) or not one.strip():
            raise BadData(f"{place}: the text is {one!r}; expected a string that is not empty")


def check_columns(columns: Mapping[str, Any], needs: Sequence[str], name: str) -> None:
    """Raise BadData for a column that is missing."""
    missing = [need for need in needs if need not in columns]
    if missing:
        raise BadData(
            f"{name} has no column {', '.join(map(repr, missing))}; its columns are: {', '.join(columns) or 'none'}; "
            "say which to read with text=, label= and group="
        )


def filled(template: str, columns: Mapping[str, Sequence[Any]], name: str) -> list[str]:
    """The template for every row; only plain column names are filled in. Raises BadData for an unknown column."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadData(f"the template {template!r} cannot be read: {error}; write {{{{ and }}}} for braces") from error
    wanted = [field for _, field, _, _ in parts if field is not None]
    if not wanted:
        raise BadData(f"the template {template!r} has no place for the statement; write {{text}} where it goes")
    check_columns(columns, wanted, f"for the template {template!r}, {name}")
    size = len(columns[wanted[0]])
    return [
        "".join(literal + ("" if field is None else str(columns[field][k])) for literal, field, _, _ in parts)
        for k in range(size)
    ]


def _value(one: Any, where: str) -> str:
    """A label as a string: 1, 1.0, "1" and " 1 " are the same class."""
    if isinstance(one, bool | np.bool_):
        return str(bool(one)).lower()
    if isinstance(one, float | np.floating) and math.isfinite(one) and one == int(one):
        one = int(one)
    if isinstance(one, int | np.integer):
        return str(int(one))
    if isinstance(one, str) and one.strip():
        return one.strip()
    raise BadData(f"{where}: the label is {one!r}; expected a class: a whole number, true or false, or a word")


def _key(one: Any, where: str) -> str:
    if one is None or (isinstance(one, float) and math.isnan(one)) or (isinstance(one, str) and not one.strip()):
        raise BadData(f"{where}: the group is {one!r}; give every statement a group, or read none with group=None")
    return str(one).strip()


def _numbered(
    values: Sequence[str], where: Sequence[str], classes: Sequence[str] | Mapping[str, str] | None
) -> tuple[list[str], list[int]]:
    """Names of the classes and the number of each value's."""
    if classes is None:
        names = sorted(set(values), key=_order)
        naming = {name: name for name in names}
    else:
        naming = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
        names = list(dict.fromkeys(naming.values()))
    lower = {str(value).lower(): name for value, name in naming.items()}
    numbers = {name: number for number, name in enumerate(names)}
    found = [naming.get(value, lower.get(value.lower())) for value in values]
    if None in found:
        first = found.index(None)
        seen = ", ".join(f"{value!r} ({count})" for value, count in Counter(values).most_common(8))
        raise BadData(
            f"{where[first]}: the label {values[first]!r} is none of the classes {', '.join(map(repr, naming))}; "
            f"the labels found are {seen}"
        )
    return names, [numbers[str(name)] for name in found]


def _order(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, _WORDS.get(value.lower(), 0), value.lower()
