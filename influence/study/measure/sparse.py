"""How few neurons tell a concept: one number for a model and a concept."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from influence.probing.sparse.probe import sparse_probe

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.study.measure.settings import Settings
    from influence.types import LM

log = logging.getLogger("influence")
METHODS = ("mean_difference", "random")


def neurons_for_95(lm: LM, concept: Concept, settings: Settings) -> float:
    """k95: neurons (chosen by mean difference, best layer) for 95 % of what a dense probe has above chance.

    Of more than two classes the commonest is told from the rest. NaN where the dense probe is not above chance, where
    no number of neurons asked about is enough, and where no sparse probe can be made (the reason is logged).
    """
    labels = np.asarray(concept.items["label"])
    names, counts = np.unique(labels, return_counts=True)
    chosen = names[counts.argmax()] if len(names) > 2 else names[-1]
    data = concept.items.remove_columns("label").add_column("label", (labels == chosen).astype(int).tolist())
    try:
        found = sparse_probe(
            lm, data, methods=METHODS, seeds=tuple(range(settings.splits)), bootstrap=settings.bootstrap,
            shuffled=False, batch_size=settings.batch_size,
        )  # fmt: skip
    except ValueError as why:  # too few items of a class, neurons that never change
        log.info("k95 of %s is undefined: %s", concept.name, why)
        return float("nan")
    near = next(iter(found.curves.values())).reached()
    return float(near.k) if near.k is not None and math.isfinite(near.k) else float("nan")
