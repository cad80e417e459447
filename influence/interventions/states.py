"""The five edits as pure functions on hidden states.

Everywhere `hidden` is (b t d), `tokens` (b t) bool says which tokens are edited, and each row and token is edited on
its own: nothing else of the batch is looked at. Source: Ben Artzy & Schwartz 2024 (arXiv 2409.03621), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def noised(hidden: Tensor, tokens: Tensor, gaussian: Tensor) -> Tensor:
    """Each chosen token's state replaced by the direction of `gaussian` (b t d), at the length of the state."""
    kind = torch.promote_types(hidden.dtype, torch.float32)
    direction = gaussian / gaussian.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(gaussian.dtype).tiny)
    length = hidden.to(kind).norm(dim=-1, keepdim=True)
    return _only(tokens, (length * direction.to(hidden.device, kind)).to(hidden.dtype), hidden)


def frozen(after: Tensor, before: Tensor, tokens: Tensor) -> Tensor:
    """What a layer hands on, `after`, with chosen tokens as the layer got them, `before`."""
    return _only(tokens, before, after)


def swapped(hidden: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
    """Chosen tokens' states replaced by those of another prompt, `other` (b t d), aligned token by token."""
    return _only(tokens, other.to(hidden), hidden)


def shuffled(hidden: Tensor, tokens: Tensor, order: Tensor) -> Tensor:
    """The features inside each chosen token permuted: feature i becomes feature order[b, t, i]; order (b t d) int64."""
    return _only(tokens, hidden.gather(-1, order.to(hidden.device)), hidden)


def skipped(added: Tensor, tokens: Tensor) -> Tensor:
    """What attention adds to the stream, (b t d), with nothing added for chosen tokens."""
    return _only(tokens, torch.zeros_like(added), added)


def _only(tokens: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(tokens.to(old.device)[..., None], new, old)
