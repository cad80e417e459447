"""Dense matrices over two blocks as products on a Grad, for tests of the solvers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from influence.types import Grad, Solution

SHAPES = {"one": (3, 4), "two": (5, 2)}
SIZE = sum(o * i for o, i in SHAPES.values())
LAM: dict[str, float | None] = {"one": 0.05, "two": 0.2}


def flat(x: Grad) -> Tensor:
    """(q, all blocks' entries)."""
    return torch.cat([part.flatten(1) for part in x.values()], 1)


def blocks(x: Tensor) -> Grad:
    parts = x.split([o * i for o, i in SHAPES.values()], 1)
    return {name: part.reshape(-1, *shape) for part, (name, shape) in zip(parts, SHAPES.items(), strict=True)}


def product(matrix: Tensor) -> Callable[[Grad], Grad]:
    return lambda x: blocks(flat(x) @ matrix.T)


def rows(n: int, seed: int = 0, decay: float = 1.0) -> Tensor:
    """n row gradients (n SIZE) whose second moment has eigenvalues that fall like k^−2·decay in random directions."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))[0]
    scales = torch.arange(1, SIZE + 1, dtype=torch.float64) ** -decay
    return torch.randn(n, SIZE, generator=generator, dtype=torch.float64) * scales @ turn


def moment(grads: Tensor) -> Tensor:
    return grads.T @ grads / len(grads)


def gradients(q: int, seed: int = 1) -> Grad:
    generator = torch.Generator().manual_seed(seed)
    return blocks(torch.randn(q, SIZE, generator=generator, dtype=torch.float64))


def damping(lam: dict[str, float | None] = LAM) -> Tensor:
    return torch.cat([torch.full((o * i,), lam[name] or 0.0, dtype=torch.float64) for name, (o, i) in SHAPES.items()])


def solved(matrix: Tensor, v: Grad, lam: dict[str, float | None] = LAM) -> Tensor:
    """The dense answer (q SIZE)."""
    return torch.linalg.solve(matrix + damping(lam).diag(), flat(v).T).T


def preconditioner(matrix: Tensor) -> Callable[[Grad], Solution]:
    return lambda x: Solution(blocks(torch.linalg.solve(matrix, flat(x).T).T))
