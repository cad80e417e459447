"""`influence.intervene`: from which layer on a model no longer needs its previous tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from influence.interventions import worth
from influence.interventions.edit import MODES
from influence.interventions.edits import layers_of
from influence.interventions.measure import MAKERS, Outcomes, Plan, count_passes, outcomes, plan_of
from influence.interventions.metrics import Metric
from influence.interventions.result import Interventions, notes_of
from influence.interventions.stack import stack
from influence.interventions.tasks import Task, check_tasks
from influence.model.anatomy import parts
from influence.types import LM

EDITS = ("noise", "freeze", "skip")


def intervene(
    lm: LM,
    tasks: Task | Sequence[Task],
    *,
    edits: Any = EDITS,
    layers: Sequence[int] | None = None,
    seeds: int | Sequence[int] = 3,
    mode: str = "paper",
    share: float = 0.05,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    reuse: bool = True,
    progress: bool = True,
) -> Interventions:
    """Edit hidden states from every layer on, and measure what that costs on each task.

    An edit from layer k on leaves depth k / n_layers of the model as it was. Values stand beside the unedited model and
    the edit from layer 0 on (all layers edited). The depth of need is the smallest depth from which on every edit
    costs at most `share` of the unedited value. Source: Ben Artzy & Schwartz 2024 (arXiv 2409.03621).

    Args:
        lm: the model; nothing is left on it.
        tasks: one or several of `influence.interventions.tasks`.
        edits: names out of noise, freeze, shuffle, skip, swap; or {name: function (layer, seed) -> edit or edits},
            whose tokens are named ("previous", "prompt", "all"). In swap the other prompt is another question of the
            task with as many tokens, drawn by the seed; questions without one are left out of its curve, also of its
            unedited value.
        layers: from which edits begin, default all; layer 0 is always among them.
        seeds: how many, or which, for edits that draw (noise, shuffle, swap); the others run once.
        mode: "paper": at every scored token all tokens but the last are edited, as in generation without a cache.
            "prompt": the prompt's tokens but its last are edited once, as in generation with a cache.
        share: of the unedited value that counts as no loss.
        bootstrap: draws of whole groups of questions (and of seeds) for the intervals of `level`.
        batch_size: sequences taken together.
        reuse: run the layers below an edit once per batch instead of every time; the numbers are the same.

    Raises:
        BadEdit: (a ValueError) for layers out of range, swap without prompts of one length, and models without a list
            of layers or (for skip) without separable attention.
        ValueError: for no tasks, unknown edits, metrics without finite numbers, and settings that cannot be.
    """
    asked = check_tasks(tasks)
    _check(mode, share, bootstrap, level, batch_size)
    chosen = tuple(range(lm.n_layers)) if layers is None else layers_of("edits", list(layers), lm.n_layers)
    chosen = tuple(sorted({0, *chosen}))
    drawn = list(range(seeds)) if isinstance(seeds, int) else [int(one) for one in seeds]
    if not drawn or len(set(drawn)) < len(drawn):
        raise ValueError(f"seeds={seeds!r}; give at least one, all different")
    plan = plan_of(edits, chosen, drawn, lm.n_layers)
    curves, depths, sizes = [], [], {}
    for one, found in _run(lm, asked, plan, mode, batch_size, reuse, progress):
        own_curves, own_depths, sizes[one.name] = _told(one, found, plan, lm.n_layers, share, bootstrap, level, seed)
        curves += own_curves
        depths += own_depths
    info: dict[str, Any] = {"mode": mode, "share": share, "level": level, "bootstrap": bootstrap, "seeds": drawn}
    info |= {"parallel": bool(parts(lm.net)[0].parallel), "reuse": reuse, "revision": lm.revision, "seed": seed}
    info |= {"questions": sizes, "about": {one.name: one.about for one in asked}}
    frame = pd.DataFrame(depths)
    return Interventions(_name(lm), lm.n_layers, pd.DataFrame(curves), frame, info, notes_of(frame, info))


def _check(mode: str, share: float, bootstrap: int, level: float, batch_size: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; give 'paper' (all but the last token, at every step) or 'prompt'")
    if not 0 < share < 1 or not 0 < level < 1 or bootstrap < 1 or batch_size < 1:
        raise ValueError(
            f"share={share}, level={level}, bootstrap={bootstrap}, batch_size={batch_size}; share and level lie "
            "between 0 and 1, the others are at least 1"
        )


def _run(lm: LM, tasks: Sequence[Task], plan: Plan, mode: str, batch_size: int, reuse: bool, progress: bool) -> Any:
    """(task, its numbers), one after another, with one bar over all."""
    from tqdm.auto import tqdm

    questions = [one.questions() for one in tasks]
    total = sum(count_passes(own, plan, mode, batch_size) for own in questions)
    recorded = plan.layers if all(maker is MAKERS.get(name) for name, maker in plan.edits.items()) else None
    shown = {"desc": "edits", "unit": "passes", "delay": 2, "disable": not progress, "leave": False}
    with stack(lm, recorded) as opened, tqdm(total=total, **shown) as bar:
        for one, own in zip(tasks, questions, strict=True):
            rows = one.rows.to_list()
            yield (
                one,
                outcomes(
                    lm,
                    opened,
                    own,
                    rows,
                    one.metrics,
                    plan,
                    mode=mode,
                    batch_size=batch_size,
                    reuse=reuse,
                    done=bar.update,
                ),
            )


def _told(
    one: Task, found: Outcomes, plan: Plan, n_layers: int, share: float, bootstrap: int, level: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    """Lines of curves and depths of one task, and how many questions each edit had."""
    groups = one.groups()
    drawn = worth.draws(groups, bootstrap, seed)
    layers = np.array(plan.layers)
    curves, depths, sizes = [], [], {"all": len(groups), "groups": len(set(groups))}
    for metric in one.metrics:
        weight = one.weights(metric)
        for name in plan.edits:
            values = found.edited[name][metric.name]
            sizes[name] = int(np.isfinite(values).all((0, 1)).sum())
            curve = worth.curve(values, found.unedited[metric.name], weight, drawn, layers, n_layers, metric, seed)
            about = {"task": one.name, "edit": name, "metric": metric.name}
            curves += [{**about, **line} for line in _curve_lines(curve, level)]
            depths.append({**about, **_depth_line(curve, metric, share, level), "questions": sizes[name]})
    return curves, depths, sizes


def _curve_lines(curve: worth.Curve, level: float) -> list[dict[str, Any]]:
    lines = []
    for place, layer in enumerate(curve.layers.tolist()):
        value, cost = worth.interval(curve.edited[:, place], level), worth.interval(curve.cost[:, place], level)
        line = {"layer": layer, "depth": layer / curve.n_layers, **_ends("value", value), **_ends("cost", cost)}
        lines.append(line | {"unedited": float(curve.unedited[0])})
    return lines


def _depth_line(curve: worth.Curve, metric: Metric, share: float, level: float) -> dict[str, Any]:
    values = {
        "unedited": worth.interval(curve.unedited, level),
        "all_edited": worth.interval(curve.edited[:, 0], level),
        "cost_of_all": worth.interval(curve.cost[:, 0], level),
        "depth": worth.depth_within(curve, share, level),
    }
    return {
        "better": metric.better,
        **{key: part for name, told in values.items() for key, part in _ends(name, told).items()},
    }


def _ends(name: str, told: worth.Told) -> dict[str, float]:
    return {name: told.value, f"{name}_low": told.low, f"{name}_high": told.high}


def _name(lm: LM) -> str:
    told = str(getattr(getattr(lm.net, "config", None), "_name_or_path", "") or "")
    return "/".join(told.rstrip("/").split("/")[-2:]) or type(lm.net).__name__
