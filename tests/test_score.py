"""Factors and scores of language models against dense matrices, and everything that must not change them."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import torch
from small import direct_pairs, kronecker, token_rows

import ekfac
from influence.attribution.fit import fit_diagonal, fit_ekfac
from influence.attribution.gradients import query_gradients
from influence.attribution.norm import row_norm
from influence.attribution.rank import rank
from influence.attribution.score import score
from influence.model.load import load
from influence.types import LM, Batch

ROWS, QUERIES = token_rows(12, 1), token_rows(3, 2, first=100)
SHAPES = ("gpt_neox", "gpt2", "mixtral", "llama_lora")


@pytest.fixture(scope="module")
def lm() -> LM:
    return load(cases.FAMILIES["gpt_neox"]())


@pytest.fixture(scope="module")
def solver(lm: LM) -> ekfac.EKFACSolver:
    return ekfac.solver(fit_ekfac(lm, ROWS, progress=False), 0.1)


def close(x: Any, y: Any, tolerance: float = 1e-10) -> None:
    x, y = np.asarray(x), np.asarray(y)
    assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-30)


def test_factors_and_scores_equal_a_direct_dense_computation(lm: LM) -> None:
    fitted = fit_ekfac(lm, ROWS, labels="data", progress=False)
    got = score(lm, ROWS, QUERIES, ekfac.solver(fitted, 0.1), per="block", progress=False)
    for block in lm.blocks:
        pairs = direct_pairs(lm.net, ROWS, block.name)
        a, g = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
        one = fitted[block.name]
        covariance_in = one.basis_in @ torch.diag(one.values_in) @ one.basis_in.T
        covariance_out = one.basis_out @ torch.diag(one.values_out) @ one.basis_out.T
        close(covariance_in, a.T @ a / len(a))
        close(covariance_out, g.T @ g / len(g))
        grads = torch.stack([y.T @ x for x, y in pairs])
        turned = one.basis_out.T @ grads @ one.basis_in
        close(one.eigenvalues, turned.square().mean(0))
        wanted = torch.stack([y.T @ x for x, y in direct_pairs(lm.net, QUERIES, block.name)]).flatten(1)
        lam = 0.1 * one.eigenvalues.mean() * torch.eye(wanted.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(kronecker(one.basis_out, one.eigenvalues, one.basis_in) + lam, wanted.T)
        close(got.sel(block=block.name), solved.T @ grads.flatten(1).T / len(ROWS))


def test_sampled_labels_follow_the_models_probabilities(lm: LM) -> None:
    """The mean of tr Λ over many draws of labels nears the exact expectation over labels of one row."""
    from influence.model.capture import forward
    from influence.model.loss import sample_labels

    ids = torch.tensor([ROWS[0]["input_ids"]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 0] = False
    logits = forward(lm.net, ids).detach()
    draws = torch.stack([sample_labels(logits, Batch(ids, mask, torch.tensor([0])), seed)[0] for seed in range(3000)])
    for position in (1, 3):
        counts = torch.bincount(draws[:, position], minlength=37) / 3000
        p = logits[0, position - 1].softmax(-1)
        assert (counts - p).abs().max() < 5 * float((p.max() / 3000).sqrt())
    assert len({tuple(d.tolist()) for d in draws[:50]}) > 25


def test_labels_depend_on_seed_row_and_position_only(lm: LM) -> None:
    one = fit_ekfac(lm, ROWS, progress=False, batch_size=1, seed=5)
    many = fit_ekfac(lm, ROWS.select(range(11, -1, -1)), progress=False, batch_size=12, seed=5)
    other = fit_ekfac(lm, ROWS, progress=False, seed=6)
    name = lm.blocks[0].name
    close(many[name].eigenvalues.sum(), one[name].eigenvalues.sum())
    assert abs(other[name].mean / one[name].mean - 1) > 1e-3
    assert other.how["labels"] == "sampled"


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batch_size_and_order_change_nothing(family: str, batch_size: int) -> None:
    lm = load(cases.FAMILIES[family]())
    solve = ekfac.solver(fit_ekfac(lm, ROWS, progress=False), 0.1)
    base = score(lm, ROWS, QUERIES, solve, progress=False, row_norm=True)
    order = np.random.default_rng(0).permutation(len(ROWS))
    mixed = score(lm, ROWS.select(order), QUERIES, solve, batch_size=batch_size, progress=False, row_norm=True)
    close(mixed.sel(row=base["row"].values), base)
    close(mixed["row_norm"].sel(row=base["row"].values), base["row_norm"])
    refit = fit_ekfac(lm, ROWS.select(order), batch_size=batch_size, progress=False)
    for name, one in solve.factors.items():
        close(refit[name].values_in, one.values_in)
        close(refit[name].eigenvalues.sum(), one.eigenvalues.sum())


def test_dividing_the_rows_in_parts_changes_nothing(lm: LM, solver: ekfac.EKFACSolver) -> None:
    whole = score(lm, ROWS, QUERIES, solver, progress=False)
    parts = [score(lm, ROWS.select(s), QUERIES, solver, n=12, progress=False) for s in (range(5), range(5, 12))]
    close(np.concatenate(parts, axis=1), whole)
    basis = solver.factors
    fits = [fit_ekfac(lm, ROWS.select(s), basis=basis, progress=False) for s in (range(5), range(5, 12))]
    merged = ekfac.merge(*fits)
    for name, one in basis.items():
        close(merged[name].eigenvalues, one.eigenvalues)
        assert merged[name].count == 12


@pytest.mark.parametrize("family", SHAPES)
def test_sums_agree_at_every_level(family: str) -> None:
    lm = load(cases.FAMILIES[family]())
    solve = ekfac.solver(fit_ekfac(lm, ROWS, progress=False), 0.1)
    found = {
        per: score(lm, ROWS, QUERIES, solve, per=per, progress=False)
        for per in ("block", "layer", "sequence", "token", ("layer", "token"), ("block", "token"))
    }
    total = found["sequence"]
    assert total.dims == ("query", "row")
    close(found["block"].sum("block"), total)
    close(found["layer"].sum("layer"), total)
    close(found["token"].sum("token"), total)
    close(found["layer", "token"].sum("token"), found["layer"])
    close(found["block", "token"].sum("token"), found["block"])
    assert found["token"].dims == ("query", "row", "token")


def test_tokens_that_do_not_count_have_no_score(lm: LM, solver: ekfac.EKFACSolver) -> None:
    tokens = score(lm, ROWS, QUERIES, solver, per="token", progress=False)
    for place, row in enumerate(ROWS):
        last = max(k for k, scored in enumerate(row["loss_mask"]) if scored)
        assert not tokens.values[:, place, last:].any()
        assert tokens.values[:, place, :last].all()


def test_units_and_raw(lm: LM, solver: ekfac.EKFACSolver) -> None:
    nats = score(lm, ROWS, QUERIES, solver, per="sequence", progress=False)
    raw = score(lm, ROWS, QUERIES, solver, per="sequence", raw=True, progress=False)
    part = score(lm, ROWS.select([3]), QUERIES, solver, per="sequence", n=12, progress=False)
    close(raw / 12, nats)
    close(part, nats.sel(row=[3]))
    assert nats.attrs["units"] == "nats"
    assert nats.attrs["n"] == 12
    assert list(nats["query"].values) == [100, 101, 102]
    assert list(nats["row"].values) == list(range(12))


def test_a_row_raises_itself(lm: LM, solver: ekfac.EKFACSolver) -> None:
    own = score(lm, ROWS, ROWS, solver, per="sequence", raw=True, progress=False)
    assert (np.diag(own) > 0).all()
    close(np.sqrt(np.diag(own)), row_norm(lm, ROWS, solver, progress=False))


def test_identity_is_the_gradient_dot_product(lm: LM) -> None:
    shapes = {b.name: b.shape for b in lm.blocks}
    solve = ekfac.solver(ekfac.identity(shapes, dtype=torch.float64), 0.0)
    got = score(lm, ROWS, QUERIES, solve, per="sequence", raw=True, progress=False)
    x = query_gradients(lm, QUERIES, progress=False)[0]
    y = query_gradients(lm, ROWS, progress=False)[0]
    close(got, sum(x[n].flatten(1) @ y[n].flatten(1).T for n in x))


def test_diagonal_is_the_mean_squared_gradient(lm: LM) -> None:
    fitted = fit_diagonal(lm, ROWS, labels="data", progress=False)
    grads = query_gradients(lm, ROWS, progress=False)[0]
    for name, one in fitted.items():
        close(one.eigenvalues, grads[name].square().mean(0))


@pytest.mark.parametrize("k", [1, 3, 12, 50])
def test_streaming_extremes_equal_sorting_everything(lm: LM, solver: ekfac.EKFACSolver, k: int) -> None:
    whole = score(lm, ROWS, QUERIES, solver, per="layer", progress=False)
    few = score(lm, ROWS, QUERIES, solver, per="layer", top=k, batch_size=2, progress=False)
    order = np.argsort(-whole.sum("layer").values, axis=1)
    kept = min(k, len(ROWS))
    for q in range(3):
        assert few["row"].values[q].tolist() == [*order[q][:kept], *order[q][::-1][:kept][::-1]]
        close(few.values[q], whole.values[q][few["row"].values[q]])
    assert few["place"].values.tolist() == [*range(1, kept + 1), *range(-kept, 0)]


def test_rank(lm: LM, solver: ekfac.EKFACSolver) -> None:
    scores = score(lm, ROWS, QUERIES, solver, row_norm=True, progress=False)
    nats, normal = rank(scores), rank(scores, normalize="row")
    total = scores.sum("block")
    assert nats.values[0].tolist() == np.argsort(-total.values[0]).tolist()
    assert normal.values[1].tolist() == np.argsort(-(total / scores["row_norm"]).values[1]).tolist()
    assert nats.attrs["ranking"] != normal.attrs["ranking"]
    with pytest.raises(ValueError, match="row_norm=True"):
        rank(score(lm, ROWS, QUERIES, solver, progress=False), normalize="row")
    tempered = rank(scores, normalize="leverage")
    own = 1 + scores["row_norm"] ** 2 / len(ROWS)
    assert tempered.values[1].tolist() == np.argsort(-(total / np.sqrt(own)).values[1]).tolist()
    with pytest.raises(ValueError, match="normalize is 'rows'"):
        rank(scores, normalize="rows")


def test_any_differentiable_measure(lm: LM, solver: ekfac.EKFACSolver) -> None:
    def margin(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits[:, 1, 3] - logits[:, 1, 4]

    got = score(lm, ROWS, QUERIES, solver, per="sequence", raw=True, measure=margin, progress=False)
    grad, values = query_gradients(lm, QUERIES, margin, progress=False)
    solved, rows = solver(grad).value, query_gradients(lm, ROWS, progress=False)[0]
    close(got, sum(solved[n].flatten(1) @ rows[n].flatten(1).T for n in solved))
    close(got["measurement"], values)
    assert got.attrs["measure"] == "margin"


def test_scores_predict_one_newton_step(lm: LM) -> None:
    """Sign and scale: along (G + λ)⁻¹∇log p(row)/n the measurement rises by the score, to first order."""
    fitted = fit_ekfac(lm, ROWS, progress=False)
    solve = ekfac.solver(fitted, 1.0)
    scores = score(lm, ROWS, QUERIES, solve, per="sequence", progress=False)
    rows = query_gradients(lm, ROWS, progress=False)[0]
    step = solve(rows).value
    size, row = 1e-4, 5
    moved = []
    for sign in (1, -1):
        for block in lm.blocks:
            module, delta = lm.net.get_submodule(block.name), sign * size * step[block.name][row] / len(ROWS)
            module.weight.data += delta[:, : block.d_in]
            module.bias.data += delta[:, block.d_in]
        moved.append(query_gradients(lm, QUERIES, progress=False)[1])
        for block in lm.blocks:
            module, delta = lm.net.get_submodule(block.name), sign * size * step[block.name][row] / len(ROWS)
            module.weight.data -= delta[:, : block.d_in]
            module.bias.data -= delta[:, block.d_in]
    close((moved[0] - moved[1]) / (2 * size), scores.sel(row=row), 1e-5)


def test_bfloat16_agrees_roughly_and_leaves_the_weights(lm: LM) -> None:
    net = cases.FAMILIES["gpt_neox"]().float()
    single = load(net)
    solve = ekfac.solver(fit_ekfac(single, ROWS, progress=False), 0.1)
    exact = score(single, ROWS, QUERIES, solve, per="sequence", progress=False)
    rough = score(single, ROWS, QUERIES, solve, per="sequence", dtype="bfloat16", progress=False)
    assert np.corrcoef(exact.values.ravel(), rough.values.ravel())[0, 1] > 0.99
    assert not np.array_equal(exact, rough)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_few_rows_for_covariances_still_cover_all_for_eigenvalues(lm: LM) -> None:
    few = fit_ekfac(lm, ROWS, covariance_rows=0.5, progress=False)
    assert all(one.count == 12 for one in few.values())
    assert few.how["covariance_rows"] == 0.5
    with pytest.raises(ValueError, match="covariance_rows is 0"):
        fit_ekfac(lm, ROWS, covariance_rows=0, progress=False)


def test_stopping_once_precise(lm: LM) -> None:
    loose = fit_ekfac(lm, ROWS, tolerance=10.0, batch_size=1, progress=False)
    strict = fit_ekfac(lm, ROWS, tolerance=1e-9, batch_size=1, progress=False)
    name = lm.blocks[0].name
    assert 2 <= loose[name].count < 12
    assert strict[name].count == 12
    assert loose.how["relative_error"][name] <= 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "head"}, "per is 'head'"),
        ({"per": ("block", "layer")}, "exclude each other"),
        ({"n": 0}, "size of the training corpus"),
        ({"top": 0}, "top=0"),
        ({"top": 2, "per": "token"}, "whole rows"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(lm: LM, solver: ekfac.EKFACSolver, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(lm, ROWS, QUERIES, solver, progress=False, **settings)


def test_row_norm_needs_ekfac_factors(lm: LM, solver: ekfac.EKFACSolver) -> None:
    with pytest.raises(ValueError, match=r"row_norm=ekfac\.solver"):
        score(lm, ROWS, QUERIES, lambda grad: solver(grad), row_norm=True, progress=False)
    given = score(lm, ROWS, QUERIES, lambda grad: solver(grad), row_norm=solver, progress=False)
    close(given["row_norm"], row_norm(lm, ROWS, solver, progress=False))


def test_an_expert_that_no_query_reached_scores_zero() -> None:
    """Its gradient is never delivered, so what stands in its place must be zero, not whatever memory held."""
    sparse = load(cases.FAMILIES["mixtral"]())
    router = next(name for name, _ in sparse.net.named_parameters() if name.endswith("gate.weight"))
    with torch.no_grad():
        sparse.net.get_parameter(router)[3] = 0  # its token share falls, on one token to none
    rows, alone = token_rows(12, 0), token_rows(1, 3, low=2, high=3, first=50)
    shapes = {block.name: block.shape for block in sparse.blocks}
    factors = ekfac.identity(shapes, dtype=torch.float64)
    hold = [torch.full((1 << 20,), torch.nan, dtype=torch.float64) for _ in range(4)]
    del hold  # memory that was never zero
    found = score(sparse, rows, alone, ekfac.solver(factors, 0.0), progress=False)
    assert np.isfinite(found.values).all()
    silent = (np.abs(found.values[0]).sum(0) == 0).sum()
    assert silent >= 2, "two experts of four see the only token"
