"""See the products of weights that no Linear applies: fused experts, one slice per expert, and routers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from influence.types import Block

SLICE = re.compile(r"^(?P<parameter>.+)\[(?P<expert>\d+)\]$")

Seen = Callable[[Block, Tensor, Tensor, Tensor | None], Tensor]


def expert_of(block: Block) -> tuple[str, int] | None:
    """(parameter path, expert) of a fused block; None for a block that is a module."""
    found = SLICE.match(block.name)
    return (found["parameter"], int(found["expert"])) if found else None


def routing_modules(net: nn.Module, blocks: list[Block]) -> list[nn.Module]:
    """The modules that hold the fused parameters of these blocks, each once."""
    paths = {expert_of(b)[0].rsplit(".", 1)[0] for b in blocks if expert_of(b)}  # type: ignore[index]
    return [net.get_submodule(path) for path in sorted(paths)]


class ExpertTap(TorchFunctionMode):
    """While active, hands every product with a tracked bare weight to `seen(block, input, output, tokens)`.

    Follows the two selections that the unfused forward makes: the tokens routed to an expert out of the hidden
    states, and the expert's slice out of the parameter. `tokens` are places in the flattened (b t), None for routers.
    """

    def __init__(self, weights: dict[str, Tensor], blocks: list[Block], seen: Seen):
        super().__init__()
        self.seen = seen
        self.routers = {id(weights[f"{b.name}.weight"]): b for b in blocks if not expert_of(b)}
        self.blocks = {expert_of(b): b for b in blocks if expert_of(b)}
        self.names = {id(weights[name]): name for name in {key[0] for key in self.blocks if key}}
        self.slices: dict[int, tuple[Tensor, tuple[str, int]]] = {}
        self.hidden: Tensor | None = None
        self.tokens: Tensor | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of an experts module: remember the hidden states that tokens are taken from."""
        self.hidden = args[0] if args else kwargs["hidden_states"]
        self.slices.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            self._selected(args[0], args[1], out)
        elif func is F.linear and len(args) > 1 and id(args[1]) in self.slices:
            block = self.blocks.get(self.slices[id(args[1])][1])
            if block is not None and torch.is_grad_enabled():
                out = self._product(block, args[0], out)
        elif func is F.linear and len(args) > 1 and id(args[1]) in self.routers and torch.is_grad_enabled():
            out = self.seen(self.routers[id(args[1])], args[0], out, None)
        return out

    def _selected(self, source: Tensor, index: Any, out: Tensor) -> None:
        if source is self.hidden and isinstance(index, Tensor) and index.ndim == 1:
            self.tokens = index
        elif id(source) in self.names and not isinstance(index, tuple | slice):
            self.slices[id(out)] = (out, (self.names[id(source)], int(index)))

    def _product(self, block: Block, a: Tensor, out: Tensor) -> Tensor:
        if self.tokens is None or len(self.tokens) != a.shape[0]:
            raise RuntimeError(
                f"{block.name}: cannot tell which tokens an expert saw (this model routes them in a way not followed); "
                "select other blocks, for instance blocks='attention'"
            )
        return self.seen(block, a, out, self.tokens)


def by_sequence(a: Tensor, g: Tensor, tokens: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of one expert laid out per sequence: a (b c i), g (b c o), position (b c) with -1 where unused.

    c is the largest number of tokens that one sequence sent to the expert.
    """
    b, t = shape
    order = tokens.argsort()
    a, g, tokens = a[order], g[order], tokens[order]
    sequence, place = tokens // t, tokens % t
    counts = torch.bincount(sequence, minlength=b)
    within = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[sequence]
    width = max(int(counts.max()) if len(tokens) else 0, 1)
    laid_a, laid_g = a.new_zeros(b, width, a.shape[-1]), g.new_zeros(b, width, g.shape[-1])
    position = tokens.new_full((b, width), -1)
    laid_a[sequence, within], laid_g[sequence, within], position[sequence, within] = a, g, place
    return laid_a, laid_g, position
