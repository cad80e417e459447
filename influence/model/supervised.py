"""Classifiers and regressions in the form of a language model: a row is an example's number, then its label."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Supervised(nn.Module):
    """`net` (b i) -> (b v) over a table of inputs, as forward(ids (b t)) -> outputs (b t v).

    The first token of a row is the place of its example in the table; the output there predicts the second, its label.
    Open it with `influence.load(Supervised(net, inputs))`, and make rows with `influence.examples`.

    Args:
        net: maps inputs (…, i) to outputs (…, v) without mixing examples, for instance an nn.Sequential of nn.Linear.
        inputs: (N, i); they are cast to the type of net's parameters.

    Raises:
        ValueError: for inputs that are not a finite table.
    """

    inputs: Tensor

    def __init__(self, net: nn.Module, inputs: Tensor):
        super().__init__()
        if inputs.ndim != 2 or not torch.isfinite(inputs).all():
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} came; expected is a table (N, i) of finite numbers"
            )
        self.net = net
        self.register_buffer("inputs", inputs, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        first = torch.zeros_like(ids)
        first[:, 0] = 1
        dtype = next(self.net.parameters()).dtype  # of the weights in use, which may be copies of another type
        return self.net((self.inputs[ids * first] * first[..., None]).to(dtype))
