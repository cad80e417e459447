"""Gather the products of a pass into a labelled array: all of them, or the highest and lowest rows per query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from influence.model.batches import columns
from influence.types import LM

if TYPE_CHECKING:
    from influence.types import Rows, Scores

LEVELS = ("block", "layer", "sequence", "token")


def levels(per: str | Sequence[str]) -> tuple[str, ...]:
    """`per` as a checked tuple in the order of dims; () is the sequence alone."""
    asked = (per,) if isinstance(per, str) else tuple(per)
    if not asked or any(name not in LEVELS for name in asked) or {"block", "layer"} <= set(asked):
        raise ValueError(
            f"per is {per!r}; give one of {', '.join(LEVELS)}, or a pair such as ('layer', 'token') "
            "(block and layer exclude each other)"
        )
    return tuple(name for name in ("block", "layer", "token") if name in asked)


class Collected(Protocol):
    """What a pass hands its products to."""

    def add(self, places: np.ndarray, parts: dict[str, Tensor]) -> None: ...

    def array(self, queries: Rows, scale: float, attrs: dict[str, Any]) -> Scores: ...


@dataclass(frozen=True)
class Level:
    """How blocks become the entries of an axis: names of the entries, the entry of every block, more coordinates."""

    dim: str | None
    labels: list[Any]
    index: dict[str, int]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def coords(self) -> dict[str, Any]:
        return {self.dim: self.labels, **self.more} if self.dim else {}


def level(lm: LM, per: tuple[str, ...]) -> Level:
    if "block" in per:
        names = [b.name for b in lm.blocks]
        layers = [-1 if b.layer is None else b.layer for b in lm.blocks]
        return Level("block", names, {name: k for k, name in enumerate(names)}, {"layer": ("block", layers)})
    if "layer" in per:
        found = {b.name: -1 if b.layer is None else b.layer for b in lm.blocks}
        labels = sorted(set(found.values()))
        return Level("layer", labels, {name: labels.index(layer) for name, layer in found.items()})
    return Level(None, [0], {b.name: 0 for b in lm.blocks})


def merged(parts: dict[str, Tensor], axis: Level, shape: tuple[int, ...]) -> np.ndarray:
    """Products (q b …) by block as one array (q b entries …), blocks of one entry summed in block order."""
    first = next(iter(parts.values()), None)
    wide = torch.float64 if first is not None and first.dtype == torch.float64 else torch.float32
    device = "cpu" if first is None else first.device
    total = torch.zeros(len(axis.labels), *shape, dtype=wide, device=device)
    for name, entry in axis.index.items():
        if name in parts:
            total[entry] += parts[name].to(wide)
    return total.cpu().movedim(0, 2).numpy()


@dataclass
class Whole:
    """Every product, (query row [layer or block] [token])."""

    axis: Level
    row: np.ndarray
    width: int | None
    values: np.ndarray

    def add(self, places: np.ndarray, parts: dict[str, Tensor]) -> None:
        q = self.values.shape[0]
        lengths = {p.shape[2] for p in parts.values() if p.ndim == 3}
        shape = (q, len(places), *lengths)
        found = merged(parts, self.axis, shape)
        if self.width is None:
            self.values[:, places] = found
        else:
            self.values[:, places, :, : shape[2] if lengths else 0] = found if lengths else found[..., None]

    def array(self, queries: Rows, scale: float, attrs: dict[str, Any]) -> Scores:
        import xarray

        values = self.values * self.values.dtype.type(scale)
        dims = ["query", "row", self.axis.dim or "one"]
        coords: dict[str, Any] = {"query": columns(queries)[2], "row": self.row}
        coords |= self.axis.coords
        if self.width is not None:
            dims.append("token")
            coords["token"] = np.arange(self.width)
        found = xarray.DataArray(values, dims=dims, coords=coords, name="score", attrs=attrs)
        return found if self.axis.dim else found.squeeze("one")


def keep_all(lm: LM, rows: Rows, q: int, per: tuple[str, ...]) -> Whole:
    ids, _, row = columns(rows)
    axis = level(lm, per)
    width = max(len(tokens) for tokens in ids) if "token" in per else None
    shape = (q, len(row), len(axis.labels)) + (() if width is None else (width,))
    return Whole(axis, row, width, np.zeros(shape, dtype=_numpy_type(lm)))


def _numpy_type(lm: LM) -> type:
    double = next(lm.net.parameters()).dtype == torch.float64
    return np.float64 if double else np.float32


@dataclass
class Extremes:
    """The k highest and k lowest rows per query; never more than 2k of them and one batch are held."""

    axis: Level
    row: np.ndarray
    k: int
    high: tuple[np.ndarray, np.ndarray]
    low: tuple[np.ndarray, np.ndarray]

    def add(self, places: np.ndarray, parts: dict[str, Tensor]) -> None:
        q = self.high[0].shape[0]
        found = merged(parts, self.axis, (q, len(places)))
        ids = np.broadcast_to(self.row[places], (q, len(places)))
        self.high = _best(self.high, found, ids, self.k, -1.0)
        self.low = _best(self.low, found, ids, self.k, 1.0)

    def array(self, queries: Rows, scale: float, attrs: dict[str, Any]) -> Scores:
        import xarray

        values = np.concatenate([self.high[0], self.low[0][:, ::-1]], axis=1)
        rows = np.concatenate([self.high[1], self.low[1][:, ::-1]], axis=1)
        k = self.high[0].shape[1]
        place = np.concatenate([np.arange(1, k + 1), -np.arange(k, 0, -1)])
        dims = ("query", "place", self.axis.dim or "one")
        coords: dict[str, Any] = {
            "query": columns(queries)[2],
            "place": place,
            "row": (("query", "place"), rows),
        }
        coords |= self.axis.coords
        values = values * values.dtype.type(scale)
        found = xarray.DataArray(values, dims=dims, coords=coords, name="score", attrs=attrs)
        return found if self.axis.dim else found.squeeze("one")


def _best(
    kept: tuple[np.ndarray, np.ndarray], values: np.ndarray, ids: np.ndarray, k: int, sign: float
) -> tuple[np.ndarray, np.ndarray]:
    """The k entries with the smallest sign · total, ties by row id, so that the order of batches changes nothing."""
    values = np.concatenate([kept[0], values], axis=1)
    ids = np.concatenate([kept[1], ids], axis=1)
    order = np.lexsort((ids, sign * values.sum(2)), axis=1)[:, :k]
    return np.take_along_axis(values, order[:, :, None], 1), np.take_along_axis(ids, order, 1)


def keep_top(lm: LM, rows: Rows, q: int, per: tuple[str, ...], k: int) -> Extremes:
    axis = level(lm, per)

    def empty() -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((q, 0, len(axis.labels)), dtype=_numpy_type(lm)), np.zeros((q, 0), dtype=np.int64)

    return Extremes(axis, columns(rows)[2], k, empty(), empty())
