"""One measurement for all items of a concept, oriented identically and never by their labels, and two readings of it.

The measurement of an item is log p(words of label A | text) − log p(words of label B | text), means over the words
where a label has several. Its influence signature is [I_l(z, item)]_z, the influence of training rows z on it through
the blocks of each layer l; its backward signal is its gradient at each layer's output at the text's last token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekfac import EKFACSolver
from ekfac.rotate import into
from influence.attribution.gradients import gradient_dtype
from influence.attribution.passes import chunks, device_of
from influence.data.files import BadData
from influence.data.queries import queries as query_rows
from influence.grads import dense
from influence.model.batches import batches, columns
from influence.model.capture import capture
from influence.model.hidden import hidden_gradients
from influence.model.loss import log_p
from influence.types import Block, Grad, Pair

if TYPE_CHECKING:
    from influence.types import LM, Rows, Solver

NUMBERS = 1 << 28  # of gradients held at a time
Turn = Callable[[Block, Pair], Pair]


@dataclass(frozen=True, eq=False)
class Oriented:
    """Query rows of n items: each item's text before each word, in turn; `weight` (words) is its share in the sum.

    `last` (rows) is the position of the text's last token.
    """

    rows: Rows
    weight: NDArray[np.float64]
    last: NDArray[np.int64]

    @property
    def items(self) -> int:
        return len(self.rows) // len(self.weight)

    def part(self, start: int, stop: int) -> Oriented:
        """The items from `start` to before `stop`."""
        k = len(self.weight)
        return Oriented(self.rows.select(range(start * k, stop * k)), self.weight, self.last[start * k : stop * k])


def label_words(items: Any, labels: Sequence[int], most: int) -> tuple[list[str], list[str]]:
    """At most `most` completions of each of two labels, the commonest among its items, none of both.

    Raises:
        BadData: for items without the columns `completion` and `label`, and labels that have no word of their own.
    """
    if "completion" not in items.column_names:
        raise BadData(f"the items have the columns {', '.join(items.column_names)}; completion is needed beside them")
    told = list(zip(items["label"], items["completion"], strict=True))
    counts = [Counter(word for label, word in told if label == one) for one in labels]
    shared = set(counts[0]) & set(counts[1])
    own = [sorted(set(one) - shared, key=lambda word: (-one[word], word))[:most] for one in counts]
    if not own[0] or not own[1]:
        raise BadData(
            f"its labels are asked for by the same completions ({', '.join(sorted(shared)[:3])}), so no measurement of "
            "them is oriented alike for all items"
        )
    return own[0], own[1]


def oriented(lm: LM, texts: Sequence[str], words: tuple[Sequence[str], Sequence[str]]) -> Oriented:
    """The measurement of every text. Raises BadData for words of which a text leaves no token."""
    told = [{"prompt": text, "completion": word} for text in texts for word in (*words[0], *words[1])]
    rows = query_rows(told, lm)
    share = [1 / len(words[0])] * len(words[0]) + [-1 / len(words[1])] * len(words[1])
    last = np.array([int(np.argmax(mask)) for mask in columns(rows)[1]]) - 1
    return Oriented(rows, np.array(share), last)


def signatures(
    lm: LM,
    rows: Rows,
    solver: Solver,
    asked: Oriented,
    *,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
) -> NDArray[np.floating]:
    """(layers, items, rows): influence of rows on each item's measurement through the blocks of each layer, times n.

    With EK-FAC both sides stay in the eigenbasis, into which tokens are turned and not gradients.
    """
    turn, solve = _ways(lm, solver)
    at_once = max(1, NUMBERS // sum(block.size for block in lm.blocks))
    parts = []
    for start in range(0, asked.items, at_once):
        part = asked.part(start, min(start + at_once, asked.items))
        grad = _gradients(lm, part, turn, batch_size, dtype)
        parts.append(_contracted(lm, rows, solve(grad), turn, batch_size, dtype))
    return np.concatenate(parts, 1)


def _ways(lm: LM, solver: Solver) -> tuple[Turn, Callable[[Grad], dict[str, Tensor]]]:
    """How pairs are turned before their products, and what is then done to the items' gradients."""
    if not isinstance(solver, EKFACSolver):
        return lambda block, pair: pair, lambda grad: {name: dense(one) for name, one in solver(grad).value.items()}

    def turned(block: Block, pair: Pair) -> Pair:
        one = solver.factors[block.name]
        kind = one.eigenvalues.dtype
        return pair._replace(a=into(pair.a.to(kind), one.basis_in), g=into(pair.g.to(kind), one.basis_out))

    def divided(grad: Grad) -> dict[str, Tensor]:
        return {name: solver.divide(name, grad.pop(name)) for name in list(grad)}  # type: ignore[arg-type]

    return turned, divided


