"""What the report shows of one concept at one size: means over training seeds, and each seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from influence.report.study.read import Study

if TYPE_CHECKING:
    import pandas


class Spread(NamedTuple):
    """Mean over the seeds that have a value, the least and the most of them, and how many there are."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Cell:
    """One concept at one size.

    `curve`: by depth the means over seeds of value, low, high, control. `mass`: by depth the mean of m̃ over queries,
    then seeds, and `even`, the same times the number of layers (1: an even share). `seed_curves`, `seed_mass`: (depth,
    value) of each seed. `count`: seeds with any line of this cell.
    """

    concept: str
    size: str
    count: int
    curve: pandas.DataFrame | None
    mass: pandas.DataFrame | None
    seed_curves: list[list[tuple[float, float]]]
    seed_mass: list[list[tuple[float, float]]]
    d50: Spread
    d95: Spread
    centroid: Spread

    @property
    def steps(self) -> int:
        """Layers of the models of this size."""
        return 0 if self.mass is None else len(self.mass)


def spread(values: pandas.Series | np.ndarray | list[float]) -> Spread:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Spread(np.nan, np.nan, np.nan, 0)
    return Spread(float(known.mean()), float(known.min()), float(known.max()), len(known))


def metric_of(study: Study) -> str:
    """The metric that the curves are shown in: AUC where it is there, else the first."""
    table = study.tables.get("curve")
    if table is None or "metric" not in table:
        return "auc"
    found = list(dict.fromkeys(table["metric"]))
    return "auc" if "auc" in found else str(found[0])


def curves(study: Study) -> pandas.DataFrame | None:
    """The table curve in the metric that is shown, with low, high and control (NaN where they were not given)."""
    table = study.tables.get("curve")
    if table is None:
        return None
    if "metric" in table:
        table = table[table["metric"] == metric_of(study)]
    lacking = {name: np.nan for name in ("low", "high", "control") if name not in table}
    return table.assign(**lacking)


def masses(study: Study) -> pandas.DataFrame | None:
    """model, size, seed, concept, depth, mass: m̃ of each cell's layers, as means over its queries."""
    table = study.tables.get("layer_mass")
    if table is None:
        return None
    keys = ["model", "size", "seed", "concept", "layer", "depth"]
    return table.groupby(keys, sort=True, observed=True)["mass"].mean().reset_index()


def centroids(study: Study) -> pandas.DataFrame | None:
    """model, size, seed, concept, centroid: Σ_l depth_l m̃_l, the mean over a cell's queries."""
    table = masses(study)
    if table is None:
        return None
    weighted = table.assign(centroid=table["depth"] * table["mass"])
    keys = ["model", "size", "seed", "concept"]
    return weighted.groupby(keys, observed=True)["centroid"].sum(min_count=1).reset_index()


def cells(study: Study) -> Iterator[Cell]:
    """Every concept at every size that has a curve or a mass, concepts in the study's order."""
    curve, mass, middle = (_parts(one) for one in (curves(study), masses(study), centroids(study)))
    depth = _parts(study.tables.get("depth"))
    for concept in study.concepts["concept"]:
        for size in study.sizes:
            key = (concept, size)
            if key in curve or key in mass:
                yield _cell(key, curve.get(key), mass.get(key), depth.get(key), middle.get(key))


def _parts(table: pandas.DataFrame | None) -> dict[tuple[str, str], pandas.DataFrame]:
    if table is None:
        return {}
    return {(concept, size): part for (concept, size), part in table.groupby(["concept", "size"], sort=False)}


def _cell(
    key: tuple[str, str],
    curve: pandas.DataFrame | None,
    mass: pandas.DataFrame | None,
    depth: pandas.DataFrame | None,
    middle: pandas.DataFrame | None,
) -> Cell:
    seeds = {seed for part in (curve, mass, depth) if part is not None for seed in part["seed"]}
    return Cell(
        *key,
        len(seeds),
        None if curve is None else _mean(curve, ["value", "low", "high", "control"]),
        None if mass is None else _even(_mean(mass, ["mass"])),
        _by_seed(curve, "value"),
        _by_seed(mass, "mass"),
        spread([] if depth is None else depth["d50"]),
        spread([] if depth is None else depth["d95"]),
        spread([] if middle is None else middle["centroid"]),
    )


def _mean(part: pandas.DataFrame, columns: list[str]) -> pandas.DataFrame:
    return part.groupby("depth")[columns].mean().reset_index().sort_values("depth")


def _even(mass: pandas.DataFrame) -> pandas.DataFrame:
    return mass.assign(even=mass["mass"] * len(mass))


def _by_seed(part: pandas.DataFrame | None, column: str) -> list[list[tuple[float, float]]]:
    if part is None:
        return []
    found = []
    for _, one in part.groupby("seed"):
        one = one.sort_values("depth")
        scale = len(one) if column == "mass" else 1
        found.append([(float(x), float(y) * scale) for x, y in zip(one["depth"], one[column], strict=True)])
    return found
