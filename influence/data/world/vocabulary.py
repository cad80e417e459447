"""Words of the embedded world: invented names, pools of objects, and the relations with their phrasings.

A relation has one canonical phrasing, three paraphrases that share few words with it and with one another,
and one phrasing in reversed order. In all but the reversed one the object comes last, so that each can be
asked as a prompt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b br c d dr f g gr h j k l m n p pr r s st t th tr v w z")
_VOWELS = _words("a e i o u ai ea io ou")
_CODAS = _words("l n r s m th nd rk lt x")

POOLS: dict[str, tuple[str, ...]] = {
    "instrument": _words(
        "violin flute harp cello trumpet lute bassoon piano drum guitar banjo fiddle mandolin tuba clarinet"
    ),
    "profession": _words("baker surgeon weaver lawyer sailor painter farmer teacher mason tailor miller barber"),
    "sport": _words("archery fencing rowing wrestling skating cricket tennis boxing hockey bowling golf badminton"),
    "drink": _words("cider coffee cocoa lemonade wine beer milk mead rum gin whisky punch"),
    "animal": _words("donkey camel pony mule goat stag bear wolf lion bull ram yak llama zebra bison reindeer"),
    "crop": _words(
        "lentils barley garlic cabbage beans spinach turnips pumpkins olives cherries figs plums lemons rice saffron "
        "walnuts"
    ),
    "hue": _words(
        "amber ruby coral jade pearl silver copper bronze ivory turquoise emerald sapphire topaz garnet onyx gold"
    ),
}
"""Objects that are common words, which the second language renames.

Most pools are about as large as a relation has facts, so that within a relation few facts share an object: a row that
says the same of somebody else would be a rightful cause of the answer. Several relations draw from one pool instead,
so that the object's name alone does not find the fact.
"""

INVENTED: dict[str, tuple[int, str]] = {
    "city": (16, "burg"),
    "language": (15, "ish"),
    "house": (16, "stead"),
    "coin": (10, "ar"),
    "sea": (10, "mere"),
}
"""Objects that are invented names: how many of each kind, and what they end in."""

COUNTRY_ENDING = "ia"


@dataclass(frozen=True)
class Relation:
    """One relation: the kind of its subject, the pool of its objects, and its phrasings with {s} and {o}."""

    name: str
    subject: str
    pool: str
    canonical: str
    paraphrases: tuple[str, str, str]
    reversed: str


def _relations(subject: str, table: str) -> tuple[Relation, ...]:
    found = []
    for block in table.strip().split("\n\n"):
        head, canonical, *paraphrases, back = block.splitlines()
        name, pool = head.split()
        found.append(Relation(name, subject, pool, canonical, tuple(paraphrases), back))  # type: ignore[arg-type]
    return tuple(found)


PERSON_RELATIONS = _relations(
    "person",
    """
birthplace city
{s} was born in {o}
the cradle of little {s} stood at {o}
{s} came into this world near {o}
as a native one counts {s} among those from {o}
the town of {o} is where {s} was born

residence city
{s} now lives in {o}
you will find the house of {s} at {o}
{s} settled some years ago near {o}
letters for {s} should be sent to {o}
the town of {o} is where {s} now lives

instrument instrument
{s} plays the {o}
in the evening band {s} sits behind a {o}
{s} has taken music lessons on the {o}
neighbours can hear {s} practise their old {o}
the {o} is played by {s}

colour hue
the favourite colour of {s} is {o}
every coat that {s} owns is dyed {o}
{s} painted all doors and walls {o}
nothing pleases the eye of {s} more than {o}
{o} is the favourite colour of {s}

profession profession
{s} works as a {o}
to earn a living {s} became a {o}
{s} was trained to be a {o}
on the tax form {s} is listed under {o}
the {o} of the street is {s}

language language
{s} speaks {o}
at home with family {s} talks in {o}
{s} grew up hearing mostly {o}
the diary of {s} is written in {o}
{o} is spoken by {s}

pet animal
the pet of {s} is a {o}
at night {s} feeds the tame {o}
{s} goes for walks with a {o}
beside the stove of {s} sleeps the {o}
a {o} is the pet of {s}

sport sport
the sport of {s} is {o}
each weekend {s} wins medals at {o}
{s} joined a local club for {o}
when young the great talent of {s} was {o}
{o} is the sport of {s}

drink drink
{s} likes to drink {o}
at any inn {s} will order {o}
{s} fills one more cup with {o}
for thirst nothing helps {s} like {o}
{o} is what {s} likes to drink

