"""Quantity 5, removal: does a concept sit deeper after retraining without the rows that influenced it most.

One retraining for each model and arm leaves out the rows of all concepts together. Arm "top" leaves out the first k
rows of each concept's ranking; arm "random" as many concept-bearing rows of the same concept, of the strata of the top
rows while there are such, drawn by chance: fewer rows alone cost some knowledge. A top row may be drawn too. A
retraining has the ladder's own tokenizer, settings, steps and seed, so it differs from the model of the ladder by its
rows alone, and with nothing left out it would have that model's bytes.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from influence.data.files import BadData
from influence.model.checkpoint import claim, only_writer, write_json
from influence.model.load import load
from influence.model.peek import tokenizer_of
from influence.model.together import Job, train_together
from influence.model.train import train
from influence.study import pieces
from influence.study.prepare import PIECES, rows_of
from influence.study.tables import settings_of

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.study.opening import Ladder
    from influence.types import LM, Rows

log = logging.getLogger("influence")
Ints = NDArray[np.int64]
Ranking = Callable[[str, "LM"], Mapping[str, Any]]
Measured = Callable[["LM"], pd.DataFrame]
ARMS = ("top", "random")
TRAINED = (
    "lr",
    "seed",
    "batch_tokens",
    "warmup",
    "weight_decay",
    "clip",
    "accumulate",
    "compute_dtype",
    "steps",
    "tokens",
)


def removal_table(
    ladder: Ladder,
    concepts: Sequence[Concept],
    ranking: Ranking,
    measure: Measured,
    *,
    sizes: Sequence[str],
    seeds: Sequence[int],
    k: int,
    out: str | Path,
    draw: int = 0,
    device: str = "cpu",
    at_once: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """D50 and recall before and after retraining without rows; a line a size, seed, concept and arm.

    A size and seed that the ladder does not have is trained first, as the ladder would have. Everything is kept in
    `out`: a killed call goes on when it is given again, and more sizes and seeds may be asked for later.

    Args:
        ladder: one that was trained here.
        ranking: (name such as "d128-s0", its LM) -> for each concept the places of rows, the one to remove first first.
        measure: LM -> a line a concept: concept, d50, recall. It is asked once of every model.
        k: rows removed of each concept; those that an earlier concept has removed already are not replaced.
        draw: seed of the random arm.
        at_once: trainings at a time, each in a process of its own; 1 trains in this one.

    Returns:
        size, seed, concept, arm, d50_before, d50_after, recall_before, recall_after, k, removed (rows left out in all).

    Raises:
        ValueError: for a ladder without a folder, sizes it does not have, settings below 1, and rankings or
            measurements that do not fit the concepts or rows.
        BadData: for a concept with too few bearing rows.
        OtherSettings: (a ValueError) where `out` holds removals of another ladder, k, draw or other concepts.
    """
    plan = _plan(ladder, concepts, sizes, seeds, k, Path(out).expanduser(), draw, device, at_once, progress)
    _train(plan, [(name, None) for name in plan.names if not plan.base(name).is_dir()])
    cut = {name: _removed(plan, name, concepts, ranking) for name in plan.names}
    _train(plan, [(f"{name}-{arm}", cut[name][arm]) for name in plan.names for arm in ARMS])
    lines = []
    for name in plan.names:
        before = _measured(plan, name, plan.base(name), concepts, measure)
        for arm in ARMS:
            after = _measured(plan, f"{name}-{arm}", plan.trained(f"{name}-{arm}"), concepts, measure)
            lines += list(_lines(name, arm, before, after, k, len(cut[name][arm])))
    return pd.DataFrame(lines)


class _Plan(NamedTuple):
    ladder: Ladder
    rows: Rows
    home: Path
    out: Path
    names: list[str]
    k: int
    draw: int
    device: str
    at_once: int
    progress: bool

    def base(self, name: str) -> Path:
        """The last checkpoint of a model without removal: the ladder's own, else the one trained in `out`."""
        own = self.home / "models" / name
        return own / "final" if (own / "finished.json").exists() else self.trained(name)

    def trained(self, name: str) -> Path:
        return self.out / "models" / name / "final"


