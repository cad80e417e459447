"""Measurements of a batch: functions (logits (b t v), batch) -> one number per row (b), in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from influence.types import Batch

Measure: TypeAlias = Callable[[Tensor, Batch], Tensor]
IGNORE = -100


def log_p(logits: Tensor, batch: Batch) -> Tensor:
    """Σ over scored tokens of log p(token | prefix), shape (b), in nats."""
    return _log_likelihood(logits, batch.input_ids, batch.loss_mask)


def log_p_tokens(logits: Tensor, batch: Batch) -> Tensor:
    """log p(token | prefix) at each scored position, 0 elsewhere; shape (b t), in nats."""
    scores = _per_position(logits, batch.input_ids, batch.loss_mask)
    return F.pad(scores[:, :-1], (1, 0))


def sampled_log_p(seed: int) -> Measure:
    """log p of labels drawn from the model itself: its gradients give the true Fisher.

    A label depends on (seed, row id, position) and the model's probabilities alone, never on the batch.
    """

    def measure(logits: Tensor, batch: Batch) -> Tensor:
        return _log_likelihood(logits, sample_labels(logits.detach(), batch, seed), batch.loss_mask)

    return measure


def sample_labels(logits: Tensor, batch: Batch, seed: int) -> Tensor:
    """(b t) a token for each position t, drawn from the prediction at t - 1 by inverting its distribution function."""
    b, t = batch.input_ids.shape
    places = batch.loss_mask[:, 1:].nonzero(as_tuple=True)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    p = logits[:, :-1][places].to(wide).softmax(-1).cumsum(-1)
    u = torch.from_numpy(_uniforms(seed, batch.row.numpy(), t)).to(logits.device, wide)
    drawn = torch.searchsorted(p, (u[:, 1:][places] * p[:, -1])[:, None]).squeeze(-1)
    labels = torch.zeros(b, t, dtype=torch.long, device=logits.device)
    labels[:, 1:][places] = drawn.clamp_max(logits.shape[-1] - 1)
    return labels


def _uniforms(seed: int, rows: np.ndarray, length: int) -> np.ndarray:
    """(b t) numbers in [0, 1), each a function of (seed, row id, position)."""
    keys = np.array([seed, 0], dtype=np.int64).view(np.uint64)
    out = np.empty((len(rows), length))
    for place, row in enumerate(np.asarray(rows, dtype=np.int64).view(np.uint64)):
        keys[1] = row
        out[place] = np.random.Generator(np.random.Philox(key=keys)).random(length)
    return out


def normals(seed: int, rows: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers in the shape (b t v) of `like`, those of a row a function of (seed, row id) alone."""
    keys = np.array([seed, 0], dtype=np.int64).view(np.uint64)
    out = np.empty(tuple(like.shape))
    for place, row in enumerate(rows.cpu().numpy().astype(np.int64).view(np.uint64)):
        keys[1] = row
        out[place] = np.random.Generator(np.random.Philox(key=keys)).standard_normal(out.shape[1:])
    return torch.from_numpy(out).to(like)


def _per_position(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """(b t) log p of the label at t + 1 from the logits at t, 0 where it is not scored."""
    wanted = F.pad(labels[:, 1:].masked_fill(~loss_mask[:, 1:], IGNORE), (0, 1), value=IGNORE)
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    loss = F.cross_entropy(wide.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=IGNORE)
    return -loss.view_as(wanted)


def _log_likelihood(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    return _per_position(logits, labels, loss_mask).sum(1)
