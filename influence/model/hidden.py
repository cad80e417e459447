"""A hidden state as what a model answers, so that passes made for logits measure it; nothing stays on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from influence.model.sites import find_sites
from influence.types import LM


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
