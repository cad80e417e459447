"""`influence.edit`: a model whose hidden states are edited while the context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.interventions import states
from influence.interventions.draws import normals, orders
from influence.interventions.edits import BadEdit, Edit
from influence.interventions.passes import Watch
from influence.interventions.source import Source, check_aligned, placed, source
from influence.model.anatomy import Parts, Place, parts
from influence.types import LM

MODES = ("prompt", "paper")
Change = Callable[[Tensor, Watch, int], Tensor]  # (input of a layer, pass, layer) -> its replacement


class NoAttention(BadEdit):
    """A layer without an attention sub-block that could be left out."""


@contextmanager
def edit(lm: LM, *edits: Edit, mode: str = "prompt", rows: Sequence[int] | Tensor | None = None) -> Iterator[LM]:
    """Edit hidden states in every forward pass and generation of `lm.net` inside the context.

        with influence.edit(lm, influence.interventions.freeze(3)):
            logits = lm.net(**batch).logits
            tokens = lm.net.generate(**batch)

    Works for scoring and generation, with and without a cache, and for padding on either side where the model is given
    its `attention_mask` (b t). Forward pre-hooks of decoder layers edit, a forward hook sets what attention adds to 0
    (so caches keep their length). Hooks that stand on the model act as always, before ours. Nothing is switched off:
    dropout, gradients and the kind of attention stay as they are. Gradients flow through edited states where states
    are mixed (freeze, shuffle, the length of noise); swapped states are constants.

    Args:
        lm: the model; nothing is left on it afterwards, also after an exception.
        edits: any of `influence.interventions` noise, freeze, swap, shuffle, skip. Several act together: at the input
            of a layer in the order given, freezing at its output.
        mode: "prompt" edits the prompt's tokens, with the same random numbers at every step, so that generation with
            a cache and without agree. "paper" edits all tokens but the last of the current sequence anew at every step,
            with fresh random numbers, and without a cache (generation is told so, unless it is told otherwise).
        rows: an id for each row of the batch, on which its random numbers depend; default its place in the batch.

    Random numbers are a function of (seed, row, layer, place of the token) and of the number of the pass in the context
    (a prompt and the steps of its generation count as one in mode "prompt"). Without a cache a pass whose ids are those
    of the pass before and one token more in every row counts as a step of its generation. Beams are rows of their own.

    Raises:
        BadEdit: (a ValueError) for layers out of range, masks of another length, prompts that are not aligned, a cache
            in mode "paper", an attention mask of another form.
        NoAttention: (a BadEdit) for skip where attention is no sub-block of its own.
        ValueError: for an unknown mode and for no edits.
    """
    with edited(lm, edits, mode=mode, keys=None if rows is None else _keys(rows)):
        yield lm


@contextmanager
def edited(
    lm: LM,
    edits: Sequence[Edit],
    *,
    mode: str = "prompt",
    keys: np.ndarray | None = None,
    blocks: Sequence[Parts] | None = None,
) -> Iterator[None]:
    """The same with `keys` (b 2): the id of each row and the number of its first draw; `blocks` are the net's parts."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; give 'prompt' (edit the prompt once) or 'paper' (edit anew at every step)")
    if not edits or not all(isinstance(one, Edit) for one in edits):
        raise ValueError("give at least one edit: influence.interventions noise, freeze, swap, shuffle or skip")
    blocks = parts(lm.net) if blocks is None else blocks
    owner = _owner(lm.net, blocks)
    at = [one.at(len(blocks)) for one in edits]
    watch, inputs = Watch(mode, keys), _by_layer(lm, edits, at)
    with ExitStack() as stack:
        stack.enter_context(_without_cache(lm.net, mode))
        stack.callback(owner.register_forward_pre_hook(watch.enter, with_kwargs=True).remove)
        for layer, changes in inputs.items():
            module = lm.net.get_submodule(blocks[layer].block)
            hook = _input_hook(changes, watch, layer)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for one, layers in zip(edits, at, strict=True):
            for layer in layers if one.kind in ("freeze", "skip") else ():
                stack.callback(_output_hook(lm.net, blocks[layer], one, watch).remove)
        yield


def _keys(rows: Any) -> np.ndarray:
    ids = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise BadEdit(f"rows has shape {ids.shape} and type {ids.dtype}; give one whole number for each row")
    return np.stack([ids.astype(np.int64), np.zeros(len(ids), np.int64)], 1)


