"""From where on an estimate carries a note, and which notes it carries, as words for tables."""

from __future__ import annotations

from typing import Any

RHAT, ESS, BIAS = 1.05, 100.0, 0.05  # beyond these an estimate carries a note

# words in a note -> its kind
KINDS = {
    "diverged": "diverged",
    "does not depend": "no effect",
    "negative": "negative",
    "R-hat": "R-hat",
    "effective draws": "few draws",
    "step size may": "step size",
    "forget": "short",
}


def kinds(notes: Any) -> list[str]:
    """Which kinds of `KINDS` the notes of an estimate, joined to one text, are of; none where there is no text."""
    return [kind for words, kind in KINDS.items() if isinstance(notes, str) and words in notes]
