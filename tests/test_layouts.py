"""Live models that call their linear maps in unusual ways: right, or refused by name, never silently wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captured import default_batch, gradients_of
from cases import VOCAB, oracle_all, shake
from torch import Tensor, nn

from influence.model.load import load

EXACT = {"rtol": 0.0, "atol": 1e-12}


class Layers(nn.Module):
    """Running means through two perceptrons; a subclass says how a layer calls its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, 16)
        maps = [nn.ModuleDict({"up": nn.Linear(16, 32), "down": nn.Linear(32, 16)}) for _ in range(2)]
        self.layers = nn.ModuleList(maps)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.tokens(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        for layer in self.layers:
            hidden = self.step(hidden, layer["up"], layer["down"])
        return self.head(hidden)

    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        raise NotImplementedError


class ActivationInPlace(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(F.relu(up(hidden), inplace=True))


class ScaledInPlace(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(torch.tanh(up(hidden).mul_(0.5)))


class ByKeyword(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(input=torch.tanh(up(input=hidden)))


class Flattened(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(torch.tanh(up(hidden.flatten(0, 1)))).view_as(hidden)


class TimeFirst(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(torch.tanh(up(hidden.transpose(0, 1)))).transpose(0, 1)


class LastPosition(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(torch.tanh(up(hidden[:, -1:])))


class InputOverwritten(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        own = hidden.clone()
        out = down(torch.tanh(up(own)))
        return own.add_(out)


class CalledTwice(Layers):
    def step(self, hidden: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return hidden + down(torch.tanh(up(hidden))) + down(torch.sigmoid(up(hidden)))


class WeightOnly(Layers):
    def step(self, hidden: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:  # type: ignore[override]
        return hidden + F.linear(torch.tanh(up(hidden)), down.weight, down.bias)


def opened(kind: type[Layers]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind().double().eval()
        shake(net)
    return net


@pytest.mark.parametrize("kind", [ActivationInPlace, ScaledInPlace, ByKeyword, Flattened])
def test_unusual_calls_give_the_right_gradient(kind: type[Layers]) -> None:
    net, batch = opened(kind), default_batch()
    got = gradients_of(load(net), batch)
    want = oracle_all(net, batch.input_ids, batch.loss_mask, list(got))
    for name in got:
        torch.testing.assert_close(got[name], -want[name], **EXACT)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TimeFirst, r"layers\.0\.up saw an input of shape \(14, 3, 16\)"),
        (LastPosition, r"layers\.0\.up saw an input of shape \(3, 1, 16\)"),
        (InputOverwritten, r"input of layers\.\d\.up is overwritten"),
        (CalledTwice, r"layers\.0\.up runs twice"),
        (WeightOnly, r"layers\.0\.down.*took no part"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(kind: type[Layers], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        gradients_of(load(opened(kind)), default_batch())
