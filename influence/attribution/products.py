"""Mean Gauss-Newton products over all rows of a corpus, a sample, or mini-batches of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from influence.attribution.passes import device_of
from influence.grads import apply, axpy, dense, norm
from influence.model.batches import columns, pad
from influence.model.capture import forward
from influence.model.gauss_newton import Product as OfBatch
from influence.model.gauss_newton import gauss_newton
from influence.model.likelihood import Likelihood, categorical
from influence.model.quiet import quiet
from influence.types import LM, Batch, Grad
from lissa import Product

if TYPE_CHECKING:
    from influence.types import Rows


# Outputs that a product takes at a time
OUTPUTS = {"cpu": 1 << 20, "cuda": 1 << 25}


def rows_at_once(lm: LM, rows: Rows) -> int:
    """Rows of the longest length whose outputs (b t v) are about OUTPUTS numbers."""
    ids = columns(rows)[0]
    device = device_of(lm)
    shortest = torch.from_numpy(np.asarray(min(ids, key=len), np.int64)[None]).to(device)
    with torch.no_grad(), quiet(lm.net):
        width = forward(lm.net, shortest).shape[-1]
    return max(1, OUTPUTS.get(device.type, 1 << 22) // (width * max(len(one) for one in ids)))


@dataclass(frozen=True, eq=False)
class Products:
    """Products of a model over places of its rows, open while `products` is."""

    of: OfBatch
    ids: list[np.ndarray]
    masks: list[np.ndarray]
    row: np.ndarray
    device: torch.device
    budget: int
    progress: bool

    @property
    def n(self) -> int:
        return len(self.row)

    def over(self, places: np.ndarray) -> Product:
        """v -> the mean over these rows of Jᵀ H J v, in v's own type; rows of similar length go together.

        Raises:
            ValueError: for no rows.
        """
        if len(places) == 0:
            raise ValueError("a batch of no rows came for a product; give at least one")
        batches = list(self._batches(places))
        count = len(places)

        def product(v: Grad) -> Grad:
            total: Grad | None = None
            for batch in batches:
                one: Grad = {name: dense(g).to(dense(v[name])) for name, g in self.of(batch, v).items()}
                total = one if total is None else axpy(1.0, one, total)
            assert total is not None
            return apply(lambda part: part / count, total)

        return product

    def sample(self, count: int, seed: int, watched: str = "") -> Product:
        """The product over so many rows drawn without replacement, with a bar that counts products."""
        places = np.arange(self.n)
        if count < self.n:
            places = np.sort(np.random.default_rng([seed, 0]).permutation(self.n)[:count])
        product = self.over(places)
        bar = tqdm(desc=watched, unit="product", delay=2, disable=not self.progress, leave=False)

        def counted(v: Grad) -> Grad:
            found = product(v)
            bar.update()
            return found

        return counted

    def draws(self, count: int, seed: int, total: int) -> Iterator[Product]:
        """Endless products over mini-batches, drawn without replacement within an epoch; a short rest is left out."""
        generator = np.random.default_rng([seed, 0])
        with tqdm(total=total, desc="LiSSA", unit="product", delay=2, disable=not self.progress, leave=False) as bar:
            while True:
                order = generator.permutation(self.n)
                for start in range(0, self.n - count + 1, count):
                    yield self.over(order[start : start + count])
                    bar.update()

    def require_same_twice(self, v: Grad) -> None:
        """Raises ValueError where one product, taken twice, differs: dropout, or another random layer, is on."""
        one: Grad = {name: dense(part).sum(0, keepdim=True) for name, part in v.items()}
        product = self.over(np.arange(min(4, self.n)))
        try:
            first, second = product(one), product(one)
        except RuntimeError as error:
            if "random" not in str(error):
                raise
            raise ValueError(_RANDOM) from error
        if float(norm(axpy(-1.0, first, second))) > 1e-3 * float(norm(first)):
            raise ValueError(_RANDOM)

    def _batches(self, places: np.ndarray) -> Iterator[Batch]:
        order = places[np.argsort([len(self.ids[p]) for p in places], kind="stable")]
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(self.ids[order[stop]]) <= self.budget:
                stop += 1
            chosen = order[start:stop]
            yield pad([self.ids[p] for p in chosen], [self.masks[p] for p in chosen], self.row[chosen], self.device)
            start = stop


_RANDOM = (
    "the same product, taken twice, differs: the model draws random numbers in evaluation mode too. "
    "No solver can use it: switch dropout and other random layers off"
)


@contextmanager
def products(
    lm: LM,
    rows: Rows,
    *,
    likelihood: Likelihood = categorical,
    blockwise: bool = False,
    dtype: torch.dtype | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[Products]:
    """Mean products over any places of `rows`; nothing is left on the model.

    Args:
        batch_size: rows of the longest length that are taken at a time.

    Raises:
        BadRows: for rows that cannot be scored, or none.
    """
    ids, masks, row = columns(rows)
    budget = batch_size * max(len(tokens) for tokens in ids)
    with gauss_newton(lm, likelihood=likelihood, blockwise=blockwise, dtype=dtype) as of:
        yield Products(of, ids, masks, row, device_of(lm), budget, progress)
