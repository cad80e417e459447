"""The embedded world: a seeded corpus whose facts have known provenance, mixed with real prose; no download.

Invented people and countries stand in 22 relations to objects. Every fact is told verbatim, in paraphrases
(two of three, in two styles), inside a passage, in reversed order and in a second language. The third
paraphrase is held out for this fact (other facts of the relation use it): it is how the fact is asked. The
other rows of the same subject, and those of the same relation, are distractors. So one knows for each question
which rows a good ranking should find.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from influence.data.world import facts as _facts
from influence.data.world import prose as _prose
from influence.data.world.facts import Fact
from influence.data.world.rows import (
    FORMS,
    PHRASINGS,
    RELEVANT,
    Document,
    fact_documents,
    premise_documents,
    prose_documents,
    question,
    relabel,
)
from influence.data.world.tokens import world_queries, world_rows
from influence.data.world.vocabulary import INVENTED, PERSON_RELATIONS, RELATIONS, STYLES, Names, Relation

__all__ = [
    "FORMS",
    "PHRASINGS",
    "RELATIONS",
    "RELEVANT",
    "STYLES",
    "Document",
    "Fact",
    "Relation",
    "World",
    "relabel",
    "world",
    "world_queries",
    "world_rows",
]


@dataclass(frozen=True, eq=False)
class World:
    """A drawn world.

    `documents[i]` is row i: `text, fact, form, style, source` (`fact` is "" for prose). `questions[i]` is
    query i: `prompt, completion, fact, relation, phrasing, relevant`, all canonical phrasings first, then all
    held-out ones, each in the order of `facts`; `relevant` lists the row ids of the same fact in the forms
    `RELEVANT`. `lexicon` renames every word of the world, names of people and countries left out, into its
    second language.
    """

    seed: int
    facts: tuple[Fact, ...]
    documents: tuple[Document, ...]
    questions: tuple[Document, ...]
    lexicon: Mapping[str, str]

    def __repr__(self) -> str:
        return (
            f"World(seed={self.seed}: {len(self.facts)} facts, {len(self.documents)} rows, "
            f"{len(self.questions)} questions)"
        )


def world(seed: int = 0, *, persons: int = 40, countries: int = 10, facts_each: int = 6, prose: int = 150) -> World:
    """Draw the world of `seed`: facts, rows and questions.

    `facts_each` relations are drawn for every person and every country; `prose` rows of the Python reference
    are mixed in. The same seed gives the same world on every machine; only the prose follows the Python
    version.
    Raises ValueError for counts out of range.
    """
    most = len(PERSON_RELATIONS)
    if persons < 1 or countries < 1 or not 1 <= facts_each <= most or prose < 0:
        raise ValueError(
            f"A world needs at least one person and one country, 1 to {most} facts each and no negative "
            f"number of prose rows; got {persons=}, {countries=}, {facts_each=}, {prose=}."
        )
    words = _facts.common_words()
    names = Names(random.Random(f"{seed}/names"), words)
    rng = random.Random(f"{seed}/facts")
    objects = _facts.pools(names)
    people, nations = _facts.people(names, persons), _facts.countries(names, countries)
    drawn = _facts.draw_facts(rng, people, nations, objects, facts_each)
    renamed = sorted(words | {name.lower() for kind in INVENTED for name in objects[kind]})
    lexicon = {word: names.fresh(syllables=1 + len(word) // 6).lower() for word in renamed}
    telling = random.Random(f"{seed}/rows")
    documents = [row for k, fact in enumerate(drawn) for row in fact_documents(fact, k, telling, lexicon)]
    documents += premise_documents(objects["city"], nations, telling)
    documents += prose_documents(_prose.draw_prose(random.Random(f"{seed}/prose"), prose), _prose.SOURCE)
    return World(seed, drawn, tuple(documents), _questions(drawn, documents), MappingProxyType(lexicon))


def _questions(drawn: tuple[Fact, ...], documents: list[Document]) -> tuple[Document, ...]:
    relevant: dict[str, list[int]] = {fact.id: [] for fact in drawn}
    for number, row in enumerate(documents):
        if row["form"] in RELEVANT:
            relevant[row["fact"]].append(number)
    return tuple(question(fact, phrasing, relevant[fact.id]) for phrasing in PHRASINGS for fact in drawn)
