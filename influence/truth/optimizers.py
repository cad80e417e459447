"""Optimizers over the stacked parameters of many models: one flat buffer (M, P), each model with its own norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8


@dataclass
class Flat:
    """All parameters of M models (M, P), and the first and second moments (or the momentum) beside them."""

    values: Tensor
    first: Tensor
    second: Tensor


def flatten(states: Sequence[Mapping[str, Tensor]]) -> tuple[Flat, dict[str, torch.Size]]:
    """The buffers for these models, and the shapes by name that `views` needs."""
    values = torch.stack([torch.cat([value.detach().flatten() for value in state.values()]) for state in states])
    shapes = {name: value.shape for name, value in states[0].items()}
    return Flat(values, torch.zeros_like(values), torch.zeros_like(values)), shapes


def views(values: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The parameters by name (M, …) as views into the buffer (M, P)."""
    found, start = {}, 0
    for name, shape in shapes.items():
        size = shape.numel()
        found[name] = values[:, start : start + size].unflatten(1, shape)
        start += size
    return found


def clipped(gradient: Tensor, most: float) -> Tensor:
    """Each model's gradient cut to norm `most`, as torch.nn.utils.clip_grad_norm_ does for one."""
    norms = gradient.norm(dim=1, keepdim=True)
    return gradient * (most / (norms + 1e-6)).clamp_max(1.0)


def adamw(flat: Flat, gradient: Tensor, lr: float, step: int, recipe: Any) -> None:
    """torch.optim.AdamW's step number `step` (from 1), in place."""
    b1, b2 = recipe.betas
    flat.values.mul_(1 - lr * recipe.weight_decay)
    flat.first.lerp_(gradient, 1 - b1)
    flat.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    below = flat.second.sqrt().div_((1 - b2**step) ** 0.5).add_(EPS)
    flat.values.addcdiv_(flat.first, below, value=-lr / (1 - b1**step))


def sgd(flat: Flat, gradient: Tensor, lr: float, step: int, recipe: Any) -> None:
    """A step of stochastic gradient descent with momentum (torch.optim.SGD's), weight decay decoupled, in place."""
    flat.values.mul_(1 - lr * recipe.weight_decay)
    flat.first.mul_(recipe.momentum).add_(gradient)
    flat.values.add_(flat.first, alpha=-lr)


STEPS: dict[str, Callable[[Flat, Tensor, float, int, Any], None]] = {"adamw": adamw, "sgd": sgd}


def step_of(name: str) -> Callable[[Flat, Tensor, float, int, Any], None]:
    """The step by its name; ValueError for an unknown one."""
    if name not in STEPS:
        raise ValueError(f"optimizer is {name!r}; choose from {', '.join(STEPS)}")
    return STEPS[name]
