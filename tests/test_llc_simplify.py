"""A recorded list of operations gives the same in fewer operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from influence.llc.simplify import simplified


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recorded(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[GraphModule, int, int]:
    """The simplified recording, with its number of operations before and after."""
    graph = make_fx(function)(*inputs)
    before = len(graph.graph.nodes)
    return (made := simplified(graph, inputs)), before, len(made.graph.nodes)


def gradient(x: Tensor, w: Tensor, labels: Tensor) -> Tensor:
    leaf = w.detach().requires_grad_()
    with torch.enable_grad():
        logits = torch.bmm(x, leaf.transpose(1, 2)).tanh()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return torch.autograd.grad(loss.mean(), leaf)[0].contiguous()


def test_a_gradient_is_the_same_on_other_numbers_with_a_third_fewer_operations() -> None:
    labels = torch.arange(15).view(3, 5) % 4
    graph, before, after = recorded(gradient, numbers(3, 5, 6), numbers(3, 4, 6, seed=1), labels)
    assert after < 2 / 3 * before
    other = (numbers(3, 5, 6, seed=2), numbers(3, 4, 6, seed=3), (labels + 1) % 4)
    for _ in range(2):  # what was kept as a constant is still the same at the second call
        torch.testing.assert_close(graph(*other), gradient(*other), rtol=1e-12, atol=1e-14)


def test_a_product_turned_for_a_copy_is_made_in_that_order() -> None:
    def turned(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b).transpose(1, 2).contiguous().flatten(1)

    graph, _, _ = recorded(turned, numbers(2, 3, 4), numbers(2, 4, 5))
    targets = [node.target for node in graph.graph.nodes]
    assert torch.ops.aten.clone.default not in targets
    a, b = numbers(2, 3, 4, seed=5), numbers(2, 4, 5, seed=6)
    found = graph(a, b)
    assert found.is_contiguous()
    torch.testing.assert_close(found, turned(a, b), rtol=1e-13, atol=1e-14)


def test_a_product_that_is_also_used_as_it_is_is_made_once() -> None:
    def both(a: Tensor, b: Tensor) -> Tensor:
        product = torch.bmm(a, b)
        return product.transpose(1, 2).contiguous().sum(1) + product.sum(2)

    graph, _, _ = recorded(both, numbers(2, 3, 4), numbers(2, 4, 5))
    assert [node.target for node in graph.graph.nodes].count(torch.ops.aten.bmm.default) == 1
    a, b = numbers(2, 3, 4, seed=5), numbers(2, 4, 5, seed=6)
    torch.testing.assert_close(graph(a, b), both(a, b), rtol=1e-13, atol=1e-14)


def test_random_numbers_are_drawn_anew() -> None:
    graph, _, _ = recorded(lambda x: x + torch.bernoulli(torch.full_like(x, 0.5)), numbers(50))
    x = numbers(50, seed=1)
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(graph(x), graph(x))


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_a_list_that_writes_in_place_is_left_alone(shape: tuple[int, ...]) -> None:
    def counted(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total.add_(x)
        return total * 1

    graph, before, after = recorded(counted, numbers(*shape))
    x = numbers(*shape, seed=1)
    assert torch.equal(graph(x), x) and torch.equal(graph(x), x) and after == before


def test_multiplying_by_one_stays_where_it_changes_the_type() -> None:
    whole = torch.arange(4)
    graph, _, _ = recorded(lambda x: x * 1.0, whole)
    assert graph(whole).dtype == torch.float32
