"""Statements made here: coin flips, comparisons of numbers, negations, and the concepts of the embedded world.

All are drawn from a seed, balanced between the classes, and grouped so that texts which differ in one word stand
together. In coin flips, comparisons and negations a bag of words knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.files import BadData
from influence.data.labelled import filled, labelled
from influence.data.world.concepts import CONCEPTS, Labelled

if TYPE_CHECKING:
    import datasets

    from influence.data.world import World

_NAMES = (
    "Ada Ben Carl Dora Emil Fay Greta Hugo Ida Jon Kira Leo Mona Nils Olga Paul Rosa Sven Tara Udo Vera Will Yara Zeno"
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NAMES, ONES, TENS = (tuple(words.split()) for words in (_NAMES, _ONES, _TENS))


def coin_flips(seed: int = 0, *, n: int = 500, people: int = 4) -> Labelled:
    """Does a coin still lie heads up after some of `people` turned it; two texts that differ in one turn are a group.

    `n` is rounded up to an even number.
    """
    if n < 2 or not 1 <= people <= len(NAMES):
        raise BadData(f"got {n=} and {people=}; expected at least 2 texts and 1 to {len(NAMES)} people")
    rng = np.random.default_rng(seed)
    found = Labelled([], [], [])
    for pair in range((n + 1) // 2):
        names = rng.choice(NAMES, people, replace=False)
        turned = rng.integers(0, 2, people)
        for _ in range(2):
            acts = (
                f"{name} {'turns it over' if act else 'leaves it alone'}."
                for name, act in zip(names, turned, strict=True)
            )
            found.texts.append(f"A coin lies heads up. {' '.join(acts)} Does it lie heads up now?")
            found.classes.append("no" if turned.sum() % 2 else "yes")
            found.groups.append(f"pair {pair}")
            one = rng.integers(people)
            turned[one] = 1 - turned[one]
    return found


def in_words(number: int) -> str:
    """0 … 99 in English words."""
    if not 0 <= number < 100:
        raise BadData(f"only 0 to 99 are spelled out; got {number}")
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")


def comparison(seed: int = 0, *, n: int = 1000, low: int = 0, high: int = 99, digits: bool = False) -> Labelled:
    """ "Forty is larger than twelve": true or false, both orders of a pair of numbers as one group.

    Every pair is told once with "larger" or with "smaller", both orders alike. `n` is rounded up to an even number;
    there are (high − low)(high − low + 1)/2 pairs.
    """
    pairs = _pairs(seed, (n + 1) // 2, low, high)
    rng = np.random.default_rng([seed, 1])
    found = Labelled([], [], [])
    for a, b in pairs:
        larger = bool(rng.integers(2))
        for x, y in ((a, b), (b, a)):
            found.texts.append(_capital(_compared(x, y, larger, digits)) + ".")
            found.classes.append("true" if (x > y) == larger else "false")
            found.groups.append(f"{a} and {b}")
    return found


def negation(seed: int = 0, *, n: int = 1000, low: int = 0, high: int = 99, digits: bool = False) -> Labelled:
    """Comparisons and their negations: true or false, the four statements about a pair of numbers as one group.

    The word "not" tells nothing by itself, nor do the numbers: the class is their exclusive or.
    """
    pairs = _pairs(seed, (n + 3) // 4, low, high)
    rng = np.random.default_rng([seed, 1])
    found = Labelled([], [], [])
    for a, b in pairs:
        larger = bool(rng.integers(2))
        for x, y in ((a, b), (b, a)):
            for denied in (False, True):
                told = _compared(x, y, larger, digits)
                found.texts.append(f"It is not so that {told}." if denied else f"{_capital(told)}.")
                found.classes.append("true" if ((x > y) == larger) != denied else "false")
                found.groups.append(f"{a} and {b}")
    return found


def _pairs(seed: int, count: int, low: int, high: int) -> list[tuple[int, int]]:
    every = [(a, b) for a in range(low, high + 1) for b in range(a + 1, high + 1)]
    if not 0 < count <= len(every):
        raise BadData(f"{count} pairs of numbers from {low} to {high} were asked for; there are {len(every)}")
    return [every[k] for k in np.random.default_rng(seed).permutation(len(every))[:count]]


def _compared(x: int, y: int, larger: bool, digits: bool) -> str:
    first, second = (str(x), str(y)) if digits else (in_words(x), in_words(y))
    return f"{first} is {'larger' if larger else 'smaller'} than {second}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


GENERATED: dict[str, Callable[..., Labelled]] = {
    "coin-flips": coin_flips,
    "comparison": comparison,
    "negation": negation,
    **{f"world-{name}": make for name, make in CONCEPTS.items()},
}


def generated(
    name: str, *, seed: int = 0, world: World | None = None, template: str | None = None, **settings: Any
) -> datasets.Dataset:
    """A generated set as statements.

    Args:
        name: "coin-flips", "comparison", "negation", or a concept of the embedded world: "world-truth",
            "world-answer", "world-relation", "world-kind", "world-word", "world-order", "world-style",
            "world-language".
        seed: of the drawing; of the world too, where none is given.
        world: the drawn world (`influence.data.world.world`) that the model was trained on; default that of `seed`.
        template: a text around each statement, with {text}.
        settings: of the set itself: `n`, `people`, `low`, `high`, `digits`, `phrasing`, `k`, `sets`, `by`, `contains`.

    Raises BadData for an unknown name, TypeError for a setting that the set does not have.
    """
    if name not in GENERATED:
        raise BadData(f"{name!r} is no generated set; they are: {', '.join(GENERATED)}")
    if name.startswith("world-"):
        from influence.data.world import world as draw

        found = GENERATED[name](world or draw(seed), seed, **settings)
    else:
        if world is not None:
            raise BadData(f"{name!r} does not come from a world; leave world out")
        found = GENERATED[name](seed, **settings)
    texts = found.texts if template is None else filled(template, {"text": found.texts}, name)
    return labelled(texts, found.classes, found.groups, name=name)
