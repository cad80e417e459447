"""Ground truth on the embedded world: retrain without the rows that a method names, and ask again.

Removal of as many random fact rows stands beside it, since fewer rows alone cost some recall.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.model.train import Trained
    from influence.types import LM, Rows

METHODS = ("EK-FAC, normalised", "BM25", "random fact rows")


class Case(NamedTuple):
    """One seed: the facts asked for (places among the world's facts), and the rows each method removes."""

    seed: int
    asked: np.ndarray
    removed: dict[str, np.ndarray]


def removal(
    folder: str | Path,
    *,
    size: str = "d128",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    k: int = 8,
    queries: int = 40,
    world_seed: int = 0,
    options: dict[str, Any] | None = None,
    at_once: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Recall of learned facts after retraining without the top k rows per query, one line per seed and method.

    Per seed a model is trained, up to `queries` facts that it recalls in both phrasings are drawn, and the union of
    their k highest rows is left out of a second training of the same recipe and seed: by EK-FAC scores divided by row
    norm, by BM25, and at random among the fact rows, each time the same number of rows.

    Args:
        folder: where trainings are kept; a killed call goes on when it is given again.
        options: more keyword settings of `influence.model.train.train`.

    Returns:
        seed, method ("none removed" is the first model), removed (rows), canonical and held_out (recall of the facts
        asked for, in the trained and the held-out phrasing), others (canonical recall of all other facts).

    Raises:
        ValueError: for an unknown size, no seeds, k below 1, or a model that learned none of the facts.
    """
    from influence.data.tokenizer import world_tokenizer
    from influence.data.world import world, world_queries, world_rows

    if k < 1 or not seeds or queries < 1:
        raise ValueError(f"got {k=}, {seeds=}, {queries=}; give at least one of each")
    root, drawn = Path(folder), world(world_seed)
    tokenizer = world_tokenizer(drawn, root / "tokenizer")
    rows = world_rows(drawn, tokenizer)
    recipe = _Recipe(root, size, len(tokenizer), dict(options or {}), at_once, progress)
    first = _train(recipe, rows, [(seed, "none removed", None) for seed in seeds])
    asked_of = {phrasing: world_queries(drawn, tokenizer, phrasing=phrasing) for phrasing in ("canonical", "held-out")}
    cases = [
        _case(drawn, rows, asked_of, model, seed, k, queries, progress)
        for seed, model in zip(seeds, first, strict=True)
    ]
    wanted = [(case.seed, method, case.removed[method]) for case in cases for method in METHODS]
    second = _train(recipe, rows, wanted)
    models = {(seed, "none removed"): model for seed, model in zip(seeds, first, strict=True)}
    models |= {(seed, method): model for (seed, method, _), model in zip(wanted, second, strict=True)}
    lines = [
        {
            "seed": case.seed,
            "method": method,
            "removed": len(case.removed.get(method, ())),
            **_recalled(m, asked_of, case),
        }
        for case in cases
        for method, m in ((method, models[case.seed, method]) for method in ("none removed", *METHODS))
    ]
    return pd.DataFrame(lines)


def drops(table: pd.DataFrame, phrasing: str = "canonical") -> pd.DataFrame:
    """How much further recall falls than after removing random fact rows; one line per method.

    Columns: method, drop (mean over seeds of recall without random rows minus recall without the method's rows),
    low and high (95 % by Student's t over seeds), seeds.
    """
    from scipy import stats

    wide = table.pivot(index="seed", columns="method", values=phrasing)
    lines = []
    for method in METHODS[:-1]:
        values = (wide["random fact rows"] - wide[method]).to_numpy()
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
        mean = values.mean()
        lines.append({"method": method, "drop": mean, "low": mean - half, "high": mean + half, "seeds": len(values)})
    return pd.DataFrame(lines)


class _Recipe(NamedTuple):
    root: Path
    size: str
    vocab: int
    options: dict[str, Any]
    at_once: int
    progress: bool


def _train(recipe: _Recipe, rows: Rows, wanted: Sequence[tuple[int, str, np.ndarray | None]]) -> list[Trained]:
    from influence.model.sizes import SIZES, neox
    from influence.model.together import Job, train_together

    if recipe.size not in SIZES:
        raise ValueError(f"size is {recipe.size!r}; choose from {', '.join(SIZES)}")
    jobs = []
    for seed, method, removed in wanted:
        kept = rows if removed is None else rows.select(np.flatnonzero(~np.isin(np.arange(len(rows)), removed)))
        options = {**SIZES[recipe.size].options, "checkpoints": 0, "seed": seed, **recipe.options}
        name = f"{recipe.size}-seed{seed}-{method.replace(', ', '-').replace(' ', '-')}"
        jobs.append(Job(recipe.root / name, neox(recipe.size, recipe.vocab), options, kept))
    return train_together(jobs, rows, recipe.root / "tokenizer", at_once=recipe.at_once, progress=recipe.progress)


def _case(
    drawn: World,
    rows: Rows,
    asked_of: dict[str, Rows],
    model: Trained,
    seed: int,
    k: int,
    most: int,
    progress: bool,
) -> Case:
    from influence.model.load import load
    from influence.model.recall import recall

    lm = load(model.final)
    known = np.flatnonzero(np.logical_and(*(recall(lm, asked_of[phrasing]) for phrasing in ("canonical", "held-out"))))
    if not len(known):
        raise ValueError(f"the model of seed {seed} recalls no fact in both phrasings; train longer or a larger size")
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(known)[:most])
    kept = model.folder / f"removed-{k}-{most}.json"
    if kept.is_file():
        found = json.loads(kept.read_text())
        return Case(seed, asked, {method: np.array(places) for method, places in found.items()})
    removed = _named(drawn, lm, rows, asked_of["held-out"].select(asked), k, rng, progress)
    kept.write_text(json.dumps({method: places.tolist() for method, places in removed.items()}))
    return Case(seed, asked, removed)


def _named(
    drawn: World, lm: LM, rows: Rows, asked: Rows, k: int, rng: np.random.Generator, progress: bool
) -> dict[str, np.ndarray]:
    """Places of the rows that each method removes: EK-FAC's k per query, and as many by the others."""
    import ekfac
    from influence.attribution.fit import fit_ekfac
    from influence.attribution.rank import ranked_values
    from influence.attribution.score import score
    from influence.truth.baselines import bm25

    solver = ekfac.solver(fit_ekfac(lm, rows, batch_size=64, progress=progress))
    scores = score(lm, rows, asked, solver, per="sequence", row_norm=True, batch_size=64, progress=progress)
    values = ranked_values(scores, normalize="row").values
    ours = _best(values, len(np.unique(np.argsort(-values, axis=1, kind="stable")[:, :k])))
    facts = np.flatnonzero([bool(one["fact"]) for one in drawn.documents])
    random = np.sort(rng.permutation(facts)[: len(ours)])
    return dict(zip(METHODS, (ours, _best(bm25(rows, asked).values, len(ours)), random), strict=True))


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """`count` places: the first of every query, then the second of every query, and so on, each place once."""
    order = np.argsort(-values, axis=1, kind="stable")
    places, first = np.unique(order.T.ravel(), return_index=True)
    found: np.ndarray = places[np.argsort(first)][:count]
    return found


def _recalled(model: Trained, asked_of: dict[str, Rows], case: Case) -> dict[str, float]:
    from influence.model.load import load
    from influence.model.recall import recall

    lm = load(model.final)
    found = {phrasing: recall(lm, asked_of[phrasing]) for phrasing in asked_of}
    others = np.setdiff1d(np.arange(len(found["canonical"])), case.asked)
    return {
        "canonical": float(found["canonical"][case.asked].mean()),
        "held_out": float(found["held-out"][case.asked].mean()),
        "others": float(found["canonical"][others].mean()),
    }
