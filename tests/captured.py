"""Pairs and per-sequence gradients by the library's own capture, to compare with the oracle in cases.py."""

from __future__ import annotations

from typing import Any

import torch
from cases import padded, sequences
from torch import Tensor

from influence.model.capture import capture
from influence.model.loss import log_p
from influence.types import LM, Batch, Block, Pair


def make_batch(ids: Tensor, mask: Tensor) -> Batch:
    return Batch(ids, mask, torch.arange(len(ids)))


def default_batch() -> Batch:
    return make_batch(*padded(sequences()))


def pairs_of(lm: LM, batch: Batch, **options: Any) -> dict[str, Pair]:
    found: dict[str, Pair] = {}

    def use(block: Block, pair: Pair) -> None:
        assert block.name not in found, f"{block.name} was handed out twice"
        found[block.name] = pair

    with capture(lm, **options) as run:
        run(batch, log_p, use)
    return found


def gradients_of(lm: LM, batch: Batch, **options: Any) -> dict[str, Tensor]:
    """Per-sequence gradients (b o i) of log p; zero for an expert that nothing was routed to."""
    pairs = pairs_of(lm, batch, **options)
    out = {}
    for block in lm.blocks:
        if block.name in pairs:
            out[block.name] = torch.einsum("bto,bti->boi", pairs[block.name].g, pairs[block.name].a)
        else:
            out[block.name] = torch.zeros(len(batch.row), *block.shape, dtype=torch.float64)
        assert out[block.name].shape == (len(batch.row), *block.shape)
    return out
