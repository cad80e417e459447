"""Which tokens a forward pass of an edited model holds: read off the arguments with which its layers' owner is called.

A prompt's first pass starts a chain; the steps of its generation, with a cache or without, belong to the same chain.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.interventions.edits import BadEdit, as_mask

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params")


@dataclass
class Pass:
    """The pass in flight: sequences of `real` (b s) tokens, of which those from `start` on are computed now.

    `prompt` is the length of the chain's first pass, `draw` numbers chains (mode "prompt") or passes (mode "paper").
    """

    real: Tensor
    start: int
    prompt: int
    draw: int

    @property
    def width(self) -> int:
        return int(self.real.shape[1])


@dataclass
class Watch:
    """Follows the passes of a model through one context."""

    mode: str
    keys: np.ndarray | None = None
    now: Pass | None = None
    chains: int = 0
    passes: int = 0
    last: Tensor | None = field(default=None, repr=False)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the module that owns the layers."""
        given = _bound(module, args, kwargs)
        ids = next((v for n, v in given.items() if n in ("input_ids", "ids") and isinstance(v, Tensor)), None)
        seen = ids if ids is not None else given.get("inputs_embeds")
        if seen is None:
            seen = next((value for value in given.values() if isinstance(value, Tensor)), None)
        if seen is None or seen.ndim < 2:
            raise BadEdit(f"{type(module).__name__} was called without tokens (b t); call the model as usual")
        b, t = int(seen.shape[0]), int(seen.shape[1])
        start = _cached(given)
        mask = given.get("attention_mask")
        real = _real(mask, b, start + t)
        if self.mode == "paper" and start:
            raise BadEdit(
                "mode='paper' edits the whole sequence anew at every step, so it cannot use a cache; generate with "
                "use_cache=False, or take mode='prompt', which edits the prompt once and keeps the cache"
            )
        grown = start > 0 or self._grows(ids, b, t)
        if start and self.now is None:
            raise BadEdit("the first pass came with a cache that was filled before the edit; run the prompt inside too")
        prompt = self.now.prompt if grown and self.now is not None else t
        self.chains += not grown
        self.passes += 1
        draw = (self.passes if self.mode == "paper" else self.chains) - 1
        self.now, self.last = Pass(real, start, prompt, draw), None if ids is None else ids.detach()

    def _grows(self, ids: Tensor | None, b: int, t: int) -> bool:
        """Whether this is the last pass's sequence and one token more per row: a step of generation without a cache."""
        last = self.last
        if ids is None or last is None or last.shape[0] != b or t != last.shape[1] + 1:
            return False
        if last.device == ids.device and torch.equal(ids[:, :-1], last):
            return True
        known = {row.tobytes() for row in last.cpu().numpy()}  # beams change places from step to step
        return all(row.tobytes() in known for row in ids[:, :-1].contiguous().cpu().numpy())

    def rows(self) -> np.ndarray:
        """(b 2) the key of each row's random numbers: its id and the draw."""
        assert self.now is not None
        b = len(self.now.real)
        if self.keys is None:
            return np.stack([np.arange(b), np.full(b, self.now.draw)], 1)
        if len(self.keys) != b:
            raise BadEdit(f"rows= names {len(self.keys)} rows and the batch has {b}; give one id for each row")
        return self.keys + np.array([0, self.now.draw])

    def chosen(self, tokens: Any) -> Tensor:
        """(b t) bool: which of the tokens computed now are edited."""
        assert self.now is not None
        real, start = self.now.real, self.now.start
        if isinstance(tokens, str):
            return self._named(tokens)[:, start:]
        mask = as_mask(tokens)
        mask = mask[None] if mask.ndim == 1 else mask
        if mask.shape[1] != self.now.prompt or len(mask) not in (1, len(real)):
            raise BadEdit(
                f"the token mask is for {len(mask)} row(s) of {mask.shape[1]} tokens and the batch has {len(real)} of "
                f"{self.now.prompt}; give (t) for all rows or (b t), padding included, or name tokens ('previous')"
            )
        wide = torch.zeros_like(real)
        wide[:, : self.now.prompt] = mask.to(real.device)
        return (wide & real)[:, start:]

    def _named(self, tokens: str) -> Tensor:
        """(b s) which tokens of the whole sequences "previous", "prompt" or "all" means."""
        assert self.now is not None
        real, prompt = self.now.real, self.now.prompt
        if tokens == "all":
            return real
        inside = torch.arange(self.now.width, device=real.device) < prompt
        if tokens == "prompt":
            return real & inside
        scope = real if self.mode == "paper" else real & inside
        later = scope.flip(1).cumsum(1).flip(1)
        return scope & (later > 1)


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [name for name, one in inspect.signature(module.forward).parameters.items() if one.kind in (0, 1)]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _cached(given: dict[str, Any]) -> int:
    """How many tokens the cache holds."""
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        raise BadEdit(f"the cache is a {type(cache).__name__}, whose length is not known; run without a cache")
    return int(cache.get_seq_length())


def _real(mask: Any, b: int, width: int) -> Tensor:
    """(b s) True where a token is none of padding."""
    if mask is None:
        return torch.ones(b, width, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or tuple(mask.shape) != (b, width):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise BadEdit(
            f"the attention mask is {shape} where ({b}, {width}) is expected: 1 for tokens, 0 for padding; edits must "
            "know which tokens are padding (a static cache prepares another form of mask: use the ordinary cache)"
        )
    return mask.bool()
