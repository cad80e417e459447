"""Concepts that somebody gives: labelled texts, what the model is asked with, and the rows that state them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData
from influence.data.read import read
from influence.data.statements import class_names, statements
from influence.study.concepts.concept import Concept, Counts, Item, Told, concept, generator
from influence.study.concepts.frequency import WORD, alike, frequencies, texts
from influence.study.concepts.strata import strata

if TYPE_CHECKING:
    from influence.types import Rows

READING = ("text", "label", "group", "template", "split", "classes")
FIELDS = (
    "name", "file", "statements", *READING, "completions", "completion", "contrast", "bearing", "expected", "about",
)  # fmt: skip
NEEDED = ("name", "bearing")


def user_concepts(
    spec: Sequence[Mapping[str, Any]], rows: Rows, lm: Any = None, *, queries: int = 6, controls: int = 3, seed: int = 0
) -> list[Concept]:
    """Concepts of a TOML file's entries, or of dicts alike.

    Args:
        spec: entries with the fields
            name: letters, digits, spaces and : , / . + - only.
            file, or statements: what `influence.statements` reads: a file, the name of a set, a list of dicts;
            text, label, group, template, split, classes: as for that function, with its defaults.
            completions: {label: completion} of what comes after the text, with the space before it; or
            completion, contrast: columns that say for each text what comes and what does not.
            bearing: the rows that state the concept: a regular expression for their text (case counts; (?i) at its
            start ignores it), the name of a column of the rows that is true or false, or a list of row ids.
            expected: "knowable" or "chance"; about: a sentence for the report.
        rows: training rows with a column text, or else `lm`, a model or tokenizer to decode them with.
        queries, controls, seed: as for `world_concepts`.

    The texts are the prompts. With three labels or more a control contrasts two wrong ones, else two words of the rows
    that are about as frequent. What is found too small, or stated in no row, is told by `skip_reason`.

    Raises BadData, naming the entry: for unknown or missing fields, names used twice, statements that cannot be read,
    labels without a completion, completions that are empty or the same, a pattern that is none, row ids that are not
    there.
    """
    told = texts(rows, lm)
    frequency = frequencies(told)
    found: list[Concept] = []
    for number, entry in enumerate(spec, 1):
        try:
            found.append(_one(entry, rows, told, frequency, Counts(queries, controls, seed)))
        except BadData as why:
            raise BadData(f"concept {entry.get('name', number)!r}: {why}") from why
    if twice := sorted(name for name, count in Counter(one.name for one in found).items() if count > 1):
        raise BadData(f"several concepts are called {', '.join(map(repr, twice))}; give each a name of its own")
    return found


def _one(
    entry: Mapping[str, Any], rows: Rows, told: Sequence[str], frequency: Counter[str], counts: Counts
) -> Concept:  # fmt: skip
    _check(entry)
    source = entry.get("file", entry.get("statements"))
    try:
        read_as = {name: entry[name] for name in READING if name in entry}
        data = statements(source, **read_as)
    except TypeError as error:
        raise BadData(f"its statements cannot be read: {error}") from error
    labels = [class_names(data)[number] for number in data["label"]]
    rng = generator(counts.seed, f"{entry['name']}/user")
    if "completions" in entry:
        asked = _by_label(labels, entry["completions"], frequency, rng)
    else:
        asked = _by_column(source, entry, len(labels), frequency)
    groups = data["group"] if "group" in data.column_names else [f"item {number}" for number in range(len(labels))]
    items = [
        Item(text, label, group, text, *ends)
        for text, label, group, ends in zip(data["text"], labels, groups, asked, strict=True)
    ]
    bearing = _bearing(entry["bearing"], rows, told)
    about = str(entry.get("about", f"The labels {', '.join(dict.fromkeys(labels))}, as given."))
    named = Told(str(entry["name"]), "user", str(entry.get("expected", "knowable")), about)
    return concept(named, items, bearing, strata(rows, bearing), counts)


def _check(entry: Mapping[str, Any]) -> None:
    if unknown := sorted(set(entry) - set(FIELDS)):
        raise BadData(f"unknown fields {', '.join(unknown)}; those known are {', '.join(FIELDS)}")
    if missing := [name for name in NEEDED if name not in entry]:
        raise BadData(f"it has no {' and no '.join(missing)}")
    if ("file" in entry) == ("statements" in entry):
        raise BadData("give its texts by file= or by statements=, one of them")
    columns = [name for name in ("completion", "contrast") if name in entry]
    if ("completions" in entry) == (len(columns) == 2) or len(columns) == 1:
        raise BadData("say what is asked by completions={label: text}, or by both columns completion= and contrast=")
    if "completions" in entry and not isinstance(entry["completions"], Mapping):
        raise BadData(f"completions is {entry['completions']!r}; expected a text for each label")


_End = tuple[str, str, tuple[str, str]]


def _by_label(
    labels: Sequence[str], completions: Mapping[str, Any], frequency: Counter[str], rng: np.random.Generator
) -> list[_End]:
    """(completion, contrast, two wrong ones) of each text."""
    ends = {str(label): one for label, one in completions.items()}
    if missing := sorted(set(labels) - set(ends)):
        raise BadData(f"the labels {', '.join(map(repr, missing))} have no completion; it has them for {sorted(ends)}")
    _check_ends([(str(label), one) for label, one in ends.items()])
    there = sorted(set(labels))
    if len({ends[label] for label in there}) < len(there):
        raise BadData(f"two labels have the same completion: {ends}")
    found = []
    for label in labels:
        others = [ends[one] for one in there if one != label]
        if not others:  # one label only: skip_reason says so
            others = [end for name, end in sorted(ends.items()) if name != label] or [" "]
        contrast = str(rng.choice(others))
        wrong = (contrast, str(rng.choice([one for one in others if one != contrast]))) if len(others) > 1 else None
        found.append((ends[label], contrast, wrong or _as_frequent(ends[label], contrast, frequency)))
    return found


def _as_frequent(right: str, rival: str, frequency: Counter[str]) -> tuple[str, str]:
    first, second = (next(iter(WORD.findall(one)), one) for one in (right, rival))
    return alike({first, second}, frequency)(first, second)


def _by_column(source: Any, entry: Mapping[str, Any], count: int, frequency: Counter[str]) -> list[_End]:
    names = (str(entry["completion"]), str(entry["contrast"]))
    opened = read(source, (str(entry.get("text", "text")),), split=str(entry.get("split", "train")))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for chunk in opened.chunks:
        if missing := [name for name in names if name not in chunk.columns]:
            raise BadData(f"there is no column {', '.join(missing)}; its columns are {', '.join(chunk.columns)}")
        for name in names:
            columns[name] += chunk.columns[name]
    if len(columns[names[0]]) != count:
        raise BadData(f"{len(columns[names[0]])} completions came for {count} texts")
    pairs = list(zip(columns[names[0]], columns[names[1]], strict=True))
    _check_ends([(f"text {number}", one) for number, pair in enumerate(pairs, 1) for one in pair])
    if same := [number for number, (one, other) in enumerate(pairs, 1) if one == other]:
        raise BadData(f"completion and contrast of text {same[0]} are the same ({len(same)} such)")
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for pair in set(pairs):
        known[pair] = _as_frequent(*pair, frequency)
    return [(*pair, known[pair]) for pair in pairs]


def _check_ends(ends: Sequence[tuple[str, Any]]) -> None:
    for where, one in ends:
        if not isinstance(one, str) or not one.strip():
            raise BadData(f"the completion of {where!r} is {one!r}; expected a text that is not empty")


def _bearing(told: Any, rows: Rows, row_texts: Sequence[str]) -> np.ndarray:
    if isinstance(told, str) and told in rows.column_names:
        values = list(rows[told])
        if any(value not in (0, 1) for value in values):
            raise BadData(f"the rows' column {told!r} is not true or false")
        return np.asarray(values, bool)
    if isinstance(told, str):
        try:
            pattern = re.compile(told)
        except re.error as error:
            raise BadData(f"bearing={told!r} is no column of the rows and no regular expression: {error}") from error
        return np.array([bool(pattern.search(text)) for text in row_texts])
    if not isinstance(told, Sequence) or not all(isinstance(one, int) for one in told):
        raise BadData(f"bearing is {told!r}; give a regular expression, a column of the rows, or a list of row ids")
    if unknown := sorted(set(told) - set(rows["row"])):
        raise BadData(f"no training row has the id {', '.join(map(str, unknown[:5]))} ({len(unknown)} such)")
    return np.isin(np.asarray(rows["row"]), np.asarray(told, np.int64))
