"""Words of the training rows: where they stand, how frequent they are, and which are about as frequent as others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData
from influence.data.words import decode, words

if TYPE_CHECKING:
    from influence.types import Rows

WORD = re.compile(r"\w+(?:['’]\w+)?|[^\w\s]")


def texts(rows: Rows, lm: Any = None) -> list[str]:
    """The text of each row, decoded where rows have none.

    Raises BadData where neither texts nor a tokenizer came.
    """
    if "text" in rows.column_names:
        return [str(one) for one in rows["text"]]
    if lm is None:
        raise BadData("the rows have no column text, and no model or tokenizer came to decode their tokens with")
    return decode(words(lm), [list(ids) for ids in rows["input_ids"]])


def frequencies(told: Sequence[str]) -> Counter[str]:
    """How often each word of letters stands in the texts."""
    found: Counter[str] = Counter()
    for text in told:
        found.update(word for word in WORD.findall(text) if word.isalpha())
    return found


def alike(taken: Collection[str], frequency: Counter[str]) -> Callable[[str, str], tuple[str, str]]:
    """A function from two words to two others, none of `taken`, that stand about as often; with a space before each.

    A word that stands nowhere counts as one that stands once. Raises BadData where there are fewer than two others.
    """
    free = sorted(word for word in frequency if word.isalpha() and word not in taken)
    if len(free) < 2:
        raise BadData("the rows have too few other words for control queries")
    size = np.log([frequency[word] for word in free])

    def nearest(word: str, but: str = "") -> str:
        order = np.argsort(np.abs(size - np.log(max(frequency[word], 1))), kind="stable")[:2]
        return next(free[place] for place in order if free[place] != but)

    def two(right: str, rival: str) -> tuple[str, str]:
        first = nearest(right)
        return f" {first}", f" {nearest(rival, first)}"

    return two
