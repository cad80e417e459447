"""Next-word concepts of any corpus: which of two common words comes next, where the word before does not tell."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from influence.data.files import BadData
from influence.study.concepts.concept import Concept, Counts, Item, Told, concept, generator, skip_reason
from influence.study.concepts.frequency import WORD, alike, frequencies, texts
from influence.study.concepts.strata import strata

if TYPE_CHECKING:
    from influence.types import Rows

log = logging.getLogger("influence")
SHORTEST, LONGEST = 8, 16  # words before a place
COMMON = 40  # words that pairs are made of
LEAST, MOST = 30, 150  # items of a class
EACH = 3  # places of one word in one group
USES = 2  # pairs in which a word may be
SHARE = 0.5  # of the rows that may bear a concept, so that others remain to compare them with
DOCUMENTS = 50  # with fewer different sources, rows are the groups


class Spot(NamedTuple):
    """A place in a row's text: the words before it (a window), the last of them, and the word that comes."""

    row: int
    prompt: str
    before: str
    word: str


def next_word_concepts(
    rows: Rows, lm: Any = None, *, most: int = 8, queries: int = 6, controls: int = 3, seed: int = 0
) -> list[Concept]:
    """Lexical concepts of any corpus: for pairs of its commonest words, which of the two comes next.

    Of a pair's places as many of either word are taken after each word before them, so that the last word read tells
    nothing; the text is the 8 to 16 words before the place. Pairs that most often follow the same words come first.
    Bearing are the rows in which one of the two stands after such a word.

    Args:
        rows: training rows with a column text, or else `lm`, a model or tokenizer to decode them with.
        most: concepts at most; a word is in two of them at most.
        queries, controls: of each concept.
        seed: of all that is drawn.

    Items are grouped by `source` where rows have at least 50 different ones, else by row. At most half of
    the rows bear a concept: where both words follow so many words that more rows would, only some of these are taken.
    Pairs that have too few places are passed over; what is left out is logged. Raises BadData for rows
    without text, and where no pair is left.
    """
    told = texts(rows, lm)
    special = tuple(getattr(getattr(lm, "tokenizer", lm), "all_special_tokens", ()) or ())
    frequency = frequencies(told)
    common = [word for word, _ in frequency.most_common(COMMON)]
    spots: dict[str, list[Spot]] = defaultdict(list)
    for spot in _spots(told, set(common), special):
        spots[spot.word].append(spot)
    counts = Counts(queries, controls, seed)
    group = _groups(rows)
    found: list[Concept] = []
    used: Counter[str] = Counter()
    for pair in _ranked(spots):
        if len(found) < most and max(used[word] for word in pair) < USES:
            one = _concept(rows, pair, spots[pair[0]] + spots[pair[1]], group, frequency, counts)
            why = one if isinstance(one, str) else skip_reason(one)
            if why is None and isinstance(one, Concept):
                found.append(one)
                used.update(pair)
            else:
                log.info("left out of the concepts: next word: %s/%s: %s", *pair, why)
    if not found:
        raise BadData(
            f"the corpus ({len(told)} rows) has no two common words with {LEAST} places each at which the word before "
            "leaves either possible; give more text, or concepts of your own"
        )
    return found


def _spots(told: Sequence[str], common: set[str], special: tuple[str, ...]) -> Iterator[Spot]:
    """Places of common words that follow a space and at least `SHORTEST` words, none of them a special token."""
    for row, text in enumerate(told):
        spans = [match.span() for match in WORD.finditer(text)]
        for k in range(SHORTEST, len(spans)):
            start, stop = spans[k]
            word = text[start:stop]
            if word in common and text[start - 1] == " ":
                prompt = text[spans[max(0, k - LONGEST)][0] : start - 1]
                if prompt == prompt.rstrip() and not any(one in prompt for one in special):
                    yield Spot(row, prompt, text[slice(*spans[k - 1])], word)


def _ranked(spots: Mapping[str, Sequence[Spot]]) -> list[tuple[str, str]]:
    """Pairs by how many places they have after the same words, those with too few left out."""
    before = {word: Counter(one.before for one in some) for word, some in spots.items()}
    shared = {pair: (before[pair[0]] & before[pair[1]]).total() for pair in combinations(sorted(before), 2)}
    return sorted((pair for pair in shared if shared[pair] >= LEAST), key=lambda pair: (-shared[pair], pair))


def _groups(rows: Rows) -> list[str]:
    sources = [str(one) for one in rows["source"]] if "source" in rows.column_names else []
    return sources if len(set(sources)) >= DOCUMENTS else [f"row {one}" for one in rows["row"]]


def _concept(
    rows: Rows, pair: tuple[str, str], spots: Sequence[Spot], group: Sequence[str], frequency: Counter[str],
    counts: Counts,
) -> Concept | str:  # fmt: skip
    about = f"Does “{pair[0]}” or “{pair[1]}” come next, after words that both follow equally often."
    told = Told(f"next word: {pair[0]}/{pair[1]}", "lexical", "knowable", about)
    rng = generator(counts.seed, told.name)
    after = _after(spots, SHARE * len(rows), rng)
    such = [one for one in spots if one.before in after]
    kept = _even(such, group, rng)
    if len(kept) < 2 * LEAST:
        return f"{len(kept) // 2} places of each that are alike; it takes {LEAST}"
    bearing = np.zeros(len(rows), bool)
    bearing[[one.row for one in such]] = True
    words = alike(pair, frequency)
    other = dict(zip(pair, reversed(pair), strict=True))
    items = [
        Item(one.prompt, one.word, group[one.row], one.prompt, f" {one.word}", f" {other[one.word]}",
             words(one.word, other[one.word]))
        for one in kept
    ]  # fmt: skip
    return concept(told, items, bearing, strata(rows, bearing), counts)


def _after(spots: Sequence[Spot], most: float, rng: np.random.Generator) -> set[str]:
    """Words that both words of a pair follow, at random while they do so in at most `most` rows."""
    rows: dict[str, set[int]] = defaultdict(set)
    follow: dict[str, set[str]] = defaultdict(set)
    for one in spots:
        rows[one.before].add(one.row)
        follow[one.before].add(one.word)
    both = sorted(word for word, some in follow.items() if len(some) == 2)
    chosen: set[str] = set()
    held: set[int] = set()
    for place in rng.permutation(len(both)):
        if len(held | rows[both[place]]) <= most:
            chosen.add(both[place])
            held |= rows[both[place]]
    return chosen


def _even(spots: Sequence[Spot], group: Sequence[str], rng: np.random.Generator) -> list[Spot]:
    """Places of both words, equally many after each word before them, few of a group, with different prompts."""
    stock: dict[str, dict[str, list[Spot]]] = defaultdict(lambda: defaultdict(list))
    seen: Counter[tuple[str, str]] = Counter()
    prompts: set[str] = set()
    for place in rng.permutation(len(spots)):
        one = spots[place]
        key = (group[one.row], one.word)
        if seen[key] < EACH and one.prompt not in prompts:
            seen[key] += 1
            prompts.add(one.prompt)
            stock[one.before][one.word].append(one)
    both = [list(by.values()) for _, by in sorted(stock.items()) if len(by) == 2]
    pairs = [two for by in both for two in zip(*by, strict=False)]
    return [one for place in rng.permutation(len(pairs))[:MOST] for one in pairs[place]]
