"""Run a model from any of its layers on, over states that an unedited pass left there.

No model code is copied: the model's own forward pass runs, with the layers below handing on what they get and the layer
in question given what it received when the batch was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from influence.interventions.edits import BadEdit
from influence.model.anatomy import Parts, parts
from influence.model.blocks import embeddings
from influence.model.capture import forward
from influence.model.quiet import quiet
from influence.types import LM


@dataclass
class Stack:
    """A model whose decoder layers can be entered anywhere; made by `stack`.

    `inputs[layer]` (b t d) are the states that the layers received in the recorded pass.
    """

    net: nn.Module
    blocks: tuple[Parts, ...]
    inputs: dict[int, Tensor] = field(default_factory=dict)
    _extras: dict[int, Any] = field(default_factory=dict)
    _ids: Tensor | None = None
    _places: Tensor | None = None
    _at: int | None = None
    _recording: bool = False
    _gathered: bool = False

    def record(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits of ids (b t) at `places` (b m), default everywhere, unedited; keeps what the layers receive."""
        self.inputs, self._extras, self._ids, self._places = {}, {}, ids, places
        self._recording = True
        try:
            return self._run()
        finally:
            self._recording = False

    def run(self, layer: int = 0) -> Tensor:
        """The same logits again, from the recorded input of `layer` on; edits that stand on the model act above it.

        Raises BadEdit where nothing was recorded at that layer.
        """
        if layer not in self.inputs or self._ids is None:
            raise BadEdit(f"layer {layer} was not recorded; recorded are {sorted(self.inputs)}: record a batch first")
        modules = [self.net.get_submodule(part.block) for part in self.blocks[:layer]]
        before = [vars(module).get("forward") for module in modules]
        self._at = layer
        try:
            for number, module in enumerate(modules):
                vars(module)["forward"] = _passing(self._extras.get(number))
            return self._run()
        finally:
            self._at = None
            for module, own in zip(modules, before, strict=True):
                vars(module).pop("forward", None)
                if own is not None:
                    vars(module)["forward"] = own

    def _run(self) -> Tensor:
        assert self._ids is not None
        self._gathered = False
        with torch.no_grad():
            logits = forward(self.net, self._ids)
        if self._places is None or self._gathered:
            return logits
        return _at(logits, self._places)

    def enter(self, layer: int) -> Callable[..., Any]:
        """A forward pre-hook of a layer: keeps its input while recording, gives it back where the pass begins here."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._recording:
                self.inputs[layer] = (args[0] if args else next(iter(kwargs.values()))).detach().clone()
            if self._at != layer:
                return None
            hidden = self.inputs[layer].clone()  # a model may write over its layers' inputs
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, next(iter(kwargs)): hidden}

        return hook

    def leave(self, layer: int) -> Callable[..., Any]:
        """A forward hook of a layer: keeps what it gives beside the states."""

        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._recording and isinstance(output, tuple):
                self._extras[layer] = output[1:]

        return hook

    def choose(self, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """A forward pre-hook of the unembedding: only the places whose logits are wanted go through it."""
        if self._places is None or self._ids is None or not args or args[0].shape[:-1] != self._ids.shape:
            return None
        self._gathered = True
        return (_at(args[0], self._places), *args[1:])


@contextmanager
def stack(lm: LM, layers: Sequence[int] | None = None) -> Iterator[Stack]:
    """A `Stack` that records the inputs of `layers` (default all); nothing is left on the model afterwards.

    The model is in evaluation mode, without gradients, with exact attention. Its own hooks act as always; those on
    layers below the one where a pass begins see states that are not used.

    Raises BadEdit for a model without a list of decoder layers.
    """
    blocks = parts(lm.net)
    if not blocks[0].block:
        raise BadEdit(f"{type(lm.net).__name__} has no list of decoder layers, so it cannot be entered at one of them")
    found = Stack(lm.net, blocks)
    with ExitStack() as hooks:
        hooks.enter_context(quiet(lm.net))
        for layer in range(len(blocks)) if layers is None else layers:
            module = lm.net.get_submodule(blocks[layer].block)
            hooks.callback(module.register_forward_pre_hook(found.enter(layer), with_kwargs=True).remove)
        for part in blocks:
            module = lm.net.get_submodule(part.block)
            hooks.callback(module.register_forward_hook(found.leave(part.layer)).remove)
        if "unembed" in (ends := embeddings(lm.net)):
            hooks.callback(ends["unembed"][1].register_forward_pre_hook(found.choose).remove)
        yield found


def _passing(extras: Any) -> Callable[..., Any]:
    """A layer that hands on the states it gets."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else next(iter(kwargs.values()))
        return hidden if extras is None else (hidden, *extras)

    return forward


def _at(values: Tensor, places: Tensor) -> Tensor:
    """(b m v) of values (b t v) at places (b m)."""
    return values.gather(1, places.to(values.device)[..., None].expand(-1, -1, values.shape[-1]))
