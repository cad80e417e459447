"""Tables, top rows and layer profiles of scores made by hand."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.analysis import centroid, layers, table, thirds, top
from influence.analysis.layers import by_layer


def scores(values: Any, dims: tuple[str, ...] = ("query", "row"), **coords: Any) -> xr.DataArray:
    array = np.asarray(values, float)
    named = {"query": np.arange(array.shape[0]) + 10, "row": np.arange(array.shape[1]) + 100} | coords
    return xr.DataArray(array, dims=dims, coords=named, name="score", attrs={"units": "nats"})


def rows(tokens: list[list[int]], **columns: Any) -> datasets.Dataset:
    masks = [[0] + [1] * (len(row) - 1) for row in tokens]
    ids = [100 + k for k in range(len(tokens))]
    texts = [" ".join(map(str, row)) for row in tokens]
    return datasets.Dataset.from_dict({"input_ids": tokens, "loss_mask": masks, "row": ids, "text": texts, **columns})


FOUR = rows([[1, 2], [3, 4], [1, 2], [5, 6]], source=["a", "b", "c", "d"], form=["x", None, "x", "y"])


def test_table_has_a_line_per_score_for_any_dims() -> None:
    made = scores(np.arange(12.0).reshape(2, 3, 2), ("query", "row", "layer"), row_norm=("row", [1.0, 2.0, 3.0]))
    frame = table(made)
    assert list(frame.columns) == ["query", "row", "layer", "row_norm", "score"] and len(frame) == 12
    line = frame[(frame["query"] == 11) & (frame["row"] == 102) & (frame["layer"] == 1)].iloc[0]
    assert line["score"] == 11 and line["row_norm"] == 3 and frame.attrs == {"units": "nats"}
    ragged = scores([[[1.0, np.nan], [2.0, 3.0]]], ("query", "row", "token"))
    assert table(ragged)["score"].tolist() == [1, 2, 3]
    assert len(table(xr.DataArray([1.0, 2.0], dims="row"))) == 2


def test_top_groups_identical_rows_and_keeps_signs_apart() -> None:
    made = scores([[3.0, 1.0, 3.0, -2.0], [-1.0, -4.0, -1.0, 0.0]], row_norm=("row", [6.0, 1.0, 6.0, 2.0]))
    frame = top(made, FOUR, k=2)
    shown = frame[["query", "side", "place", "row", "score", "copies"]].values.tolist()
    assert shown == [
        [10, "for", 1, 100, 3, 2],
        [10, "for", 2, 101, 1, 1],
        [10, "against", 1, 103, -2, 1],
        [11, "against", 1, 101, -4, 1],
        [11, "against", 2, 100, -1, 2],
    ]
    assert frame["normalised"].tolist() == pytest.approx([0.5, 1, -1, -4, -1 / 6])
    assert frame["text"].tolist()[:2] == ["1 2", "3 4"] and frame["source"].tolist()[0] == "a"
    assert frame["form"].tolist()[0] == "x" and frame["form"].isna()[1]
    other = top(made, FOUR, k=1, ranking="normalised")
    assert other["row"].tolist() == [101, 103, 101] and set(other["ranking"]) == {"normalised"}


def test_top_takes_layers_tables_and_rows_in_any_order() -> None:
    made = scores([[[3.0, -9.0], [1.0, 1.0], [0.5, 0.0], [0.0, 1.0]]], ("query", "row", "layer"))
    assert top(made, FOUR, k=1)["row"].tolist() == [101, 100]
    upside_down = FOUR.select([3, 2, 1, 0])
    pd.testing.assert_frame_equal(top(made, upside_down), top(made, FOUR))
    stored = FOUR.select_columns(["row", "text", "source"]).to_pandas()
    frame = top(made, stored, k=1)
    assert frame["copies"].tolist() == [1, 2] and frame["form"].isna().all()
    assert np.isnan(frame["normalised"]).all()


def test_top_of_scores_kept_while_streaming() -> None:
    values = np.array([[3.0, 1.0, 1.0, 3.0], [2.0, -1.0, 2.0, -5.0]])
    kept = xr.DataArray(
        values,
        dims=("query", "place"),
        coords={
            "query": [10, 11],
            "place": [1, 2, -2, -1],
            "row": (("query", "place"), [[100, 101, 101, 100], [100, 101, 102, 103]]),
        },
    )
    frame = top(kept, FOUR, k=3)
    shown = frame[["query", "side", "row", "score", "copies"]].values.tolist()
    assert shown == [
        [10, "for", 100, 3, 1],
        [10, "for", 101, 1, 1],
        [11, "for", 100, 2, 2],
        [11, "against", 103, -5, 1],
        [11, "against", 101, -1, 1],
    ]


def test_rows_with_another_mask_are_not_the_same() -> None:
    two = datasets.Dataset.from_dict(
        {"input_ids": [[1, 2, 3]] * 2, "loss_mask": [[0, 1, 1], [0, 0, 1]], "row": [100, 101], "text": ["a", "a"]}
    )
    assert top(scores([[2.0, 1.0]]), two)["copies"].tolist() == [1, 1]


def test_what_cannot_be_ranked_is_named() -> None:
    made = scores([[1.0, 2.0, 3.0, 4.0]])
    with pytest.raises(ValueError, match="carry no row_norm"):
        top(made, FOUR, ranking="normalised")
    with pytest.raises(ValueError, match="ranking='best' is unknown"):
        top(made, FOUR, ranking="best")
    with pytest.raises(ValueError, match="k is 0"):
        top(made, FOUR, k=0)
    with pytest.raises(ValueError, match="1 scored rows are not among the rows given, the first with id 103"):
        top(made, FOUR.select([0, 1, 2]))
    with pytest.raises(ValueError, match="need query and row"):
        top(made.isel(query=0), FOUR)
    with pytest.raises(ValueError, match="1 scores are not finite, the first for query 10 and row 101"):
        top(scores([[1.0, np.nan, 0.0, 1.0]]), FOUR)
    with pytest.raises(ValueError, match="row_norm holds values"):
        top(made.assign_coords(row_norm=("row", [1.0, -1.0, 1.0, 1.0])), FOUR, ranking="normalised")


PROFILE = scores([[[1.0, -2.0, 0.0], [3.0, 1.0, 1.0]]], ("query", "row", "layer"), layer=[0, 1, 2])


def test_layer_profile_by_hand() -> None:
    frame = layers(PROFILE)
    assert frame["signed"].tolist() == [4, -1, 1]
    assert frame["positive"].tolist() == [4, 1, 1] and frame["negative"].tolist() == [0, -2, 0]
    assert frame["absolute"].tolist() == [4, 3, 1] and frame["share"].tolist() == [0.5, 0.375, 0.125]
    found = centroid(PROFILE).iloc[0]
    assert found["centroid"] == pytest.approx(0.625) and found["depth"] == pytest.approx(1.625 / 3)
    assert found["spread"] == pytest.approx(np.sqrt(0.5 * 0.625**2 + 0.375 * 0.375**2 + 0.125 * 1.375**2))
    assert thirds(PROFILE)["share"].tolist() == [0.5, 0.375, 0.125]
    assert thirds(PROFILE.assign_attrs(n_layers=9))["share"].tolist() == [1, 0, 0]


def test_a_control_takes_out_what_every_query_has() -> None:
    control = scores([[[2.0, 1.0, 1.0]], [[-6.0, 5.0, 0.0]]], ("query", "row", "layer"), layer=[0, 1, 2])
    mass = layers(PROFILE, control=control)["mass"].to_numpy()
    expected = np.array([4 / 4, 3 / 3, 1 / 0.5])
    assert mass == pytest.approx(expected / expected.sum())
    assert layers(PROFILE, control=PROFILE)["mass"].to_numpy() == pytest.approx([1 / 3] * 3)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), queries=st.integers(1, 3), n=st.integers(1, 5), blocks=st.integers(1, 6))
def test_grouping_blocks_by_layer_keeps_every_sum(data: Any, queries: int, n: int, blocks: int) -> None:
    values = data.draw(st.lists(st.floats(-1, 1), min_size=queries * n * blocks, max_size=queries * n * blocks))
    layer = data.draw(st.lists(st.sampled_from([None, 0, 1, 3]), min_size=blocks, max_size=blocks))
    made = scores(np.reshape(values, (queries, n, blocks)), ("query", "row", "block")).assign_coords(
        block=[f"b{k}" for k in range(blocks)], layer=("block", np.array(layer, dtype=object))
    )
    number, grouped = by_layer(made)
    assert np.allclose(grouped.sum(-1), made.sum("block").values, atol=1e-12)
    assert number.tolist() == sorted({-1 if one is None else one for one in layer})
    if (np.abs(grouped).sum((1, 2)) > 0).all():
        assert np.allclose(layers(made).groupby("query")["share"].sum(), 1)


def test_scores_without_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="no layers; score with per='layer'"):
        layers(scores([[1.0]]))
    with pytest.raises(ValueError, match="no layers"):
        layers(scores([[[1.0]]], ("query", "row", "block"), block=["b"]))
    with pytest.raises(ValueError, match="query 10 has no influence in any layer"):
        layers(PROFILE * 0)
    with pytest.raises(ValueError, match="the control has layers"):
        layers(PROFILE, control=PROFILE.isel(layer=[0, 1]))
    outside = scores([[[1.0]]], ("query", "row", "layer"), layer=[-1])
    assert layers(outside)["layer"].tolist() == [-1]
    with pytest.raises(ValueError, match="no score belongs to a layer of the decoder"):
        thirds(outside)
