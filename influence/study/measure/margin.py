"""Quantity 5, ranking: influence of training rows on the margin of a concept's probe, layer by layer.

At layer l a linear probe reads the concept off the hidden state h of a prompt's last token. Its weights w are then held
fixed, and the measurement is the margin towards the item's own label: w_y·h minus the mean of w_c·h over the other
classes (two classes: ±w·h, the plain margin; linear in h for any number). Its gradient with respect to the tracked
blocks, zero in all blocks above l, is preconditioned and contracted with the rows as that of any query. Influence is
linear, so the mean margin of several items is one query.

Rows are ranked by the signed influence: a row that supports the concept raises the margin. (The absolute influence is
no test: a row that shares words with the prompts moves their hidden states in every direction, a random one included.)
Concept-bearing rows are compared with others of their own stratum only. Controls are ranked in the same way, on the
same items: probes of labels that are drawn at random for each group, signed towards these labels, and random directions
of the probe's norm. By symmetry both are .5 on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekfac import EKFACSolver
from influence.attribution.collect import Whole
from influence.attribution.gradients import gradient_dtype
from influence.attribution.passes import compute_dtype, device_of, model_dtype
from influence.attribution.score import contract, laid
from influence.data.build import build
from influence.data.files import BadData
from influence.data.words import flatten
from influence.grads import dense
from influence.model.batches import batches
from influence.model.capture import capture
from influence.model.hidden import hidden_output
from influence.study.measure.fixed import Probes, fixed_probes
from influence.study.measure.matching import Ints, matched_auc, matched_pairs
from influence.types import Batch, Block, Grad, Pair

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.types import LM, Rows, Solver

NUMBERS = 1 << 27  # of solved gradients held at a time


def margin_table(
    lm: LM,
    rows: Rows,
    solver: Solver,
    concept: Concept,
    *,
    layers: Sequence[int] | None = None,
    items: int = 48,
    most: int = 512,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """How well influence on the probe's margin ranks concept-bearing rows before matched others; see the module.

    Args:
        layers: some of 0 … n_layers − 1, default all.
        items: how many of the concept's items stand in the mean margin, by `seed`, classes and groups in turn. A row
            supports the items of its own subject most, so few items leave most bearing rows unasked.
        most: rows ranked at most, half of them concept-bearing, drawn by `seed` alone: the same for every model.
        draws: of control labels and of random directions, whose AUCs are averaged.
        dtype: "bfloat16" computes activations and products in it.

    Returns:
        a line a layer: layer, depth ((layer + 1) / n_layers), auc, auc_control, auc_random, n_bearing. An AUC is the
        mean over concept-bearing rows of the share of matched rows below, equal ones counting half; NaN where the
        hidden states of a layer are the same for all items.

    Raises:
        BadData: for items that cannot be probed, and where no bearing row shares its stratum with another.
        ValueError: for layers that do not exist, settings below 1, bearing rows that do not fit the rows.
        NotFinite: for values that are not finite.
    """
    asked = range(lm.n_layers) if layers is None else sorted({int(layer) for layer in layers})
    if not asked or asked[0] < 0 or asked[-1] >= lm.n_layers or min(items, draws, batch_size) < 1 or most < 2:
        raise ValueError(
            f"{layers=}, {items=}, {most=}, {draws=}, {batch_size=}; give layers from 0 to {lm.n_layers - 1}, at least "
            "2 rows and at least 1 of the others"
        )
    chosen, bearing = matched_pairs(concept, len(rows), most, seed)
    probes = fixed_probes(lm, concept, asked, draws=draws, seed=seed, batch_size=batch_size)
    some = rows.select(chosen)
    queries = probes.queries(items, seed)
    found = {
        layer: matched_auc(values, bearing, concept.stratum[chosen])
        for layer, values in margin_influence(
            lm, some, solver, probes, queries, batch_size=batch_size, dtype=dtype, progress=progress
        )
    }
    lines = []
    for layer in asked:
        auc = found.get(layer, np.full(1 + 2 * draws, np.nan))
        line = {"layer": layer, "depth": (layer + 1) / lm.n_layers, "auc": float(auc[0])}
        line |= {"auc_control": float(auc[1 : 1 + draws].mean()), "auc_random": float(auc[1 + draws :].mean())}
        lines.append({**line, "n_bearing": int(bearing.sum())})
    return pd.DataFrame(lines)


def margin_ranking(
    lm: LM,
    rows: Rows,
    solver: Solver,
    concept: Concept,
    *,
    layers: Sequence[int] | None = None,
    items: int = 48,
    seed: int = 0,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
) -> Ints:
    """Places of the concept-bearing rows, those first that raise the probe's margin most: mean rank over layers.

    For `influence.study.measure.removal`, whose random arm draws from the same rows, so that the arms differ by the
    order alone; it costs a pass over these rows and not over the corpus. Arguments and errors as `margin_table`;
    BadData also where no layer's hidden states tell items apart.
    """
    asked = range(lm.n_layers) if layers is None else layers
    probes = fixed_probes(lm, concept, asked, draws=0, seed=seed, batch_size=batch_size)
    places = np.flatnonzero(concept.bearing)
    found = [
        np.argsort(np.argsort(values[0], kind="stable"))
        for _, values in margin_influence(
            lm, rows.select(places), solver, probes, probes.queries(items, seed), batch_size=batch_size, dtype=dtype
        )
    ]
    if not found or not len(places):
        raise BadData(f"{concept.name!r} has no bearing rows, or hidden states are the same for all its items")
    return places[np.argsort(-np.mean(found, 0), kind="stable")]


def margin_influence(
    lm: LM,
    rows: Rows,
    solver: Solver,
    probes: Probes,
    queries: Ints,
    *,
    batch_size: int = 32,
    dtype: str | torch.dtype | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """(layer, influence (k rows) on the mean margin of the items `queries` under each probe) of every layer.

    In units of the margin times the size of the corpus: positive rows raise it.
    """
    kind = compute_dtype(dtype)
    count, layers = len(probes.labels), list(probes.weights)
    at_once = max(1, NUMBERS // (count * sum(block.size for block in lm.blocks)))
    for start in range(0, len(layers), at_once):
        part = layers[start : start + at_once]
        grad: Grad = {block.name: _zeros(lm, block, count * len(part), kind) for block in lm.blocks}
        for place, layer in enumerate(part):
            made = margin_gradients(lm, probes, layer, queries, batch_size=batch_size, dtype=kind)
            for name, one in made.items():
                dense(grad[name])[place * count : (place + 1) * count] = one
        v = _solved(lm, solver, grad, kind)
        found = contract(lm, rows, v, (), batch_size=batch_size, dtype=kind, progress=progress)
        values = cast(Whole, found).values[..., 0]
        yield from zip(part, np.split(values, len(part)), strict=True)


def _zeros(lm: LM, block: Block, count: int, dtype: torch.dtype | None) -> Tensor:
    return torch.zeros(count, *block.shape, dtype=gradient_dtype(lm, dtype), device=device_of(lm))


def _solved(lm: LM, solver: Solver, grad: Grad, dtype: torch.dtype | None) -> dict[str, Tensor]:
    kept = dtype or model_dtype(lm)
    if isinstance(solver, EKFACSolver):
        return {name: laid(solver.block(name, grad.pop(name)), kept) for name in list(grad)}  # type: ignore[arg-type]
    return {name: laid(value, kept) for name, value in solver(grad).value.items()}


def margin_gradients(
    lm: LM,
    probes: Probes,
    layer: int,
    queries: Ints,
    *,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """{block: (k o i)}: the gradient of the items' mean margin under each probe; exactly zero in blocks above."""
    device = device_of(lm)
    total = {block.name: _zeros(lm, block, len(probes.labels), dtype) for block in lm.blocks}
    passes = [batch for _, batch in batches(_asked([probes.ids[place] for place in queries]), batch_size, device)]
    with hidden_output(lm, layer), capture(lm, dtype=dtype) as run:
        for k, direction in enumerate(probes.directions(layer, queries) / len(queries)):

            def add(block: Block, pair: Pair, k: int = k) -> None:
                total[block.name][k] += pair.g.flatten(0, 1).T @ pair.a.flatten(0, 1)

            for batch in passes:
                run(batch, partial(_margin, direction=direction), add)
    return total


def _margin(hidden: Tensor, batch: Batch, *, direction: Tensor) -> Tensor:
    """(b) products of hidden states (b t d) with each row's direction (n d), at the token before the scored one."""
    last = batch.loss_mask.long().argmax(1) - 1
    at = hidden[torch.arange(len(hidden), device=hidden.device), last]
    return (at * direction[batch.row].to(at)).sum(1)


def _asked(ids: list[np.ndarray]) -> Rows:
    """The items with a token after their last, which alone is scored: what comes before it counts in a pass."""
    flat, lengths = flatten([[*one.tolist(), int(one[-1])] for one in ids])
    bounds = np.r_[0, np.cumsum(lengths)]
    mask = np.zeros(len(flat), np.int8)
    mask[bounds[1:] - 1] = 1
    return build(flat, bounds, mask, np.arange(len(lengths)), {})
