"""One damped system for every library: the net, its rows, the right sides, λ, and what a method is.

Imports torch only, so that a peer's own environment can run it. Vectors are flat in the order of net.parameters().
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

DIVERGING = "10 × the largest stable step"


@dataclass(frozen=True, eq=False)
class Problem:
    """(G + λI) x = v for v (q p), G the mean over rows x (n i), labels y (n); `largest` is G's largest eigenvalue."""

    widths: list[int]
    weights: dict[str, Tensor]
    x: Tensor
    y: Tensor
    v: Tensor
    lam: float
    largest: float
    cg_steps: list[int]
    lissa_steps: int
    batch: int
    matrices: list[str] = field(default_factory=lambda: ["G", "H"])

    def net(self) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i, o in zip(self.widths[:-1], self.widths[1:], strict=True):
            layers += [nn.Linear(i, o), nn.ReLU()]
        net = nn.Sequential(*layers[:-1]).to(self.v.dtype)
        net.load_state_dict(self.weights)
        return net.eval()

    def passes(self, products: float, rows: int | None = None) -> float:
        """Products over all n rows that so many products over `rows` rows cost; per right side."""
        return products * (len(self.x) if rows is None else rows) / len(self.x)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = {f"weights/{name}": value.contiguous() for name, value in self.weights.items()}
        save_file(tensors | {"x": self.x, "y": self.y, "v": self.v.contiguous()}, folder / "problem.safetensors")
        rest = {name: getattr(self, name) for name in _NUMBERS}
        (folder / "problem.json").write_text(json.dumps(rest))

    @staticmethod
    def read(folder: Path) -> Problem:
        from safetensors.torch import load_file

        kept = load_file(folder / "problem.safetensors")
        weights = {name.removeprefix("weights/"): kept.pop(name) for name in list(kept) if name.startswith("weights/")}
        return Problem(weights=weights, **kept, **json.loads((folder / "problem.json").read_text()))


_NUMBERS = ("widths", "lam", "largest", "cg_steps", "lissa_steps", "batch", "matrices")


@dataclass(frozen=True)
class Method:
    """`solve(v, steps, made)` -> (x, products over all rows per right side); `setup()` makes what does not depend on v.

    `group` is what stands in one line of the table, the best of its `setting`s beside the one its library gives;
    `matrix` is "G" or "H" (the Hessian).
    """

    group: str
    setting: str
    solve: Callable[[Tensor, int, Any], tuple[Tensor, float]]
    steps: int = 1
    matrix: str = "G"
    default: bool = False
    diverging: bool = False
    setup: Callable[[], Any] | None = None


def unflatten(net: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """Parameters by name from one flat vector (p)."""
    found, start = {}, 0
    for name, parameter in net.named_parameters():
        found[name] = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return found


def to_blocks(problem: Problem, flat: Tensor) -> list[Tensor]:
    """(q o i + 1) per layer, the bias last, from (q p)."""
    found, start = [], 0
    for i, o in zip(problem.widths[:-1], problem.widths[1:], strict=True):
        weight, bias = flat[:, start : start + o * i], flat[:, start + o * i : start + o * (i + 1)]
        found.append(torch.cat([weight.unflatten(1, (o, i)), bias[..., None]], 2))
        start += o * (i + 1)
    return found


def from_blocks(blocks: Iterable[Tensor]) -> Tensor:
    """The inverse of `to_blocks`."""
    return torch.cat([part for block in blocks for part in (block[..., :-1].flatten(1), block[..., -1])], 1)


class Linearised(nn.Module):
    """The net linearised at its weights: the Hessian of its loss there IS the Gauss-Newton matrix of the net.

    So a library that knows the Hessian only can be given exactly the matrix that the others solve with.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.moved = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in net.parameters()])
        self.names = [name for name, _ in net.named_parameters()]
        self.fixed = {name: value.detach() for name, value in net.named_parameters()}
        self.inner = [net]  # in a list, so that its parameters are not this module's

    def forward(self, x: Tensor) -> Tensor:
        moved = dict(zip(self.names, self.moved, strict=True))
        change = {name: moved[name] - self.fixed[name] for name in self.names}
        at, along = jvp(lambda weights: functional_call(self.inner[0], weights, (x,)), (self.fixed,), (change,))
        return at.detach() + along


def differentiable(problem: Problem, matrix: str) -> nn.Module:
    """A module whose mean loss has the Hessian `matrix` at its own weights."""
    net = problem.net()
    return net if matrix == "H" else Linearised(net)


def scales(problem: Problem) -> list[float]:
    """A sweep of LiSSA's scale (1 / α) around the largest eigenvalue; batches need more than the full matrix."""
    return [factor * (problem.largest + problem.lam) for factor in (0.6, 1.0, 2.0, 4.0)]


def too_small(problem: Problem) -> float:
    """The scale whose step is ten times the largest one that is stable on all rows."""
    return (problem.largest + problem.lam) / 20
