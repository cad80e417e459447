"""dattri: ihvp_cg, ihvp_arnoldi and ihvp_lissa, of the Hessian of any loss of one flat parameter vector."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

import torch
from dattri.func.hessian import ihvp_arnoldi, ihvp_at_x_cg, ihvp_lissa
from solver_jobs import DIVERGING, Method, Problem, differentiable, scales, too_small, unflatten
from torch import Tensor
from torch.func import functional_call


class Dattri:
    """A loss of the flat parameters whose Hessian is the matrix."""

    def __init__(self, problem: Problem, matrix: str):
        self.problem = problem
        self.net = differentiable(problem, matrix)
        self.at = torch.cat([value.detach().flatten() for value in self.net.parameters()])

    def loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(self.net, unflatten(self.net, flat), (x,))
        return torch.nn.functional.cross_entropy(outputs, y.long())  # its LiSSA differentiates by all arguments

    def whole(self, flat: Tensor) -> Tensor:
        return self.loss(flat, self.problem.x, self.problem.y)

    def cg(self, v: Tensor, steps: int, made: Any, mode: str) -> tuple[Tensor, float]:
        del made
        solve = ihvp_at_x_cg(self.whole, self.at, max_iter=steps, mode=mode, regularization=self.problem.lam)
        return solve(v), self.problem.passes(steps + 1)

    def arnoldi(self, v: Tensor, steps: int, made: Any) -> tuple[Tensor, float]:
        del made
        solve = ihvp_arnoldi(self.whole, max_iter=steps, regularization=self.problem.lam)
        return solve((self.at,), v).detach(), self.problem.passes(steps - 1) / len(v)

    def lissa(self, v: Tensor, steps: int, made: Any, **options: Any) -> tuple[Tensor, float]:
        """Its `damping` is taken off after the division by the scale, so that it is λ / scale here."""
        del made
        size = options.get("batch_size", 1)
        solve = ihvp_lissa(self.loss, recursion_depth=steps, **options)
        x = solve((self.at, self.problem.x, self.problem.y.to(v.dtype)), v, in_dims=(None, 0, 0))
        return x.detach(), self.problem.passes(steps, size)


def methods(problem: Problem) -> list[Method]:
    found = []
    for matrix in problem.matrices:
        tool = Dattri(problem, matrix)
        for steps in problem.cg_steps if matrix == "G" else problem.cg_steps[:1]:
            for mode in ("rev-rev", "rev-fwd") if steps == problem.cg_steps[0] else ("rev-rev",):
                solve = functools.partial(tool.cg, mode=mode)
                found.append(Method(f"dattri CG {steps}", mode, solve, steps, matrix, mode == "rev-rev"))
        for count in (100, 25) if matrix == "G" else (100,):
            found.append(Method("dattri Arnoldi", f"{count} vectors", tool.arnoldi, count, matrix, count == 100))
        found += _lissa(problem, tool, matrix)
    return found


def _lissa(problem: Problem, tool: Dattri, matrix: str) -> list[Method]:
    """Its own scaling 50, no damping and batches of one with as many rows in all; then the sweep with our λ."""
    steps, size = problem.lissa_steps, problem.batch
    single = functools.partial(tool.lissa, batch_size=1, scaling=50.0, damping=problem.lam / 50)
    found = [Method("dattri LiSSA", "scaling 50, batch 1", single, steps, matrix, True)]
    for scale in scales(problem) if matrix == "G" else scales(problem)[2:3]:
        solve = functools.partial(tool.lissa, batch_size=size, scaling=scale, damping=problem.lam / scale)
        found.append(Method("dattri LiSSA", f"scaling {scale:.3g}, batch {size}", solve, steps, matrix))
    if matrix == "G":
        scale = too_small(problem)
        solve = functools.partial(tool.lissa, batch_size=size, scaling=scale, damping=problem.lam / scale)
        found.append(Method("dattri LiSSA", DIVERGING, solve, steps, matrix, diverging=True))
    return found


def version() -> str:
    return f"dattri {metadata.version('dattri')}"
