"""The probe's side of a cell: at which depth a model knows a concept, beside its controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.probing.probe import probe

if TYPE_CHECKING:
    from influence.probing.result import Probing
    from influence.study.concepts import Concept
    from influence.study.measure.settings import Settings
    from influence.types import LM

CHANCE = {"auc": 0.5}
CONTROLS = ("majority", "tfidf", "length", "untrained", "control task")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # a study's hundreds of items want no weaker penalty


def probed(lm: LM, concept: Concept, settings: Settings) -> Probing:
    """`influence.probe` on the concept's items, as this study asks for it."""
    return probe(
        lm, concept.items, seeds=settings.splits, bootstrap=settings.bootstrap, seed=settings.seed, name=concept.name,
        metrics=("auc",), controls=CONTROLS, strengths=STRENGTHS, batch_size=settings.batch_size, progress=False,
    )  # fmt: skip


def depth_frames(found: Probing) -> dict[str, pd.DataFrame]:
    """The tables `curve`, `depth` (one line) and `depth_draws` of a probe, without keys.

    `d50_random` is D50 of the control task, the probe of random labels, above chance; undefined where the interval of
    its best layer holds chance. `d50_untrained` is the same of the untrained model of this shape.
    """
    site = found.sites[0]
    line: dict[str, Any] = {}
    for name, measure in (("d50", "D50"), ("d95", "D95"), ("excess", "excess")):
        line[name], line[f"{name}_low"], line[f"{name}_high"] = found.depth(measure)
    for name, measure in (("c_literal", "converging point"), ("c_tail", "C_tail"), ("peak", "best depth")):
        line[name] = found.depth(measure)[0]
    line["best"], line["best_low"], line["best_high"] = found.depth("at best")
    line["over"] = found.over[site]
    flat = found.curves[(found.curves["layer"] == -2) & (found.curves["metric"] == found.metric)]
    line["tfidf"] = float(flat.loc[flat["series"] == "tfidf", "value"].mean())
    line["d50_random"] = _own_depth(found, "control task")
    line["d50_untrained"] = _own_depth(found, "untrained")
    draws = found.draws[site]
    count = len(next(iter(draws.values())))
    told = pd.DataFrame({"draw": np.arange(count), "d50": draws["D50"], "d95": draws["D95"]})
    return {"curve": _curve(found), "depth": pd.DataFrame([line]), "depth_draws": told}


def _curve(found: Probing) -> pd.DataFrame:
    """A line per layer: the probe with its interval, `control` (the one that depths refer to) and every control."""
    rows = found.curves[found.curves["metric"] == found.metric]
    table = rows[rows["series"] == "probe"][["layer", "depth", "value", "low", "high"]].reset_index(drop=True)
    for name in dict.fromkeys(rows["series"]):
        if name != "probe":
            part = rows[rows["series"] == name]
            values = part.set_index("layer")["value"]
            told = float(values.iloc[0]) if (part["layer"] == -2).all() else table["layer"].map(values).to_numpy(float)
            table[name.replace(" ", "_")] = told
    table.insert(2, "metric", found.metric)
    over = found.over[found.sites[0]].replace(" ", "_")
    table.insert(6, "control", table[over])
    return table


def _own_depth(found: Probing, series: str) -> float:
    """First depth, linear between layers, at which half of a control's own excess over chance is reached."""
    rows = found.curves[(found.curves["metric"] == found.metric) & (found.curves["series"] == series)]
    rows = rows.sort_values("layer")
    if rows.empty or found.metric not in CHANCE:
        return float("nan")
    chance = CHANCE[found.metric]
    value, depth = rows["value"].to_numpy(float) - chance, rows["depth"].to_numpy(float)
    best = int(value.argmax())
    if not rows["low"].to_numpy(float)[best] > chance:
        return float("nan")
    half = value[best] / 2
    first = int((value >= half).argmax())
    if first == 0:
        return float(depth[0])
    share = (half - value[first - 1]) / (value[first] - value[first - 1])
    return float(depth[first - 1] + share * (depth[first] - depth[first - 1]))
