"""Refined local learning coefficients of a model: λ̂ of every layer and every attention head, once for all concepts.

A layer is everything in its decoder block, a head what `influence.llc.where` counts to it (Wang et al. 2024, arXiv
2410.02984). All parts of one kind in a model are sampled with one step size: the smallest of those that the search
finds for its layers, or for the first head of each layer, so that between parts nothing differs but the part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from influence.llc.estimate import Withheld
from influence.llc.heads import NoHead
from influence.llc.run import llc, plan_of
from influence.llc.space import space
from influence.llc.step_size import NoStepSize, search
from influence.llc.target import BadLoss, of_model
from influence.llc.where import heads, masks
from influence.model.anatomy import parts as anatomy
from influence.study import pieces

if TYPE_CHECKING:
    from influence.study.measure.cell import Model
    from influence.study.measure.settings import Settings
    from influence.types import LM, Rows

NAME = "llc"
# of all chains, beside the draws, rows and seed of the study; small batches and more of them between draws cost a
# quarter of larger ones at the same standard error (docs/study.md)
CHAINS: dict[str, Any] = {
    "sampler": "sgld", "n_beta": None, "gamma": 100.0, "batch_size": 8, "chains": 4, "thin": 8, "burn_in": 400,
}  # fmt: skip
REASONS = (Withheld, NoStepSize, NoHead, BadLoss)  # why a part has no estimate
NUMBER = re.compile(r"layer (\d+)(?: head (\d+))?")


class Part(NamedTuple):
    """A layer (`head` −1) or a head, and the name it has in `influence.llc`."""

    name: str
    kind: str
    layer: int
    head: int


def parts_of(lm: LM) -> list[Part]:
    """Every layer of a model, then every head."""
    layers = [Part(f"layer {one.layer}", "layer", one.layer, -1) for one in anatomy(lm.net)]
    found = [(name, NUMBER.fullmatch(name)) for name in heads(lm)]
    return layers + [Part(name, "head", int(match[1]), int(match[2])) for name, match in found if match]


def rows_of(rows: Rows, settings: Settings) -> Rows:
    """The rows on which the loss is measured: drawn by the seed alone, so that all models have the same."""
    count = min(settings.llc_rows, len(rows))
    drawn = np.random.default_rng([settings.seed, 53]).choice(len(rows), count, replace=False)
    return rows.select(np.sort(drawn).tolist())


def measure(model: Model, told: Callable[[str], object], begun: Callable[[str], object] = str) -> None:
    """Make every piece in MODEL@STEP/llc that is not whole: `plan` with parts and step sizes, and a piece per part.

    Killed at any moment it goes on with the next part. For progress `begun` is called with what comes next, and `told`
    once, at the end.
    """
    folder, rows = model.folder / NAME, rows_of(model.rows, model.settings)
    if not pieces.whole(folder / "plan"):
        begun(f"{NAME}: step sizes")
        pieces.save(folder / "plan", {}, _plan(model.lm, rows, model.settings))
    plan = pieces.about(folder / "plan")
    for place, part in _places(folder, plan):
        if not pieces.whole(place):
            begun(f"{NAME}: {part.name}")
            pieces.save(place, *_one(model.lm, rows, part, plan["step_sizes"][part.kind], model.settings))
    told(NAME)


def complete(folder: Path, settings: Settings) -> bool:
    """Whether all that is asked of a model is there, so that it need not be opened."""
    if not settings.llc:
        return True
    plan = folder / NAME / "plan"
    return pieces.whole(plan) and all(pieces.whole(place) for place, _ in _places(plan.parent, pieces.about(plan)))


def _places(folder: Path, plan: Mapping[str, Any]) -> list[tuple[Path, Part]]:
    every = [Part(*one) for one in plan["parts"]]
    return [(folder / pieces.slug(number, part.name), part) for number, part in enumerate(every)]


def _plan(lm: LM, rows: Rows, settings: Settings) -> dict[str, Any]:
    """Parts, and by kind the step size, or the reason why there is none."""
    every = parts_of(lm)
    sizes = {kind: _step_size(lm, rows, [one for one in every if one.kind == kind and one.head <= 0], settings)
             for kind in ("layer", "head")}  # fmt: skip
    return {"parts": [list(one) for one in every], "step_sizes": sizes}


def _step_size(lm: LM, rows: Rows, some: list[Part], settings: Settings) -> float | str:
    """The smallest step size of these parts, each search beginning where the one before has ended."""
    target, why = of_model(lm, rows), "the model has no such part"
    found: list[float] = []
    for part in some:
        try:
            coordinates = space(target, masks(target, part.name))
            plan = plan_of(target, coordinates, step_size=1.0, draws=settings.llc, seed=settings.seed, **CHAINS)
            found.append(search(target, coordinates, plan, start=found[-1] if found else None))
        except REASONS as error:
            why = f"{part.name}: {error}"
    return min(found) if found else why


def _one(
    lm: LM, rows: Rows, part: Part, step_size: float | str, settings: Settings
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The line of a part, without a value where it is withheld, and then with the reason."""
    line: dict[str, Any] = {"part": part.kind, "layer": part.layer, "head": part.head}
    line |= {"depth": (part.layer + 1) / len(anatomy(lm.net))}
    line |= dict.fromkeys(("llc", "mcse", "rhat", "ess", "step_size", "n_beta", "gamma"), float("nan"))
    try:
        if isinstance(step_size, str):
            raise NoStepSize(step_size)
        found = llc(lm, rows, where=part.name, step_size=step_size, draws=settings.llc, seed=settings.seed,
                    progress=False, **CHAINS)  # fmt: skip
    except REASONS as why:
        own = {} if isinstance(step_size, str) else {"step_size": step_size}
        return {NAME: pd.DataFrame([{**line, **own, "notes": "withheld"}])}, {"skipped": str(why)}
    used = {name: found.settings[name] for name in ("step_size", "n_beta", "gamma")}
    line |= {"llc": found.value, "mcse": found.mcse, "rhat": found.rhat, "ess": found.ess, **used}
    return {NAME: pd.DataFrame([{**line, "notes": "; ".join(found.notes)}])}, {}


