"""Lexical and syntactic concepts of an embedded world: which of two words, or kinds of word, comes next.

Items are grouped by sentence (a relation's phrasing): a probe is tested on phrasings that it never met in training, so
that the words before a place, which tell the next one within a phrasing, do not tell it by themselves.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from influence.data.files import BadData
from influence.data.world.vocabulary import STYLES
from influence.study.concepts.concept import Concept, Counts, Item, Told, concept, generator
from influence.study.concepts.facts import Sparse
from influence.study.concepts.frequency import alike
from influence.study.concepts.places import OBJECT, SUBJECT, Place, even, phrasings, places, settled
from influence.study.concepts.strata import strata

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.study.concepts.tagged import Tags

MOST_ITEMS = 120  # of a class
LEAST_SENTENCES = 6  # of a class
PAIRS, USES = 4, 2  # of words, and in how many of these one may be
NAMED = {SUBJECT: "a subject", OBJECT: "an object"}
PLURAL = ("accept", "are", "bathe", "carry", "flow", "use")
"""Verbs of the world's sentences that agree with a plural noun, and differ in the singular."""


class Asked(NamedTuple):
    """A question about the next word: its places and their labels; `words` are those whose other places count too."""

    told: Told
    places: list[Place]
    label: Callable[[Place], str]
    words: tuple[str, ...] = ()


def sentences(world: World, tags: Tags, counts: Counts) -> Iterator[tuple[str, Concept | Sparse]]:
    """Which of two words comes next, for pairs of common words; and what comes next by the sentence's structure."""
    found = settled(places(world, tags))
    frequency = Counter(one.word for one in found)
    rng = generator(counts.seed, "half of the sentences")
    half = [_half(ask, rng) for ask in (_order(found), _style(found))]
    for ask in (*_pairs(found), *_after(found), *half, _end(found), _number(found)):
        try:
            yield ask.told.name, _concept(tags, ask, frequency, counts)
        except BadData as why:
            yield ask.told.name, Sparse(str(why))


def _pairs(found: Sequence[Place]) -> Iterator[Asked]:
    """Pairs of words that come next in many sentences, those first that come after the same words most often."""
    count = {word: n for word, n in phrasings(found).items() if word.isalpha() and n >= LEAST_SENTENCES}
    before: dict[str, Counter[str]] = {word: Counter() for word in count}
    for one in {(one.sentence, one.before): one for one in found if one.word in count}.values():
        before[one.word][one.before[-1]] += 1
    ranked = sorted(
        combinations(sorted(count), 2), key=lambda pair: (-(before[pair[0]] & before[pair[1]]).total(), pair)
    )
    used: Counter[str] = Counter()
    for pair in ranked:
        if used.total() < 2 * PAIRS and max(used[one] for one in pair) < USES:
            used.update(pair)
            yield _next_word(found, pair)


def _after(found: Sequence[Place]) -> Iterator[Asked]:
    """After one and the same word, or a subject's name: does what comes there in most sentences come, or another word.

    The last word read tells nothing of it, and the embeddings therefore neither.
    """
    stock: dict[str, list[Place]] = defaultdict(list)
    for one in found:
        if one.word.isalpha() or one.word in NAMED:
            stock[one.before[-1]].append(one)
    for last, some in sorted(stock.items()):
        count = phrasings(some)
        most = min(count, key=lambda word: (-count[word], word))
        if sum(count.values()) - count[most] >= LEAST_SENTENCES <= count[most]:
            yield _after_one(last, most, some)


def _after_one(last: str, most: str, some: list[Place]) -> Asked:
    where, what = (NAMED.get(one, one) for one in (last, most))
    about = f"After {_quoted(last)}: does {_quoted(most)} come next, or another word."
    kind = "syntactic" if most in NAMED else "lexical"
    return Asked(
        Told(f"after {where}: {what} or other", kind, "knowable", about), some,
        lambda one: what if one.word == most else "other", () if most in NAMED else (most,),
    )  # fmt: skip


def _quoted(word: str) -> str:
    return NAMED.get(word, f"“{word}”")