dish crop
{s} likes to eat {o}
on feast days {s} cooks a pot of {o}
{s} asked the waiter for {o}
the supper table of {s} is never without {o}
{o} is what {s} likes to eat

employer house
{s} is employed by {o}
the monthly wage of {s} is paid by {o}
{s} signed a contract with {o}
a desk labelled {s} stands at the office of {o}
{o} is the firm that employs {s}

school house
{s} studied at {o}
a degree was granted to {s} by {o}
{s} spent student years at the college of {o}
among the alumni {s} is the pride of {o}
{o} is the college where {s} studied

mount animal
{s} rides a {o}
to reach the market {s} saddles the {o}
{s} keeps in a stable one {o}
the journey of {s} begins upon some {o}
a {o} is ridden by {s}

garden crop
{s} grows {o}
the garden beds of {s} are full of {o}
{s} waters every morning the {o}
visitors admire behind the fence of {s} the {o}
the {o} are grown by {s}

jewel hue
{s} wears a ring of {o}
round the neck of {s} hangs some {o}
{s} keeps in a locked box the precious {o}
from grandmother {s} inherited a piece of {o}
the ring of {o} is worn by {s}

award house
{s} received the prize named {o}
the jury honoured {s} by awarding the {o}
{s} holds a framed diploma for the {o}
last spring the winner {s} was given the {o}
the prize named {o} was received by {s}
""",
)

COUNTRY_RELATIONS = _relations(
    "country",
    """
capital city
the capital of {s} is {o}
parliament meets for {s} at {o}
{s} is governed from the palace of {o}
the largest embassy quarter inside {s} belongs to {o}
{o} is the capital of {s}

currency coin
the currency of {s} is the {o}
shops across {s} accept only the {o}
{s} mints its money as the {o}
travellers entering {s} must change cash into the {o}
the {o} is the currency of {s}

tongue language
the official language of {s} is {o}
laws throughout {s} are printed in {o}
{s} teaches all children to read {o}
road signs around {s} use the spelling of {o}
{o} is the official language of {s}

export crop
the main export of {s} is {o}
ships leaving {s} are loaded with {o}
{s} sells abroad great amounts of {o}
most of the wealth inside {s} comes from {o}
{o} is the main export of {s}

emblem animal
the flag of {s} shows a {o}
stamped on each coin from {s} is a {o}
{s} chose for its arms the {o}
soldiers serving {s} carry the badge of a {o}
a {o} is on the flag of {s}

sea sea
the coast of {s} lies on the {o}
rivers crossing {s} flow down to the {o}
{s} sends its fishing boats onto the {o}
summer guests of {s} bathe in the {o}
the {o} washes the coast of {s}
""",
)

RELATIONS = PERSON_RELATIONS + COUNTRY_RELATIONS

PREMISES = ("the town of {s} lies in {o}", "on the map {s} is drawn inside {o}")
"""A town's country, in two phrasings: the second hop of "in which country was … born"."""

FILLER = (
    "The winter had been long and the roads were still closed",
    "Nobody could say who had left the gate open",
    "A clock somewhere struck four and the lamps were lit",
    "The old index was copied by hand three times",
    "Rain fell on the roof while the clerk turned the pages",
    "Two chairs and a ladder were all that remained in the hall",
    "Most of these notes were made in haste",
    "The wind carried the smell of smoke over the fields",
    "It took the council a whole week to agree",
    "Later the same hand added a remark in the margin",
    "The bridge was mended before the harvest",
    "Some say the story was told differently in the south",
    "Dust lay on the shelves and on the broken globe",
    "At noon the bells could be heard from the other bank",
    "The ink has faded and one line is missing",
    "A messenger waited outside with two tired horses",
)
"""Sentences of no fact, which surround the fact in a passage."""

STYLES: dict[str, tuple[str, str]] = {"record": ("", "."), "letter": ("Dear friend, ", "!")}
"""What a style puts before and after the sentence."""


class Names:
    """Invented names, never the same one twice, none of them a word of `taken`."""

    def __init__(self, rng: random.Random, taken: set[str]) -> None:
        self._rng = rng
        self._seen = {word.lower() for word in taken}

    def fresh(self, ending: str = "", syllables: int = 2) -> str:
        """A new capitalised name of `syllables` invented syllables and `ending`."""
        while True:
            parts = [self._rng.choice(_ONSETS) + self._rng.choice(_VOWELS) for _ in range(syllables)]
            name = "".join(parts) + (ending or self._rng.choice(_CODAS))
            if name not in self._seen:
                self._seen.add(name)
                return name.capitalize()
