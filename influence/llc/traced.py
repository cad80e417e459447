"""The same step again as a recorded list of tensor operations: what vmap and autograd do to find it is done once.

On models of a few thousand parameters most of a step's time is this bookkeeping and not arithmetic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from influence.llc.simplify import simplified

log = logging.getLogger("influence")
Step = Callable[..., tuple[Tensor, Tensor]]
AFTER = 20  # calls with items of the same shapes before a recording, which takes as long as 50 to 100 of them
MOST = 4  # recordings kept: rows of text come in many lengths
SAME = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the largest number, by which a recording may differ


def traced(step: Step) -> Step:
    """`step` (values, *items) -> (losses, gradient), recorded for shapes of items that come again and again.

    A recording is used only if it gives what the step gives, on two different batches. Where there can be none (control
    flow that looks at values, operations that cannot be recorded), the step stays as it is.
    """
    calls: dict[Any, int] = {}
    found: dict[Any, GraphModule | None] = {}
    tried: dict[Any, int] = {}

    def run(values: Tensor, *items: Tensor) -> tuple[Tensor, Tensor]:
        key = tuple((one.shape, one.dtype) for one in (values, *items))
        graph = found.get(key)
        if graph is not None and tried[key] >= 2:
            with torch.no_grad():
                made: tuple[Tensor, Tensor] = graph.forward(values, *items)
            return made
        right = step(values, *items)
        calls[key] = calls.get(key, 0) + 1
        if key not in found and calls[key] > AFTER and len(found) < MOST:
            found[key], tried[key] = _recorded(step, values, items), 0
        elif graph is not None:
            tried[key] += 1
            if not _same(graph, values, items, right):
                log.debug("a recorded step differs from the step itself, which is used")
                found[key] = None
        return right

    return run


def _recorded(step: Step, values: Tensor, items: tuple[Tensor, ...]) -> GraphModule | None:
    try:
        return simplified(make_fx(step)(values, *items), (values, *items))
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises under a tracer
        log.debug("the step cannot be recorded (%s) and is taken as it is", str(error)[:200])
        return None


def _same(graph: GraphModule, values: Tensor, items: tuple[Tensor, ...], right: tuple[Tensor, Tensor]) -> bool:
    with torch.no_grad():
        made = graph(values, *items)
    return all(_close(a, b) for a, b in zip(made, right, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)):
        return False
    largest = b[finite].abs().max() if bool(finite.any()) else b.new_zeros(())
    return bool(((a - b)[finite].abs() <= SAME.get(b.dtype, 1e-2) * largest).all())
