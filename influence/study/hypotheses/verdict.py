"""What a test of the study says: one record, its words, and a table of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from influence.study.hypotheses.multiple import holm

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
UNTESTABLE = "not testable"
DESCRIPTIVE = "descriptive"


def significant(p: float) -> bool:
    """Whether p is at most .05; False for NaN."""
    return bool(p <= ALPHA)


class Untestable(ValueError):
    """The tables cannot answer this question; the message says why, in words that follow `because`."""


class Sentences(NamedTuple):
    """What a verdict says when its relation is found or not; `weaker`: falsifier -> the decision where it fails."""

    found: str
    nothing: str
    weaker: Mapping[str, str]
    claim: str = "relation"


@dataclass(frozen=True)
class Verdict:
    """The answer to one quantity of the study.

    `p` is the primary p by the null named in `null`, `p_adjusted` the same after Holm over the five primaries (NaN
    until corrected together). `falsifiers` are p values of stricter nulls by name: a relation is only claimed where
    they, too, are at most .05. `controls` are p values of the same relation where there should be none: it is not
    claimed where one of them is. `parts` has the lines below it (models or outcomes) with Benjamini-Hochberg within.
    `decision` is the short word, `words` the sentence.
    """

    quantity: int
    effect: float
    low: float
    high: float
    unit: str
    p: float
    null: str
    decision: str = ""
    words: str = ""
    p_adjusted: float = float("nan")
    falsifiers: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    parts: pd.DataFrame | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    sentences: Sentences | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return NAMES[self.quantity]

    @property
    def testable(self) -> bool:
        return self.decision != UNTESTABLE

    @property
    def claims(self) -> bool:
        """Whether, taken alone, it claims a relation: p and every falsifier at most .05, and no control."""
        return significant(self.p) and not self.objections

    @property
    def objections(self) -> dict[str, float]:
        """Falsifiers above .05, and controls that are not, with their p."""
        failed = {name: p for name, p in self.falsifiers.items() if not significant(p)}
        return failed | {name: p for name, p in self.controls.items() if significant(p)}

    def __str__(self) -> str:
        lines = [f"{self.quantity} {self.name}: {self.decision}. {self.words}"]
        if self.testable and np.isfinite(self.p):
            lines.append(f"  null: {self.null}; p {self.p:.2g}, after Holm {self.p_adjusted:.2g}")
            lines += [_held(name, p, significant(p)) for name, p in self.falsifiers.items()]
            lines += [_held(name, p, not significant(p)) for name, p in self.controls.items()]
        return "\n".join(lines + [f"  left out: {remark}" for remark in self.remarks])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _held(objection: str, p: float, passed: bool) -> str:
    """A line on a falsifier or control, which says in its name what would speak against the relation."""
    return f"  {'passed' if passed else 'NOT passed'}, p {p:.2g}; the objection was: {objection}"


def untestable(quantity: int, why: str, remarks: Sequence[str] = ()) -> Verdict:
    """The verdict on a quantity that these tables cannot test; `why` follows the word because."""
    nan = float("nan")
    return Verdict(quantity, nan, nan, nan, "", nan, "", UNTESTABLE, f"Not testable here because {why}.",
                   remarks=tuple(remarks))  # fmt: skip


def figure(value: float, low: float, high: float, unit: str = "") -> str:
    """`.31 [.12, .48] unit`, with `undefined` for NaN."""
    if not np.isfinite(value):
        return "undefined"
    interval = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{value:.3g}{interval}{' ' + unit if unit else ''}"


def decide(verdict: Verdict) -> Verdict:
    """The verdict with its decision and words, from the adjusted p where there is one and else from p."""
    said = verdict.sentences
    if said is None:
        return verdict
    p = verdict.p_adjusted if np.isfinite(verdict.p_adjusted) else verdict.p
    if not significant(p):
        alone = " Alone it would stand, but not beside the other tests." if significant(verdict.p) else ""
        return replace(verdict, decision=f"no {said.claim}", words=said.nothing + alone)
    for name, value in verdict.objections.items():
        return replace(verdict, decision=said.weaker[name], words=f"{said.found} But: {name}, p {value:.2g}.")
    return replace(verdict, decision=said.claim, words=said.found)


def corrected(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts with Holm over the five primaries and their decisions made again.

    The family is always the five planned tests; one that could not be made counts as if its p were 1.

    Raises:
        ValueError: when a quantity comes twice.
    """
    given = list(verdicts)
    if len({v.quantity for v in given}) != len(given):
        raise ValueError(f"a quantity comes twice: {[v.quantity for v in given]}")
    primary = [v for v in given if v.quantity in PRIMARIES]
    adjusted = dict(
        zip([v.quantity for v in primary], holm([v.p for v in primary], family=len(PRIMARIES)), strict=True)
    )
    return [decide(replace(v, p_adjusted=float(adjusted.get(v.quantity, np.nan)))) for v in given]


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One line per verdict: quantity, name, effect, low, high, unit, p, p_adjusted, falsifier (largest p), null,
    decision, words."""
    columns = ("quantity", "name", "effect", "low", "high", "unit", "p", "p_adjusted", "null", "decision", "words")
    lines = []
    for verdict in verdicts:
        line = {column: getattr(verdict, column) for column in columns}
        line["falsifier"] = max(verdict.falsifiers.values(), default=float("nan"))
        lines.append(line)
    return pd.DataFrame(lines, columns=[*columns[:8], "falsifier", *columns[8:]])
