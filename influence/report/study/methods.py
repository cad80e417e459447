"""The methods of a study in words, made from its settings: enough to do it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from influence.report.study.gloss import COEFFICIENTS, DEFINITIONS, GLOSS, PLACE, STATISTICS
from influence.report.study.verdicts import NAMES, PRIMARIES, value
from influence.report.words import clean, count, fixed, is_missing, number, plural

if TYPE_CHECKING:
    import pandas

SECTIONS = {
    "models": "Models",
    "corpus": "Corpus and tokenizer",
    "concepts": "Concepts",
    "probe": "Probes and depth",
    "influence": "Influence",
    "margin": "Margin, signature and removal",
    "llc": "Local learning coefficients",
    "tests": "Tests",
    "other": "Other settings",
}
SPECIAL = re.compile(r"([\\`*_\[\]<>&#|~])")


class Section(NamedTuple):
    """A part of the methods: paragraphs, then lines of (name, value, what it means)."""

    head: str
    paragraphs: list[str]
    settings: list[tuple[str, str, str]]


def methods_text(
    settings: Mapping[str, Any],
    *,
    models: pandas.DataFrame | None = None,
    concepts: pandas.DataFrame | None = None,
    verdicts: Sequence[Mapping[str, Any]] = (),
    skipped: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    command: str = "",
    toml: str = "",
) -> str:
    """The methods as Markdown, every setting by its name and value; nothing is said that was not given.

    Args:
        settings: of the study, nested as you like; leaves are named by their path ("ladder.batch_tokens").
        models, concepts: tables of the study (see `influence.report.study.read`).
        verdicts: for the nulls, falsifiers and controls of the tests that were made.
        skipped: what was left out, with `why`. versions, facts: names and values (packages; hardware, time).
        command, toml: what runs the study again, and the file that describes it.
    """
    told = ["# Methods"]
    for one in sections(settings, models=models, concepts=concepts, verdicts=verdicts, skipped=skipped,
                        versions=versions, facts=facts):  # fmt: skip
        told += [f"## {one.head}", *map(escaped, one.paragraphs)]
        items = [f"- {_code(name)}: {_code(text)}{f' ({escaped(about)})' if about else ''}"
                 for name, text, about in one.settings]  # fmt: skip
        told += ["\n".join(items)] if items else []
    told.append("## To do it again")
    told.append(f"```sh\n{clean(command)}\n```" if command else "No command was stored.")
    if toml:
        told += ["with the file", f"```toml\n{clean(toml).strip()}\n```"]
    return "\n\n".join(told) + "\n"


def sections(
    settings: Mapping[str, Any],
    *,
    models: pandas.DataFrame | None = None,
    concepts: pandas.DataFrame | None = None,
    verdicts: Sequence[Mapping[str, Any]] = (),
    skipped: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Section]:
    """The methods by section, of which a page and `methods_text` are made."""
    leaves = list(flat(settings))
    placed: dict[str, list[tuple[str, str, str]]] = {name: [] for name in SECTIONS}
    for path, text in leaves:
        placed[place(path)].append((".".join(path), text, meaning(path)))
    more = {
        "models": list(_models(models)),
        "concepts": list(_concepts(concepts)),
        "tests": list(_tests(verdicts)),
        "llc": COEFFICIENTS if any(path[-1] == "llc" and text != "0" for path, text in leaves) else (),
    }
    found = []
    for name, head in SECTIONS.items():
        paragraphs = [*DEFINITIONS.get(name, ()), *more.get(name, ())]
        if paragraphs or placed[name]:
            found.append(Section(head, paragraphs, placed[name]))
    found.append(Section("Left out", list(_skipped(skipped)), []))
    found += _pairs("Versions", versions, "No versions were stored.")
    return found + (_pairs("What else is known", facts, "") if facts else [])


def flat(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, value as text) of every leaf."""
    for name, one in settings.items():
        path = (*above, clean(name))
        if isinstance(one, Mapping) and one:
            yield from flat(one, path)
        elif isinstance(one, (list, tuple)) and any(isinstance(part, Mapping) for part in one):
            for number_, part in enumerate(one, 1):
                inner = part if isinstance(part, Mapping) else {"value": part}
                yield from flat(inner, (*path, str(number_)))
        else:
            yield path, _text(one)


def _text(one: Any) -> str:
    if one is None:
        return "not set"
    if isinstance(one, (list, tuple)):
        nested = any(isinstance(part, (list, tuple)) for part in one)
        return ("; " if nested else ", ").join(_text(part) for part in one) or "none"
    if isinstance(one, Mapping):
        return "none"
    if isinstance(one, bool):
        return "yes" if one else "no"
    if isinstance(one, float):
        return json.dumps(one)
    return clean(one)


