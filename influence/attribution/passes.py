"""What every pass over rows shares: types, devices, progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from influence.types import LM, Block

if TYPE_CHECKING:
    from torch import Tensor

# Numbers that per-sequence gradients of one block take at a time: on CPUs so few that they stay in the cache.
PRODUCT_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}


def compute_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch type for "float32", "bfloat16", …; None for the model's own.

    Raises:
        ValueError: for anything else.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}; give 'float32', 'float64', 'bfloat16', or None for the model's own")
    if dtype is not None and found is None:
        raise ValueError(f"dtype is {dtype!r}; give 'float32', 'float64', 'bfloat16', or None for the model's own")
    return found


def model_dtype(lm: LM) -> torch.dtype:
    return next(p.dtype for p in lm.net.parameters() if p.is_floating_point())


def state_dtype(lm: LM) -> torch.dtype:
    """Sums are kept in float64 for a float64 model and in float32 otherwise."""
    return torch.float64 if model_dtype(lm) == torch.float64 else torch.float32


def device_of(lm: LM) -> torch.device:
    return next(lm.net.parameters()).device


def shapes(lm: LM) -> dict[str, tuple[int, int]]:
    """(o, i) by block name, in block order."""
    return {block.name: block.shape for block in lm.blocks}


def watched(items: Iterable[Any], what: str, total: int, progress: bool) -> Iterator[Any]:
    """The items behind a progress bar that counts rows and shows itself after two seconds."""
    with tqdm(total=total, desc=what, unit="row", delay=2, disable=not progress, leave=False) as bar:
        for places, batch in items:
            yield places, batch
            bar.update(len(places))


def chunks(block: Block, a: Tensor, copies: int = 1) -> Iterator[slice]:
    """Sequences of a (b t i) taken together so that `copies` of their gradients stay within PRODUCT_NUMBERS."""
    size = max(1, PRODUCT_NUMBERS.get(a.device.type, 1 << 24) // (copies * block.size))
    for start in range(0, len(a), size):
        yield slice(start, start + size)


def require_finite(what: str, names: list[str], sums: list[Tensor], rows: list[int]) -> None:
    """One check per batch for all blocks; names the first bad block and the rows of the batch."""
    from influence.model.capture import NotFinite

    if not sums:
        return
    good = torch.isfinite(torch.stack([s.detach().float() for s in sums])).cpu()
    if not good.all():
        bad = [name for name, fine in zip(names, good.tolist(), strict=True) if not fine]
        raise NotFinite(f"{what}: block {bad[0]} became NaN or infinite in a batch with the rows {rows[:8]}")