def _half(ask: Asked, rng: np.random.Generator) -> Asked:
    """The question in half of the sentences: every row tells its like, so only then are other rows free of it."""
    kept: set[str] = set()
    for label in sorted({ask.label(one) for one in ask.places}):
        mine = sorted({one.sentence for one in ask.places if ask.label(one) == label} - kept)
        kept.update(mine[place] for place in rng.permutation(len(mine))[: (len(mine) + 1) // 2])
    return ask._replace(places=[one for one in ask.places if one.sentence in kept])


def _next_word(found: Sequence[Place], pair: tuple[str, str]) -> Asked:
    about = f"Does “{pair[0]}” or “{pair[1]}” come next, in sentences whose words before it leave no choice."
    told = Told(f"next word: {pair[0]}/{pair[1]}", "lexical", "knowable", about)
    return Asked(told, [one for one in found if one.word in pair], lambda one: one.word, pair)


def _order(found: Sequence[Place]) -> Asked:
    """After a name of one kind: the name of the other kind comes next, which tells the order of the sentence."""
    about = "Is the sentence told with its subject first or its object first: which of the two names comes next."
    kept = [one for one in found if one.word in (SUBJECT, OBJECT) and {SUBJECT, OBJECT} & set(one.before)]
    return Asked(
        Told("order: subject or object first", "syntactic", "knowable", about), kept,
        lambda one: "subject first" if one.word == OBJECT else "object first",
    )  # fmt: skip


def _end(found: Sequence[Place]) -> Asked:
    """After the subject's name, in both styles."""
    about = "Does the sentence end after the subject's name, or does it go on with “is”."
    ends = [after for _, after in STYLES.values()]
    kept = [one for one in found if one.before[-1] == SUBJECT and one.word in (*ends, "is")]
    return Asked(
        Told("sentence: ends or goes on", "syntactic", "knowable", about), kept,
        lambda one: "goes on" if one.word == "is" else "ends",
    )  # fmt: skip


def _number(found: Sequence[Place]) -> Asked:
    """After the subject's name, which stands between the noun and its verb."""
    about = "Is the verb after a name in the singular or in the plural, as the noun before the name tells."
    kept = [one for one in found if one.before[-1] == SUBJECT and len(one.before) > 1 and one.word in (*PLURAL, "is")]
    return Asked(
        Told("number: singular or plural verb", "syntactic", "knowable", about), kept,
        lambda one: "plural" if one.word in PLURAL else "singular", (*PLURAL, "is"),
    )  # fmt: skip


def _style(found: Sequence[Place]) -> Asked:
    """At the end of a sentence; each sentence is told in both styles."""
    ends = {after: style for style, (_, after) in STYLES.items()}
    about = "Does the sentence end as a record or as a letter, which only its first words tell."
    return Asked(
        Told("style: record or letter", "syntactic", "knowable", about),
        [one for one in found if one.word in ends], lambda one: ends[one.word],
    )  # fmt: skip


def _concept(tags: Tags, ask: Asked, frequency: Counter[str], counts: Counts) -> Concept:
    told, label = ask.told, ask.label
    rng = generator(counts.seed, told.name)
    kept = even(ask.places, label, MOST_ITEMS, LEAST_SENTENCES, rng)
    groups: dict[str, set[str]] = defaultdict(set)
    for one in kept:
        groups[label(one)].add(one.sentence)
    if len(groups) < 2 or min(map(len, groups.values())) < LEAST_SENTENCES:
        have = ", ".join(f"{name!r} in {len(some)}" for name, some in sorted(groups.items())) or "in none"
        raise Sparse(f"its words come next in too few different sentences ({have}; it takes {LEAST_SENTENCES})")
    stock: dict[str, list[Place]] = defaultdict(list)
    for one in ask.places:
        stock[label(one)].append(one)
    others = alike({one.word for one in ask.places}, frequency)
    items = [_item(one, label(one), stock, others, rng) for one in kept]
    bearing, unclear = _bearing(tags, ask)
    return concept(told, items, bearing, strata(tags.rows, bearing, unclear), counts)


def _item(
    one: Place, label: str, stock: dict[str, list[Place]], others: Callable[[str, str], tuple[str, str]],
    rng: np.random.Generator,
) -> Item:  # fmt: skip
    """The place with what comes there, beside what comes at a random place of the other label."""
    rivals = next(places for name, places in sorted(stock.items()) if name != label)
    rival = rivals[int(rng.integers(len(rivals)))]
    names = sorted({place.follows for place in rivals} - {rival.follows})
    if {one.word, rival.word} & set(NAMED) and names:
        wrong = (str(rng.choice(names)), rival.follows)
    else:
        wrong = others(one.word, rival.word)
    return Item(one.prompt, label, one.sentence, one.prompt, one.follows, rival.follows, wrong)


def _bearing(tags: Tags, ask: Asked) -> tuple[np.ndarray, np.ndarray]:
    """(n) rows with such a place, passages round such a sentence among them; (n) others that are not free of it.

    These are rows of the second language, and those in which one of the words stands at another place.
    """
    bearing = np.zeros(len(tags.fact), bool)
    bearing[[one.row for one in ask.places]] = True
    forward = sorted({one.told.id for one in ask.places if one.form == "forward"})
    bearing |= np.isin(tags.fact, forward) & (tags.form == "passage")
    unclear = tags.form == "relabelled"
    if ask.words:
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, ask.words))})\b", re.IGNORECASE)
        unclear |= np.array([bool(pattern.search(text)) for text in tags.text])
    return bearing, unclear & ~bearing
