"""Every edit from every layer on, for every seed, on one task: a number per question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from influence.interventions.edit import edited
from influence.interventions.edits import BadEdit, Edit, freeze, noise, shuffle, skip, swap
from influence.interventions.layout import NO_PARTNER, Layout, Question, layouts, partners
from influence.interventions.metrics import Metric, measured
from influence.interventions.source import Source
from influence.interventions.stack import Stack
from influence.types import LM

Maker: TypeAlias = Callable[[int, int], "Edit | Sequence[Edit]"]  # (layer, seed) -> what is edited
RANDOM = ("noise", "shuffle", "swap")
MAKERS: dict[str, Maker] = {
    "noise": lambda layer, seed: noise(layer, seed=seed),
    "freeze": lambda layer, seed: freeze(layer),
    "shuffle": lambda layer, seed: shuffle(layer, seed=seed),
    "skip": lambda layer, seed: skip(layer),
    "swap": lambda layer, seed: replace(swap(layer, None), seed=seed),
}


@dataclass(frozen=True, eq=False)
class Plan:
    """What a sweep runs: `edits` by name, each from each of `layers` on, with each of its own seeds."""

    edits: Mapping[str, Maker]
    layers: tuple[int, ...]
    seeds: Mapping[str, tuple[int, ...]]

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """(edit, place of the seed, place of the layer)."""
        for name in self.edits:
            for number in range(len(self.seeds[name])):
                for place in range(len(self.layers)):
                    yield name, number, place

    def made(self, name: str, number: int, place: int) -> list[Edit]:
        return _made(self.edits[name], self.layers[place], self.seeds[name][number], name)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Numbers per question: `unedited[metric]` (n), `edited[edit][metric]` (seeds, layers, n), NaN where not asked."""

    unedited: dict[str, np.ndarray]
    edited: dict[str, dict[str, np.ndarray]]


def plan_of(edits: Any, layers: Sequence[int], seeds: Sequence[int], n_layers: int) -> Plan:
    """A plan from names of edits or {name: function (layer, seed) -> edits}.

    Raises ValueError for unknown names and for edits without a place in the model.
    """
    if isinstance(edits, str):
        edits = [edits]
    if not isinstance(edits, Mapping):
        unknown = [name for name in edits if name not in MAKERS]
        if unknown or not edits:
            raise ValueError(
                f"edits={list(edits)!r}; give some of {', '.join(MAKERS)}, or a mapping of names to functions "
                "(layer, seed) -> edit"
            )
        edits = {name: MAKERS[name] for name in edits}
    makers: dict[str, Maker] = {str(name): maker for name, maker in edits.items()}
    own: dict[str, tuple[int, ...]] = {}
    for name, maker in makers.items():
        made = [one for layer in layers for one in _made(maker, layer, int(seeds[0]), name)]
        for one in made:
            one.at(n_layers)
        own[name] = tuple(map(int, seeds)) if any(one.kind in RANDOM for one in made) else (int(seeds[0]),)
    return Plan(makers, tuple(layers), own)


def _made(maker: Maker, layer: int, seed: int, name: str) -> list[Edit]:
    given = maker(layer, seed)
    made: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    for one in made:
        if not isinstance(one, Edit):
            raise ValueError(
                f"the edit {name!r} gave a {type(one).__name__}; it must give influence.interventions edits"
            )
        if not isinstance(one.tokens, str):
            raise ValueError(f"the edit {name!r} has a mask of tokens; in a sweep name them: previous, prompt or all")
    return made


