"""Losses of a batch and the gradient of their mean, for one chain, or for several at a time under vmap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from influence.llc.space import Space
from influence.llc.target import Target
from influence.llc.traced import Step, traced

Gradient = Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]


def alone(target: Target, space: Space, values: Tensor) -> Gradient:
    """(items (1 b …)) -> losses (1 b) and gradient (1 p) at the one chain `values` (1 p), whatever it is by
    then.

    The parameters are leaves that share the buffer's memory, and their gradients add up in one flat buffer.
    """
    total = torch.zeros_like(values)
    leaves = {name: part.detach().requires_grad_() for name, part in space.weights(values[0]).items()}
    for name, part in space.weights(total[0]).items():
        if name in space.shapes:
            leaves[name].grad = part
    inputs = [leaves[name] for name in space.shapes]
    weights = {**leaves, **space.fixed}

    def gradient(items: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        total.zero_()
        with torch.enable_grad():
            losses = target.losses(weights, tuple(one[0] for one in items))
            mean = losses.mean() * target.scale
            if mean.requires_grad:
                mean.backward(inputs=inputs)
        return losses.detach()[None], total

    return gradient


def together(target: Target, space: Space, values: Tensor) -> Gradient:
    """(items (c b …)) -> losses (c b) and gradient (c p) of all chains `values` (c p) in one vectorised pass."""
    if id(target) not in space.recorded:  # what a search for a step size has recorded serves the chains after it
        space.recorded[id(target)] = traced(_step(target, space))
    again = space.recorded[id(target)]

    def gradient(items: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return again(values, *items)

    return gradient


def _step(target: Target, space: Space) -> Step:
    def one(flat: Tensor, *items: Tensor) -> Tensor:
        return target.losses(space.weights(flat), items)

    every = vmap(one)

    def step(values: Tensor, *items: Tensor) -> tuple[Tensor, Tensor]:
        leaf = values.detach().requires_grad_()
        with torch.enable_grad():
            losses = every(leaf, *items)
            total = losses.mean(1).sum() * target.scale
            found = torch.autograd.grad(total, leaf)[0] if total.requires_grad else torch.zeros_like(leaf)
        return losses.detach(), found

    return step
