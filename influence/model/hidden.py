"""A hidden state as what a model answers, so that passes made for logits measure it; nothing stays on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from influence.model.capture import forward
from influence.model.loss import Measure
from influence.model.quiet import quiet
from influence.model.sites import find_sites
from influence.types import LM, Batch


@contextmanager
def hidden_output(lm: LM, layer: int, site: str = "resid_post") -> Iterator[None]:
    """Inside, `lm.net(ids)` returns the hidden state (b t d) of a site of `layer` where it returned logits.

    Gradients of a measure of it reach the blocks up to that layer; those above run, and get none. Sites and layers as
    in `influence.model.sites`, but not `mlp.post` of a mixture of experts, which is no one tensor. The model's hooks
    are as before on leaving, also after an error.

    Raises:
        NoSite: for a site or layer that the model does not have.
        ValueError: for neurons inside fused experts.
        RuntimeError: inside, where the site took no part in the pass.
    """
    (place,) = find_sites(lm.net, [site], [layer]).values()
    if place.side not in ("input", "output"):
        raise ValueError(f"{site} of layer {layer} lies inside fused experts and is no one tensor; use another site")
    held: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        held[:] = [(args[0] if args else next(iter(kwargs.values()))).clone()]  # later modules may write into it

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        held[:] = [(output if isinstance(output, Tensor) else output[0]).clone()]

    def answer(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        ids = args[0] if args else kwargs["input_ids"]
        if not held:
            raise RuntimeError(f"{site} of layer {layer} took no part in the forward pass; use another site or layer")
        return held.pop().reshape(*ids.shape, -1)

    module = lm.net.get_submodule(place.path)
    if place.side == "input":
        inner = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        inner = module.register_forward_hook(after)
    outer = lm.net.register_forward_hook(answer, with_kwargs=True)
    try:
        yield
    finally:
        inner.remove()
        outer.remove()


@contextmanager
def hidden_gradients(lm: LM, layers: Sequence[int]) -> Iterator[Callable[[Batch, Measure], dict[int, Tensor]]]:
    """A function (batch, measure) -> the gradient (b t d) of each row's measurement at resid_post, by layer.

    The backward signal of a measurement: what the layers above would have a layer's output change by. Layers from 0,
    and −1 for the embedding output; hooks live inside the context only.

    Raises:
        NoSite: for layers that the model does not have.
        RuntimeError: inside, where a layer took no part in the forward pass.
    """
    start = find_sites(lm.net, ["resid_post"], [-1])["resid_post", -1]
    places = {layer: find_sites(lm.net, ["resid_post"], [layer])["resid_post", layer] for layer in layers if layer >= 0}
    held: dict[int, Tensor] = {}

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next(iter(kwargs), "")
        held[-1] = (args[0] if args else kwargs[name]).detach().requires_grad_()
        return ((held[-1], *args[1:]), kwargs) if args else (args, {**kwargs, name: held[-1]})

    def after(layer: int, output: Any) -> None:
        held[layer] = output if isinstance(output, Tensor) else output[0]

    def run(batch: Batch, measure: Measure) -> dict[int, Tensor]:
        held.clear()
        with torch.enable_grad():
            values = measure(forward(lm.net, batch.input_ids), batch)
            if missing := [layer for layer in layers if layer not in held]:
                raise RuntimeError(f"layer {missing[0]} took no part in the forward pass; leave it out")
            found = torch.autograd.grad(values.sum(), [held[layer] for layer in layers])
        held.clear()
        shape = batch.input_ids.shape
        return {layer: one.reshape(*shape, -1) for layer, one in zip(layers, found, strict=True)}

    with ExitStack() as stack:
        stack.enter_context(quiet(lm.net))
        module = lm.net.get_submodule(start.path)
        stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer, place in places.items():
            hook = lm.net.get_submodule(place.path).register_forward_hook
            stack.callback(hook(lambda _, args, output, layer=layer: after(layer, output)).remove)
        yield run
