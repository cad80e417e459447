"""The causal side of a cell: from which depth on a concept's answers no longer need the previous tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from influence.interventions.intervene import intervene
from influence.interventions.tasks import task

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.study.measure.settings import Settings
    from influence.types import LM

EDITS = ("noise", "freeze", "skip")
METRICS = ("exact match", "log p")


def need_table(lm: LM, concept: Concept, settings: Settings) -> pd.DataFrame:
    """`edit, metric, unedited, all_edited, need, low, high` of a concept's own questions, `edits` of them at most.

    `need` is the depth of need of `influence.intervene` (mode "prompt"): the smallest depth from which on editing the
    prompt's previous tokens costs at most 5 %; NaN where editing them everywhere costs nothing that can be told from 0.
    Raises BadEdit (a ValueError) for models whose layers cannot be edited.
    """
    asked = questions(concept, settings.edits, settings.seed)
    found = intervene(
        lm, task(asked, lm, name="concept", metrics=METRICS), edits=EDITS, mode="prompt", seeds=settings.splits,
        bootstrap=settings.bootstrap, seed=settings.seed, batch_size=settings.batch_size, progress=False,
    )  # fmt: skip
    named = {"depth": "need", "depth_low": "low", "depth_high": "high"}
    kept = ["edit", "metric", "unedited", "all_edited", *named]
    return found.depths[kept].rename(columns=named).reset_index(drop=True)


def questions(concept: Concept, count: int, seed: int) -> list[dict[str, str]]:
    """Different prompts of the concept's items with what comes after them, groups kept, at most `count`, drawn."""
    items = concept.items
    told = dict.fromkeys(zip(items["prompt"], items["completion"], map(str, items["group"]), strict=True))
    every = [{"prompt": prompt, "completion": end, "group": group} for prompt, end, group in told]
    order = np.random.default_rng([seed, 47]).permutation(len(every))[:count]
    return [every[place] for place in np.sort(order)]


def as_columns(need: pd.DataFrame) -> pd.DataFrame:
    """A line a model, step and concept: `need_noise`, `need_freeze`, `need_skip` by exact match, for table depth."""
    exact = need[need["metric"] == METRICS[0]]
    wide = exact.set_index(["model", "step", "concept", "edit"])["need"].unstack("edit")
    return wide.add_prefix("need_").rename_axis(columns=None).reset_index()
