"""Noise and batches, every chain's from streams of its own, so that chains do not depend on what runs beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

AHEAD = 1 << 16  # normal numbers drawn at a time, which for few parameters are those of many steps
STEPS = 256  # batches drawn at a time


class Noise:
    """Standard normal numbers (c p) for one step after another, zero where a coordinate is held."""

    def __init__(self, seed: int, chains: Sequence[int], like: Tensor, mask: Tensor | None):
        self.generators = [torch.Generator(like.device).manual_seed(_stream(seed, chain)) for chain in chains]
        self.steps = max(1, AHEAD // len(like))
        self.ready = like.new_empty(len(chains), self.steps, len(like))
        self.mask, self.at = mask, self.steps

    def __call__(self) -> Tensor:
        if self.at == self.steps:
            for numbers, generator in zip(self.ready, self.generators, strict=True):
                numbers.normal_(generator=generator)
            if self.mask is not None:
                self.ready *= self.mask
            self.at = 0
        self.at += 1
        return self.ready[:, self.at - 1]


class Picks:
    """Places of the items (c b) in the batch of one step after another, without repetition inside a batch."""

    def __init__(self, seed: int, chains: Sequence[int], n: int, batch: int):
        self.rngs = [np.random.default_rng([seed, chain, 1]) for chain in chains]
        self.n, self.batch, self.at = n, min(batch, n), STEPS
        self.ready = torch.empty(len(chains), STEPS, self.batch if self.batch < n else 0, dtype=torch.int64)
        self.all = torch.arange(n).expand(len(chains), n)

    def __call__(self) -> Tensor:
        if self.batch == self.n:
            return self.all
        if self.at == STEPS:
            for chain, rng in enumerate(self.rngs):
                self.ready[chain] = torch.from_numpy(subsets(rng, self.n, self.batch, STEPS))
            self.at = 0
        self.at += 1
        return self.ready[:, self.at - 1]


def subsets(rng: np.random.Generator, n: int, b: int, k: int) -> np.ndarray:
    """k uniformly random subsets (k b) of 0 … n − 1 (Floyd 1987, all k at a time)."""
    found = np.empty((k, b), np.int64)
    if 4 * b >= n:
        keys = rng.random((k, n))
        return np.argpartition(keys, b - 1, axis=1)[:, :b].astype(np.int64)
    for place, last in enumerate(range(n - b, n)):
        drawn = rng.integers(0, last + 1, k)
        taken = (found[:, :place] == drawn[:, None]).any(1)
        found[:, place] = np.where(taken, last, drawn)
    return found


def _stream(seed: int, chain: int) -> int:
    """A seed of its own for every (seed, chain)."""
    return int(np.random.SeedSequence([seed, chain]).generate_state(2, np.uint32).view(np.uint64)[0] >> 1)
