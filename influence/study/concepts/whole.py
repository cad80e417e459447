"""All concepts of an embedded world that its rows support."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from influence.study.concepts.concept import Concept, Counts, skip_reason
from influence.study.concepts.facts import answers, truths, two_hops
from influence.study.concepts.sentences import sentences
from influence.study.concepts.tagged import tagged

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.types import Rows

log = logging.getLogger("influence")


def world_concepts(world: World, rows: Rows, *, queries: int = 6, controls: int = 3, seed: int = 0) -> list[Concept]:
    """The concepts of an embedded world that its rows tell often enough for a probe; what is left out is logged.

    Args:
        world: the world that `rows` were made from (`Ladder.world`).
        rows: training rows, which need `input_ids` and `row`, the place in `world.documents`; in any order, also some.
        queries, controls: of each concept.
        seed: of all that is drawn.

    Raises BadData for rows of another world.
    """
    found, left = tried(world, rows, queries=queries, controls=controls, seed=seed)
    for name, why in left.items():
        log.info("left out of the concepts: %s: %s", name, why)
    return found


def tried(
    world: World, rows: Rows, *, queries: int = 6, controls: int = 3, seed: int = 0
) -> tuple[list[Concept], dict[str, str]]:
    """(the concepts, why others were left out by name); see `world_concepts`."""
    tags, counts = tagged(world, rows), Counts(queries, controls, seed)
    found: list[Concept] = []
    left: dict[str, str] = {}
    for make in (answers, sentences, truths, two_hops):
        for name, one in make(world, tags, counts):
            why = skip_reason(one) if isinstance(one, Concept) else str(one)
            if isinstance(one, Concept) and why is None:
                found.append(one)
            else:
                left[name] = str(why)
    return found, left
