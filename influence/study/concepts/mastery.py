"""How well a model has learned a concept: asked with every item, does it prefer the right completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from influence.data.queries import queries as query_rows
from influence.model.batches import batches
from influence.model.capture import forward
from influence.model.loss import log_p
from influence.model.quiet import quiet

if TYPE_CHECKING:
    from influence.study.concepts.concept import Concept
    from influence.types import LM


def mastery(lm: LM, concept: Concept, batch_size: int = 32) -> tuple[float, float]:
    """(recall, query loss): the share of items whose completion is likelier than its contrast after the prompt, and
    the mean of −log p(completion | prompt) in nats.

    Every different (prompt, completion, contrast) of the items counts once; chance is about one half. Raises BadData
    for prompts that cannot be tokenised, ValueError where a probability is not finite.
    """
    names = ("prompt", "completion", "contrast")
    asked = sorted(set(zip(*(list(concept.items[name]) for name in names), strict=True)))
    told = [{"prompt": prompt, "completion": one} for k in (0, 1) for prompt, *ends in asked for one in (ends[k],)]
    found = _log_p(lm, told, batch_size)
    right, wrong = found[: len(asked)], found[len(asked) :]
    if not np.isfinite(found).all():
        raise ValueError(
            f"{int((~np.isfinite(found)).sum())} log probabilities of concept {concept.name!r} are not finite; check "
            "the model, or load it in float32"
        )
    return float((right > wrong).mean()), float(-right.mean())


def _log_p(lm: LM, told: list[dict[str, str]], batch_size: int) -> np.ndarray:
    """(q) log p(completion | prompt) in nats."""
    rows = query_rows(told, lm)
    found = np.zeros(len(rows))
    device = next(lm.net.parameters()).device
    with quiet(lm.net), torch.no_grad():
        for places, batch in batches(rows, batch_size, device):
            found[places] = log_p(forward(lm.net, batch.input_ids), batch).double().cpu().numpy()
    return found
