"""All six quantities of a study at once, corrected together."""

from __future__ import annotations

from influence.study.hypotheses import verdict as v
from influence.study.hypotheses.cells import Cells
from influence.study.hypotheses.centroid import centroid
from influence.study.hypotheses.excess import excess
from influence.study.hypotheses.margin import margin
from influence.study.hypotheses.nulls import PERMUTATIONS
from influence.study.hypotheses.scale import scale
from influence.study.hypotheses.signature import signature
from influence.study.hypotheses.tail_slope import tail_slope


def verdicts(
    cells: Cells,
    *,
    permutations: int = PERMUTATIONS,
    bootstrap: int = 999,
    level: float = 0.95,
    seed: int = 0,
    untrained: Cells | None = None,
) -> list[v.Verdict]:
    """The verdicts on the six quantities, with Holm over the five primaries.

    Args:
        cells: from `read`. untrained: the same of the ladder's untrained twins, for quantities 4 and 6.
        permutations: random ones where there are more than these; at most this many in any case.
        bootstrap: draws of intervals; 0 leaves intervals undefined.

    Returns:
        six verdicts in order; what cannot be tested says why.
    """
    return v.corrected(
        [
            centroid(cells, permutations=permutations, bootstrap=bootstrap, level=level, seed=seed),
            excess(cells, permutations=permutations, bootstrap=bootstrap, level=level, seed=seed),
            tail_slope(cells, permutations=permutations, bootstrap=bootstrap, level=level, seed=seed),
            signature(cells, bootstrap=bootstrap, level=level, seed=seed, untrained=untrained),
            margin(cells, permutations=permutations, bootstrap=bootstrap, level=level, seed=seed),
            scale(cells, permutations=permutations, level=level, seed=seed, untrained=untrained),
        ]
    )
