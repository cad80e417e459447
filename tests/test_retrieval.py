"""Retrieval metrics against hand calculation, against every order of ties, and against scikit-learn."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from test_analysis import FOUR, scores

from influence.analysis import retrieval, retrieval_by_query, retrieval_difference


def by_hand(order: list[bool], k: int) -> tuple[float, float, float]:
    """MRR, P@k and nDCG of rows already in order."""
    first = order.index(True)
    gains = sum(1 / np.log2(place + 2) for place, hit in enumerate(order) if hit)
    best = sum(1 / np.log2(place + 2) for place in range(sum(order)))
    return 1 / (first + 1), sum(order[:k]) / k, gains / best


def test_metrics_by_hand() -> None:
    made = scores([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0]])
    mask = np.array([[False, True, False, True, False, False, True]])
    line = retrieval_by_query(made, mask).iloc[0]
    assert line["mrr"] == 0.5 and line["p_at_5"] == pytest.approx(0.4) and line["n_relevant"] == 3
    gain = 1 / np.log2(3) + 1 / np.log2(5) + 1 / np.log2(8)
    assert line["ndcg"] == pytest.approx(gain / (1 + 1 / np.log2(3) + 0.5))


@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.integers(0, 2), min_size=2, max_size=6), marks=st.integers(1, 62), k=st.integers(1, 4))
def test_ties_count_as_the_mean_over_every_order(values: list[int], marks: int, k: int) -> None:
    mask = np.array([bool(marks >> place & 1) for place in range(len(values))])
    if not mask.any():
        return
    orders = [
        [bool(mask[place]) for place in order]
        for order in permutations(range(len(values)))
        if all(values[a] >= values[b] for a, b in zip(order, order[1:], strict=False))
    ]
    expected = np.mean([by_hand(order, k) for order in orders], axis=0)
    line = retrieval_by_query(scores([values]), mask[None], k=k).iloc[0]
    assert line[["mrr", f"p_at_{k}", "ndcg"]].to_numpy(float) == pytest.approx(expected)


def test_ndcg_equals_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (8, 30)).astype(float)
    mask = rng.random((8, 30)) < 0.2
    mask[:, 0] = True
    ours = retrieval_by_query(scores(values), mask)["ndcg"]
    assert ours.mean() == pytest.approx(ndcg_score(mask.astype(int), values))


def test_identical_rows_take_one_place() -> None:
    made = scores([[3.0, 2.0, 3.0, 1.0]])
    mask = np.array([[False, False, False, True]])
    apart = retrieval_by_query(made, mask, k=2).iloc[0]
    grouped = retrieval_by_query(made, mask, rows=FOUR, k=2).iloc[0]
    assert apart["mrr"] == 0.25 and grouped["mrr"] == pytest.approx(1 / 3)
    second = np.array([[False, False, True, False]])
    found = retrieval_by_query(made, second, rows=FOUR, k=2).iloc[0]
    assert found["mrr"] == 1 and found["p_at_2"] == 0.5 and found["n_relevant"] == 1


def test_masks_with_ids_are_aligned_and_rankings_chosen() -> None:
    made = scores([[1.0, 4.0], [2.0, 1.0]], row_norm=("row", [1.0, 8.0]))
    mask = xr.DataArray(
        [[False, True], [True, False]], dims=("row", "query"), coords={"row": [101, 100], "query": [11, 10]}
    )
    assert retrieval_by_query(made, mask)["mrr"].tolist() == [1.0, 1.0]
    assert retrieval_by_query(made, mask, ranking="normalised")["mrr"].tolist() == [0.5, 1.0]


def test_intervals_cover_and_repeat() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 20))
    mask = np.zeros((60, 20), bool)
    mask[:, 3] = True
    made = scores(values).rename("chance")
    frame = retrieval(made, mask, seed=3)
    line = frame.iloc[0]
    assert line["method"] == "chance" and line["n_queries"] == 60
    expected = (1 / np.arange(1, 21)).mean()
    assert line["low"] < expected < line["high"] and line["p_at_5_low"] < 0.05 < line["p_at_5_high"]
    error = retrieval_by_query(made, mask)["mrr"].std() / np.sqrt(60)
    assert line["high"] - line["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
    pd.testing.assert_frame_equal(frame, retrieval(made, mask, seed=3))


def test_differences_are_paired_by_query() -> None:
    rng = np.random.default_rng(2)
    mask = np.zeros((40, 10), bool)
    mask[:, 0] = True
    good = retrieval_by_query(scores(rng.normal(size=(40, 10)) + 3 * mask), mask)
    poor = retrieval_by_query(scores(rng.normal(size=(40, 10))), mask)
    frame = retrieval_difference(good, poor.sample(frac=1, random_state=0)).set_index("metric")
    assert frame.loc["mrr", "difference"] == pytest.approx(good["mrr"].mean() - poor["mrr"].mean())
    assert frame.loc["mrr", "low"] > 0
    same = retrieval_difference(good, good)
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    with pytest.raises(ValueError, match="other metrics or other queries"):
        retrieval_difference(good, poor.iloc[1:])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[True, False]]), "has shape"),
        (np.array([[1, 0, 0, 0]]), "expected booleans"),
        (np.array([[False] * 4]), "queries .10. have no relevant row"),
        (xr.DataArray([[True]], dims=("query", "row"), coords={"query": [10], "row": [100]}), "lacks the row ids"),
    ],
)
def test_bad_masks_are_named(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_by_query(scores([[1.0, 2.0, 3.0, 4.0]]), mask)
