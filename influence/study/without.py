"""The removal arm of a study: which models are trained again without which rows, and what is measured of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import ekfac
from influence.data.files import BadData
from influence.study.concepts import mastery
from influence.study.measure.asked import factors_of
from influence.study.measure.depths import depth_frames, probed
from influence.study.measure.margin import margin_ranking
from influence.study.measure.removal import removal_table

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.study.materials import Materials
    from influence.study.spec import Spec
    from influence.types import LM

log = logging.getLogger("influence")
SIZES = 2  # that are retrained unless asked otherwise: the smallest, which cost least


def without(spec: Spec, made: Materials, depth: pd.DataFrame, root: Path, progress: bool = True) -> pd.DataFrame:
    """The table `removal`: D50 and recall of concepts before and after retrainings without `spec.removal` rows each.

    Asked about are concepts that some model knows (D50 defined) and that have rows enough. Raises BadData where none
    is left, and for sizes that the ladder does not have.
    """
    concepts = worth(spec, made, depth)
    sizes = spec.removal_sizes or tuple(made.ladder.sizes[:SIZES])
    threads = {"at_once": 1} if spec.device and spec.device.startswith("cuda") else {}

    def ranking(name: str, lm: LM) -> Mapping[str, Any]:
        log.info("ranking rows of %d concepts in %s", len(concepts), name)
        solver = ekfac.solver(factors_of(lm, made.rows, spec.measured, False), damping=spec.measured.damping)
        how: dict[str, Any] = {
            "items": max(spec.measured.margin, 1), "seed": spec.measured.seed, "batch_size": spec.measured.batch_size,
            "dtype": spec.measured.dtype,
        }  # fmt: skip
        return {one.name: margin_ranking(lm, made.rows, solver, one, **how) for one in concepts}

    def measured(lm: LM) -> pd.DataFrame:
        lines = []
        for one in concepts:
            line = depth_frames(probed(lm, one, spec.measured))["depth"].iloc[0]
            recall, _ = mastery(lm, one, spec.measured.batch_size)
            lines.append({"concept": one.name, "d50": float(line["d50"]), "recall": recall})
        return pd.DataFrame(lines)

    return removal_table(
        made.ladder, concepts, ranking, measured, sizes=sizes, seeds=range(spec.removal_seeds), k=spec.removal,
        out=root / "removal", device=spec.device or "cpu", progress=progress, **threads,
    )  # fmt: skip


def worth(spec: Spec, made: Materials, depth: pd.DataFrame) -> list[Concept]:
    """Concepts that a removal can ask about: known to some model, with at least four times the rows to remove."""
    known = set(depth.loc[depth["d50"].notna(), "concept"])
    found = [one for one in made.concepts if one.name in known and int(one.bearing.sum()) >= 4 * spec.removal]
    left = [one.name for one in made.concepts if one not in found]
    if left:
        log.info("left out of the removal (known to no model, or too few rows): %s", ", ".join(left))
    if not found:
        raise BadData("no concept is known to any model, so there is nothing to remove; ask without removal")
    return found
