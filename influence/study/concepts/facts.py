"""Concepts about the facts of an embedded world: which answer comes, what is true, and what follows in two steps."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from influence.data.files import BadData
from influence.data.world.concepts import answer, truth
from influence.data.world.facts import Fact
from influence.data.world.rows import question
from influence.data.world.vocabulary import PREMISES, Relation
from influence.study.concepts.concept import LEAST_GROUPS, Concept, Counts, Item, Told, concept, generator
from influence.study.concepts.strata import strata
from influence.study.concepts.tagged import Tags

if TYPE_CHECKING:
    from influence.data.world import World

CLASSES = 6  # objects of an answer concept
MOST_ITEMS = 400  # of true and false statements
MANY = 8  # subjects of an object, for a relation to make a concept of its own
DRAWS = 16  # of sets, of which the most even is kept


class Sparse(BadData):
    """What a world does not tell often enough for a probe; the message is the reason."""


class Chosen(NamedTuple):
    """Facts of a few objects; each of the `k` classes is an object, or with `sets` a set of objects."""

    name: str
    facts: list[Fact]
    k: int
    sets: bool


def answers(world: World, tags: Tags, counts: Counts) -> Iterator[tuple[str, Concept | Sparse]]:
    """Answer concepts: prompts in all phrasings of a relation, of which the class is the answer.

    A relation of which six objects have at least eight subjects each makes a concept of its own. The other relations
    are asked together with those of the same pool of objects, for up to two times six objects of at least five subjects
    each; where objects have four, the six are dealt at random into two sets and the class is the set; where they have
    two or three, all such objects are. So a probe meets every answer of its test in training, with other subjects.
    """
    for name, chosen in _divisions(world.facts, counts.seed):
        if isinstance(chosen, Sparse):
            yield name, chosen
            continue
        try:
            yield name, _answer(world, tags, chosen, counts)
        except Sparse as why:
            yield name, why


def _divisions(facts: Iterable[Fact], seed: int) -> Iterator[tuple[str, Chosen | Sparse]]:
    relations: dict[str, list[Fact]] = defaultdict(list)
    pools: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        relations[fact.relation.name].append(fact)
    for name, mine in relations.items():
        if chunks := _chunks(mine, MANY, name, seed):
            yield name, _only(name, mine, chunks[0], False)
        else:
            pools[mine[0].relation.pool] += mine
    for pool, mine in pools.items():
        names = list(dict.fromkeys(fact.relation.name for fact in mine))
        name = names[0] if len(names) == 1 else pool
        for least, sets in ((LEAST_GROUPS, False), (LEAST_GROUPS - 1, True)):
            if found := _chunks(mine, least, name, seed)[:2]:
                for number, objects in enumerate(found, 1):
                    title = name if len(found) == 1 else f"{name} {number}"
                    yield title, _only(title, mine, objects, sets)
                break
        else:
            yield name, _shared(name, mine)


def _chunks(facts: Sequence[Fact], least: int, name: str, seed: int) -> list[list[str]]:
    """Objects that have at least so many subjects, at random by six."""
    subjects = _subjects(facts)
    many = sorted(obj for obj, mine in subjects.items() if len(mine) >= least)
    order = [many[place] for place in generator(seed, f"{name}/objects").permutation(len(many))]
    return [order[start : start + CLASSES] for start in range(0, len(order) - CLASSES + 1, CLASSES)]


def _subjects(facts: Iterable[Fact]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        found[fact.object].add(fact.subject)
    return found


def _only(name: str, facts: Sequence[Fact], objects: Sequence[str], sets: bool) -> Chosen:
    return Chosen(name, [fact for fact in facts if fact.object in objects], 2 if sets else len(objects), sets)


def _shared(name: str, facts: Sequence[Fact]) -> Chosen | Sparse:
    """All objects of two subjects or more, in two sets."""
    subjects = _subjects(facts)
    shared = [obj for obj, mine in subjects.items() if len(mine) > 1]
    found = _only(name, facts, shared, True)
    if len(shared) < 4 or len({fact.subject for fact in found.facts}) < 2 * LEAST_GROUPS:
        return Sparse(
            f"{len(shared)} of its {len(subjects)} objects are shared by two subjects or more; a probe would be tested "
            "on answers that it never met (it takes 4 such objects of 10 subjects)"
        )
    return found


def _answer(world: World, tags: Tags, chosen: Chosen, counts: Counts) -> Concept:
    name = f"answer: {chosen.name}"
    items = _answer_items(world, name, chosen, counts.seed)
    relations = list(dict.fromkeys(fact.relation.name for fact in chosen.facts))
    told = "in which of two sets of objects it is" if chosen.sets else f"which of {chosen.k} objects it is"
    about = f"The answer to a question for {' or '.join(relations)}, before it comes: {told}."
    ids = {fact.id for fact in chosen.facts}
    return _about_facts(tags, Told(name, "answer", "knowable", about), items, ids, counts)


def _about_facts(tags: Tags, told: Told, items: Sequence[Item], ids: set[str], counts: Counts) -> Concept:
    bearing, unclear = tags.stating(ids)
    return concept(told, items, bearing, strata(tags.rows, bearing, unclear), counts)


def _answer_items(
    world: World, name: str, chosen: Chosen, seed: int, group: Callable[[Fact], str] = attrgetter("subject")
) -> list[Item]:
    """Prompts of the facts in all phrasings, the class being the answer or the set it was dealt to."""
    rng = generator(seed, name)
    part = replace(world, facts=tuple(chosen.facts))
    asked = [fact for fact in chosen.facts for _ in range(1 + len(fact.relation.paraphrases))]
    draws = DRAWS if chosen.sets else 1
    drawn = [answer(part, int(rng.integers(1 << 30)), k=chosen.k, sets=chosen.sets) for _ in range(draws)]
    groups = [group(fact) for fact in asked]
    found = max(drawn, key=lambda one: _least(one.classes, groups))
    label = {fact.object: told for fact, told in zip(asked, found.classes, strict=True)}
    if (least := _least(found.classes, groups)) < LEAST_GROUPS:
        raise Sparse(f"a class has {least} groups, and a probe needs {LEAST_GROUPS}")
    true: dict[str, set[str]] = defaultdict(set)
    for fact in (*world.facts, *chosen.facts):
        true[fact.subject].add(fact.object)
    items = []
    for fact, text, told in zip(asked, found.texts, found.classes, strict=True):
        own, other = _wrong(label, true[fact.subject], told)
        if not other:
            raise Sparse(f"every other object is true of {fact.subject} too, so there is nothing to contrast")
        contrast, against = (f" {one}" for one in rng.choice(other, 2, replace=len(other) < 2))
        mine = f" {rng.choice(own)}" if own else next((f" {one}" for one in other if f" {one}" != against), against)
        items.append(Item(text, told, group(fact), text, f" {fact.object}", contrast, (mine, against)))
    return items


def _least(classes: Sequence[str], groups: Sequence[str]) -> int:
    """The number of groups of the class that has fewest."""
    pairs = set(zip(classes, groups, strict=True))
    return min(Counter(label for label, _ in pairs).values())


def _wrong(label: dict[str, str], true: set[str], told: str) -> tuple[list[str], list[str]]:
    """Objects that are not true of a subject: those of the class of its answer, and those of other classes."""
    free = sorted(obj for obj in label if obj not in true)
    return [obj for obj in free if label[obj] == told], [obj for obj in free if label[obj] != told]


def truths(world: World, tags: Tags, counts: Counts) -> Iterator[tuple[str, Concept | Sparse]]:
    """True and false statements about half of the facts, in the first phrasing and in one they were never told in.

    The queries ask for the true object against the false one, which the facts of a group exchange.
    """
    for name, phrasing in (("truth", "canonical"), ("truth in new words", "held-out")):
        try:
            yield name, _truth(world, tags, Told(name, "truth", "chance", _TRUTH[phrasing]), phrasing, counts)
        except BadData as why:
            yield name, Sparse(str(why))


_TRUTH = {
    "canonical": "Is a statement of a fact true, or does it name the object of another fact of its relation.",
    "held-out": "Is a statement true that tells a fact in a phrasing in which it stands in no training row.",
}


def _truth(world: World, tags: Tags, told: Told, phrasing: str, counts: Counts) -> Concept:
    found = truth(world, counts.seed, phrasing=phrasing)
    groups = sorted(set(found.groups))
    share = min(len(groups) // 2, MOST_ITEMS // 4)
    rng = generator(counts.seed, told.name)
    kept = {groups[place] for place in rng.permutation(len(groups))[:share]}
    facts = {fact.id: fact for fact in world.facts}
    prompts = [_asked(facts, group, phrasing) for group in dict.fromkeys(found.groups)]
    items = []
    for text, label, group, asked in zip(
        found.texts, found.classes, found.groups, (one for pair in prompts for one in pair), strict=True
    ):
        if group in kept:
            prompt, completion, contrast, wrong = asked
            items.append(Item(text, label, group, prompt, completion, contrast, wrong))
    ids = {one for group in kept for one in group.split(" / ")}
    return _about_facts(tags, told, items, ids, counts)


def _asked(facts: dict[str, Fact], group: str, phrasing: str) -> list[tuple[str, str, str, tuple[str, str]]]:
    """For each of a group's statements, two for a fact: prompt, true object, false twin, two other wrong objects."""
    members = [facts[one] for one in group.split(" / ")]
    found = []
    for fact, other in zip(members, [*members[1:], members[0]], strict=True):
        mine = {one.object for one in facts.values() if one.subject == fact.subject} | {other.object}
        free = {one.object for one in facts.values() if one.relation == fact.relation} - mine
        wrong = sorted(free)[:2] if len(free) > 1 else [other.object] * 2
        told = question(fact, phrasing, ())
        one = (told["prompt"], told["completion"], f" {other.object}", (f" {wrong[0]}", f" {wrong[1]}"))
        found += [one, one]
    return found


