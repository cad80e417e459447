"""Rows, and slow direct computations, that several tests share."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from torch import Tensor, nn


def token_rows(n: int, seed: int, *, low: int = 4, high: int = 20, vocab: int = 37, first: int = 0) -> datasets.Dataset:
    """n rows of random lengths; about a third of the tokens are not scored, the last may or may not be."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(low, high, n)
    ids = [rng.integers(0, vocab, length).tolist() for length in lengths]
    masks = []
    for length in lengths:
        mask = (rng.random(length) < 0.7).astype(int)
        mask[0], mask[rng.integers(1, length)] = 0, 1
        masks.append(mask.tolist())
    return datasets.Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": list(range(first, first + n))})


def direct_pairs(net: nn.Module, rows: datasets.Dataset, name: str) -> list[tuple[Tensor, Tensor]]:
    """(a, g) of one Linear for every row alone, only the positions that count, by ordinary hooks and backward."""
    module = net.get_submodule(name)
    found = []
    for row in rows:
        ids, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["loss_mask"])
        seen: dict[str, Tensor] = {}

        def keep(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor, seen: dict[str, Tensor] = seen) -> None:
            seen["a"], seen["y"] = args[0], out
            out.retain_grad()

        handle = module.register_forward_hook(keep)
        logits = net(ids).logits
        handle.remove()
        log_p = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        (log_p * mask[1:]).sum().backward()
        last = int(mask.nonzero().max())
        a = seen["a"].detach()[0, :last]
        a = torch.cat([a, torch.ones(last, 1, dtype=a.dtype)], 1) if module.bias is not None else a
        found.append((a, seen["y"].grad[0, :last].detach()))
    return found


def kronecker(basis_out: Tensor, values: Tensor, basis_in: Tensor) -> Tensor:
    """(Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ as one dense matrix over the flattened (o i)."""
    q = torch.kron(basis_out, basis_in)
    return q @ torch.diag(values.flatten()) @ q.T
