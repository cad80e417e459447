"""Brittleness: how few of the highest rows must go until a retrained model predicts something else?

Ilyas et al. 2022 (2202.00622): the smaller, the better a ranking names what a prediction rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from influence.model.batches import columns
from influence.truth.baselines import random_scores
from influence.truth.retrain import TrainingRecipe, retrain
from influence.types import Batch

if TYPE_CHECKING:
    from influence.types import Rows, Scores


def brittleness(
    recipe: TrainingRecipe,
    rows: Rows,
    queries: Rows,
    rankings: Mapping[str, Scores],
    ks: Sequence[int],
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    random_seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The smallest k of `ks` whose removal flips each query, one line per method and query.

    A query's prediction is the most probable first token of its completion (or the class). Removing the k highest rows
    and training anew with the same seeds flips it where most seeds predict something else than the model of all rows
    with that seed. Larger k are tried only for queries that have not flipped. `random` always stands beside.

    Args:
        rankings: (query, row, …) by name, higher = goes first; what follows is summed.
        ks: numbers of rows removed, each below the number of rows.
        folder: where finished retrainings are kept, see `retrain`.

    Returns:
        method, query, k (NaN: no k flipped it), right (whether the full models' predictions were the completion's).

    Raises:
        ValueError: for ks out of range, or rankings that do not fit; and what `retrain` raises.
    """
    sizes = sorted(set(ks))
    if not sizes or sizes[0] < 1 or sizes[-1] >= len(rows):
        raise ValueError(f"ks are {list(ks)}; give numbers from 1 to {len(rows) - 1}")
    orders = {name: _order(name, one, rows, queries) for name, one in rankings.items()}
    orders.setdefault("random", _order("random", random_scores(rows, queries, seed=random_seed), rows, queries))
    options: dict[str, Any] = {"seeds": seeds, "measure": first_prediction, "progress": progress}
    whole = np.ones((1, len(rows)), bool)
    base = retrain(recipe, rows, whole, queries, Path(folder) / "all", **options).values[0]  # (seed, query)
    right = (base == _first_tokens(queries)).mean(0) > 0.5
    lines = []
    for name, order in orders.items():
        smallest = _smallest(recipe, rows, queries, order, sizes, Path(folder) / _safe(name), base, options)
        for query, k, good in zip(columns(queries)[2], smallest, right, strict=True):
            lines.append({"method": name, "query": query, "k": k, "right": bool(good)})
    return pd.DataFrame(lines)


def flipped(table: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Share of queries that flip within k rows, one line per method and one column per k; only rightly answered ones.

    Raises ValueError where no query was answered rightly.
    """
    asked = table[table["right"]]
    if not len(asked):
        raise ValueError("the full models answer no query rightly, so there is nothing to flip")
    return pd.DataFrame({k: asked["k"].le(k).groupby(asked["method"]).mean() for k in sorted(set(ks))})


def first_prediction(logits: Tensor, batch: Batch) -> Tensor:
    """(b) the most probable token at each row's first scored position, as a number."""
    before = batch.loss_mask.int().argmax(1) - 1
    at = logits[torch.arange(len(before), device=logits.device), before.to(logits.device)]
    return at.argmax(-1).to(torch.float64)


def _smallest(
    recipe: TrainingRecipe,
    rows: Rows,
    queries: Rows,
    order: np.ndarray,
    sizes: list[int],
    folder: Path,
    base: np.ndarray,
    options: dict[str, Any],
) -> np.ndarray:
    """(q) the smallest size that flips each query, NaN for none; one retraining per query that has not flipped."""
    smallest = np.full(len(order), np.nan)
    for k in sizes:
        open_ones = np.flatnonzero(np.isnan(smallest))
        if not len(open_ones):
            break
        kept = np.ones((len(open_ones), len(rows)), bool)
        for place, query in enumerate(open_ones):
            kept[place, order[query, :k]] = False
        found = retrain(recipe, rows, kept, queries, folder / f"top-{k}", **options).values
        changed = np.array([(found[place, :, query] != base[:, query]).mean() for place, query in enumerate(open_ones)])
        smallest[open_ones[changed > 0.5]] = k
    return smallest


def _order(name: str, scores: Scores, rows: Rows, queries: Rows) -> np.ndarray:
    """(query, place) places of rows, highest first."""
    total = scores.sum([d for d in scores.dims if d not in ("query", "row")])
    labels = columns(queries)[2], columns(rows)[2]
    try:
        values = total.sel(query=labels[0], row=labels[1]).transpose("query", "row").values
    except KeyError as error:
        raise ValueError(f"the ranking {name} lacks a query or a row: {error}; score all of both") from error
    if not np.isfinite(values).all():
        raise ValueError(f"the ranking {name} has values that are not finite")
    return np.argsort(-values, axis=1, kind="stable")


def _first_tokens(queries: Rows) -> np.ndarray:
    ids, masks, _ = columns(queries)
    return np.array([one[int(np.argmax(mask))] for one, mask in zip(ids, masks, strict=True)])


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
