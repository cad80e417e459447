"""What the tests of a study say, in words: a question, an answer with a sign, and the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from influence.report.study.read import CHANCE, Study
from influence.report.words import clean, count, is_missing, number, plural

ALPHA = 0.05
PRIMARIES = (1, 2, 3, 5, 6)
NAMES = {
    1: "centroid of influence against D50",
    2: "influence above D95",
    3: "tail exponent against depth from D50",
    4: "depth of the influence signature",
    5: "influence on the probe's margin",
    6: "trend with scale",
}
QUESTIONS = {
    1: "Where a concept is known deeper, does its influence lie deeper?",
    2: "Does influence gather above the depth at which a concept is fully known?",
    3: "Do the tails of rows that bear a concept change with the distance from the depth where it is known?",
    4: "At which depth does the influence signature itself tell a concept?",
    5: "Does influence on the probe's margin find the rows that bear a concept, and does removing them move its depth?",
    6: "Do these quantities move with the size of the model?",
}
# what a found relation says, by the sign of its effect: (below zero, above zero)
CLAIMS = {
    1: ("influence lies shallower where a concept is known deeper",
        "influence lies deeper where a concept is known deeper"),
    2: ("less influence lies above a concept's own D95 than above others'",
        "more influence lies above a concept's own D95 than above others'"),
    3: ("tails of bearing rows grow heavier beyond the depth where a concept is known",
        "tails of bearing rows grow lighter beyond the depth where a concept is known"),
    5: ("influence on the probe's margin ranks bearing rows last",
        "influence on the probe's margin finds the rows that bear a concept"),
    6: ("a quantity falls with the size of the model", "a quantity rises with the size of the model"),
}  # fmt: skip
# what is drawn beside a decision: (class of the style sheet, sign)
STATES = {
    "found": "✓",
    "weaker": "◐",
    "none": "–",
    "untestable": "?",
    "descriptive": "i",
}
SIGNS_IN_WORDS = {
    "found": "a relation that stands against its null, its falsifiers and its controls",
    "weaker": "a relation that does not stand against a falsifier or a control",
    "none": "no relation shown",
    "untestable": "not testable with these tables",
    "descriptive": "described, not tested",
}


def state(decision: str) -> str:
    """found, weaker, none, untestable or descriptive: how a verdict's decision is drawn."""
    if decision in ("relation", "trend"):
        return "found"
    if decision in ("no relation", "no trend"):
        return "none"
    return {"not testable": "untestable", "descriptive": "descriptive"}.get(decision, "weaker")


def value(amount: Any) -> float:
    """A number, NaN for None and for what is none."""
    try:
        return float("nan") if is_missing(amount) else float(amount)
    except (TypeError, ValueError):
        return float("nan")


def lines(study: Study) -> list[dict[str, Any]]:
    """The verdicts as the page shows them, in the order of their quantities."""
    return [_line(one) for one in sorted(study.verdicts, key=lambda one: int(one["quantity"]))]


def _line(one: Mapping[str, Any]) -> dict[str, Any]:
    quantity, decision = int(one["quantity"]), clean(one.get("decision")) or "not decided"
    effect, low, high = (value(one.get(name)) for name in ("effect", "low", "high"))
    kind = state(decision)
    return {
        "quantity": quantity,
        "name": NAMES.get(quantity) or clean(one.get("name")) or f"quantity {quantity}",
        "question": QUESTIONS.get(quantity, ""),
        "effect": effect,
        "low": low,
        "high": high,
        "unit": clean(one.get("unit")),
        "forest": forest(effect, low, high),
        "p": value(one.get("p")),
        "p_adjusted": value(one.get("p_adjusted")),
        "primary": quantity in PRIMARIES,
        "null": clean(one.get("null")),
        "decision": decision,
        "state": kind,
        "sign": STATES[kind],
        "words": clean(one.get("words")),
        "checks": list(_checks(one, kind in ("found", "weaker"))),
        "remarks": [clean(remark) for remark in one.get("remarks") or ()],
        "parts": table_of(one.get("parts")),
        "details": list(_details(one.get("details") or {})),
    }


def _checks(one: Mapping[str, Any], claimed: bool) -> Iterator[dict[str, Any]]:
    """Falsifiers, which must be at most .05 too, and controls, which must not, each with what its p says.

    `level` is good or bad only where the test itself finds a relation (`claimed`); else there is nothing to stand up.
    """
    said = {
        ("falsifier", True): "holds there too",
        ("falsifier", False): "does not hold there",
        ("control", True): "shows it too",
        ("control", False): "shows nothing, as it should",
    }
    for kind in ("falsifier", "control"):
        for name, p in (one.get(f"{kind}s") or {}).items():
            small = value(p) <= ALPHA
            level = "good" if small == (kind == "falsifier") else "bad"
            yield {"kind": kind, "name": clean(name), "p": value(p), "said": said[kind, small],
                   "level": level if claimed else "note"}  # fmt: skip


