"""Influence of every training row on a concept's queries, by layer; a query is what the probe asks.

A query's measurement is log p(completion) − log p(contrast) after one prompt. Influence is linear in the gradient of
what is measured, so the solved gradient of the contrast is taken off that of the completion, and one pass over the rows
gives the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from influence.attribution.fit import fit_ekfac
from influence.attribution.passes import compute_dtype
from influence.attribution.score import contract, solved_queries
from influence.data.queries import queries as query_rows
from influence.types import LM

if TYPE_CHECKING:
    from ekfac import Factors
    from influence.study.concepts import Concept
    from influence.study.measure.settings import Settings
    from influence.types import Rows, Scores, Solver

NUMBERS = 1 << 29  # numbers of solved gradients held at a time


def factors_of(lm: LM, rows: Rows, settings: Settings, progress: bool = True) -> Factors:
    """EK-FAC factors from `fit_rows` rows, drawn by the seed."""
    if len(rows) > settings.fit_rows:
        chosen = np.random.default_rng([settings.seed, 41]).choice(len(rows), settings.fit_rows, replace=False)
        rows = rows.select(np.sort(chosen))
    return fit_ekfac(
        lm, rows, seed=settings.seed, batch_size=settings.batch_size, dtype=settings.dtype, progress=progress
    )


def together(lm: LM, concepts: Sequence[Concept]) -> list[list[Concept]]:
    """Concepts whose queries are solved and scored in one pass; the division depends on model and concepts alone."""
    size = sum(block.size for block in lm.blocks)
    parts: list[list[Concept]] = [[]]
    held = 0
    for one in concepts:
        wanted = 2 * size * (len(one.queries) + len(one.controls))
        if parts[-1] and held + wanted > NUMBERS:
            parts.append([])
            held = 0
        parts[-1].append(one)
        held += wanted
    return parts


def asked(
    lm: LM, rows: Rows, solver: Solver, concepts: Sequence[Concept], settings: Settings, progress: bool = True
) -> list[tuple[Scores, Scores]]:
    """(queries, controls) of each concept as scores (query, row, layer) in nats.

    Queries have the coordinates `measurement` and `loss`, −log p(completion), in nats.
    """
    pairs = [one for concept in concepts for one in (*concept.queries, *concept.controls)]
    ends = ("completion", "contrast")
    both = query_rows([{"prompt": one["prompt"], "completion": one[end]} for end in ends for one in pairs], lm)
    options: dict[str, Any] = {
        "batch_size": settings.batch_size, "dtype": compute_dtype(settings.dtype), "progress": progress
    }  # fmt: skip
    _, solved, values = solved_queries(lm, both, solver, **options)
    count = len(pairs)
    v: dict[str, Tensor] = {name: one[:count] - one[count:] for name, one in solved.items()}
    del solved
    collected = contract(lm, rows, v, ("layer",), **options)
    scores = collected.array(both.select(range(count)), 1.0 / len(rows), {"units": "nats", "n_layers": lm.n_layers})
    measured = {"measurement": values[:count] - values[count:], "loss": -values[:count]}
    scores = scores.assign_coords({name: ("query", one.cpu().numpy()) for name, one in measured.items()})
    return list(_divided(scores, concepts))


def _divided(scores: Scores, concepts: Sequence[Concept]) -> Iterator[tuple[Scores, Scores]]:
    start = 0
    for concept in concepts:
        middle = start + len(concept.queries)
        stop = middle + len(concept.controls)
        yield _numbered(scores.isel(query=slice(start, middle))), _numbered(scores.isel(query=slice(middle, stop)))
        start = stop


def _numbered(scores: Scores) -> Scores:
    return scores.assign_coords(query=np.arange(scores.sizes["query"]))
