"""Class removal on the embedded world: what a fact's rows of one form were worth, measured by leaving them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from influence.truth.retrain import TrainingRecipe, left_out, retrain, retrain_stacked

if TYPE_CHECKING:
    import xarray

    from influence.data.world import World
    from influence.truth.template import Source
    from influence.types import Rows, Scores

FORMS = ("forward", "paraphrase", "passage", "reversed", "relabelled")


class RowClass(NamedTuple):
    """All rows that tell one fact in one form (places among the rows), and the place of the query that asks for it."""

    fact: str
    form: str
    places: tuple[int, ...]
    query: int


def fact_classes(
    drawn: World, queries: Rows, facts: Sequence[str] | None = None, forms: Sequence[str] = FORMS
) -> list[RowClass]:
    """The classes of these facts (default: of all that are asked) × forms, in this order; rows are `world_rows(drawn)`.

    Raises ValueError for a fact that is asked not exactly once, or a fact or form without rows.
    """
    asked = list(queries["fact"])
    found = []
    for fact in asked if facts is None else facts:
        if asked.count(fact) != 1:
            raise ValueError(f"{fact!r} is asked {asked.count(fact)} times; give queries of one phrasing")
        for form in forms:
            rows = [k for k, d in enumerate(drawn.documents) if d["fact"] == fact and d["form"] == form]
            if not rows:
                raise ValueError(f"no row tells {fact!r} in the form {form!r}; forms are {', '.join(FORMS)}")
            found.append(RowClass(fact, form, tuple(rows), asked.index(fact)))
    return found


def class_masks(classes: Sequence[RowClass], n: int) -> np.ndarray:
    """(1 + class, n) bool: all rows, then all without one class each."""
    kept = np.ones((len(classes) + 1, n), bool)
    for place, one in enumerate(classes):
        kept[place + 1, list(one.places)] = False
    return kept


def class_drops(
    recipe: TrainingRecipe,
    rows: Rows,
    classes: Sequence[RowClass],
    queries: Rows,
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    **options: Any,
) -> pd.DataFrame:
    """Measured fall of log p of each fact's own query without each class, one retraining per class and seed.

    Returns fact, form, rows (how many), drop (nats, mean over seeds, positive: the class helped), error (over seeds).
    Raises what `retrain` raises.
    """
    truth = retrain(recipe, rows, class_masks(classes, len(rows)), queries, folder, seeds=seeds, **options)
    return drops_of(truth, classes)


def class_drops_stacked(
    model: Source,
    rows: Rows,
    classes: Sequence[RowClass],
    queries: Rows,
    folder: str | Path | None = None,
    *,
    seeds: Sequence[int] = (0,),
    **settings: Any,
) -> pd.DataFrame:
    """As `class_drops`, many models at a time with the `settings` of `train_stacked`."""
    kept = class_masks(classes, len(rows))
    return drops_of(retrain_stacked(model, rows, kept, queries, folder, seeds=seeds, **settings), classes)


def drops_of(truth: xarray.DataArray, classes: Sequence[RowClass]) -> pd.DataFrame:
    """The table of `class_drops` from f (subset, seed, query) over the subsets of `class_masks`."""
    change = left_out(truth, np.arange(len(classes)), "class")
    lines = [
        {
            "fact": one.fact,
            "form": one.form,
            "rows": len(one.places),
            "drop": float(change.values[one.query, k]),
            "error": float(change["error"].values[one.query, k]),
        }
        for k, one in enumerate(classes)
    ]
    table = pd.DataFrame(lines)
    table.attrs = {"units": "nats", "seeds": truth.sizes["seed"]}
    return table


def class_agreement(
    scores: Mapping[str, Scores],
    classes: Sequence[RowClass],
    drops: pd.DataFrame,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Does the summed influence of a class rank what leaving it out costs? One line per method, best first.

    Columns: method, spearman over all classes, low, high (95 % bootstrap over facts, percentiles), within (mean over
    facts of the correlation among a fact's own forms, those without variation counted 0).

    Args:
        scores: (query, row, …) by name, queries and rows as `class_drops` saw them.

    Raises:
        ValueError: where scores do not fit the classes, or fewer than three classes came.
    """
    if len(classes) < 3 or len(drops) != len(classes):
        raise ValueError(f"{len(classes)} classes and {len(drops)} drops came; give at least three, one drop each")
    facts = np.unique([one.fact for one in classes], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(facts == k) for k in range(facts.max() + 1)]
    draws = [
        np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))]) for _ in range(resamples)
    ]
    measured = drops["drop"].to_numpy()
    lines = []
    for name, one in scores.items():
        predicted = summed(name, one, classes)
        spread = [correlation(predicted[draw], measured[draw]) for draw in draws]
        low, high = np.quantile(spread, [0.025, 0.975]) if spread else (np.nan, np.nan)
        within = float(np.mean([correlation(predicted[m], measured[m]) for m in members]))
        lines.append(
            {
                "method": name,
                "spearman": correlation(predicted, measured),
                "low": float(low),
                "high": float(high),
                "within": within,
            }
        )
    table = pd.DataFrame(lines).sort_values("spearman", ascending=False, kind="stable", ignore_index=True)
    table.attrs = {"classes": len(classes), "facts": len(members), "interval": f"95% over facts, {resamples} resamples"}
    return table


def summed(name: str, scores: Scores, classes: Sequence[RowClass]) -> np.ndarray:
    """(class) the scores of a class's rows for its fact's query, added up."""
    total = scores.sum([d for d in scores.dims if d not in ("query", "row")]).transpose("query", "row").values
    rows, queries = max(max(one.places) for one in classes), max(one.query for one in classes)
    if total.shape[0] <= queries or total.shape[1] <= rows or not np.isfinite(total).all():
        raise ValueError(
            f"the scores {name} have the shape {total.shape}; expected are finite ones of all rows on all queries"
        )
    return np.array([total[one.query, list(one.places)].sum() for one in classes])


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, 0 where one side has no variation."""
    from scipy import stats

    return float(stats.spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0