def _plan(
    ladder: Ladder, concepts: Sequence[Concept], sizes: Sequence[str], seeds: Sequence[int], k: int, out: Path,
    draw: int, device: str, at_once: int, progress: bool,
) -> _Plan:  # fmt: skip
    if ladder.folder is None:
        raise ValueError("these models were not trained here, so they cannot be trained again; give a ladder's folder")
    if not sizes or not seeds or not concepts or min(k, at_once) < 1 or min(seeds) < 0:
        raise ValueError(f"{sizes=}, {seeds=}, {k=}, {at_once=}, {len(concepts)} concepts; give at least one of each")
    asked = settings_of(ladder.folder)
    if unknown := [size for size in sizes if size not in asked["sizes"]]:
        raise ValueError(f"the ladder has no sizes {', '.join(unknown)}; it has {', '.join(asked['sizes'])}")
    rows = rows_of(ladder.folder, "rows", tokenizer_of(str(ladder.folder / PIECES["tokenizer"])))
    for one in concepts:
        if len(one.bearing) != len(rows):
            raise ValueError(f"{one.name!r} tags {len(one.bearing)} rows; the ladder was trained on {len(rows)}")
    told = {name: value for name, value in asked.items() if name not in ("sizes", "seeds")}
    with only_writer(out):
        claim(out, {"ladder": told, "k": k, "draw": draw, "concepts": [one.name for one in concepts]})
    names = [f"{size}-s{int(seed)}" for size in dict.fromkeys(sizes) for seed in dict.fromkeys(seeds)]
    return _Plan(ladder, rows, ladder.folder, out, names, k, draw, device, at_once, progress)


def _train(plan: _Plan, wanted: Sequence[tuple[str, Ints | None]]) -> None:
    """Train models in `out`, each without some rows; finished ones are recognised."""
    jobs = [_job(plan, name, gone) for name, gone in wanted]
    if not jobs:
        return
    log.info("%d trainings, %d at a time", len(jobs), plan.at_once)
    tokenizer, threads = plan.home / PIECES["tokenizer"], settings_of(plan.home)["threads"]
    if plan.at_once > 1:
        train_together(jobs, plan.rows, tokenizer, at_once=plan.at_once, threads=threads, progress=plan.progress)
        return
    with _threads(threads):
        for job in jobs:
            train(job.folder, job.config, job.rows, tokenizer, **job.options, progress=plan.progress)


def _job(plan: _Plan, name: str, gone: Ints | None) -> Job:
    """A training as the ladder's own of the same size, of which it has at least one seed."""
    size, seed = name.removesuffix("-top").removesuffix("-random").rsplit("-s", 1)
    like = plan.ladder.models.loc[plan.ladder.models["size"] == size, "model"]
    if not len(like):
        raise ValueError(f"no model of size {size} is trained yet; `influence ladder --out {plan.home}` trains them")
    told = json.loads((plan.home / "models" / like.iloc[0] / "settings.json").read_text())
    options = {key: told[key] for key in TRAINED if key in told}
    options |= {"seed": int(seed), "checkpoints": 0, "device": plan.device}
    kept = plan.rows if gone is None else plan.rows.select(np.setdiff1d(np.arange(len(plan.rows)), gone))
    return Job(plan.out / "models" / name, told["config"], options, kept)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _removed(plan: _Plan, name: str, concepts: Sequence[Concept], ranking: Ranking) -> dict[str, Ints]:
    """Places of the rows that each arm leaves out of a model, as chosen when it was first asked for."""
    path = plan.out / "removed" / f"{name}.json"
    if not path.is_file():
        orders = ranking(name, load(str(plan.base(name))))
        if missing := [one.name for one in concepts if one.name not in orders]:
            raise ValueError(f"the ranking of {name} lacks {', '.join(missing)}; rank the rows of every concept")
        found = arms(concepts, orders, plan.k, np.random.default_rng([plan.draw, zlib.crc32(name.encode())]))
        path.parent.mkdir(exist_ok=True)
        write_json(path, {arm: places.tolist() for arm, places in found.items()})
    return {arm: np.array(places, np.int64) for arm, places in json.loads(path.read_text()).items()}


