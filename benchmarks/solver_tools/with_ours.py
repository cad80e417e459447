"""This library's solvers, with their own defaults but for λ and the number of steps."""

from __future__ import annotations

import functools
from typing import Any

import torch
from solver_jobs import DIVERGING, Method, Problem, from_blocks, to_blocks, too_small
from torch import Tensor

import ekfac
import influence
from influence import cg_solver, lissa_solver


class Ours:
    """The model opened once; every solver is made anew for each call."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.lm = influence.load(influence.Supervised(problem.net(), problem.x))
        self.rows = influence.examples(problem.y.numpy())
        self.absolute = {block.name: problem.lam for block in self.lm.blocks}

    def factors(self) -> Any:
        return influence.fit_ekfac(self.lm, self.rows, labels="expected", progress=False)

    def _solved(self, solver: Any, v: Tensor) -> tuple[Tensor, dict[str, Any]]:
        names = [block.name for block in self.lm.blocks]
        found = solver(dict(zip(names, to_blocks(self.problem, v), strict=True)))
        return from_blocks(found.value[name] for name in names), found.info

    def ekfac(self, v: Tensor, steps: int, factors: Any) -> tuple[Tensor, float]:
        del steps
        return self._solved(ekfac.solver(factors, absolute=self.absolute), v)[0], 0.0

    def cg(self, v: Tensor, steps: int, factors: Any, **options: Any) -> tuple[Tensor, float]:
        if factors:
            options |= {"factors": factors, "precondition": True}
        solver = cg_solver(self.lm, self.rows, absolute=self.absolute, steps=steps, progress=False, **options)
        x, info = self._solved(solver, v)
        return x, self.problem.passes(info["products"])

    def lissa(self, v: Tensor, steps: int, factors: Any, **more: Any) -> tuple[Tensor, float]:
        options: dict[str, Any] = {"factors": factors, "precondition": True} if factors else {}
        batch = self.problem.batch
        solver = lissa_solver(
            self.lm, self.rows, absolute=self.absolute, steps=steps, batch_size=batch, progress=False, **options, **more
        )
        x, info = self._solved(solver, v)
        used = self.problem.passes(info["products"] + info["products_scale"], batch)
        return x, used + self.problem.passes(1)


def methods(problem: Problem) -> list[Method]:
    ours = Ours(problem)
    found = [Method("ours EK-FAC", "exact labels", ours.ekfac, default=True, setup=ours.factors)]
    for steps in problem.cg_steps:
        alone = functools.partial(ours.cg, together=False)
        found.append(Method(f"ours CG {steps}", "each query alone", alone, steps, default=True))
        found.append(Method(f"ours EK-FAC-CG {steps}", "each alone", alone, steps, default=True, setup=ours.factors))
        found.append(Method(f"ours block CG {steps}", "defaults", ours.cg, steps, default=True))
        name = f"ours EK-FAC block CG {steps}"
        found.append(Method(name, "defaults", ours.cg, steps, default=True, setup=ours.factors))
    steps = problem.lissa_steps
    found.append(Method("ours LiSSA", "automatic scale", ours.lissa, steps, default=True))
    half = functools.partial(ours.lissa, average=0.5)
    found.append(Method("ours LiSSA", "automatic scale, average 0.5", half, steps))
    found.append(Method("ours EK-FAC-LiSSA", "automatic scale", ours.lissa, steps, default=True, setup=ours.factors))
    diverging = functools.partial(ours.lissa, scale=1 / too_small(problem))
    found.append(Method("ours LiSSA", DIVERGING, diverging, steps, diverging=True))
    return found


def version() -> str:
    return f"influence {influence.__version__}, torch {torch.__version__}"
