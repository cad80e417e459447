"""The iterative solvers on dense matrices: the answer, its certificate, and how they fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle, repeat
from typing import Any

import dense_products as small
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influence.grads import norm
from influence.types import Grad
from lissa import Certificate, Diverged, Indefinite, Product, certify, cg, largest, neumann
from lissa.neumann import _require_useful

ROWS = small.rows(60)
G = small.moment(ROWS)
A = G + small.damping().diag()
V = small.gradients(3)
M = G.diag().diag() + small.damping().diag() + 0.1 * A
ANSWER = small.solved(G, V)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mini_batches(grads: Tensor, size: int, seed: int = 0) -> Iterator[Product]:
    draw = generator(seed)
    while True:
        for part in torch.randperm(len(grads), generator=draw).split(size):
            yield small.product(small.moment(grads[part]))


def full(**settings: Any) -> Any:
    return neumann(repeat(small.product(G)), V, small.LAM, generator=generator(), **settings)


def close(x: Grad, wanted: Tensor, tolerance: float) -> None:
    assert float((small.flat(x) - wanted).norm() / wanted.norm()) < tolerance


def pearson(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


@pytest.mark.parametrize("precondition", [None, small.preconditioner(M)], ids=["plain", "preconditioned"])
def test_both_reach_the_dense_answer(precondition: Any) -> None:
    by_cg = cg(small.product(G), V, small.LAM, precondition=precondition, tolerance=1e-10)
    close(by_cg.value, ANSWER, 1e-9)
    assert by_cg.converged and float(by_cg.residual.max()) < 2e-10
    assert by_cg.info["products"] == by_cg.steps + 1
    by_series = full(precondition=precondition, steps=1500)
    close(by_series.value, ANSWER, 1e-6)
    assert by_series.converged and by_series.info["floor"] == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_certificate_is_the_residual() -> None:
    found = full(steps=30)
    r = small.flat(V) - small.flat(found.value) @ A
    assert torch.allclose(found.residual, r.norm(dim=1) / norm(V), rtol=1e-9)
    assert not found.converged and found.info["change"] is None


@pytest.mark.parametrize("precondition", [None, small.preconditioner(M)], ids=["plain", "preconditioned"])
def test_power_iteration(precondition: Any) -> None:
    matrix = A if precondition is None else torch.linalg.solve(M, A)
    true = float(torch.linalg.eigvals(matrix).real.max())
    like, used = V, {"generator": generator(), "precondition": precondition}
    one = largest(repeat(small.product(G)), like, small.LAM, batches=2, steps=200, tolerance=1e-9, **used)
    assert one.value == pytest.approx(true, rel=1e-5)
    few = largest(mini_batches(ROWS, 5), like, small.LAM, **used)
    assert len(few.batches) == 5 and few.value == max(few.batches) and few.products > 5


@pytest.mark.parametrize("precondition", [None, small.preconditioner(M)], ids=["plain", "preconditioned"])
def test_ten_times_the_limit_stops_at_once_and_names_what_works(precondition: Any) -> None:
    matrix = A if precondition is None else torch.linalg.solve(M, A)
    limit = 2 / float(torch.linalg.eigvals(matrix).real.max())
    calls = []

    def counted(x: Grad) -> Grad:
        calls.append(len(next(iter(x.values()))))
        return small.product(G)(x)

    with pytest.raises(Diverged, match=r"within \d+ steps; .* use scale=") as raised:
        neumann(
            repeat(counted),
            V,
            small.LAM,
            generator=generator(),
            scale=10 * limit,
            steps=1000,
            precondition=precondition,
        )
    assert calls.count(3) <= 20
    works = float(str(raised.value).split("scale=")[1].split(",")[0])
    assert limit / 5 < works < limit
    close(full(scale=works, steps=3000, precondition=precondition).value, ANSWER, 1e-6)


def test_a_preconditioner_at_unit_scale_needs_its_own_scale() -> None:
    weak = small.preconditioner(0.1 * M)
    with pytest.raises(Diverged):
        full(precondition=weak, scale=1.0)
    found = full(precondition=weak, steps=1500)
    close(found.value, ANSWER, 1e-6)
    assert found.info["scale"] < 1


def test_an_automatic_scale_backs_off() -> None:
    """Power iteration sees tame batches first; the wild ones that follow need a smaller α."""
    tame, wild = small.product(0.05 * G), small.product(4 * G)
    draws = iter([tame] * 5 + [wild] * 100_000)
    found = neumann(draws, V, small.LAM, generator=generator(), steps=2000)
    assert found.info["backoffs"] >= 1 and found.converged
    close(found.value, small.solved(4 * G, V), 1e-3)


def test_the_averaged_matrix_is_inverted() -> None:
    """Of two very different batches the inverse of the mean is reached, not the mean of the inverses."""
    half = small.SIZE // 2
    first, second = torch.zeros(2, small.SIZE, dtype=torch.float64)
    first[:half], second[half:] = 5.0, 1.0
    ones, others = first.diag() + 0.1 * G, second.diag() + 0.1 * G
    draws = cycle([small.product(ones), small.product(others)])
    right = small.solved((ones + others) / 2, V)
    wrong = (small.solved(ones, V) + small.solved(others, V)) / 2
    assert float((right - wrong).norm() / right.norm()) > 0.5
    found = neumann(draws, V, small.LAM, generator=generator(), scale=0.005, steps=7_000, average=3.0)
    close(found.value, right, 0.02)


def test_noise_falls_with_averaging_and_repeats() -> None:
    def error(steps: int = 400, **settings: Any) -> float:
        found = neumann(mini_batches(ROWS, 3), V, small.LAM, generator=generator(), steps=steps, **settings)
        return float((small.flat(found.value) - ANSWER).norm() / ANSWER.norm())

    one, four = error(), error(repeats=4)
    assert four < 0.75 * one and error(4000, average=3.0) < 0.5 * error(4000)


def test_mini_batch_answers_are_certified() -> None:
    found = neumann(
        mini_batches(ROWS, 10),
        V,
        small.LAM,
        generator=generator(),
        steps=1000,
        average=3.0,
        probes=small.gradients(20, 5),
    )
    true = (small.flat(V) - small.flat(found.value) @ A).norm(dim=1) / norm(V)
    assert (found.residual >= true * 0.8).all() and all(f > 0 for f in found.info["floor"])
    assert all(0 < c < 0.2 for c in found.info["change"]) and all(c < 0.05 for c in found.info["change_rank"])
    assert found.info["change_since"] == 750 and len(found.info["trace"]) == 20


def test_the_certificates_law() -> None:
    """Within 20 % of the residual on all rows wherever that exceeds twice the floor, over many random problems."""
    ratios, raw = [], []
    for seed in range(40):
        grads = small.rows(2000, seed, decay=0.3)
        draw = generator(seed)
        grads = grads * torch.rand(2000, 1, generator=draw, dtype=torch.float64) * 2
        g = small.moment(grads)
        x = small.blocks(small.flat(cg(small.product(g), V, small.LAM, steps=1 + seed % 4, tolerance=0).value))
        chosen = grads[torch.randperm(2000, generator=draw)[:1024]]
        parts = [small.product(small.moment(part)) for part in chosen.split(64)]
        found = certify(x, V, small.LAM, parts, share=1024 / 2000)
        true = (small.flat(V) - small.flat(x) @ (g + small.damping().diag())).norm(dim=1) / norm(V)
        counts = true > 2 * found.floor
        ratios += (found.whole / true)[counts].tolist()
        raw += (found.residual / true)[counts].tolist()
    assert len(ratios) > 30
    assert max(abs(r - 1) for r in ratios) < 0.2
    assert sum(abs(r - 1) < 0.2 for r in raw) > 0.9 * len(raw)


def test_the_floor_is_unbiased_and_vanishes_on_all_rows() -> None:
    grads = small.rows(1000, 3, decay=0.3)
    x = small.blocks(small.solved(small.moment(grads), V))
    whole = [small.product(small.moment(part)) for part in grads.split(50)]
    exact = certify(x, V, small.LAM, whole, share=1.0)
    assert float(exact.residual.max()) < 1e-10 and float(exact.floor.max()) == 0
    squares = []
    for seed in range(30):
        chosen = grads[torch.randperm(1000, generator=generator(seed))[:200]]
        found = certify(x, V, small.LAM, [small.product(small.moment(p)) for p in chosen.split(20)], share=0.2)
        squares.append((found.residual.square() / found.floor.square()).tolist())
    assert torch.tensor(squares).mean() == pytest.approx(1, abs=0.2)


def test_uneven_parts_weigh_by_their_rows() -> None:
    parts = [ROWS[:10], ROWS[10:25], ROWS[25:]]
    x = small.gradients(3, 9)
    found = certify(
        x, V, small.LAM, [small.product(small.moment(p)) for p in parts], weights=[len(p) for p in parts], share=1.0
    )
    true = (small.flat(V) - small.flat(x) @ A).norm(dim=1) / norm(V)
    assert torch.allclose(found.residual, true)


@pytest.mark.parametrize("solve", [lambda v: cg(small.product(G), v, small.LAM), lambda v: neumann(
    repeat(small.product(G)), v, small.LAM, generator=generator(), probes=V)], ids=["cg", "neumann"])  # fmt: skip
def test_a_query_of_zero_gradient(solve: Any) -> None:
    some = {name: part * torch.tensor([1.0, 0.0, 1.0]).double()[:, None, None] for name, part in V.items()}
    found = solve(some)
    assert float(norm(found.value)[1]) == 0 and float(found.residual[1]) == 0
    assert found.info["zero_queries"] == [1]
    assert torch.isfinite(small.flat(found.value)).all()
    none = solve({name: 0 * part for name, part in V.items()})
    assert none.info["zero_queries"] == [0, 1, 2] and none.converged


def test_an_indefinite_matrix_names_the_damping() -> None:
    indefinite = G - 0.5 * torch.eye(small.SIZE, dtype=torch.float64)
    zero: dict[str, float | None] = {"one": 0.0, "two": 0.0}
    with pytest.raises(Indefinite, match="λ from 0 to 0; use a larger damping"):
        cg(small.product(indefinite), V, zero)
    few = small.product(small.moment(ROWS[:10]))
    with pytest.raises(Indefinite, match="not positive definite with λ from 0 to 0"):
        cg(few, V, zero)
    assert cg(few, V, {"one": 1e-9, "two": 1e-9}, steps=500).converged
    with pytest.raises(Indefinite, match="use a larger damping"):
        neumann(repeat(small.product(-G)), V, zero, generator=generator())
    with pytest.raises((Diverged, Indefinite)):
        neumann(repeat(small.product(indefinite)), V, zero, generator=generator())
    with pytest.raises(Diverged, match="λ from 0 to 0"):
        neumann(repeat(small.product(G - 0.01 * torch.eye(small.SIZE))), V, zero, generator=generator(), steps=3000)
    with pytest.raises(Indefinite, match="preconditioner is not positive definite"):
        cg(small.product(G), V, small.LAM, precondition=small.preconditioner(-M))
    with pytest.raises(Indefinite, match="preconditioner is not positive definite"):
        full(precondition=small.preconditioner(-M))


def test_a_block_without_curvature_takes_no_part() -> None:
    lam: dict[str, float | None] = {"one": 0.1, "two": None}
    part = G[:12, :12] + 0.1 * torch.eye(12, dtype=torch.float64)
    wanted = torch.linalg.solve(part, small.flat(V)[:, :12].T).T
    for found in (
        cg(small.product(G), V, lam, tolerance=1e-10),
        neumann(repeat(small.product(G)), V, lam, generator=generator(), steps=1500),
    ):
        assert float(found.value["two"].abs().max()) == 0
        assert torch.allclose(found.value["one"].flatten(1), wanted, rtol=1e-5, atol=1e-8)
        assert found.converged


def test_bad_input_is_refused() -> None:
    broken = {**V, "one": V["one"].clone()}
    broken["one"][1, 0, 0] = math.nan
    for bad, said in [
        ({"v": broken}, "one is not finite for the queries \\[1\\]"),
        ({"lam": {**small.LAM, "two": -0.1}}, "λ of two is -0.1"),
        ({"lam": {**small.LAM, "two": math.inf}}, "λ of two is inf"),
        ({"v": {"one": V["one"]}}, "lacks blocks"),
        ({"v": {name: part[:0] for name, part in V.items()}}, "no queries"),
    ]:
        given_v, lam = bad.get("v", V), bad.get("lam", small.LAM)
        with pytest.raises(ValueError, match=said):
            cg(small.product(G), given_v, lam)
        with pytest.raises(ValueError, match=said):
            neumann(repeat(small.product(G)), given_v, lam, generator=generator())
    wrong = {"scale": 0.0, "steps": 0, "repeats": 0, "safety": 0.4, "average": -1.0}
    for name, value in [*wrong.items(), ("scale", -1.0), ("scale", math.nan)]:
        with pytest.raises(ValueError, match=name):
            full(**{name: value})
    with pytest.raises(ValueError, match="at least two"):
        certify(V, V, small.LAM, [small.product(G)], share=0.5)


def test_non_finite_products_never_come_back() -> None:
    sick = repeat(small.product(G * math.nan))
    for settings_ in ({}, {"scale": 0.1}):
        with pytest.raises((Diverged, Indefinite)):
            neumann(sick, V, small.LAM, generator=generator(), **settings_)
    with pytest.raises(Indefinite):
        cg(small.product(G * math.nan), V, small.LAM)


def test_scores_settle_as_the_record_says() -> None:
    probes = small.gradients(40, 8)
    early = cg(small.product(G), V, small.LAM, steps=4, tolerance=0, probes=probes)
    late = cg(small.product(G), V, small.LAM, steps=40, tolerance=1e-12, probes=probes)
    assert max(late.info["change"]) < 1e-3 < min(early.info["change"])
    scores = small.flat(early.value) @ small.flat(probes).T
    before = small.flat(cg(small.product(G), V, small.LAM, steps=3, tolerance=0).value) @ small.flat(probes).T
    assert early.info["change"] == pytest.approx(((scores - before).norm(dim=1) / scores.norm(dim=1)).tolist())
    wanted = [1 - pearson(x, y) for x, y in zip(scores, before, strict=True)]
    assert early.info["change_rank"] == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3), st.sampled_from(["cg", "neumann"]))
def test_answers_are_linear_and_queries_do_not_see_one_another(seed: int, factor: float, which: str) -> None:
    def solve(v: Grad) -> Tensor:
        if which == "cg":
            return small.flat(cg(small.product(G), v, small.LAM, tolerance=1e-12).value)
        draws = mini_batches(ROWS, 20, seed)
        return small.flat(neumann(draws, v, small.LAM, generator=generator(), steps=60).value)

    x, y = small.gradients(2, seed), small.gradients(2, seed + 1)
    both = {name: factor * x[name] + y[name] for name in x}
    tolerance = 1e-8 if which == "cg" else 1e-10
    one = solve(x)
    assert torch.allclose(solve(both), factor * one + solve(y), rtol=0, atol=tolerance * 100)
    assert torch.allclose(solve({name: part.flip(0) for name, part in x.items()}).flip(0), one, atol=tolerance)
    assert torch.allclose(solve({name: part[1:] for name, part in x.items()}), one[1:], atol=tolerance)


def test_some_bad_answers_are_warned_of_and_most_are_an_error() -> None:
    def found(residual: list[float]) -> Certificate:
        whole = torch.tensor(residual, dtype=torch.float64)
        return Certificate(whole, torch.zeros(3), whole, whole < 1.5, torch.zeros(3, dtype=torch.bool), 2)

    with pytest.warns(UserWarning, match="1 of 3 queries are worse than none, the first, 2, with a residual of 1.1"):
        _require_useful(found([0.1, 0.2, 1.1]), 0.1, True, small.LAM, lambda: "use scale=0.01")
    _require_useful(found([0.1, 0.2, 1.1]), 0.1, False, small.LAM, lambda: "use scale=0.01")
    for bad in ([0.1, 1.6, 1.1], [0.1, 0.2, math.nan]):
        with pytest.raises(Diverged, match="use scale=0.01"):
            _require_useful(found(bad), 0.1, True, small.LAM, lambda: "use scale=0.01")
