"""Places in the sentences of an embedded world: the text before, the word that comes, and whether that can be known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from influence.data.world.vocabulary import STYLES

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.data.world.facts import Fact
    from influence.data.world.rows import Document
    from influence.study.concepts.tagged import Tags

TOLD = ("forward", "paraphrase", "reversed")
SUBJECT, OBJECT = "{s}", "{o}"


class Place(NamedTuple):
    """A place in a training row: the text `prompt` before it and the word `follows` after, with its space.

    `word` is that word with the names taken out ({s}, {o}), `before` the words before it likewise (the style's own left
    out), `sentence` all words of the sentence: its phrasing. `row` is the place of the row, `told` its fact.
    """

    row: int
    told: Fact
    style: str
    form: str
    sentence: str
    before: tuple[str, ...]
    word: str
    prompt: str
    follows: str


def places(world: World, tags: Tags, forms: Sequence[str] = TOLD) -> list[Place]:
    """Every place after the first word in the rows of these forms, in the order of the rows."""
    facts = {fact.id: fact for fact in world.facts}
    found: list[Place] = []
    for row, (number, form) in enumerate(zip(tags.number, tags.form, strict=True)):
        document = world.documents[number]
        if form in forms and document["fact"] in facts:
            found += _of(row, document, facts[document["fact"]])
    return found


def _of(row: int, document: Document, fact: Fact) -> Iterable[Place]:
    text, names = document["text"], {fact.subject: SUBJECT, fact.object.lower(): OBJECT}
    pattern = rf"\b{re.escape(fact.subject)}\b|\b{re.escape(fact.object)}\b|\w+|[^\w\s]"
    spans = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    words = [names.get(text[a:b], names.get(text[a:b].lower(), text[a:b].lower())) for a, b in spans]
    skip = len(re.findall(r"\w+|[^\w\s]", STYLES.get(document["style"], ("", ""))[0]))
    sentence = " ".join(words[skip:-1])
    for k in range(skip + 1, len(words)):
        stop = spans[k - 1][1]
        before = tuple(words[skip:k])
        yield Place(row, fact, document["style"], document["form"], sentence, before, words[k], text[:stop],
                    text[stop : spans[k][1]])  # fmt: skip


def settled(found: Iterable[Place]) -> list[Place]:
    """The places whose next word (or name: subject or object) is the same wherever the same words stand before it."""
    found = list(found)
    after: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for one in found:
        after[one.style, one.before].add(one.word)
    return [one for one in found if len(after[one.style, one.before]) == 1]


def phrasings(found: Iterable[Place], key: Callable[[Place], str] = lambda one: one.word) -> dict[str, int]:
    """In how many different sentences each word comes."""
    seen: dict[str, set[str]] = defaultdict(set)
    for one in found:
        seen[key(one)].add(one.sentence)
    return {word: len(sentences) for word, sentences in seen.items()}


def even(
    found: Sequence[Place], label: Callable[[Place], str], most: int, least: int, rng: np.random.Generator
) -> list[Place]:
    """As many places of each label, at most `most`: of all its sentences in turn, with different prompts.

    Prompts have the same lengths in words in all labels where that leaves every label at least `least` sentences. The
    same words before a place stand in one sentence only, so that no two groups share them.
    """
    kept = _different(found, rng)
    chosen = _matched(kept, label, lambda one: len(one.prompt.split()), most, rng)
    if min(phrasings(chosen, label).values(), default=0) >= least:
        return chosen
    return _matched(kept, label, lambda _: 0, most, rng)


def _different(found: Sequence[Place], rng: np.random.Generator) -> list[Place]:
    """The places in random order, without prompts that came and words that came in another sentence."""
    home: dict[tuple[str, ...], str] = {}
    prompts: set[str] = set()
    kept = []
    for place in rng.permutation(len(found)):
        one = found[place]
        if home.setdefault(one.before, one.sentence) == one.sentence and one.prompt not in prompts:
            prompts.add(one.prompt)
            kept.append(one)
    return kept


def _matched(
    kept: Sequence[Place], label: Callable[[Place], str], length: Callable[[Place], int], most: int,
    rng: np.random.Generator,
) -> list[Place]:  # fmt: skip
    """Equally many places of each label and length."""
    stock: dict[int, dict[str, dict[str, list[Place]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for one in kept:
        stock[length(one)][label(one)][one.sentence].append(one)
    labels = sorted({label(one) for one in kept})
    together: list[tuple[Place, ...]] = []
    for _, by in sorted(stock.items()):
        count = min(sum(map(len, by[name].values())) for name in labels)
        together += zip(*(_in_turn(by[name], count) for name in labels), strict=True)
    return [one for place in sorted(rng.permutation(len(together))[:most]) for one in together[place]]


def _in_turn(stock: dict[str, list[Place]], count: int) -> list[Place]:
    """`count` places, of all sentences in turn."""
    found: list[Place] = []
    while len(found) < count:
        for sentence in sorted(stock):
            if stock[sentence] and len(found) < count:
                found.append(stock[sentence].pop())
    return found
