"""Random numbers of a row that depend on the row alone: not on its batch, its padding or what was drawn before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

KINDS = ("noise", "shuffle")


def normals(kind: str, seed: int, keys: np.ndarray, layer: int, real: Tensor, start: int, width: int) -> Tensor:
    """Standard normal numbers (b t width), float64, for the tokens from `start` on of sequences of `real` (b s) tokens.

    The numbers of a row are a function of (kind, seed, its key, layer) and of the token's place among the row's real
    tokens. `keys` (b 2) int64 holds the row's id and the number of the draw. Padding gets zeros.
    """
    b, s = real.shape
    out = np.zeros((b, s - start, width))
    for row, (one, inside) in enumerate(zip(keys, real.cpu().numpy(), strict=True)):
        before = int(inside[:start].sum())
        count = int(inside.sum())
        if count > before:
            drawn = _generator(kind, seed, int(one[0]), int(one[1]), layer).standard_normal((count, width))
            out[row, inside[start:]] = drawn[before:]
    return torch.from_numpy(out)


def orders(kind: str, seed: int, keys: np.ndarray, layer: int, real: Tensor, start: int, width: int) -> Tensor:
    """Permutations (b t width) int64 of the features of every token, drawn in the same way."""
    return normals(kind, seed, keys, layer, real, start, width).argsort(-1)


def _generator(kind: str, seed: int, row: int, draw: int, layer: int) -> np.random.Generator:
    key = np.array([seed, row], dtype=np.int64).view(np.uint64)
    place = np.array([0, KINDS.index(kind), layer, draw], dtype=np.int64).view(np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=place))