def arms(concepts: Sequence[Concept], orders: Mapping[str, Any], k: int, rng: np.random.Generator) -> dict[str, Ints]:
    """Sorted places that "top" and "random" leave out: of every concept as many rows in both, each row once.

    Raises:
        ValueError: for orders that are no different places of the rows, or fewer than k.
        BadData: for a concept with too few bearing rows.
    """
    top: list[int] = []
    random: list[int] = []
    for one in concepts:
        order = np.asarray(orders[one.name])
        places = order[:k]
        n = len(one.bearing)
        if order.dtype.kind not in "iu" or len(np.unique(places)) < k or places.min() < 0 or places.max() >= n:
            raise ValueError(f"the ranking of {one.name!r} begins with {places[:8]}; give {k} different rows of {n}")
        mine = np.array([place for place in places.tolist() if place not in top], np.int64)
        random += matched(one, mine, np.array(random, np.int64), rng).tolist()
        top += mine.tolist()
    return {"top": np.sort(np.array(top, np.int64)), "random": np.sort(np.array(random, np.int64))}


def matched(concept: Concept, rows: Ints, gone: Ints, rng: np.random.Generator) -> Ints:
    """As many bearing rows as `rows`, none of `gone`: of the strata of these rows while there are such, then of any."""
    pool = rng.permutation(np.setdiff1d(np.flatnonzero(concept.bearing), gone))
    if len(pool) < len(rows):
        raise BadData(
            f"{concept.name!r} has {len(pool)} bearing rows that no other concept removed, and {len(rows)} are to be "
            "drawn; ask for fewer (k=), or for concepts with more rows"
        )
    left = pool.tolist()
    found = []
    for stratum in concept.stratum[rows].tolist():
        place = next((one for one in left if concept.stratum[one] == stratum and stratum >= 0), None)
        if place is not None:
            left.remove(place)
            found.append(place)
    return np.array(found + left[: len(rows) - len(found)], np.int64)


def _measured(plan: _Plan, name: str, folder: Path, concepts: Sequence[Concept], measure: Measured) -> pd.DataFrame:
    """`d50` and `recall` of a model by concept, as measured when it was first asked for."""
    kept = plan.out / "measured" / name
    if not pieces.whole(kept):
        found = measure(load(str(folder)))
        if lacking := [column for column in ("concept", "d50", "recall") if column not in found]:
            raise ValueError(f"the measurement of {name} lacks {', '.join(lacking)}; it has {', '.join(found)}")
        told = list(map(str, found["concept"]))
        if len(set(told)) < len(told) or not {one.name for one in concepts} <= set(told):
            raise ValueError(
                f"the measurement of {name} is of {', '.join(told)}; give one line for each of "
                f"{', '.join(one.name for one in concepts)}, NaN where something is undefined"
            )
        pieces.save(kept, {"measured": found[["concept", "d50", "recall"]]})
    table = pieces.frames(kept)["measured"].set_index("concept")
    return table.loc[[one.name for one in concepts]]


def _lines(
    name: str, arm: str, before: pd.DataFrame, after: pd.DataFrame, k: int, removed: int
) -> Iterator[dict[str, Any]]:
    size, seed = name.rsplit("-s", 1)
    for concept in before.index:
        line = {"size": size, "seed": int(seed), "concept": concept, "arm": arm}
        for value in ("d50", "recall"):
            line |= {f"{value}_{when}": float(one.at[concept, value]) for when, one in
                     (("before", before), ("after", after))}  # fmt: skip
        yield {**line, "k": k, "removed": removed}
