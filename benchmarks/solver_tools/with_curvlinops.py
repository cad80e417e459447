"""curvlinops: its Gauss-Newton operator under CG and the Neumann series, and its EK-FAC with exact damping."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

import torch
from curvlinops import (
    CGInverseLinearOperator,
    EKFACLinearOperator,
    FisherType,
    GGNLinearOperator,
    KFACInverseLinearOperator,
    NeumannInverseLinearOperator,
)
from curvlinops.examples import IdentityLinearOperator
from solver_jobs import DIVERGING, Method, Problem, scales, too_small
from torch import Tensor, nn


class Curvlinops:
    def __init__(self, problem: Problem):
        self.problem, self.net = problem, problem.net()
        self.shapes = [p.shape for p in self.net.parameters()]
        args = (self.net, nn.CrossEntropyLoss(), list(self.net.parameters()), [(problem.x, problem.y)])
        like = self.net[0].weight
        identity = IdentityLinearOperator(self.shapes, like.device, like.dtype)
        self.args = args
        self.damped = GGNLinearOperator(*args) + problem.lam * identity

    def cg(self, v: Tensor, steps: int, made: Any, **options: Any) -> tuple[Tensor, float]:
        """One more product than steps, for the start; early stops are not told, so this is an upper bound."""
        del made
        inverse = CGInverseLinearOperator(self.damped, max_iter=steps, max_tridiag_iter=0, **options)
        return (inverse @ v.T).T, self.problem.passes(steps + 1)

    def neumann(self, v: Tensor, steps: int, made: Any, scale: float) -> tuple[Tensor, float]:
        del made
        inverse = NeumannInverseLinearOperator(self.damped, num_terms=steps, scale=scale)
        return (inverse @ v.T).T, self.problem.passes(steps)

    def factors(self) -> Any:
        kind = EKFACLinearOperator(*self.args, fisher_type=FisherType.TYPE2, separate_weight_and_bias=False)
        inverse = KFACInverseLinearOperator(kind, damping=self.problem.lam, use_exact_damping=True)
        inverse @ torch.zeros(self.damped.shape[0], 1, dtype=self.problem.v.dtype)
        return inverse

    def ekfac(self, v: Tensor, steps: int, made: Any) -> tuple[Tensor, float]:
        del steps
        return (made @ v.T).T, 0.0


def methods(problem: Problem) -> list[Method]:
    tool = Curvlinops(problem)
    found = [Method("curvlinops EK-FAC", "type-2, exact damping", tool.ekfac, default=True, setup=tool.factors)]
    for steps in problem.cg_steps:
        group = f"curvlinops CG {steps}"
        found.append(Method(group, "tolerance 1 (its default)", tool.cg, steps, default=True))
        found.append(Method(group, "tolerance 1e-6", functools.partial(tool.cg, tolerance=1e-6), steps))
    terms = round(problem.passes(problem.lissa_steps, problem.batch))
    group = f"curvlinops Neumann {terms}"
    found.append(
        Method(group, "scale 1 (its default)", functools.partial(tool.neumann, scale=1.0), terms, default=True)
    )
    for scale in scales(problem):
        solve = functools.partial(tool.neumann, scale=1 / scale)
        found.append(Method(group, f"scale 1/{scale:.3g}", solve, terms))
    solve = functools.partial(tool.neumann, scale=1 / too_small(problem))
    found.append(Method(group, DIVERGING, solve, terms, diverging=True))
    return found


def version() -> str:
    return f"curvlinops-for-pytorch {metadata.version('curvlinops-for-pytorch')}"
