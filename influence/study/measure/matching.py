"""Concept-bearing training rows beside others that are comparable: of the same stratum, in equal numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influence.data.files import BadData

if TYPE_CHECKING:
    from influence.study.concepts import Concept

Ints = NDArray[np.int64]


def matched_pairs(concept: Concept, count: int, most: int, seed: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Places of at most `most` rows in their order, and which of them bear the concept; as many others a stratum.

    Raises:
        BadData: where no bearing row shares its stratum with another.
        ValueError: for tags that do not fit the `count` rows.
    """
    if not len(concept.bearing) == len(concept.stratum) == count:
        raise ValueError(
            f"{concept.name!r} tags {len(concept.bearing)} rows with {len(concept.stratum)} strata, and there are "
            f"{count}; give the rows that the concept was made for"
        )
    rng = np.random.default_rng([seed, 53])
    pairs = []
    for value in np.unique(concept.stratum[concept.bearing & (concept.stratum >= 0)]):
        has, free = (np.flatnonzero((concept.stratum == value) & tag) for tag in (concept.bearing, ~concept.bearing))
        size = min(len(has), len(free))
        pairs.append(np.stack([rng.permutation(has)[:size], rng.permutation(free)[:size]], 1))
    found = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    if not len(found):
        raise BadData(f"no row that bears {concept.name!r} shares its stratum with one that does not")
    chosen = np.sort(rng.permutation(found)[: most // 2].ravel())
    return chosen, concept.bearing[chosen]


def matched_auc(
    values: NDArray[np.floating], bearing: NDArray[np.bool_], stratum: NDArray[np.integer]
) -> NDArray[np.float64]:
    """(k) of values (k rows): mean over bearing rows of the share of the other rows of their stratum that lie below.

    Equal values count half; strata that lack either kind do not count. NaN where none is left.
    """
    won, count = np.zeros(len(values)), 0
    for one in np.unique(stratum):
        has, free = (values[:, (stratum == one) & tag] for tag in (bearing, ~bearing))
        if has.shape[1] and free.shape[1]:
            above = (has[:, :, None] > free[:, None]).mean(2) + 0.5 * (has[:, :, None] == free[:, None]).mean(2)
            won += above.sum(1)
            count += has.shape[1]
    return won / count if count else np.full(len(values), np.nan)
