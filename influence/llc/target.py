"""What is sampled around: a point w*, and a loss that is the mean over n items of one loss each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from influence.model.batches import columns, pad
from influence.model.capture import call
from influence.model.loss import Measure, log_p
from influence.model.quiet import quiet
from influence.types import LM, Batch

if TYPE_CHECKING:
    from influence.types import Rows

Weights = dict[str, Tensor]
Losses = Callable[[Weights, tuple[Tensor, ...]], Tensor]
UNITS = ("sequence", "token")


class BadLoss(ValueError):
    """A loss that is not one number per item, or whose items depend on each other or on chance."""


@dataclass(frozen=True, eq=False)
class Target:
    """A loss L(w) = (scale/n) Σ_i ℓ_i(w) and the point w* around which it is sampled.

    `point` holds w* by parameter name, `losses` (weights, items) gives ℓ (b) in nats, `items` (places (… b))
    the tensors that belong to these items, and `borrowed` is entered while the chains run. `ids` are the items'
    own names. `lm` is the model it came from, if it came from one, and `tokens` how many an item then has in the mean.
    """

    point: Weights
    losses: Losses
    items: Callable[[Tensor], tuple[Tensor, ...]]
    n: int
    ids: Sequence[int]
    scale: float = 1.0
    unit: str = "item"
    borrowed: Callable[[], AbstractContextManager[Any]] = nullcontext
    lm: LM | None = None
    tokens: float = 0.0

    @property
    def count(self) -> float:
        """The n of nβ: items, or tokens where the loss is a mean over tokens."""
        return self.n / self.scale


def of_function(loss: Callable[[Weights], Tensor], point: Mapping[str, Tensor], n: int) -> Target:
    """A loss of the weights alone (a known potential, a population loss), as if each of n items had this one.

    Raises:
        BadLoss: where it gives anything but one number.
    """
    if n < 2:
        raise ValueError(f"n is {n}; it is the number of items and must be at least 2")

    def losses(weights: Weights, items: tuple[Tensor, ...]) -> Tensor:
        found = loss(weights)
        if found.ndim:
            raise BadLoss(f"the loss has the shape {tuple(found.shape)}; expected is one number of the weights")
        return found.expand(items[0].shape)

    return Target(_copied(point), losses, lambda places: (places,), n, range(n))


def of_items(
    losses: Callable[..., Tensor], point: Mapping[str, Tensor], data: Sequence[Tensor], *, net: nn.Module | None = None
) -> Target:
    """Any loss per item: `losses` (weights by name, *the items' tensors) -> (b), each item's loss its own.

    Args:
        point: w* by name.
        data: tensors of n items each, the items along their first dimension.
        net: a module that `losses` calls; it is in evaluation mode, its parameters frozen, while the chains
            run.

    Raises:
        ValueError: for no tensors, or tensors of different lengths.
    """
    lengths = {len(one) for one in data}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"the data have the lengths {sorted(lengths)}; expected are tensors of the same n ≥ 2 items")
    n = lengths.pop()

    def each(weights: Weights, items: tuple[Tensor, ...]) -> Tensor:
        return losses(weights, *items)

    borrowed = nullcontext if net is None else lambda: _vectorisable(net)
    return Target(
        _copied(point), each, lambda places: tuple(one[places] for one in data), n, range(n), borrowed=borrowed
    )


def of_net(net: nn.Module, data: Sequence[Tensor], loss: Callable[..., Tensor]) -> Target:
    """Any module: the loss of an item is `loss` (net(first tensor), *the other tensors) -> (b), without a reduction."""

    def losses(weights: Weights, inputs: Tensor, *others: Tensor) -> Tensor:
        return loss(functional_call(net, weights, (inputs,)), *others)

    return of_items(losses, dict(net.named_parameters()), data, net=net)


def of_model(lm: LM, rows: Rows, *, loss: Measure | None = None, unit: str = "sequence") -> Target:
    """A language model, or a `Supervised` net, on token rows.

    Args:
        rows: one item each; any data set, not only the one the model was trained on.
        loss: (outputs (b t v), batch) -> (b), default −Σ log p over a row's scored tokens.
        unit: "sequence": L is the mean over rows of a row's loss; "token": that sum over all rows, divided by
            the number of scored tokens (then n counts tokens).

    Raises:
        BadRows: for rows that cannot be scored.
        ValueError: for an unknown unit, or fewer than two rows.
    """
    ids, masks, row = columns(rows)
    if unit not in UNITS or len(ids) < 2:
        raise ValueError(f"unit is {unit!r} and there are {len(ids)} rows; give one of {UNITS}, and at least 2 rows")
    device = next(lm.net.parameters()).device
    table = pad(ids, masks, row, device)
    lengths = torch.tensor([len(one) for one in ids])
    names = _aliases(lm.net)

    def items(places: Tensor) -> tuple[Tensor, ...]:
        t = int(lengths[places].max())
        at = places.to(device)
        return table.input_ids[at, :t], table.loss_mask[at, :t], table.row[places]

    def losses(weights: Weights, some: tuple[Tensor, ...]) -> Tensor:
        outputs = call(lm.net, {alias: weights[name] for alias, name in names.items()}, some[0])
        return -log_p(outputs, Batch(*some)) if loss is None else loss(outputs, Batch(*some))

    scored = sum(int(mask.sum()) for mask in masks)
    scale = 1.0 if unit == "sequence" else len(ids) / scored
    point = {name: _wide(p) for name, p in _copied(dict(lm.net.named_parameters())).items()}
    mean = float(lengths.double().mean())
    return Target(point, losses, items, len(ids), row.tolist(), scale, unit, lambda: _vectorisable(lm.net), lm, mean)


def _copied(point: Mapping[str, Tensor]) -> Weights:
    return {name: value.detach().clone() for name, value in point.items()}


def _wide(value: Tensor) -> Tensor:
    """Steps are far below the resolution of 16-bit numbers."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _aliases(net: nn.Module) -> dict[str, str]:
    """Every name of every parameter, with the one that `named_parameters` keeps of a tied weight."""
    kept = {id(p): name for name, p in net.named_parameters()}
    return {alias: kept[id(p)] for alias, p in net.named_parameters(remove_duplicate=False)}


@contextmanager
def _vectorisable(net: nn.Module) -> Iterator[None]:
    """Quiet, and without the look for padding that some transformers models take, which vmap cannot follow."""
    config: Any = getattr(net, "config", None)
    padding = getattr(config, "pad_token_id", None)
    try:
        if padding is not None:
            config.pad_token_id = None
        with quiet(net):
            yield
    finally:
        if padding is not None:
            config.pad_token_id = padding