def _owner(net: nn.Module, blocks: Sequence[Parts]) -> nn.Module:
    """The module that calls the layers."""
    if not blocks[0].block:
        raise BadEdit(
            f"{type(net).__name__} has no list of decoder layers, so there is no layer whose input can be edited"
        )
    return net.get_submodule(blocks[0].block.rpartition(".")[0].rpartition(".")[0])


@contextmanager
def _without_cache(net: nn.Module, mode: str) -> Iterator[None]:
    """In mode "paper" generation runs without a cache unless it is told otherwise."""
    config = getattr(net, "generation_config", None)
    if mode != "paper" or config is None:
        yield
        return
    before = config.use_cache
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


def _by_layer(lm: LM, edits: Sequence[Edit], at: Sequence[tuple[int, ...]]) -> dict[int, list[Change]]:
    found: dict[int, list[Change]] = {}
    for one, layers in zip(edits, at, strict=True):
        if one.kind in ("freeze", "skip"):
            continue
        change = (
            _swapping(one, source(lm, one.other, layers, one.other_tokens)) if one.kind == "swap" else _drawing(one)
        )
        for layer in layers:
            found.setdefault(layer, []).append(change)
    return found


def _drawing(one: Edit) -> Change:
    def change(hidden: Tensor, watch: Watch, layer: int) -> Tensor:
        assert watch.now is not None
        chosen = watch.chosen(one.tokens)
        if not bool(chosen.any()):
            return hidden
        where = (one.seed, watch.rows(), layer, watch.now.real, watch.now.start, hidden.shape[-1])
        if one.kind == "noise":
            return states.noised(hidden, chosen, normals("noise", *where))
        return states.shuffled(hidden, chosen, orders("shuffle", *where))

    return change


def _swapping(one: Edit, found: Source) -> Change:
    def change(hidden: Tensor, watch: Watch, layer: int) -> Tensor:
        now = watch.now
        assert now is not None
        if now.start:  # a step with a cache: the prompt has been edited
            return hidden
        real, chosen = now.real, watch.chosen(one.tokens)
        inside = torch.arange(now.width, device=real.device) < now.prompt
        chosen = chosen & inside
        check_aligned(found, real & inside, chosen)
        other, where = placed(found, layer, real & inside, chosen)
        return states.swapped(hidden, other, where)

    return change


def _input_hook(changes: Sequence[Change], watch: Watch, layer: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = _checked(args[0] if args else next(iter(kwargs.values())), watch, layer)
        for change in changes:
            hidden = change(hidden, watch, layer)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): hidden}

    return hook


def _checked(hidden: Any, watch: Watch, layer: int) -> Tensor:
    if watch.now is None:
        raise BadEdit("a layer was called on its own; edits need whole passes of the model, to know its tokens")
    b, t = len(watch.now.real), watch.now.width - watch.now.start
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or tuple(hidden.shape[:2]) != (b, t):
        shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise BadEdit(f"layer {layer} receives {shape} where (sequence, position, width) = ({b}, {t}, …) is expected")
    return hidden


def _output_hook(net: nn.Module, part: Parts, one: Edit, watch: Watch) -> Any:
    if one.kind == "skip":
        place = _attention(net, part)

        def skip(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return _first(output, lambda added: _skipped(added, watch.chosen(one.tokens)))

        return net.get_submodule(place.path).register_forward_hook(skip)

    def freeze(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = _checked(args[0] if args else next(iter(kwargs.values())), watch, part.layer)
        chosen = watch.chosen(one.tokens)
        return _first(output, lambda after: states.frozen(after, before, chosen))

    return net.get_submodule(part.block).register_forward_hook(freeze, with_kwargs=True)


def _skipped(added: Tensor, chosen: Tensor) -> Tensor:
    """Also where positions are laid end to end (b*t d)."""
    return states.skipped(added.view(*chosen.shape, -1), chosen).view(added.shape)


def _first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output, or the first of several, changed."""
    if isinstance(output, Tensor):
        return change(output)
    if type(output) in (tuple, list) and len(output) and isinstance(output[0], Tensor):
        return type(output)((change(output[0]), *output[1:]))
    raise BadEdit(f"a layer gave a {type(output).__name__}; a tensor or a tuple that begins with one is expected")


def _attention(net: nn.Module, part: Parts) -> Place:
    place = part.places.get("attn_out")
    if place is None:
        raise NoAttention(
            f"layer {part.layer} of {type(net).__name__} has no attention sub-block of its own that could be left out "
            "(no output projection of attention was found in it); use noise, freeze, swap or shuffle, or name layers "
            "that have one"
        )
    return place