def place(path: Sequence[str]) -> str:
    """The section of the methods in which a setting stands."""
    for part in path:
        if PLACE.get(part) == "corpus":
            return "corpus"
    known = [PLACE[part] for part in (path[0], path[-1]) if part in PLACE]
    return known[0] if known else "other"


def meaning(path: Sequence[str]) -> str:
    """What a setting means, in words; empty where its name is not known."""
    return GLOSS.get(".".join(path[-2:])) or GLOSS.get(path[-1], "")


def _models(models: pandas.DataFrame | None) -> Iterator[str]:
    if models is None or not len(models):
        return
    trained = models[~models["untrained"].astype(bool)] if "untrained" in models else models
    told = []
    for size, part in trained.sort_values("parameters", kind="stable").groupby("size", sort=False):
        last = part.sort_values("step", kind="stable").groupby("model", sort=False).tail(1)
        seeds = ", ".join(str(seed) for seed in sorted(set(part["seed"])))
        text = (
            f"{clean(size)}: {count(last['parameters'].iloc[0])} parameters, {int(last['n_layers'].iloc[0])} layers, "
        )
        text += f"seeds {seeds}, last step {', '.join(str(step) for step in sorted(set(last['step'])))}"
        if "loss" in last and last["loss"].notna().any():
            text += f", held-out loss {fixed(last['loss'].mean(), 3)} nats per token"
        told.append(text)
    yield f"{plural(trained['model'].nunique(), 'model')} of {plural(len(told), 'size')}. " + "; ".join(told) + "."


def _concepts(concepts: pandas.DataFrame | None) -> Iterator[str]:
    if concepts is None or not len(concepts):
        return
    for kind, part in concepts.groupby("kind", sort=False):
        told = []
        for one in part.to_dict("records"):
            numbers = [f"{count(one[name])} {name.replace('_', ' ')}" for name in ("items", "queries", "bearing_rows")
                       if not is_missing(one.get(name))]  # fmt: skip
            expected = f"expected: {clean(one['expected'])}" if one.get("expected") else ""
            inside = ", ".join([*([expected] if expected else []), *numbers])
            told.append(clean(one["concept"]) + (f" ({inside})" if inside else ""))
        yield f"{plural(len(part), 'concept')} of the kind {clean(kind)}: {'; '.join(told)}."


def _tests(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in sorted(verdicts, key=lambda one: int(one["quantity"])):
        quantity = int(one["quantity"])
        told = f"Quantity {quantity}, {NAMES.get(quantity, '')}: {STATISTICS.get(quantity, '')}"
        if one.get("null"):
            told += f" Null: {clean(one['null'])}."
        if one.get("falsifiers"):
            told += f" It must also beat: {'; '.join(clean(name) for name in one['falsifiers'])}."
        if one.get("controls"):
            told += f" It must not show as well in: {'; '.join(clean(name) for name in one['controls'])}."
        if quantity in PRIMARIES:
            told += f" p {number(value(one.get('p')), 2)}, after Holm {number(value(one.get('p_adjusted')), 2)}."
        for remark in one.get("remarks") or ():
            told += f" Left out: {clean(remark)}."
        yield told


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not skipped:
        yield "Nothing was skipped."
        return
    groups: dict[str, list[str]] = {}
    for one in skipped:
        where = ", ".join(
            clean(one[name]) for name in ("model", "step", "concept", "part") if not is_missing(one.get(name))
        )
        groups.setdefault(clean(one.get("why")) or "no reason was stored", []).append(where)
    for why, places in groups.items():
        shown = "; ".join(places[:12]) + (f"; and {len(places) - 12} more" if len(places) > 12 else "")
        yield f"{why.rstrip('.')}: {shown}."


def _pairs(head: str, given: Mapping[str, Any] | None, otherwise: str) -> list[Section]:
    if not given:
        return [Section(head, [otherwise], [])]
    return [Section(head, [], [(".".join(path), text, "") for path, text in flat(given)])]


def escaped(text: str) -> str:
    """Text in which no character acts as Markdown or HTML."""
    return SPECIAL.sub(r"\\\1", clean(text))


def _code(text: str) -> str:
    """Text as a code span, on one line."""
    plain = " ".join(clean(text).replace("`", "\u02cb").split())
    return f"`{plain}`" if plain else "`(empty)`"
