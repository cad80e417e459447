"""Text with three planted rules, each token marked with the rule that predicts it: bigrams, skip-trigrams, repeats.

What a model must do differs by rule: a bigram needs the token before alone, a skip-trigram a look back at a trigger
anywhere in the row, a repeat what followed the same token the first time (induction; Olsson et al. 2022,
arXiv 2209.11895). As everything is drawn from known tables, the least possible loss of each rule is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from influence.types import Rows

RULES = ("rest", "bigram", "skip-trigram", "second copy")
REST, BIGRAM, SKIP, COPY = range(4)
NOWHERE = -1


@dataclass(frozen=True)
class Language:
    """Kinds of tokens, numbered one kind after the other, and the tables of their rules.

    Token 0 starts every row. `heads` have a preferred successor, which follows with probability `sure` (any filler
    otherwise). After one of the `keys` comes a token that depends on which of the `triggers` stood earlier in the row,
    if any did. `stretch` tokens stand in repeated stretches alone. All the others are `fillers`. `successor` (heads)
    and `answer` (triggers + 1, keys), whose last line is for rows without a trigger so far, hold fillers.
    """

    triggers: int
    keys: int
    heads: int
    fillers: int
    stretch: int
    sure: float
    successor: np.ndarray
    answer: np.ndarray

    @property
    def starts(self) -> tuple[int, int, int, int, int, int]:
        """First trigger, key, head, filler, stretch token, and the number of all tokens."""
        sizes = (1, self.triggers, self.keys, self.heads, self.fillers, self.stretch)
        one, two, three, four, five, six = np.cumsum(sizes).tolist()
        return one, two, three, four, five, six

    @property
    def size(self) -> int:
        """Tokens in all."""
        return self.starts[5]

    def optimum(self) -> dict[str, float]:
        """The least expected loss of each rule's tokens in nats; the rest, drawn at random, is not computed."""
        miss = (1 - self.sure) / self.fillers
        hit = self.sure + miss
        bigram = -hit * np.log(hit) - (self.fillers - 1) * miss * np.log(miss) if miss else 0.0
        return {"bigram": float(bigram), "skip-trigram": 0.0, "second copy": 0.0}


class Text(NamedTuple):
    """Token rows (n t), which of `RULES` predicts each token, and the places of interest for a head.

    `first` (n t): in the second copy of a stretch, the place of the same token in the first copy; `trigger` (n t): at a
    key after a trigger, the trigger's place; elsewhere both are −1. Row n of `tokens` is a row of `rows`.
    """

    tokens: np.ndarray
    rule: np.ndarray
    first: np.ndarray
    trigger: np.ndarray

    def rows(self, rules: Sequence[str] = RULES) -> Rows:
        """Rows of which the tokens of these rules are scored; the first token of a row never is."""
        import datasets

        mask = np.isin(self.rule, [RULES.index(name) for name in rules])
        mask[:, 0] = False
        columns = {"input_ids": self.tokens.tolist(), "loss_mask": mask.astype(int).tolist()}
        return datasets.Dataset.from_dict({**columns, "row": list(range(len(mask)))})


def language(
    seed: int = 0, *, triggers: int = 4, keys: int = 8, heads: int = 16, fillers: int = 40, stretch: int = 60,
    sure: float = 0.9,
) -> Language:  # fmt: skip
    """Draw the tables of a language; ValueError for kinds without tokens or `sure` outside (0, 1]."""
    if min(triggers, keys, heads, fillers, stretch) < 1 or fillers < triggers + 1 or not 0 < sure <= 1:
        raise ValueError(
            f"{triggers=}, {keys=}, {heads=}, {fillers=}, {stretch=}, {sure=}; give at least one token of each kind, "
            "more fillers than triggers, and a probability above 0"
        )
    rng = np.random.default_rng([seed, 1])
    start = 1 + triggers + keys + heads
    successor = start + rng.integers(0, fillers, heads)
    answer = start + np.stack([rng.permutation(fillers)[: triggers + 1] for _ in range(keys)], 1)  # unlike per trigger
    return Language(triggers, keys, heads, fillers, stretch, sure, successor, answer)


def text(own: Language, rows: int, rng: np.random.Generator, *, length: int = 64, stretch: tuple[int, int] = (8, 16),
         triggered: float = 0.75) -> Text:  # fmt: skip
    """Rows of background with one stretch of so many tokens that comes twice, somewhere.

    A share `triggered` of the rows has one trigger in its first half. A background token is a head or a key with
    probability ¼ each, never right before what its rule would not predict.

    Raises:
        ValueError: for stretches that do not fit twice, or are longer than there are tokens for them.
    """
    low, high = stretch
    if not 2 <= low <= high <= own.stretch or 2 * high + 2 > length:
        raise ValueError(f"stretches of {low} to {high} tokens, twice in {length}, of {own.stretch} tokens: do not fit")
    found = _empty(rows, length)
    for n in range(rows):
        size = int(rng.integers(low, high + 1))
        free = np.sort(rng.integers(1, length - 2 * size + 1, 2))  # starts, as if the first copy were not there
        one, two = int(free[0]), int(free[1]) + size
        _stretch(own, found, n, rng, one, two, size)
        _background(own, found, n, rng, triggered)
    return found


def _empty(rows: int, length: int) -> Text:
    tokens, rule = np.full((rows, length), NOWHERE), np.zeros((rows, length), np.int64)
    tokens[:, 0] = 0
    return Text(tokens, rule, np.full((rows, length), NOWHERE), np.full((rows, length), NOWHERE))


def _stretch(
    own: Language, found: Text, n: int, rng: np.random.Generator, one: int, two: int, size: int
) -> None:  # fmt: skip
    """A stretch of unlike tokens at both places; its second copy is predictable from the second token on."""
    drawn = own.starts[4] + rng.choice(own.stretch, size, replace=False)
    found.tokens[n, one : one + size] = found.tokens[n, two : two + size] = drawn
    found.rule[n, two + 1 : two + size] = COPY
    found.first[n, two : two + size] = np.arange(one, one + size)


def _background(own: Language, found: Text, n: int, rng: np.random.Generator, triggered: float) -> None:
    """Fill the places that are free, from left to right."""
    tokens, length = found.tokens[n], int(found.tokens.shape[1])
    first, key, head, filler, stretch, _ = own.starts
    free = np.flatnonzero(tokens == NOWHERE)
    early = free[free < length // 2]
    place = int(rng.choice(early)) if len(early) and rng.random() < triggered else NOWHERE
    kind, random = rng.random(length), rng.integers(0, 2**31, length)
    active = own.triggers  # which line of the answers holds
    for t in free.tolist():
        before, last = int(tokens[t - 1]), t + 1 == length or tokens[t + 1] != NOWHERE or t + 1 == place
        if t == place:
            active = int(random[t] % own.triggers)
            tokens[t] = first + active
        elif head <= before < filler:
            sure = kind[t] < own.sure
            tokens[t] = own.successor[before - head] if sure else filler + random[t] % own.fillers
            found.rule[n, t] = BIGRAM
        elif key <= before < head:
            tokens[t] = own.answer[active, before - key]
            found.rule[n, t] = SKIP
        elif last or kind[t] < 0.5:
            tokens[t] = filler + random[t] % own.fillers
        elif kind[t] < 0.75:
            tokens[t] = head + random[t] % own.heads
        else:
            tokens[t] = key + random[t] % own.keys
            found.trigger[n, t] = place if active < own.triggers else NOWHERE