def outcomes(
    lm: LM, stack: Stack, questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric],
    plan: Plan, *, mode: str, batch_size: int, reuse: bool = True, done: Callable[[int], Any] = lambda _: None,
) -> Outcomes:  # fmt: skip
    """All numbers of a plan. With `reuse` the layers below an edit run once per batch, else every time.

    `rows[i]` are the columns of question i, for the metrics; `stack` is an open `influence.interventions.stack.stack`.
    """
    n = len(questions)
    plain = {one.name: np.full(n, np.nan) for one in metrics}
    shape = {name: (len(plan.seeds[name]), len(plan.layers), n) for name in plan.edits}
    found = {name: {one.name: np.full(shape[name], np.nan) for one in metrics} for name in plan.edits}
    others = _partners(plan, questions)
    device = next(lm.net.parameters()).device
    for batch in layouts(questions, mode, batch_size, device):
        sources = {seed: _states(stack, batch, questions, partner) for seed, partner in others.items()}
        logits = stack.record(batch.ids, batch.places)
        for place, values in _numbers(batch, logits, rows, metrics):
            for name, value in values.items():
                plain[name][place] = value
        done(1)
        for name, number, layer in plan:
            made = [_placed(one, batch, sources) for one in plan.made(name, number, layer)]
            start = min(one.at(lm.n_layers)[0] for one in made) if reuse else 0
            with edited(lm, made, keys=batch.keys, blocks=stack.blocks):
                logits = stack.run(max(at for at in stack.inputs if at <= start))
            left_out = _without_partner(plan.made(name, number, layer), others)
            for place, values in _numbers(batch, logits, rows, metrics):
                if place not in left_out:
                    for metric, value in values.items():
                        found[name][metric][number, layer, place] = value
            done(1)
    return Outcomes(plain, found)


def count_passes(questions: Sequence[Question], plan: Plan, mode: str, batch_size: int) -> int:
    """How often `outcomes` calls `done`."""
    return sum(1 for _ in layouts(questions, mode, batch_size)) * (1 + sum(1 for _ in plan))


def _numbers(
    batch: Layout, logits: Tensor, rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]
) -> Iterator[tuple[int, dict[str, float]]]:
    targets = batch.split(batch.target[..., None])
    for place, own in batch.split(logits).items():
        row = {**rows[place], "targets": targets[place][:, 0]}
        yield place, {one.name: measured(one, own, row) for one in metrics}


def _placed(one: Edit, batch: Layout, sources: Mapping[int, Source]) -> Edit:
    """An edit with its tokens as a mask of the batch."""
    tokens = batch.tokens(one.tokens)
    if one.kind != "swap" or one.other is not None:
        return replace(one, tokens=tokens)
    found = sources[one.seed]
    inside = tokens & batch.tokens("prompt")
    width = next(iter(found.states.values())).shape[1]
    return replace(one, tokens=inside, other=replace(found, tokens=inside[:, :width]))


# ---- swap: another question of the task whose prompt has as many tokens


def _partners(plan: Plan, questions: Sequence[Question]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for name, number, layer in plan:
        for one in plan.made(name, number, layer):
            if one.kind == "swap" and one.other is None and one.seed not in found:
                found[one.seed] = partners(questions, one.seed)
    for seed, partner in found.items():
        if (partner == NO_PARTNER).all():
            raise BadEdit(
                f"swap (seed {seed}) needs questions whose prompts have equally many tokens, and no two have; leave "
                "swap out, or give more questions of one form"
            )
    return found


def _without_partner(made: Sequence[Edit], others: Mapping[int, np.ndarray]) -> set[int]:
    left: set[int] = set()
    for one in made:
        if one.kind == "swap" and one.other is None:
            left |= set(np.flatnonzero(others[one.seed] == NO_PARTNER).tolist())
    return left


def _states(stack: Stack, batch: Layout, questions: Sequence[Question], partner: np.ndarray) -> Source:
    """What the layers receive for each sequence's partner prompt (its own where it has none)."""
    places = np.unique(batch.question)
    chosen = [questions[place] if partner[place] == NO_PARTNER else questions[partner[place]] for place in places]
    width = max(one.prompt for one in chosen)
    ids = np.zeros((len(chosen), width), np.int64)
    for row, one in enumerate(chosen):
        ids[row, : one.prompt] = one.ids[: one.prompt]
    at = torch.from_numpy(ids).to(batch.ids.device)
    stack.record(at, torch.zeros_like(at[:, :1]))
    index = torch.from_numpy(np.searchsorted(places, batch.question)).to(batch.ids.device)
    states = {layer: value[index.to(value.device)] for layer, value in stack.inputs.items()}
    return Source(states, torch.ones(len(index), width, dtype=torch.bool, device=batch.ids.device), False)
