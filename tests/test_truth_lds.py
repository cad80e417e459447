"""Linear datamodeling scores and their intervals against scipy, one resample at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import xarray
from scipy import stats

import influence
from influence.truth.lds import _counts, below, ceiling, lds, paired, per_query, spearman

N, S, Q = 40, 24, 6


def labelled(values: np.ndarray, *dims: str) -> xarray.DataArray:
    return xarray.DataArray(values, dims=dims, coords={"query": 10 + np.arange(values.shape[dims.index("query")])})


def case(noise: float = 1.0, seed: int = 0, seeds: int = 2, s: int = S, q: int = Q) -> Any:
    """Weights, subsets, and f = their sums over kept rows plus noise of that multiple of its own spread."""
    rng = np.random.default_rng(seed)
    weights, kept = rng.standard_normal((q, N)), influence.subsets(N, s, seed=seed)
    f = (kept @ weights.T)[:, None, :] + noise * np.sqrt(N) / 2 * rng.standard_normal((s, seeds, q)) - 50.0
    return labelled(weights, "query", "row"), kept, labelled(f, "subset", "seed", "query")


def direct(scores: np.ndarray, kept: np.ndarray, truth: np.ndarray) -> list[float]:
    return [
        stats.spearmanr(kept @ one, f).statistic if np.ptp(kept @ one) else 0.0
        for one, f in zip(scores, truth.mean(1).T, strict=True)
    ]


def test_the_score_is_the_mean_of_scipy_s_spearman_correlations() -> None:
    scores, kept, truth = case()
    coarse = np.sign(scores)  # whole numbers, so that sums tie
    expected = direct(coarse.values, kept, truth.values)
    np.testing.assert_allclose(per_query(coarse, kept, truth).values[0], expected, rtol=1e-12)
    table = influence.lds({"coarse": coarse, "fine": scores}, kept, truth, resamples=50)
    assert table["method"].tolist() == ["fine", "coarse"]
    assert table["lds"][1] == pytest.approx(np.mean(expected))
    assert (table["low"] < table["lds"]).all() and (table["lds"] < table["high"]).all()
    by_layer = xarray.concat([coarse / 2, coarse / 2], "layer")  # whatever follows is summed, queries go by label
    again = lds(by_layer.isel(query=slice(None, None, -1)), kept, truth, resamples=50)
    assert again["lds"][0] == pytest.approx(table["lds"][1], rel=1e-12)


def test_resampled_correlations_are_those_of_the_resampled_data() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 3, S)).astype(float)
    drawn = rng.integers(0, S, (5, S))
    found = spearman(below(x), below(y), _counts(drawn, S))
    for b, subset in enumerate(drawn):
        for q in range(3):
            assert found[b, q] == pytest.approx(stats.spearmanr(x[q, subset], y[q, subset]).statistic, rel=1e-12)


def slow(kept: np.ndarray, truth: xarray.DataArray, *scores: xarray.DataArray) -> Any:
    """BCa by scipy with one spearmanr after the other; of a difference where two scores come."""

    def statistic(query: np.ndarray, subset: np.ndarray) -> float:
        each = [
            np.mean([stats.spearmanr(p[k, subset], f[k, subset]).statistic for k in query])
            for p in (one.values @ kept.T for one in scores)
        ]
        return float(each[0] - each[1] if len(each) > 1 else each[0])

    f = truth.mean("seed").values.T
    data, rng = (np.arange(Q), np.arange(S)), np.random.default_rng(0)
    found = stats.bootstrap(data, statistic, n_resamples=40, vectorized=False, method="BCa", rng=rng)
    return [statistic(*data), *found.confidence_interval]


def test_intervals_are_bca_over_queries_and_subsets() -> None:
    scores, kept, truth = case()
    other = scores + np.random.default_rng(3).standard_normal(scores.shape)
    found = lds({"a": scores}, kept, truth, resamples=40)
    np.testing.assert_allclose(found.iloc[0, 1:].to_numpy(float), slow(kept, truth, scores), rtol=1e-9)
    both = paired({"a": scores, "b": other}, "b", kept, truth, resamples=40)
    np.testing.assert_allclose(both.iloc[0, 1:].to_numpy(float), slow(kept, truth, scores, other), rtol=1e-9)
    assert both["method"].tolist() == ["a"] and both["low"][0] > 0


def test_one_query_has_an_interval_over_subsets() -> None:
    scores, kept, truth = case(q=1)
    table = lds(scores, kept, truth, resamples=100)
    assert table["low"][0] < table["lds"][0] < table["high"][0]


def test_intervals_cover_what_they_should() -> None:
    expected = float(per_query(*case(seed=100, s=400, q=60)).mean())
    inside = 0
    for seed in range(40):
        scores, kept, truth = case(seed=seed, s=40, q=10)
        table = lds(scores, kept, truth, resamples=200)
        inside += bool(table["low"][0] <= expected <= table["high"][0])
    assert inside >= 33  # 95 % of 40 is 38; below 33 has a probability of less than .003


def test_the_ceiling_is_what_the_true_weights_reach() -> None:
    for seeds in (2, 4):
        scores, kept, truth = case(noise=1.5, seeds=seeds, s=300, q=20)
        found = ceiling(truth)
        reached = lds(scores, kept, truth, resamples=10)
        assert reached["lds"][0] == pytest.approx(found["ceiling"], abs=0.03)
        assert reached.attrs["ceiling"] == found["ceiling"] and found["seeds"] == seeds
        r = found["between"]
        assert found["reliability"] == pytest.approx(seeds * r / (1 + (seeds - 1) * r))
    with pytest.raises(ValueError, match="at least two seeds"):
        ceiling(case(seeds=1)[2])


def test_queries_without_variation_or_answered_with_certainty_are_left_out_and_counted() -> None:
    scores, kept, truth = case()
    f = truth.values.copy()
    f[:, :, 1] = -3.0
    f[:, :, 4] = 1e-3 * f[:, :, 4] / 100
    changed = truth.copy(data=f)
    table = lds(scores, kept, changed, resamples=20)
    assert table.attrs["left_out_queries"] == [11, 14] and table.attrs["queries"] == 4 and table.attrs["left_out"] == 2
    assert lds(scores, kept, changed, resamples=5, saturated=None, least_spread=0.0).attrs["left_out"] == 0
    assert lds(scores, kept, truth + 100, resamples=5).attrs["left_out"] == 0  # no log p
    with pytest.raises(ValueError, match="all 6 queries are left out"):
        lds(scores, kept, truth.copy(data=np.full(truth.shape, -1.0)))


def test_scores_that_say_nothing_count_as_zero() -> None:
    scores, kept, truth = case()
    table = lds({"none": xarray.full_like(scores, 0.1), "a": scores}, kept, truth, resamples=20)
    assert table["method"][1] == "none" and table.iloc[1, 1:].tolist() == [0.0, 0.0, 0.0]


def test_a_thousand_resamples_take_seconds() -> None:
    scores, kept, truth = case(s=60, q=40)
    start = time.perf_counter()
    lds(scores, kept, truth, resamples=1000)
    assert time.perf_counter() - start < 5


def test_what_does_not_fit_is_named() -> None:
    scores, kept, truth = case()
    with pytest.raises(ValueError, match="with 40 rows"):
        lds(scores.isel(row=slice(3)), kept, truth)
    with pytest.raises(ValueError, match=r"lack the queries \[15\]"):
        lds(scores.isel(query=slice(5)), kept, truth)
    with pytest.raises(ValueError, match="23 subsets"):
        lds(scores, kept[:-1], truth)
    with pytest.raises(ValueError, match="not finite"):
        lds(scores.where(scores < 1), kept, truth)
    with pytest.raises(ValueError, match="against is 'c'; the scores are a"):
        paired({"a": scores}, "c", kept, truth)


def test_a_list_of_scores_counts_by_the_mean_of_their_lds() -> None:
    rng = np.random.default_rng(5)
    kept = influence.subsets(12, 20)
    coords = {"query": np.arange(4), "row": np.arange(12)}
    several = [xarray.DataArray(rng.standard_normal((4, 12)), dims=("query", "row"), coords=coords) for _ in range(3)]
    f = rng.standard_normal((20, 2, 4))
    truth = xarray.DataArray(f, dims=("subset", "seed", "query"), coords={"query": np.arange(4)})
    options = {"resamples": 50, "saturated": None}
    each = [lds(one, kept, truth, **options)["lds"][0] for one in several]
    joint = lds({"all": several}, kept, truth, **options)
    assert joint["lds"][0] == pytest.approx(np.mean(each))
    assert joint["low"][0] < joint["lds"][0] < joint["high"][0]
    gain = paired({"all": several, "first": several[:1]}, "first", kept, truth, **options)
    assert gain["difference"][0] == pytest.approx(np.mean(each) - each[0])
