"""How much the scores still move: ⟨x_j, probe⟩ recorded along the iteration, since a residual alone misleads."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influence.grads import dense, order
from influence.types import Grad

POINTS = 20


class Record(NamedTuple):
    """Scores (q m) after some steps, in the order of the steps."""

    probes: Grad | None
    every: int
    steps: list[int]
    scores: list[Tensor]


def init(probes: Grad | None, steps: int) -> Record:
    """An empty record with about POINTS places over so many steps."""
    return Record(probes, max(1, steps // POINTS), [], [])


def due(record: Record, step: int, last: bool = False) -> bool:
    return record.probes is not None and (last or step % record.every == 0)


def add(record: Record, step: int, x: Grad) -> None:
    """Record the scores of x; a step that stands already is not added again."""
    if record.probes is None or (record.steps and record.steps[-1] == step):
        return
    probes = order(record.probes, list(x))
    parts = [torch.einsum("qoi,moi->qm", dense(x[name]), dense(probes[name]).to(dense(x[name]))) for name in x]
    record.steps.append(step)
    record.scores.append(torch.stack(parts).sum(0).double())


def summary(record: Record, alive: Tensor) -> dict[str, Any]:
    """`change` ‖s_J − s_¾J‖/‖s_J‖ and `change_rank` 1 − Pearson(s_J, s_¾J) per query; 0 for a query that is zero.

    With nothing recorded at about ¾J the comparison is with x = 0, so the change is 1.
    """
    if not record.steps:
        return {"change": None, "change_rank": None}
    end = record.steps[-1]
    before = [k for k, step in enumerate(record.steps) if step <= 0.75 * end]
    last = record.scores[-1]
    earlier = record.scores[before[-1]] if before else torch.zeros_like(last)
    size = last.norm(dim=1)
    moved = torch.where(size > 0, (last - earlier).norm(dim=1) / torch.where(size > 0, size, 1.0), 0.0)
    apart = torch.where(alive.to(last.device), 1 - _pearson(last, earlier), 0.0)
    return {
        "change": moved.tolist(),
        "change_rank": apart.tolist(),
        "change_since": record.steps[before[-1]] if before else 0,
    }


def averaged(records: list[Record]) -> Record:
    """The mean of several passes' scores, at the steps that all of them have."""
    first = records[0]
    common = [step for step in first.steps if all(step in one.steps for one in records)]
    scores = [torch.stack([one.scores[one.steps.index(step)] for one in records]).mean(0) for step in common]
    return Record(first.probes, first.every, common, scores)


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    below = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(below > math.ulp(0.0), (x * y).sum(1) / torch.where(below > 0, below, 1.0), 0.0)