def _gradients(lm: LM, asked: Oriented, turn: Turn, batch_size: int, dtype: torch.dtype | None) -> Grad:
    """{block: (items o i)} of the measurements, turned."""
    device, kind, k = device_of(lm), gradient_dtype(lm, dtype), len(asked.weight)
    total = {block.name: torch.zeros(asked.items, *block.shape, dtype=kind, device=device) for block in lm.blocks}
    for places, use in _passes(lm, asked.rows, turn, batch_size, dtype):
        item, weight = torch.from_numpy(places // k).to(device), torch.from_numpy(asked.weight[places % k]).to(device)

        def add(block: Block, part: slice, one: Tensor, item: Tensor = item, weight: Tensor = weight) -> None:
            total[block.name].index_add_(0, item[part], (one * weight[part, None, None].to(one)).to(kind))

        use(add)
    return dict(total)


def _contracted(
    lm: LM, rows: Rows, v: dict[str, Tensor], turn: Turn, batch_size: int, dtype: torch.dtype | None
) -> NDArray[np.floating]:
    """(layers, items, rows) products of solved gradients with the rows' turned ones, summed over a layer's blocks."""
    n = len(next(iter(v.values())))
    found = torch.zeros(lm.n_layers, n, len(rows), dtype=next(iter(v.values())).dtype)
    for places, use in _passes(lm, rows, turn, batch_size, dtype):

        def add(block: Block, part: slice, one: Tensor, places: NDArray[np.int64] = places) -> None:
            if block.layer is not None:
                product = v[block.name].flatten(1) @ one.flatten(1).to(v[block.name]).T
                found[block.layer][:, torch.from_numpy(places[part])] += product.cpu()

        use(add)
    return found.numpy()


Add = Callable[[Block, slice, Tensor], None]


def _passes(
    lm: LM, rows: Rows, turn: Turn, batch_size: int, dtype: torch.dtype | None
) -> Iterator[tuple[NDArray[np.int64], Callable[[Add], None]]]:
    """Places of a batch of rows, and a function that hands out their turned gradients (p o i) of log p by block."""
    with capture(lm, dtype=dtype) as run:
        for places, batch in batches(rows, batch_size, device_of(lm)):

            def use(add: Add, batch: Any = batch) -> None:
                def each(block: Block, pair: Pair) -> None:
                    pair = turn(block, pair)
                    for part in chunks(block, pair.a):
                        add(block, part, torch.bmm(pair.g[part].mT, pair.a[part]))

                run(batch, log_p, each)

            yield places, use


def backward_signals(lm: LM, asked: Oriented, *, batch_size: int = 32) -> NDArray[np.floating]:
    """(layers, items, d): gradient of each item's measurement at every layer's output, at the text's last token."""
    layers, k = range(lm.n_layers), len(asked.weight)
    found: NDArray[np.floating] | None = None
    with hidden_gradients(lm, layers) as run:
        for places, batch in batches(asked.rows, batch_size, device_of(lm)):
            made = run(batch, log_p)
            at = torch.from_numpy(asked.last[places])
            rows = torch.arange(len(places))
            value = np.stack([made[layer][rows, at].double().cpu().numpy() for layer in layers])
            if found is None:
                found = np.zeros((len(layers), asked.items, value.shape[2]))
            for layer, one in enumerate(value):
                np.add.at(found[layer], places // k, one * asked.weight[places % k, None])
    if found is None:
        raise BadData("there are no items; give at least one")
    return found
