"""Quantity 4, descriptive: at which layer does the influence signature of an item tell the item's label.

The same probe with the same splits reads the signature (the influence of some training rows on one measurement, layer
by layer; see `influence.study.measure.oriented`) and the backward signal alone, which carries what late layers know to
the first ones. Only what the signature tells beyond the backward signal is about training rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from influence.attribution.passes import compute_dtype
from influence.data.statements import drawn
from influence.probing import depth as d
from influence.probing.measure import curve, scored
from influence.probing.question import Question, question
from influence.study.measure.oriented import backward_signals, label_words, oriented, signatures

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.types import LM, Rows, Solver

CHANCE = 0.5


def signature_table(
    lm: LM,
    rows: Rows,
    solver: Solver,
    concept: Concept,
    *,
    items: int = 200,
    rows_used: int = 256,
    words: int = 2,
    splits: int = 3,
    bootstrap: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
) -> pd.DataFrame:
    """How well a probe tells the label from influence signatures, and from the backward signal, and at which depth.

    Args:
        concept: its items have the column completion; of several labels the two with most items are told apart.
        items: at most, whole groups drawn by `seed`.
        rows_used: training rows in a signature, drawn by `seed` alone: the same for every model.
        words: completions of each label in the measurement at most, the commonest.
        splits, bootstrap: as for `influence.probe`.

    Returns:
        one line: d50_signature with low and high (95 % over groups), d50_backward: the depth at which half of the
        probe's AUC above .5 is reached, NaN where its interval holds .5; auc_signature, auc_backward, auc_random (the
        signature under shuffled labels) at the validation-best layer on test items; items, rows.

    Raises:
        BadData: for items that cannot be probed or have no measurement that is oriented alike for all of them.
        ValueError: for settings below 1.
    """
    if min(items, rows_used, words, splits, bootstrap) < 1:
        raise ValueError(f"{items=}, {rows_used=}, {words=}, {splits=}, {bootstrap=}; give at least 1 of each")
    kind = compute_dtype(dtype)
    labels = np.asarray(concept.items["label"])
    names, counts = np.unique(labels, return_counts=True)
    two = np.sort(names[np.argsort(-counts, kind="stable")[:2]])
    part = drawn(concept.items.select(np.flatnonzero(np.isin(labels, two))), items, seed)
    ask = question(part, seeds=splits, bootstrap=bootstrap, controls=("shuffled",), seed=seed)
    asked = oriented(lm, ask.texts, label_words(concept.items, two.tolist(), words))
    count = min(rows_used, len(rows))
    chosen = np.sort(np.random.default_rng([seed, 54]).choice(len(rows), count, replace=False))
    found = signatures(lm, rows.select(chosen), solver, asked, batch_size=batch_size, dtype=kind)
    back = backward_signals(lm, asked, batch_size=batch_size)
    mine, other = _read(found, ask), _read(back, ask)
    line = {"d50_signature": mine.depth.value, "d50_backward": other.depth.value, "low": mine.depth.low}
    line |= {"high": mine.depth.high, "auc_signature": mine.auc, "auc_backward": other.auc, "auc_random": mine.random}
    return pd.DataFrame([{**line, "items": len(ask.y), "rows": count}])


class _Told(NamedTuple):
    """What a probe tells: the depth of half its AUC above chance, its AUC, and that under shuffled labels."""

    depth: d.Interval
    auc: float
    random: float


def _read(values: NDArray[np.floating], ask: Question) -> _Told:
    """Probes of values (l n d), one for each layer and split."""
    fits = scored(torch.from_numpy(values), ask.labels, ask.split, classes=2)
    task = curve(fits["probe"], ask.y, ask.split, ask.weights, "auc")
    chance = d.Curve(*(np.full_like(one[..., :1], CHANCE) for one in task))
    depth = d.reached(task, chance, d.depth_of(range(len(values)), len(values)), (0.5,)).depths[0.5]
    random = float("nan")
    if "shuffled" in fits:  # not where too few items leave a part without a class
        random = _best(curve(fits["shuffled"], ask.labels["shuffled"], ask.split, ask.weights[:1], "auc"))
    return _Told(depth, _best(task), random)


def _best(found: d.Curve) -> float:
    """At the validation-best layer of each split."""
    return float(d.at(found.test, d.chosen(found))[0])
