"""Which weights belong to one attention head, found by what moves: any layout of queries, keys and values.

A head hands a slice of the output projection's input. The outputs of the query, key and value maps on which
this slice depends are the head's, however they are fused, interleaved or shared (a key head that serves several
query heads belongs to each of them).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from influence.llc.space import Mask
from influence.llc.target import Target
from influence.model.anatomy import Parts
from influence.model.blocks import is_conv1d, linear_maps
from influence.model.capture import forward
from influence.model.quiet import quiet
from influence.types import LM

TOKENS = 8


class NoHead(ValueError):
    """A head whose weights cannot be told from the others'."""


def head_mask(target: Target, lm: LM, part: Parts, head: int) -> Mask:
    """Masks of one head's weights and biases (not of the output map's bias, which is no head's own).

    Raises:
        NoHead: for an attention without linear maps of its own, or whose heads cannot be told apart.
    """
    if part.attention is None or part.attention_out is None or part.heads is None:
        raise NoHead(f"layer {part.layer} has no attention with one output map; its heads cannot be told apart")
    own = {id(p): name for name, p in lm.net.named_parameters()}
    found: dict[str, Tensor | bool] = {}
    for path, outputs in _outputs(target, lm, part, head).items():
        module = lm.net.get_submodule(path)
        weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
        across = outputs[None, :] if is_conv1d(module) else outputs[:, None]
        found[own[id(weight)]] = across.expand(weight.shape).clone()
        if isinstance(bias, Tensor):
            found[own[id(bias)]] = outputs
    out = lm.net.get_submodule(part.attention_out)
    weight = out.get_parameter("weight")
    conv = is_conv1d(out)
    columns = torch.zeros(weight.shape[0 if conv else 1], dtype=torch.bool, device=weight.device)
    columns[_slice(len(columns), part, head)] = True
    found[own[id(weight)]] = (columns[:, None] if conv else columns[None, :]).expand(weight.shape).clone()
    return found


def _slice(width: int, part: Parts, head: int) -> slice:
    assert part.heads is not None
    if width % part.heads:
        raise NoHead(f"layer {part.layer} hands {width} numbers from {part.heads} heads to {part.attention_out}")
    d = width // part.heads
    return slice(head * d, (head + 1) * d)


def _outputs(target: Target, lm: LM, part: Parts, head: int) -> dict[str, Tensor]:
    """Path of each query, key or value map -> (o) True for outputs on which the head's slice depends."""
    maps = [m.name for m in linear_maps(lm.net) if m.kind == "attn_qkv" and m.name.startswith(f"{part.attention}.")]
    if not maps or not all(isinstance(_module(lm.net, path), nn.Module) for path in maps):
        raise NoHead(f"the maps of layer {part.layer}'s attention are no modules of their own: {maps[:4]}")
    seen: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            seen[path] = output.detach().requires_grad_()
            return seen[path]

        return hook

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        taken["z"] = args[0]

    handles = [lm.net.get_submodule(path).register_forward_hook(keep(path)) for path in maps]
    handles.append(lm.net.get_submodule(str(part.attention_out)).register_forward_pre_hook(take))
    try:
        with quiet(lm.net), torch.enable_grad():
            forward(lm.net, _tokens(target))
    finally:
        for handle in handles:
            handle.remove()
    z = taken["z"]
    pushed = torch.zeros_like(z)
    some = torch.Generator().manual_seed(0)
    part_of = pushed[..., _slice(z.shape[-1], part, head)]
    part_of.copy_(torch.randn(part_of.shape, generator=some).to(part_of))
    grads = torch.autograd.grad(z, [seen[path] for path in maps], pushed, allow_unused=True)
    width = part_of.shape[-1]
    return {
        path: _own(grad.flatten(0, -2).ne(0).any(0), part, head, width)
        for path, grad in zip(maps, grads, strict=True)
        if grad is not None
    }


def _own(depends: Tensor, part: Parts, head: int, width: int) -> Tensor:
    """The outputs of a map that are the head's; a norm over all heads makes each depend on all, but moves none."""
    assert part.heads is not None
    maps, rest = divmod(len(depends), width)
    if not depends.all() or rest or not 1 < maps <= part.heads or part.heads % maps:
        return depends
    group = head // (part.heads // maps)
    found = torch.zeros_like(depends)
    found[group * width : (group + 1) * width] = True
    return found


def _module(net: nn.Module, path: str) -> Any:
    try:
        return net.get_submodule(path)
    except AttributeError:
        return None


def _tokens(target: Target) -> Tensor:
    """Some tokens of the target's own rows."""
    items = target.items(torch.arange(min(4, target.n)))
    return items[0][:, :TOKENS]
