"""Which queries a model answers: greedy decoding gives exactly the completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from influence.model.batches import batches
from influence.model.quiet import quiet

if TYPE_CHECKING:
    from influence.types import LM, Rows


def recall(net: nn.Module | LM, queries: Rows, *, batch_size: int = 64) -> np.ndarray:
    """(q) True where each scored token is the most probable one after its prefix.

    That is the case exactly when greedy decoding from the prompt gives the completion. In the order of `queries`.
    Raises BadRows for queries that cannot be scored.
    """
    model = net if isinstance(net, nn.Module) else net.net
    device = next(model.parameters()).device
    found = np.zeros(len(queries), bool)
    with quiet(model), torch.no_grad():
        for places, batch in batches(queries, batch_size, device):
            out = model(batch.input_ids)
            best = getattr(out, "logits", out)[:, :-1].argmax(-1)
            right = (best == batch.input_ids[:, 1:]) | ~batch.loss_mask[:, 1:]
            found[places] = right.all(1).cpu().numpy()
    return found
