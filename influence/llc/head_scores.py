"""What attention heads do, head by head: where they look, and what is lost without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence.model.anatomy import Parts, parts
from influence.model.quiet import quiet
from influence.types import LM

NOWHERE = -1
ROWS = 64


def patterns(lm: LM, tokens: np.ndarray) -> np.ndarray:
    """Attention (layer head row query key) of a model on token rows (n t).

    The model attends by transformers' "eager" code meanwhile, the one that hands its weights out. All of it is held:
    give hundreds of rows, not a corpus.

    Raises:
        ValueError: for a model that gives no attention weights.
    """
    net: Any = lm.net
    before, device = net.config._attn_implementation, next(net.parameters()).device
    try:
        net.set_attn_implementation("eager")
        with quiet(net), torch.no_grad():
            found = [
                net(torch.as_tensor(some, device=device), output_attentions=True, use_cache=False).attentions
                for some in np.array_split(tokens, max(1, len(tokens) // ROWS))
            ]
    finally:
        net.set_attn_implementation(before)
    if not found[0] or found[0][0] is None:
        raise ValueError(f"{type(net).__name__} gives no attention weights; heads can be scored by `without` alone")
    layers = [torch.cat([part[layer].cpu() for part in found]) for layer in range(len(found[0]))]
    return torch.stack(layers).transpose(1, 2).numpy()


def looking(pattern: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean attention (layer head) from each position to its place (n t) in the row; those with −1 do not count.

    Raises:
        ValueError: where no position has a place.
    """
    row, query = np.nonzero(places != NOWHERE)
    if not len(row):
        raise ValueError("no position has a place to look at; give at least one that is not −1")
    found: np.ndarray = pattern[:, :, row, query, places[row, query]].mean(-1)
    return found


def previous(tokens: np.ndarray) -> np.ndarray:
    """For `looking`: the token before (n t)."""
    return np.broadcast_to(np.arange(tokens.shape[1]) - 1, tokens.shape)


def induction(first: np.ndarray) -> np.ndarray:
    """For `looking`: the token after the place where the same token stood first (n t); −1 where it did not."""
    return np.where(first == NOWHERE, NOWHERE, first + 1)


def without(lm: LM, measure: Callable[[], float]) -> dict[str, float]:
    """By the name of each head (as in `llc(where=…)`): what `measure` gives with the head's output set to zero."""
    found = {}
    for part in parts(lm.net):
        for head in range(part.heads or 0):
            if part.attention_out is not None:
                with _silenced(lm, part, head):
                    found[f"layer {part.layer} head {head}"] = measure()
    return found


@contextmanager
def _silenced(lm: LM, part: Parts, head: int) -> Iterator[None]:
    """The input of the output map is zero in the head's slice."""

    def silence(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = args[0].clone()
        width = given.shape[-1] // (part.heads or 1)
        given[..., head * width : (head + 1) * width] = 0
        return (given, *args[1:])

    handle = lm.net.get_submodule(str(part.attention_out)).register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()