def forest(effect: float, low: float, high: float) -> dict[str, float] | None:
    """Places of the interval and of zero on a line from 0 to 100; None without an interval."""
    if not np.isfinite([effect, low, high]).all():
        return None
    ends = [min(low, effect, 0.0), max(high, effect, 0.0)]
    room = 0.08 * (ends[1] - ends[0]) or 1.0
    start, width = ends[0] - room, ends[1] - ends[0] + 2 * room
    return {name: 100 * (at - start) / width
            for name, at in (("effect", effect), ("low", low), ("high", high), ("zero", 0.0))}  # fmt: skip


def table_of(parts: Any) -> dict[str, Any] | None:
    """Column names and rows of a frame or a list of mappings; None for anything else, or without rows."""
    records = parts.to_dict("records") if hasattr(parts, "to_dict") else parts
    if not isinstance(records, Sequence) or not records or not all(isinstance(one, Mapping) for one in records):
        return None
    names = list(records[0])
    rows = [[_plain(one.get(name)) for name in names] for one in records]
    return {"names": [clean(name).replace("_", " ") for name in names], "rows": rows}


def _plain(amount: Any) -> dict[str, Any]:
    if isinstance(amount, (bool, np.bool_, str)):
        return {"text": clean(amount)}
    if isinstance(amount, (int, np.integer)):
        return {"value": int(amount), "text": count(amount)}
    found = value(amount)
    return {"value": found, "text": number(found)} if np.isfinite(found) else {"text": "n/a"}


def _details(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What else a verdict rests on, as (name, text); tables and what was not made are left out."""
    for name, amount in details.items():
        text = _detail(amount)
        if text:
            yield clean(name).replace("_", " "), text


def _detail(amount: Any) -> str:
    if isinstance(amount, Mapping):
        told = [(clean(name).replace("_", " "), _detail(part)) for name, part in amount.items()]
        return "; ".join(f"{name} {text}" for name, text in told if text)
    if isinstance(amount, (list, tuple)):
        if any(isinstance(one, Mapping) for one in amount):
            return ""
        if len(amount) == 3 and all(isinstance(one, (int, float)) or one is None for one in amount):
            middle, low, high = (value(one) for one in amount)
            return f"{number(middle)} ({number(low)} to {number(high)})"
        return ", ".join(_detail(one) for one in amount)
    if amount is None or hasattr(amount, "to_dict"):
        return ""
    if isinstance(amount, (int, np.integer)) and not isinstance(amount, bool):
        return count(amount)
    return clean(amount) if isinstance(amount, (str, bool)) else number(value(amount))


def summary(study: Study) -> list[str]:
    """What the study says, in two sentences."""
    found = [one for one in lines(study) if one["primary"]]
    groups = {kind: [one for one in found if one["state"] == kind] for kind in STATES}
    if not found:
        return ["No test was made.", scope(study)]
    told = []
    if groups["found"]:
        claims = "; ".join(CLAIMS[one["quantity"]][int(one["effect"] > 0)] for one in groups["found"])
        told.append(f"{_many(groups['found'], 'shows', 'show')} a relation ({claims})")
    if groups["weaker"]:
        told.append(f"{_many(groups['weaker'], 'shows', 'show')} one that does not stand against its stricter nulls")
    if groups["none"]:
        told.append(f"{_many(groups['none'], 'shows', 'show')} {'none' if told else 'no relation'}")
    lacking = groups["untestable"] + [None] * (len(PRIMARIES) - len(found))
    if lacking:
        told.append(f"{_many(lacking, 'could', 'could')} not be made")
    said = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    if len(groups["none"]) == len(PRIMARIES):
        return ["None of the five tests planned shows a relation.", scope(study)]
    return [f"Of the five tests planned, {said}.", scope(study)]


def _many(group: Sequence[Any], one: str, many: str) -> str:
    words = ("none", "one", "two", "three", "four", "all five")
    return f"{words[len(group)]} {one if len(group) == 1 else many}"


def scope(study: Study) -> str:
    """How large the study is, in a sentence."""
    models, sizes = len(study.models), len(study.sizes)
    seeds = study.models.groupby("size")["seed"].nunique()
    least, most = int(seeds.min()), int(seeds.max())
    each = plural(most, "training seed") if least == most else f"{least} to {most} training seeds"
    nulls = int((study.concepts["expected"] == CHANCE).sum())
    told = f"{plural(models, 'model')} of {plural(sizes, 'size')} with {each}, {plural(len(study.concepts), 'concept')}"
    which = "a null that is" if nulls == 1 else "nulls that are"
    return told + (f", {nulls} of them {which} expected at chance." if nulls else ".")
