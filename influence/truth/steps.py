"""One stack of small models trained together: batches, gradients under vmap, steps, losses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from influence.model.batches import columns, pad
from influence.model.capture import forward
from influence.model.likelihood import Likelihood
from influence.model.schedule import rate
from influence.truth.optimizers import Flat, clipped, flatten, step_of, views
from influence.truth.template import Source, drawn, vectorised
from influence.types import Batch

if TYPE_CHECKING:
    from influence.types import Rows

State = dict[str, Tensor]


class Recipe(NamedTuple):
    """How every model of a stack is trained; see `train_stacked`."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    clip: float | None
    optimizer: str
    betas: tuple[float, float]
    momentum: float
    window: int
    checkpoints: tuple[int, ...]


class Data(NamedTuple):
    ids: Tensor
    mask: Tensor
    row: Tensor
    lengths: np.ndarray


def data_of(rows: Rows, device: str) -> Data:
    ids, masks, row = columns(rows)
    batch = pad(ids, masks, row, device)
    return Data(batch.input_ids, batch.loss_mask, batch.row.to(device), np.array([len(one) for one in ids]))


def digest(data: Data) -> str:
    parts = (data.ids.cpu().numpy(), data.mask.cpu().numpy(), data.row.cpu().numpy(), data.lengths)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def logits(net: nn.Module, weights: State, ids: Tensor) -> Tensor:
    return functional_call(_Forward(net), {f"net.{name}": value for name, value in weights.items()}, (ids,))


class _Forward(nn.Module):
    """The net as ids -> logits."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        return forward(self.net, ids)


def train_stack(
    net: nn.Module,
    source: Source,
    data: Data,
    masks: np.ndarray,
    seeds: list[int],
    recipe: Recipe,
    likelihood: Likelihood,
    bar: Any,
) -> tuple[State, dict[int, State], np.ndarray]:
    """Final parameters, kept checkpoints by epoch, and losses (M epochs) of models that see equally many rows.

    Raises FloatingPointError where a loss is not finite; names the model and the epoch.
    """
    flat, shapes = flatten([drawn(source, net, seed) for seed in seeds])
    own = [np.flatnonzero(mask) for mask in masks]
    steps = recipe.epochs * -(-len(own[0]) // recipe.batch_size)
    gradient = _gradient(net, likelihood)
    weights = views(flat.values, shapes)
    kept: dict[int, State] = {0: _copied(weights)} if 0 in recipe.checkpoints else {}
    losses, step = [], 0
    with vectorised(net):
        for epoch in range(recipe.epochs):
            seen = []
            for batch in _epoch(data, own, seeds, epoch, recipe):
                grads, loss = gradient(weights, *batch)
                lr = rate(step, steps, recipe.lr, recipe.warmup)
                _update(flat, grads, lr, step + 1, recipe)
                seen.append(loss)
                step += 1
            losses.append(torch.stack(seen).mean(0).double().cpu())
            _check_finite(losses[-1], seeds, epoch, recipe)
            if epoch + 1 in recipe.checkpoints:
                kept[epoch + 1] = _copied(weights)
            bar.update(len(masks))
    return _copied(weights), kept, torch.stack(losses, 1).numpy()


def _gradient(net: nn.Module, likelihood: Likelihood) -> Callable[..., tuple[State, Tensor]]:
    def loss(weights: State, ids: Tensor, mask: Tensor, row: Tensor) -> Tensor:
        return -likelihood.log_p(logits(net, weights, ids), Batch(ids, mask, row)).mean()

    return vmap(grad_and_value(loss))


def _epoch(
    data: Data, own: list[np.ndarray], seeds: list[int], epoch: int, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """ids, mask (M b t) and row (M b) of every step: each model's own batch, cut to the longest row among them."""
    orders = [
        order(data.lengths[places], seed, epoch, recipe.batch_size, recipe.window)
        for places, seed in zip(own, seeds, strict=True)
    ]
    for batch in zip(*orders, strict=True):
        places = np.stack([mine[some] for mine, some in zip(own, batch, strict=True)])
        t = int(data.lengths[places].max())
        index = torch.from_numpy(places).to(data.ids.device)
        yield data.ids[index, :t], data.mask[index, :t], data.row[index]


def _update(flat: Flat, grads: State, lr: float, step: int, recipe: Recipe) -> None:
    gradient = torch.cat([value.flatten(1) for value in grads.values()], 1)
    if recipe.clip is not None:
        gradient = clipped(gradient, recipe.clip)
    step_of(recipe.optimizer)(flat, gradient, lr, step, recipe)


def _copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


def order(lengths: np.ndarray, seed: int, epoch: int, batch_size: int, window: int = 1) -> list[np.ndarray]:
    """The batches of an epoch as places among a model's own rows, every row once, drawn from (seed, epoch).

    Within `window` batches rows are sorted by length; in which order these batches come depends on the epoch alone, so
    that batches of different models have about the same length.
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    found: list[np.ndarray] = []
    common = np.random.default_rng(epoch)
    for start in range(0, len(shuffled), window * batch_size):
        part = shuffled[start : start + window * batch_size]
        if window > 1:
            part = part[np.argsort(lengths[part], kind="stable")]
        cut = [part[k : k + batch_size] for k in range(0, len(part), batch_size)]
        found += [cut[k] for k in common.permutation(len(cut))]
    return found


def _check_finite(losses: Tensor, seeds: list[int], epoch: int, recipe: Recipe) -> None:
    if not torch.isfinite(losses).all():
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        raise FloatingPointError(
            f"in epoch {epoch + 1} of {recipe.epochs} the loss of the model with seed {seeds[bad]} (place {bad} of its "
            f"stack) is {float(losses[bad])}; give a smaller lr than {recipe.lr}, a longer warmup or a smaller clip"
        )