def gathered(folder: Path, keys: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """("llc", the lines of one model with its keys), layers first; nothing where it was not measured."""
    lines = [pieces.frames(place)[NAME] for place, _ in _stored(folder)]
    if lines:
        frame = pd.concat(lines, ignore_index=True)
        yield NAME, pd.DataFrame({**{key: [value] * len(frame) for key, value in keys.items()}, **frame})


def reasons(folder: Path, keys: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of one model that have no estimate: its keys, part and why."""
    for place, part in _stored(folder):
        why = pieces.about(place).get("skipped")
        if why:
            yield {**keys, "concept": "", "part": f"{NAME}: {part.name}", "why": why}


def _stored(folder: Path) -> list[tuple[Path, Part]]:
    plan = folder / NAME / "plan"
    return _places(plan.parent, pieces.about(plan)) if plan.is_dir() else []


def by_model(models: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The table `models` with two columns more, from the layers of the table `llc`.

    `llc_layers`: the sum of λ̂ over layers. `llc_depth`: their centre Σ depth λ̂ / Σ λ̂ over layers with λ̂ above zero.
    Both NaN where a layer has no estimate, the second also where none is above zero.
    """
    layers = table[table["part"] == "layer"]
    above = layers["llc"].clip(lower=0)
    layers = layers.assign(above=above, moment=layers["depth"] * above)
    by = layers.groupby(["model", "step"])[["llc", "above", "moment"]].agg(lambda values: values.sum(skipna=False))
    ratio = by["moment"] / by["above"].where(by["above"] > 0)
    found = pd.DataFrame({"llc_depth": ratio, "llc_layers": by["llc"]}).reset_index()
    return models.merge(found, how="left", on=["model", "step"])
