"""Whether a loss is what the estimate assumes: one number per item, each its own item's, and always the same."""

from __future__ import annotations

import torch
from torch import Tensor

from influence.llc.space import Space
from influence.llc.target import BadLoss, Target

ITEMS = 8
CLOSE = 1e-4


def check(target: Target, space: Space) -> None:
    """Look at the losses of a few items at w*.

    Raises:
        BadLoss: where the loss is no number per item (a mean over a batch, say), where an item's loss depends
            on the items beside it (batch statistics, a contrast, a division by the batch's size) or on chance
            (dropout that evaluation mode does not switch off), or where it is not finite.
    """
    count = min(ITEMS, target.n)
    places = torch.linspace(0, target.n - 1, count).round().long().unique()
    half = len(places) // 2
    with torch.no_grad(), target.borrowed():
        weights = space.weights(space.center)
        first, again = (_losses(target, weights, places) for _ in range(2))
        apart = torch.cat([_losses(target, weights, places[:half]), _losses(target, weights, places[half:])])
    if not torch.isfinite(first).all():
        bad = int(places[(~torch.isfinite(first)).nonzero()[0, 0].cpu()])
        raise BadLoss(f"the loss of item {target.ids[bad]} is not finite at w*; look at this item, or at the weights")
    if not torch.equal(first, again):
        raise BadLoss(
            "the same items have another loss the second time, so chance is in the loss (dropout or noise that "
            "evaluation mode does not switch off); switch it off: L(w) must be a function of w"
        )
    if not torch.allclose(first, apart, rtol=CLOSE, atol=CLOSE * float(first.abs().mean()) + 1e-12):
        raise BadLoss(
            f"the losses of {len(places)} items change by up to {float((first - apart).abs().max()):.3g} when "
            "half of them are computed at a time: an item's loss must not depend on the others in its batch "
            "(batch statistics, a contrastive loss, a division by the batch's size); L is their mean over all "
            "n items"
        )


def _losses(target: Target, weights: dict[str, Tensor], places: Tensor) -> Tensor:
    found = target.losses(weights, target.items(places))
    if found.shape != places.shape:
        raise BadLoss(
            f"the loss of {len(places)} items has the shape {tuple(found.shape)}; expected is one number per "
            f"item, ({len(places)},): leave out the mean or sum over the batch (reduction='none')"
        )
    return found
