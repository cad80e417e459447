"""A model is left exactly as it was found, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captured import default_batch, gradients_of
from cases import FAMILIES, Float64
from state import assert_same, state_of
from torch import Tensor

from influence.model.capture import capture
from influence.model.load import load
from influence.model.loss import log_p
from influence.types import LM, Batch, Block, Pair


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind(family: str) -> None:
    net = FAMILIES[family]()
    half = list(net.parameters())[::2]
    for parameter in half:
        parameter.requires_grad_(False)
    with Float64():
        lm, batch = load(net), default_batch()
        before = state_of(net)
        gradients_of(lm, batch)
    assert_same(before, state_of(net))


def fail_in_use(lm: LM, batch: Batch) -> None:
    def use(block: Block, pair: Pair) -> None:
        if block is lm.blocks[1]:
            raise ZeroDivisionError("midway through the backward pass")

    with capture(lm) as run:
        run(batch, log_p, use)


def fail_in_measure(lm: LM, batch: Batch) -> None:
    def measure(logits: Tensor, batch: Batch) -> Tensor:
        raise ZeroDivisionError("between forward and backward")

    with capture(lm) as run:
        run(batch, measure, lambda block, pair: None)


def fail_in_forward(lm: LM, batch: Batch) -> None:
    with capture(lm) as run:
        run(batch._replace(input_ids=batch.input_ids + 1000), log_p, lambda block, pair: None)


def fail_by_interrupt(lm: LM, batch: Batch) -> None:
    with capture(lm) as run:
        run(batch, log_p, lambda block, pair: None)
        raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [fail_in_use, fail_in_measure, fail_in_forward, fail_by_interrupt])
@pytest.mark.parametrize("family", ["gpt2", "mixtral", "llama_lora", "live"])
def test_nothing_is_left_behind_after_a_failure(family: str, fail: Callable[[LM, Batch], None]) -> None:
    net = FAMILIES[family]().train()
    first = next(net.parameters())
    first.grad = torch.ones_like(first)
    with Float64():
        lm, batch = load(net), default_batch()
        before = state_of(net)
        with pytest.raises((ZeroDivisionError, IndexError, KeyboardInterrupt)):
            fail(lm, batch)
        assert_same(before, state_of(net))
        assert gradients_of(lm, batch)
