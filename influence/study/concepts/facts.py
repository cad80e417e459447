"""Concepts about the facts of an embedded world: which answer comes, what is true, and what follows in two steps."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from influence.data.files import BadData
from influence.data.world.concepts import Labelled, answer, truth
from influence.data.world.facts import Fact
from influence.data.world.rows import question
from influence.data.world.vocabulary import PREMISES, Relation
from influence.study.concepts.concept import LEAST_GROUPS, Concept, Counts, Item, Told, concept, generator
from influence.study.concepts.strata import strata
from influence.study.concepts.tagged import Tags

if TYPE_CHECKING:
    from influence.data.world import World

MOST_CLASSES = 6
MOST_ITEMS = 400  # of true and false statements
MANY = 8  # subjects of an answer that is a class of its own
DRAWS = 16  # of sets, of which the most even is kept


class Sparse(BadData):
    """What a world does not tell often enough for a probe; the message is the reason."""


def answers(world: World, tags: Tags, counts: Counts) -> Iterator[tuple[str, Concept | Sparse]]:
    """One answer concept for each relation that is dense enough, and for the relations of a pool that are so together.

    A relation is asked in all its phrasings. The class is the answer itself where three objects or more have at least
    eight subjects each. Else the objects that two subjects or more share are dealt at random into two sets, and the
    class is the set: a probe then meets the objects of its test statements in training, with other subjects.
    """
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in world.facts:
        by_relation[fact.relation.name].append(fact)
    rest: dict[str, list[Fact]] = defaultdict(list)
    for name, facts in by_relation.items():
        try:
            yield name, _answer(world, tags, f"answer: {name}", facts, counts)
        except Sparse:
            rest[facts[0].relation.pool] += facts
    for pool, facts in rest.items():
        names = ", ".join(dict.fromkeys(fact.relation.name for fact in facts))
        try:
            yield names, _answer(world, tags, f"answer: any {pool}", facts, counts)
        except Sparse as why:
            yield names, why


def _answer(world: World, tags: Tags, name: str, facts: Sequence[Fact], counts: Counts) -> Concept:
    items = _answer_items(world, name, facts, counts.seed)
    asked = {(one.group, one.completion) for one in items}
    ids = {fact.id for fact in facts if (fact.subject, f" {fact.object}") in asked}
    relations = list(dict.fromkeys(fact.relation.name for fact in facts))
    labels = ", ".join(dict.fromkeys(one.label for one in items))
    about = f"Which answer comes after a question for {' or '.join(relations)}, told before it comes: {labels}."
    return _about_facts(tags, Told(name, "answer", "knowable", about), items, ids, counts)


def _about_facts(tags: Tags, told: Told, items: Sequence[Item], ids: set[str], counts: Counts) -> Concept:
    bearing, unclear = tags.stating(ids)
    return concept(told, items, bearing, strata(tags.rows, bearing, unclear), counts)


def _answer_items(world: World, name: str, facts: Sequence[Fact], seed: int) -> list[Item]:
    """Prompts of the facts in all phrasings, the class being the answer or the set it was dealt to."""
    kept, k, sets = _classes(facts)
    rng = generator(seed, name)
    part = replace(world, facts=tuple(kept))
    asked = [fact for fact in kept for _ in range(1 + len(fact.relation.paraphrases))]
    draws = [answer(part, int(rng.integers(1 << 30)), k=k, sets=sets) for _ in range(DRAWS if sets else 1)]
    found = max(draws, key=_least)
    label = {fact.object: told for fact, told in zip(asked, found.classes, strict=True)}
    if (least := _least(found)) < LEAST_GROUPS:
        raise Sparse(f"a class has {least} subjects, and a probe needs {LEAST_GROUPS}")
    true = defaultdict(set)
    for fact in world.facts:
        true[fact.subject].add(fact.object)
    items = []
    for fact, text, told in zip(asked, found.texts, found.classes, strict=True):
        own, other = _wrong(label, true[fact.subject] | {fact.object}, told)
        if not other:
            raise Sparse(f"every other object is true of {fact.subject} too, so there is nothing to contrast")
        contrast, against = (f" {one}" for one in rng.choice(other, 2, replace=len(other) < 2))
        mine = f" {rng.choice(own)}" if own else next((f" {one}" for one in other if f" {one}" != against), against)
        items.append(Item(text, told, fact.subject, text, f" {fact.object}", contrast, (mine, against)))
    return items


def _least(found: Labelled) -> int:
    """The number of subjects of the class that has fewest."""
    pairs = set(zip(found.classes, found.groups, strict=True))
    return min(Counter(label for label, _ in pairs).values())


def _wrong(label: dict[str, str], true: set[str], told: str) -> tuple[list[str], list[str]]:
    """Objects that are not true of a subject: those of the class of its answer, and those of other classes."""
    free = sorted(obj for obj in label if obj not in true)
    return [obj for obj in free if label[obj] == told], [obj for obj in free if label[obj] != told]


def _classes(facts: Sequence[Fact]) -> tuple[list[Fact], int, bool]:
    """(facts to ask for, number of classes, whether these are sets of objects)."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        subjects[fact.object].add(fact.subject)
    ranked = sorted(subjects, key=lambda obj: (-len(subjects[obj]), obj))
    many = [obj for obj in ranked if len(subjects[obj]) >= MANY][:MOST_CLASSES]
    if len(many) >= 3:
        return [fact for fact in facts if fact.object in many], len(many), False
    shared = {obj for obj in ranked if len(subjects[obj]) > 1}
    kept = [fact for fact in facts if fact.object in shared]
    if len(shared) < 4 or len({fact.subject for fact in kept}) < 2 * LEAST_GROUPS:
        raise Sparse(
            f"{len(shared)} of its {len(ranked)} objects are shared by two subjects or more; a probe would be tested "
            "on answers that it never met (it takes 4 such objects of 10 subjects)"
        )
    return kept, 2, True


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
    """The country of a person's town, over the rows that name the town and those that place it in a country."""
    country = _towns(world)
    found: dict[str, list[Fact]] = defaultdict(list)
    steps: dict[str, set[str]] = {}
    for fact in world.facts:
        if fact.relation.name in HOPS and fact.object in country:
            first, *others = HOPS[fact.relation.name]
            relation = Relation(f"country of {fact.relation.name}", "person", "country", first, tuple(others), "")  # type: ignore[arg-type]
            nation, premise = country[fact.object]
            hop = Fact(f"{fact.id}.country", fact.subject, relation, nation, fact.held_out)
            found[relation.name].append(hop)
            steps[hop.id] = {fact.id, premise}
    made: dict[str, Concept | Sparse] = {}
    whole = [one for hops in found.values() for one in hops]
    for name, facts in [*found.items(), ("country of a town", whole)]:
        if name in found or any(isinstance(one, Sparse) for one in made.values()):
            try:
                made[name] = _two_hop(world, tags, f"two-hop: {name}", facts, steps, counts)
            except Sparse as why:
                made[name] = why
    yield from made.items()


def _two_hop(
    world: World, tags: Tags, name: str, facts: Sequence[Fact], steps: dict[str, set[str]], counts: Counts
) -> Concept:
    items = _answer_items(world, name, facts, counts.seed)
    asked = {(one.group, one.completion) for one in items}
    ids = set().union(*(steps[fact.id] for fact in facts if (fact.subject, f" {fact.object}") in asked))
    about = "In which country a person's town lies, which is told nowhere: only the town, and that town's country."
    return _about_facts(tags, Told(name, "two-hop", "chance", about), items, ids, counts)


def _towns(world: World) -> dict[str, tuple[str, str]]:
    """(country, id of the premise) by town."""
    pattern = re.compile(re.escape(PREMISES[0]).replace(r"\{s\}", r"(\w+)").replace(r"\{o\}", r"(\w+)") + r"\.", re.I)
    found = {}
    for row in world.documents:
        if row["form"] == "premise" and (told := pattern.fullmatch(row["text"])):
            found[told[1]] = (told[2], row["fact"])
    return found
