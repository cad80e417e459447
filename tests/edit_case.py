"""Models and inputs for the tests of edits."""

from __future__ import annotations

from typing import Any

import torch
from cases import FAMILIES, VOCAB
from torch import Tensor

import influence
from influence.interventions import Edit, freeze, noise, shuffle, skip, swap
from influence.interventions.source import inputs_of
from influence.model.load import load
from influence.types import LM

ISSUE = ("gpt2", "gpt_neox", "llama", "mistral", "gemma2", "qwen2", "opt")
T = 9  # longer than the sliding window of 8


def ids_of(b: int = 3, t: int = T, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, (b, t), generator=torch.Generator().manual_seed(seed))


def logits_of(lm: LM, ids: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        out = lm.net(ids, **more)
    return getattr(out, "logits", out)


def opened(family: str) -> LM:
    return load(FAMILIES[family]())


def every(ids: Tensor, k: int = 1) -> dict[str, Edit]:
    """One edit of each kind at layer k."""
    other = ids_of(len(ids), ids.shape[1], seed=9)
    return {"noise": noise(k), "freeze": freeze(k), "swap": swap(k, other), "shuffle": shuffle(k), "skip": skip(k)}


def layer_inputs(lm: LM, ids: Tensor, *edits: Edit) -> dict[int, Tensor]:
    """What the layers receive under edits: hooks put on later see what ours did."""
    with influence.edit(lm, *edits):
        return inputs_of(lm, ids, range(lm.n_layers))
