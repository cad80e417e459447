"""Between gradients by block (q o i) and tensors in the shape of the model's own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from influence.grads import dense, order
from influence.model.blocks import is_conv1d
from influence.model.experts import expert_of

if TYPE_CHECKING:
    from influence.types import LM, Block, Grad


def parameters(lm: LM) -> dict[str, Tensor]:
    """The parameters that the blocks consist of, detached, by their path in the model."""
    own = dict(lm.net.named_parameters(remove_duplicate=False))
    return {name: own[name].detach() for block in lm.blocks for name in _paths(lm.net, block)}


def to_parameters(lm: LM, grad: Grad) -> dict[str, Tensor]:
    """Every tracked parameter's part (q, *shape) of a gradient; zero in experts that are not tracked.

    Raises:
        ValueError: for a gradient of other blocks.
    """
    shapes = {name: value.shape for name, value in parameters(lm).items()}
    found: dict[str, Tensor] = {}
    for block, value in zip(lm.blocks, order(grad, [b.name for b in lm.blocks]).values(), strict=True):
        whole = dense(value)
        weight, *bias = _paths(lm.net, block)
        if expert := expert_of(block):
            if weight not in found:
                found[weight] = whole.new_zeros(len(whole), *shapes[weight])
            found[weight][:, expert[1]] = whole
            continue
        linear = whole[..., : block.d_in]
        found[weight] = linear.mT if _transposed(lm.net, block) else linear
        if bias:
            found[bias[0]] = whole[..., block.d_in]
    return found


def from_parameters(lm: LM, tensors: dict[str, Tensor]) -> Grad:
    """The gradient by block (q o i) whose parts `to_parameters` would give."""
    found: Grad = {}
    for block in lm.blocks:
        weight, *bias = _paths(lm.net, block)
        whole = tensors[weight]
        if expert := expert_of(block):
            found[block.name] = whole[:, expert[1]]
            continue
        linear = whole.mT if _transposed(lm.net, block) else whole
        found[block.name] = torch.cat([linear, tensors[bias[0]][..., None]], -1) if bias else linear
    return found


def _paths(net: nn.Module, block: Block) -> list[str]:
    """Of the weight, and of the bias where there is one."""
    if expert := expert_of(block):
        return [expert[0]]
    return [f"{block.name}.weight", *([f"{block.name}.bias"] if block.bias else [])]


def _transposed(net: nn.Module, block: Block) -> bool:
    """Whether the weight is kept as (i, o)."""
    module = net.get_submodule(block.name)
    return is_conv1d(module) or isinstance(module, nn.Embedding)
