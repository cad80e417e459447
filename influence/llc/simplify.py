"""Leave out of a recorded list of tensor operations what gives back its input, and what is the same at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

_aten = torch.ops.aten
SAME = {_aten.expand.default, _aten.view.default, _aten._unsafe_view.default, _aten._to_copy.default}
LIKE = {  # they look at the shape of their first tensor alone, and a recording holds shapes fixed
    _aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default, _aten.new_zeros.default,
    _aten.new_ones.default, _aten.new_full.default,
}  # fmt: skip
MADE = {
    _aten.scalar_tensor.default, _aten.full.default, _aten.zeros.default, _aten.ones.default,
    _aten.arange.default, _aten.arange.start, _aten.arange.start_step,
}  # fmt: skip
LARGEST = 1 << 20  # numbers in a constant that is kept instead of made anew


def simplified(graph: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """The same function of inputs with these shapes, in fewer operations; what it gives must not be written to.

    A graph with operations in place is left as it is: there a constant may be written to.
    """
    if not any(_writes(node) for node in graph.graph.nodes):
        _fold(graph, inputs)
        for node in list(graph.graph.nodes):
            if _idle(node):
                node.replace_all_uses_with(node.args[0])
        graph.graph.eliminate_dead_code()
        _turn(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _fold(graph: GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Put values in the place of what depends on shapes alone."""
    constant: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and _fixed(node, constant):
            constant.add(node)
    keeper = _Keeper(graph, constant)
    with torch.no_grad():
        keeper.run(*inputs)
    for node, value in keeper.values.items():
        name = f"_value_{node.name}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))


def _fixed(node: Node, constant: set[Node]) -> bool:
    before = node.all_input_nodes
    if node.target in MADE and not before or node.target in LIKE and before == [node.args[0]]:
        return True
    return bool(before) and all(one in constant for one in before) and _pure(node)


def _pure(node: Node) -> bool:
    """Whether an operation draws no random numbers."""
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


class _Keeper(Interpreter):
    """Runs a graph and keeps the values of some of its nodes."""

    def __init__(self, graph: GraphModule, wanted: set[Node]):
        super().__init__(graph)
        self.wanted, self.values = wanted, dict[Node, Tensor]()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted and isinstance(value, Tensor) and value.numel() <= LARGEST:
            self.values[n] = value.clone()
        return value


def _turn(graph: GraphModule) -> None:
    """(AB)ᵀ as BᵀAᵀ where a copy in the usual order follows: the product comes out in that order."""
    for node in list(graph.graph.nodes):
        if node.target is not _aten.clone.default or not _in_order(node):
            continue
        turned = node.args[0]
        product = turned.args[0] if _transposed(turned) else None
        if product is None or product.target is not _aten.bmm.default or len(product.users) > 1:
            continue
        with graph.graph.inserting_before(node):
            b, a = (_transpose(graph, one) for one in reversed(product.args))
            node.replace_all_uses_with(graph.graph.call_function(_aten.bmm.default, (b, a)))


def _transposed(node: Node) -> bool:
    """Whether a node is (c i j) -> (c j i)."""
    return node.target is _aten.transpose.int and set(node.args[1:]) == {1, 2}


def _transpose(graph: GraphModule, node: Node) -> Node:
    if _transposed(node):
        first: Node = node.all_input_nodes[0]
        return first
    return graph.graph.call_function(_aten.transpose.int, (node, 1, 2))


def _in_order(node: Node) -> bool:
    layout = _layout(node)
    return layout is not None and torch.empty(layout[0], device="meta").stride() == layout[2]


def _idle(node: Node) -> bool:
    """Whether an operation gives back what it was given."""
    if node.target is _aten.detach.default:
        return True
    by_one = node.target is _aten.mul.Scalar and node.args[1] == 1
    if not by_one and node.target not in SAME:
        return False
    before, after = (_layout(one) for one in (node.args[0], node))
    return before is not None and before == after


def _layout(node: Any) -> tuple[Any, ...] | None:
    meta = getattr(node, "meta", {}).get("tensor_meta")
    return None if meta is None else (meta.shape, meta.dtype, meta.stride)
