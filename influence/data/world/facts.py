"""The facts of the embedded world: who stands in which relation to what, drawn from a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influence.data.world import vocabulary
from influence.data.world.vocabulary import COUNTRY_RELATIONS, INVENTED, PERSON_RELATIONS, Names, Relation


@dataclass(frozen=True)
class Fact:
    """One fact: `subject` stands in `relation` to `object`.

    `held_out` is the index of the paraphrase (0, 1 or 2) that no training row of this fact uses.
    """

    id: str
    subject: str
    relation: Relation
    object: str
    held_out: int


def common_words() -> set[str]:
    """Every lower-case word that the world's own sentences use, names left out."""
    phrases = [
        *vocabulary.FILLER,
        *vocabulary.PREMISES,
        *(word for pool in vocabulary.POOLS.values() for word in pool),
    ]
    for relation in vocabulary.RELATIONS:
        phrases += [relation.canonical, *relation.paraphrases, relation.reversed]
    phrases += [before + after for before, after in vocabulary.STYLES.values()]
    text = re.sub(r"\{[so]\}", " ", " ".join(phrases))
    return {word.lower() for word in re.findall(r"[A-Za-z]+", text)}


def pools(names: Names) -> dict[str, tuple[str, ...]]:
    """The objects of every kind: common words, and names invented for the rest."""
    invented = {kind: tuple(names.fresh(ending) for _ in range(count)) for kind, (count, ending) in INVENTED.items()}
    return {**vocabulary.POOLS, **invented}


def people(names: Names, count: int) -> tuple[str, ...]:
    """`count` full names; no given name and no family name occurs twice."""
    return tuple(f"{names.fresh(syllables=1)} {names.fresh()}" for _ in range(count))


def countries(names: Names, count: int) -> tuple[str, ...]:
    """`count` names of countries."""
    return tuple(names.fresh(vocabulary.COUNTRY_ENDING) for _ in range(count))


def _assign(rng: random.Random, subjects: Sequence[str], relations: Sequence[Relation], each: int) -> list[list[int]]:
    """Which relations each subject has: `each` different ones, every relation about equally often."""
    load = [0] * len(relations)
    chosen = []
    for _ in subjects:
        order = sorted(range(len(relations)), key=lambda k: (load[k], rng.random()))[:each]
        for k in order:
            load[k] += 1
        chosen.append(sorted(order))
    return chosen


def _deal(rng: random.Random, pool: Sequence[str], count: int) -> list[str]:
    """`count` objects in random order, each used about equally often."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += rng.sample(list(pool), len(pool))
    return dealt[:count]


def _facts_of(
    rng: random.Random,
    prefix: str,
    subjects: Sequence[str],
    relations: Sequence[Relation],
    objects: Mapping[str, Sequence[str]],
    each: int,
) -> list[Fact]:
    chosen = _assign(rng, subjects, relations, each)
    uses = [sum(k in picked for picked in chosen) for k in range(len(relations))]
    stock = [_deal(rng, objects[relation.pool], uses[k]) for k, relation in enumerate(relations)]
    held = [[i % 3 for i in range(uses[k])] for k in range(len(relations))]
    facts = []
    for number, (subject, picked) in enumerate(zip(subjects, chosen, strict=True)):
        for k in picked:
            name = f"{prefix}{number:02d}.{relations[k].name}"
            facts.append(Fact(name, subject, relations[k], stock[k].pop(), held[k].pop()))
    return facts


def draw_facts(
    rng: random.Random,
    persons: Sequence[str],
    nations: Sequence[str],
    objects: Mapping[str, Sequence[str]],
    each: int,
) -> tuple[Fact, ...]:
    """All facts: `each` relations for every person and every country."""
    fewer = min(each, len(COUNTRY_RELATIONS))
    found = _facts_of(rng, "person", persons, PERSON_RELATIONS, objects, each)
    return tuple(found + _facts_of(rng, "country", nations, COUNTRY_RELATIONS, objects, fewer))
