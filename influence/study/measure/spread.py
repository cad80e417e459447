"""The tables of a concept's influence: mass by layer, tails by layer and by query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from influence.analysis import powerlaw_fit as law
from influence.analysis.common import totals
from influence.analysis.exponents import layer_exponents
from influence.analysis.layers import layers
from influence.analysis.tails import sparsity
from influence.data.files import BadData
from influence.study.measure.matching import matched_pairs

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.types import Scores

TOP = 500  # scores in the tail of a query, as Grosse et al. (2023)


def layer_mass(scores: Scores, control: Scores) -> pd.DataFrame:
    """`query, layer, depth, absolute, signed, mass`: m̃, absolute influence over the control queries', summing to 1."""
    found = layers(scores, control=control)
    found["depth"] = (found["layer"] + 1) / int(scores.attrs["n_layers"])
    return found[["query", "layer", "depth", "absolute", "signed", "mass"]]


def layer_tail(scores: Scores, concept: Concept, seed: int = 0) -> pd.DataFrame:
    """`layer, depth, bearing, exponent, low, high, n`: tails of concept-bearing rows beside as many matched rows."""
    count = scores.sizes["row"]
    try:
        chosen, bears = matched_pairs(concept, count, 2 * count, seed)
    except BadData:  # nothing to compare with: no exponents
        chosen, bears = np.zeros(0, np.int64), np.zeros(0, bool)
    found = layer_exponents(scores, {"bearing": chosen[bears], "matched": chosen[~bears]})
    found["bearing"] = found["group"] == "bearing"
    found["depth"] = (found["layer"] + 1) / int(scores.attrs["n_layers"])
    return found.rename(columns={"rows": "n"})[["layer", "depth", "bearing", "exponent", "low", "high", "n"]]


def tails(scores: Scores) -> pd.DataFrame:
    """`query, alpha_density, top1_share, effective_count, largest, measurement, query_loss` of every query."""
    total = totals(scores)
    lines = []
    for place, values in enumerate(total.values):
        positive = values[values > 0]
        try:
            alpha = law.fit_top(positive, TOP).alpha
        except ValueError:  # too few positive scores: undefined
            alpha = np.nan
        told = sparsity(values)
        line = {"query": int(total["query"].values[place]), "alpha_density": alpha}
        line |= {name: told[name] for name in ("top1_share", "effective_count", "largest")}
        line["measurement"] = float(scores["measurement"].values[place])
        lines.append({**line, "query_loss": float(scores["loss"].values[place])})
    return pd.DataFrame(lines)
