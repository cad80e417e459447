"""Block conjugate gradients: the dense answer in fewer products, whatever the queries have in common."""

from __future__ import annotations

from typing import Any

import dense_products as small
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.types import Grad
from lissa import Indefinite, block_cg, cg

ROWS = small.rows(60)
G = small.moment(ROWS)
A = G + small.damping().diag()
V = small.gradients(3)
M = G.diag().diag() + small.damping().diag() + 0.1 * A
ANSWER = small.solved(G, V)


def distance(x: Grad, wanted: torch.Tensor) -> float:
    return float((small.flat(x) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("precondition", [None, small.preconditioner(M)], ids=["plain", "preconditioned"])
def test_it_reaches_the_dense_answer_sooner_than_each_query_alone(precondition: Any) -> None:
    together, alone = (
        method(small.product(G), V, small.LAM, precondition=precondition, steps=6, tolerance=0.0)
        for method in (block_cg, cg)
    )
    assert distance(together.value, ANSWER) < 0.3 * distance(alone.value, ANSWER)
    done = block_cg(small.product(G), V, small.LAM, precondition=precondition, tolerance=1e-10)
    assert distance(done.value, ANSWER) < 1e-9 and done.converged and done.info["products"] == done.steps + 1
    assert float(done.residual.max()) < 2e-10


def test_one_query_takes_the_steps_of_conjugate_gradients() -> None:
    one: Grad = {name: part[:1] for name, part in V.items()}
    for steps in (1, 3, 5):
        block = block_cg(small.product(G), one, small.LAM, steps=steps, tolerance=0.0)
        single = cg(small.product(G), one, small.LAM, steps=steps, tolerance=0.0)
        assert distance(block.value, small.flat(single.value)) < 1e-9


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_queries_that_depend_on_one_another_do_no_harm(seed: int, dtype: torch.dtype) -> None:
    base = small.gradients(2, seed)
    v: Grad = {n: torch.cat([x, x[:1], 1e-9 * x[1:], x[:1] - 3 * x[1:], 0 * x[:1]]).to(dtype) for n, x in base.items()}
    found = block_cg(small.product(G.to(dtype)), v, small.LAM, steps=40, tolerance=1e-5)
    assert found.converged and found.info["zero_queries"] == [5]
    wanted = small.solved(G, {n: x.double() for n, x in v.items()})
    ours = small.flat(found.value).double()
    error = (ours - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-300)
    assert float(error[:5].max()) < 1e-3 and (ours[5] == 0).all()


def test_an_indefinite_matrix_and_bad_settings_are_named() -> None:
    with pytest.raises(Indefinite, match="larger damping"):
        block_cg(small.product(G - 3 * torch.eye(len(G), dtype=G.dtype)), V, small.LAM)
    with pytest.raises(ValueError, match="at least one step"):
        block_cg(small.product(G), V, small.LAM, steps=0)


def test_a_block_without_curvature_takes_no_part() -> None:
    name = list(small.LAM)[0]
    found = block_cg(small.product(G), V, {**small.LAM, name: None}, tolerance=1e-8)
    assert (found.value[name] == 0).all() and found.converged
