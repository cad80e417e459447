"""Losses with known learning coefficients, and nets of growing size, as modules that any library can sample.

A module takes token rows (b t) and gives one loss per row (b); `truth` is nβ(E[L] − L(w*)) at its own nβ and γ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

N = 1000


@dataclass(frozen=True)
class Case:
    """A module at w*, the settings of its chains, and the answer; `mask` names coordinates that move."""

    name: str
    net: nn.Module
    truth: float
    n_beta: float
    gamma: float
    step_size: float
    sampler: str = "sgld"
    fast: float | None = None  # ε for SGNHT
    mask: dict[str, Tensor] | None = None


class Known(nn.Module):
    """A loss of the weights alone."""

    def __init__(self, point: dict[str, Tensor], loss: Any):
        super().__init__()
        for name, value in point.items():
            self.register_parameter(name, nn.Parameter(value.clone()))
        self.loss = loss

    def forward(self, ids: Tensor) -> Tensor:
        return self.loss(dict(self.named_parameters())).expand(len(ids))


def dimension(h: Tensor, n_beta: float, gamma: float) -> float:
    """½ Σ nβh / (nβh + γ)."""
    return float((n_beta * h / (n_beta * h + gamma)).sum() / 2)


def quadrature(n_beta: float, gamma: float) -> float:
    axis = np.linspace(-8, 8, 2001) / np.sqrt(gamma)
    x, y = np.meshgrid(axis, axis)
    loss = (x * y) ** 2
    weight = np.exp(-n_beta * loss - gamma / 2 * (x**2 + y**2))
    return float(n_beta * (weight * loss).sum() / weight.sum())


def cases() -> list[Case]:
    """Quadratic, a masked block of one, normal crossings, reduced rank regression."""
    h = torch.tensor([0.0, 0.01, 0.1, 1.0, 3.0])
    flat = Known({"w": torch.zeros(5)}, lambda w: (h * w["w"].square()).sum() / 2)
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    matrix, mask = root @ root.T / 6, torch.tensor([True, False, True, True, False, False])
    full = Known({"w": torch.zeros(6)}, lambda w: w["w"] @ matrix @ w["w"] / 2)
    own = torch.linalg.eigvalsh(matrix[mask][:, mask])
    cross = Known({"a": torch.zeros(1), "b": torch.zeros(1)}, lambda w: (w["a"] * w["b"]).square().sum())
    n_beta = N / np.log(N)
    return [
        Case("quadratic", flat, dimension(h, 100, 10), 100, 10, 5e-4, fast=4e-3),
        Case("masked block", full, dimension(own, 100, 10), 100, 10, 5e-4, fast=4e-3, mask={"w": mask}),
        Case("normal crossings", cross, quadrature(n_beta, 1.0), n_beta, 1.0, 3e-4, fast=1e-3),
        Case("reduced rank 4-2-3, rank 1", rank(4, 3, 2, 1), 4.0, 1e3, 1.0, 5e-5, fast=5e-5),
    ]


def rank(m: int, n: int, h: int, r: int) -> Known:
    """½‖BA − B₀A₀‖², the superfluous hidden units at zero; its coefficient is 4 for (4, 3, 2, 1)."""
    a, b = torch.zeros(h, m), torch.zeros(n, h)
    for k in range(r):
        a[k, k] = b[k, k] = 1
    true = b @ a
    return Known({"A": a, "B": b}, lambda w: (w["B"] @ w["A"] - true).square().sum() / 2)


class Classifier(nn.Module):
    """An MLP on a table of inputs: a row's first token is the example's number, the second its label."""

    def __init__(self, widths: list[int], seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(i, o), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])
        for p in self.net.parameters():
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=generator) / max(p.shape[-1], 1) ** 0.5)
        self.register_buffer("inputs", torch.randn(N, widths[0], generator=generator))

    def forward(self, ids: Tensor) -> Tensor:
        outputs = self.net(self.inputs[ids[:, 0]])
        return nn.functional.cross_entropy(outputs, ids[:, 1], reduction="none")


class Language(nn.Module):
    """GPT-NeoX of 3 layers and width 64 with 140 tokens: 168,000 parameters; the mean loss of a row's tokens."""

    def __init__(self) -> None:
        super().__init__()
        from influence.model.sizes import Size, neox
        from influence.model.train import initial

        self.lm = initial(neox(Size(3, 64, 1e-3), 140, context=64), 0)
        self.lm.config.pad_token_id = None

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.lm(ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return loss.view(len(ids), -1).mean(1)


def sized() -> dict[str, nn.Module]:
    """Nets by name, from 10 parameters to 168,000."""
    widths = {"4-2": [4, 2], "8-16-4": [8, 16, 4], "16-32-8": [16, 32, 8], "32-64-10": [32, 64, 10],
              "64-96-16": [64, 96, 16], "64-128-64-10": [64, 128, 64, 10]}  # fmt: skip
    found: dict[str, nn.Module] = {name: Classifier(one) for name, one in widths.items()}
    return {**found, "language model": Language()}


def rows(net: nn.Module) -> Tensor:
    """Token rows (N t) that a net takes."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(net, Language):
        return torch.randint(0, 140, (256, 64), generator=generator)
    if isinstance(net, Known):
        return torch.zeros(N, 2, dtype=torch.long)
    out = net.net[-1].out_features
    return torch.stack([torch.arange(N), torch.randint(0, out, (N,), generator=generator)], 1)
