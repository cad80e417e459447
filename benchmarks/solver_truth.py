"""The system of solver_peers.py from the digits setting, its dense matrices, and how good an answer is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from settings import setting
from solver_jobs import Problem, from_blocks, unflatten
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

import influence
from influence.attribution.gradients import query_gradients
from influence.truth.exact import dense_gauss_newton
from influence.types import LM, Rows

DAMPING = 0.1
QUERIES = 40


@dataclass(frozen=True)
class Truth:
    """Dense float64 matrices by letter, exact solutions (q p), negative eigenvalues of matrix + λI, gradients (n p)."""

    matrices: dict[str, Tensor]
    exact: dict[str, Tensor]
    negative: dict[str, int]
    gradients: Tensor
    lam: float

    def judge(self, x: Tensor, v: Tensor, matrix: str, seed: int = 0) -> dict[str, Any]:
        """Pearson with the exact scores (mean over queries, 95 % bootstrap over queries), relative residual (mean).

        x and v (q p) may be the first queries only.
        """
        if not torch.isfinite(x).all():
            return {"finite": False}
        v = v[: len(x)]
        left = x @ self.matrices[matrix] + self.lam * x - v
        residual = left.norm(dim=1) / v.norm(dim=1)
        found = pearson(x @ self.gradients.T, self.exact[matrix][: len(x)] @ self.gradients.T)
        drawn = np.random.default_rng(seed).integers(len(found), size=(2000, len(found)))
        low, high = np.quantile(found[drawn].mean(1), [0.025, 0.975])
        said = {"pearson": found.mean(), "low": low, "high": high, "residual": residual.mean(), "norm": x.norm()}
        return {"finite": True, "worst": float(found.min())} | {name: float(value) for name, value in said.items()}


def pearson(a: Tensor, b: Tensor) -> np.ndarray:
    """(q) correlation over the rows."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    return (a * b).sum(1).numpy()


def prepare(folder: Path, quick: bool) -> tuple[Problem, Truth]:
    """Train (or read) the model, build the dense matrices (or read them), solve exactly."""
    chosen = setting("digits", folder, quick)
    stacked = chosen.trained(range(1), progress=False)
    model = stacked.model(0)
    rows = chosen.rows.select(range(60)) if quick else chosen.rows
    queries = chosen.queries.select(range(4 if quick else QUERIES))
    ids = torch.tensor(rows["input_ids"])
    lm = influence.load(model)
    v, gradients = (flat(lm, part) for part in (queries, rows))
    weights = {name: value.detach().clone() for name, value in model.net.state_dict().items()}
    widths = [model.net[0].in_features, *(layer.out_features for layer in model.net[::2])]
    x, y = model.inputs[ids[:, 0]].contiguous(), ids[:, 1].contiguous()
    matrices = {"G": gauss_newton(folder, lm, rows, widths)}
    if not quick:
        matrices["H"] = hessian(folder, Problem(widths, weights, x, y, v, 0.0, 0.0, [], 0, 0))
    lam = DAMPING * float(matrices["G"].diagonal().mean())
    steps = {"cg_steps": [10] if quick else [20, 50], "lissa_steps": 40 if quick else 500, "batch": 32}
    problem = Problem(widths, weights, x, y, v, lam, largest(matrices["G"]), **steps, matrices=list(matrices))
    return problem, solved(problem, matrices, gradients.double())


def solved(problem: Problem, matrices: dict[str, Tensor], gradients: Tensor) -> Truth:
    exact, negative = {}, {}
    for name, matrix in matrices.items():
        damped = matrix + problem.lam * torch.eye(len(matrix), dtype=torch.float64)
        factor, pivots, failed = torch.linalg.ldl_factor_ex(damped)
        if failed:
            raise SystemExit(f"the dense matrix {name} could not be factored")
        exact[name] = torch.linalg.ldl_solve(factor, pivots, problem.v.double().T).T
        negative[name] = _negative(factor, pivots)
    return Truth(matrices, exact, negative, gradients, problem.lam)


def _negative(factor: Tensor, pivots: Tensor) -> int:
    """Negative eigenvalues of what was factored, by Sylvester's law: those of D, whose blocks are 1 × 1 or 2 × 2."""
    diagonal, below, count, place = factor.diagonal(), factor.diagonal(-1), 0, 0
    while place < len(diagonal):
        if pivots[place] < 0:
            count += int((diagonal[place] * diagonal[place + 1] - below[place] ** 2) < 0) or 2 * int(
                diagonal[place] < 0
            )
            place += 2
        else:
            count += int(diagonal[place] < 0)
            place += 1
    return count


def flat(lm: LM, rows: Rows) -> Tensor:
    """Gradients of log p (q p), in the order of the net's parameters."""
    return from_blocks(query_gradients(lm, rows, progress=False)[0].values())


def gauss_newton(folder: Path, lm: LM, rows: Rows, widths: list[int]) -> Tensor:
    """The library's dense matrix, in the order of the net's parameters."""

    def build() -> Tensor:
        return dense_gauss_newton(lm, rows)

    matrix = kept(folder, "G", lm.net, rows, build)
    p = len(matrix)
    blocks = torch.arange(p).split([block.size for block in lm.blocks])
    order = from_blocks(part.view(1, *block.shape) for part, block in zip(blocks, lm.blocks, strict=True))[0]
    return matrix[order][:, order]


def hessian(folder: Path, problem: Problem, at_once: int = 128) -> Tensor:
    """The Hessian of the mean loss over the rows, float64."""
    net = problem.net().double()
    at = torch.cat([value.detach().flatten() for value in net.parameters()])

    def loss(weights: Tensor) -> Tensor:
        outputs = functional_call(net, unflatten(net, weights), (problem.x.double(),))
        return torch.nn.functional.cross_entropy(outputs, problem.y)

    def build() -> Tensor:
        unit = torch.eye(len(at), dtype=torch.float64)
        column = vmap(lambda v: jvp(grad(loss), (at,), (v,))[1])
        matrix = torch.cat([column(part) for part in unit.split(at_once)])
        return (matrix + matrix.T) / 2

    return kept(folder, "H", net, problem.y.tolist(), build)


def kept(folder: Path, letter: str, net: torch.nn.Module, rows: Any, build: Any) -> Tensor:
    """From the folder where it was built for the same weights and rows."""
    from safetensors.torch import load_file, save_file

    key = hashlib.sha256(repr(rows if isinstance(rows, list) else rows.to_dict()).encode())
    for value in net.parameters():
        key.update(value.detach().double().numpy().tobytes())
    path = folder / f"{letter}-{key.hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_file(path)["matrix"]
    matrix = build()
    save_file({"matrix": matrix.contiguous()}, path)
    return matrix


def largest(matrix: Tensor, steps: int = 200) -> float:
    """The largest eigenvalue, by power iteration from the all-ones vector."""
    v = torch.ones(len(matrix), dtype=matrix.dtype)
    for _ in range(steps):
        v = matrix @ (v / v.norm())
    return float(v.norm())
