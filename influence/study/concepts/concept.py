"""What a study asks of a model: labelled items for probes, queries that ask the same, and the rows that state it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from influence.data.files import BadData
from influence.data.labelled import labelled
from influence.data.statements import class_names

if TYPE_CHECKING:
    import datasets

KINDS = ("answer", "lexical", "syntactic", "truth", "two-hop", "user")
EXPECTED = ("knowable", "chance")
LEAST_ITEMS = 20  # of a class, as influence.probe asks for
LEAST_GROUPS = 5  # of a class: with 60:20:20 splits each part then has one
NAME = re.compile(r"[A-Za-z0-9 :,/.+-]+")


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept of a study over n training rows.

    `items` go to `influence.probe` as they are: text, label, group; further columns prompt, completion, contrast ask
    about each item what its label says (for all kinds but truth the prompt is the text). `queries` and `controls` have
    prompt, completion, contrast, group, label and ask for log p(completion | prompt) − log p(contrast | prompt); those
    of `controls` are both wrong. `bearing` (n) marks rows that state the concept; `stratum` (n) says which others are
    comparable with them: those of the same stratum; −1 are comparable with none. `expected` is "knowable" or "chance".
    """

    name: str
    kind: str
    expected: str
    items: datasets.Dataset
    queries: list[dict[str, str]]
    controls: list[dict[str, str]]
    bearing: np.ndarray
    stratum: np.ndarray
    about: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise BadData(f"a concept is called {self.name!r}; use letters, digits, spaces and : , / . + - only")
        if self.kind not in KINDS or self.expected not in EXPECTED:
            raise BadData(
                f"concept {self.name!r} is of kind {self.kind!r} and expected {self.expected!r}; choose from "
                f"{', '.join(KINDS)} and from {', '.join(EXPECTED)}"
            )

    def __repr__(self) -> str:
        return (
            f"Concept({self.name!r}: {len(self.items)} items, {len(class_names(self.items))} classes, "
            f"{len(self.queries)} queries, {int(self.bearing.sum())} bearing rows)"
        )


class Item(NamedTuple):
    """One text of a class, and how the model is asked for it.

    `wrong` are two completions of which neither is right, for the control query.
    """

    text: str
    label: str
    group: str
    prompt: str
    completion: str
    contrast: str
    wrong: tuple[str, str]


class Told(NamedTuple):
    """What a concept is called and what it is about."""

    name: str
    kind: str
    expected: str
    about: str


class Counts(NamedTuple):
    """How many queries and controls a concept gets, and the seed of all that is drawn."""

    queries: int = 6
    controls: int = 3
    seed: int = 0


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that belong to a concept: other concepts do not change them."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def concept(told: Told, items: Sequence[Item], bearing: np.ndarray, stratum: np.ndarray, counts: Counts) -> Concept:
    """A concept of its items: queries drawn from them, over labels in turn and from different groups.

    The controls have the prompts of the first queries. Raises BadData for items that `influence.statements` refuses.
    """
    rng = generator(counts.seed, f"{told.name}/queries")
    chosen = [items[place] for place in _drawn(items, max(counts.queries, counts.controls), rng)]
    queries = [_query(one, one.completion, one.contrast) for one in chosen[: counts.queries]]
    controls = [_query(one, *one.wrong) for one in chosen[: counts.controls]]
    return Concept(told.name, told.kind, told.expected, dataset(told.name, items), queries, controls, bearing, stratum,
                   told.about)  # fmt: skip


def dataset(name: str, items: Sequence[Item]) -> datasets.Dataset:
    """Items as `influence.statements` returns them, with what each is asked by."""
    texts, labels, groups = ([getattr(one, field) for one in items] for field in ("text", "label", "group"))
    found = labelled(texts, labels, groups, name=name)
    for field in ("prompt", "completion", "contrast"):
        found = found.add_column(field, [getattr(one, field) for one in items])
    found.info.description = name
    return found


def _query(one: Item, completion: str, contrast: str) -> dict[str, str]:
    return {
        "prompt": one.prompt, "completion": completion, "contrast": contrast, "group": one.group, "label": one.label,
    }  # fmt: skip


def _drawn(items: Sequence[Item], count: int, rng: np.random.Generator) -> list[int]:
    """Places of items: labels in turn, groups and prompts not used before first."""
    left: dict[str, list[int]] = {label: [] for label in sorted({one.label for one in items})}
    for place in rng.permutation(len(items)):
        left[items[place].label].append(int(place))
    found: list[int] = []
    groups: set[str] = set()
    prompts: set[str] = set()
    while len(found) < count and any(left.values()):
        for stock in (stock for stock in left.values() if stock):
            place = min(stock, key=lambda k: (items[k].prompt in prompts, items[k].group in groups))
            stock.remove(place)
            found.append(place)
            groups.add(items[place].group)
            prompts.add(items[place].prompt)
    return found[:count]


def skip_reason(one: Concept) -> str | None:
    """Why a concept cannot be studied, or None: what is missing in its items, queries or rows."""
    names = class_names(one.items)
    y = np.asarray(one.items["label"])
    counts = {name: int((y == number).sum()) for number, name in enumerate(names)}
    if len([name for name, count in counts.items() if count]) < 2:
        return f"all {len(y)} items are of one class ({', '.join(counts)}); a probe needs two"
    if few := {name: count for name, count in counts.items() if count < LEAST_ITEMS}:
        told = ", ".join(f"{name!r} {count}" for name, count in few.items())
        return f"a class has fewer than {LEAST_ITEMS} items ({told})"
    if not one.bearing.any():
        return f"none of the {len(one.bearing)} training rows states it"
    if not one.queries:
        return "there is no query: no item has a completion and a contrast"
    return None
