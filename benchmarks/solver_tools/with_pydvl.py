"""pyDVL: its CG, LiSSA and Nystroem operators on the Hessian of a module's loss."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from pydvl.influence.torch.batch_operation import HessianBatchOperation
from pydvl.influence.torch.functional import operator_nystroem_approximation
from pydvl.influence.torch.operator import CgOperator, HessianOperator, LissaOperator, LowRankOperator
from pydvl.influence.torch.preconditioner import NystroemPreconditioner
from solver_jobs import DIVERGING, Method, Problem, differentiable, scales, too_small
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

RANK = 60


class PyDVL:
    """The operators behind CgInfluence, LissaInfluence and NystroemSketchInfluence, applied to given right sides."""

    def __init__(self, problem: Problem, matrix: str):
        self.problem, self.net = problem, differentiable(problem, matrix)
        self.data = TensorDataset(problem.x, problem.y)
        self.operator = HessianOperator(self.net, cross_entropy, DataLoader(self.data, batch_size=len(self.data)))

    def cg(self, v: Tensor, steps: int, made: Any, **options: Any) -> tuple[Tensor, float]:
        del made
        setup = 0.0
        if options.pop("precondition", False):
            options["preconditioner"] = NystroemPreconditioner(RANK).fit(self.operator, self.problem.lam)
            setup = RANK / len(v)
        solver = CgOperator(self.operator, self.problem.lam, maxiter=steps, **options)
        return solver.apply(v).detach(), self.problem.passes(steps + 1 + setup)

    def lissa(self, v: Tensor, steps: int, made: Any, scale: float) -> tuple[Tensor, float]:
        del made
        product = HessianBatchOperation(self.net, cross_entropy)
        loader = DataLoader(self.data, batch_size=self.problem.batch)
        solver = LissaOperator(product, loader, self.problem.lam, maxiter=steps, scale=scale)
        return solver.apply(v).detach(), self.problem.passes(steps, self.problem.batch)

    def nystroem(self, v: Tensor, steps: int, made: Any) -> tuple[Tensor, float]:
        del made
        kept = operator_nystroem_approximation(self.operator, steps)
        return LowRankOperator(kept, self.problem.lam).apply(v).detach(), self.problem.passes(steps) / len(v)


def methods(problem: Problem) -> list[Method]:
    found = []
    steps = problem.lissa_steps
    for matrix in problem.matrices:
        tool = PyDVL(problem, matrix)
        for cg in problem.cg_steps if matrix == "G" else problem.cg_steps[:1]:
            group = f"pyDVL CG {cg}"
            found.append(Method(group, "one by one (its default)", tool.cg, cg, matrix, True))
            found.append(Method(group, "block CG", functools.partial(tool.cg, use_block_cg=True), cg, matrix))
            solve = functools.partial(tool.cg, precondition=True)
            found.append(Method(group, f"Nystroem preconditioner {RANK}", solve, cg, matrix))
        for rank in (RANK, 400) if matrix == "G" else ():
            found.append(Method("pyDVL Nystroem", f"rank {rank}", tool.nystroem, rank, matrix, rank == RANK))
        for scale in (10.0, *(scales(problem) if matrix == "G" else scales(problem)[2:3])):
            solve = functools.partial(tool.lissa, scale=scale)
            found.append(Method("pyDVL LiSSA", f"scale {scale:.3g}", solve, steps, matrix, scale == 10.0))
        if matrix == "G":
            solve = functools.partial(tool.lissa, scale=too_small(problem))
            found.append(Method("pyDVL LiSSA", DIVERGING, solve, steps, matrix, diverging=True))
    return found


def version() -> str:
    return f"pyDVL {metadata.version('pyDVL')}"