HOPS = {
    "birthplace": (
        "the town where {s} was born lies in {o}",
        "the town where {s} came into this world lies in {o}",
        "on the map the town where {s} was born is drawn inside {o}",
        "on the map the cradle of little {s} is drawn inside {o}",
    ),
    "residence": (
        "the town where {s} now lives lies in {o}",
        "the town where you will find the house of {s} lies in {o}",
        "on the map the town where {s} now lives is drawn inside {o}",
        "on the map the house of {s} is drawn inside {o}",
    ),
}
"""What is asked in two steps, in words of the world: the country of a town that itself must be known."""


def two_hops(world: World, tags: Tags, counts: Counts) -> Iterator[tuple[str, Concept | Sparse]]:
    """In which of two sets the country of a person's town is, over rows that name the town and rows that place it.

    Grouped by town: a probe that met the town in training would learn its country from its own labels, and then tell it
    in one step. Only countries of two towns or more are asked for, where these are enough for the splits.
    """
    country = _towns(world)
    towns = Counter(nation for nation, _ in country.values())
    home: dict[str, Fact] = {}
    hops: list[Fact] = []
    for fact in world.facts:
        if fact.relation.name in HOPS and fact.object in country:
            first, *others = HOPS[fact.relation.name]
            relation = Relation(f"country of {fact.relation.name}", "person", "country", first, tuple(others), "")  # type: ignore[arg-type]
            hops.append(Fact(f"{fact.id}.country", fact.subject, relation, country[fact.object][0], fact.held_out))
            home[hops[-1].id] = fact
    why = Sparse("the world tells no towns of persons and no countries of towns")
    for least in (2, 1):
        kept = [hop for hop in hops if towns[hop.object] >= least]
        if len({hop.object for hop in kept}) < 4:
            continue
        chosen = Chosen("country of a town", kept, 2, True)
        try:
            items = _answer_items(world, "two-hop", chosen, counts.seed, lambda hop: home[hop.id].object)
        except Sparse as reason:
            why = reason
            continue
        steps = {one for hop in kept for one in (home[hop.id].id, country[home[hop.id].object][1])}
        told = Told("two-hop: country of a town", "two-hop", "chance", _TWO_HOP)
        yield "two-hop", _about_facts(tags, told, items, steps, counts)
        return
    yield "two-hop", why


_TWO_HOP = "In which country a person's town lies, which is told nowhere: only the town, and that town's country."


def _towns(world: World) -> dict[str, tuple[str, str]]:
    """(country, id of the premise) by town."""
    pattern = re.compile(re.escape(PREMISES[0]).replace(r"\{s\}", r"(\w+)").replace(r"\{o\}", r"(\w+)") + r"\.", re.I)
    found = {}
    for row in world.documents:
        if row["form"] == "premise" and (told := pattern.fullmatch(row["text"])):
            found[told[1]] = (told[2], row["fact"])
    return found
