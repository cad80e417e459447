"""Tail-patch, brittleness and mislabel AUC on cases with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from cases import FAMILIES, Float64
from datasets import Dataset
from small import token_rows
from torch import nn

import ekfac
import influence
from influence.attribution.passes import shapes
from influence.truth.brittleness import brittleness, flipped
from influence.truth.mislabel import mislabel_auc, planted_labels
from influence.truth.patch import tail_patch


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_a_small_step_changes_f_by_the_gradient_dot_product(family: str) -> None:
    lm = influence.load(FAMILIES[family]().train())
    rows, queries = token_rows(5, 0), token_rows(3, 1, first=50)
    before = {name: value.clone() for name, value in lm.net.state_dict().items()}
    identity = ekfac.solver(ekfac.identity(shapes(lm), dtype=torch.float64), damping=0.0)
    with Float64():
        found = tail_patch(lm, rows, queries, step=1e-7, tracked=True, progress=False)
        dot = influence.score(lm, rows, queries, identity, per="sequence", raw=True, progress=False)
    np.testing.assert_allclose(found.values / 1e-7, dot.values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["measurement"], dot["measurement"], rtol=1e-12)
    assert found["row"].values.tolist() == list(range(5)) and found["query"].values.tolist() == [50, 51, 52]
    assert lm.net.training and all(p.requires_grad and p.grad is None for p in lm.net.parameters())
    assert all(torch.equal(value, lm.net.state_dict()[name]) for name, value in before.items())


def test_a_step_on_all_parameters_is_the_plain_one() -> None:
    net, rows = FAMILIES["gpt_neox"](), token_rows(2, 0)
    found = tail_patch(influence.load(net), rows, rows, step=0.05, progress=False)
    from influence.model.batches import batches
    from influence.model.loss import log_p

    _, batch = next(batches(rows.select([1]), 1))
    log_p(net(batch.input_ids).logits, batch).sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * parameter.grad
    from influence.truth.retrain import measured_by

    np.testing.assert_allclose(measured_by(net, rows) - found["measurement"], found.values[:, 1], rtol=1e-5)
    with pytest.raises(ValueError, match="positive"):
        tail_patch(influence.load(net), rows, rows, step=0.0)


CLASSES = np.array([0] * 6 + [1] * 4 + [2] * 5)
PLACES = torch.arange(15)


def vote(rows: Dataset, seed: int) -> nn.Module:
    """Predicts everywhere the class that most of the rows have."""
    counts = np.bincount([ids[1] for ids in rows["input_ids"]], minlength=3)
    layer = nn.Linear(1, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.from_numpy(counts))
    return influence.Supervised(layer, torch.zeros(15, 1))


def test_brittleness_finds_the_smallest_removal_that_flips(tmp_path: Path) -> None:
    rows, queries = influence.examples(CLASSES), influence.examples(CLASSES, [0, 7])
    good = np.tile(-np.arange(15.0), (2, 1))  # removes class 0 first: 6 of it against 5 of class 2
    dims = {"dims": ("query", "row"), "coords": {"query": [0, 7], "row": np.arange(15)}}
    rankings = {"good": xarray.DataArray(good, **dims), "bad": xarray.DataArray(-good, **dims)}
    asked: dict[str, Any] = {"seeds": (0, 1), "progress": False}
    table = brittleness(vote, rows, queries, rankings, [1, 2, 4], tmp_path, **asked)
    wide = table.pivot(index="query", columns="method", values="k")
    assert wide["good"].tolist() == [2.0, 2.0] and wide["bad"].isna().all() and "random" in wide
    assert table[table["query"] == 0]["right"].all() and not table[table["query"] == 7]["right"].any()
    shares = flipped(table, [1, 2, 4])
    assert shares.loc["good"].tolist() == [0.0, 1.0, 1.0] and shares.loc["bad"].tolist() == [0.0, 0.0, 0.0]
    again = brittleness(vote, rows, queries, rankings, [1, 2, 4], tmp_path, **asked)
    assert again.equals(table)
    with pytest.raises(ValueError, match="numbers from 1 to 14"):
        brittleness(vote, rows, queries, rankings, [15], tmp_path)
    with pytest.raises(ValueError, match="the ranking good lacks a query or a row"):
        brittleness(vote, rows, queries, {"good": rankings["good"].isel(row=slice(3))}, [1], tmp_path)


def test_planted_labels_are_wrong_where_they_say() -> None:
    labels = np.arange(200) % 10
    changed, wrong = planted_labels(labels, 0.1, seed=4)
    assert wrong.sum() == 20 and (changed[wrong] != labels[wrong]).all() and (changed[~wrong] == labels[~wrong]).all()
    assert set(changed) <= set(range(10))
    with pytest.raises(ValueError, match="share inside"):
        planted_labels(labels, 0.0)


def test_mislabel_auc_is_that_of_pairs() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(30) < 0.3
    norm = xarray.DataArray(rng.random(30) + 0.4 * wrong, dims="row", coords={"row": np.arange(30)})
    pairs = norm.values[wrong][:, None] > norm.values[~wrong][None]
    square = xarray.DataArray(
        np.diag(-norm.values), dims=("query", "row"), coords={"query": np.arange(30), "row": np.arange(30)}
    )
    table = mislabel_auc({"reverse": square, "norm": norm}, wrong, resamples=200)
    assert table["method"].tolist() == ["norm", "reverse"]
    assert table["auc"].tolist() == pytest.approx([pairs.mean(), 1 - pairs.mean()])
    assert table["low"][0] < table["auc"][0] < table["high"][0]
    with pytest.raises(ValueError, match="not the rows themselves"):
        mislabel_auc(square.assign_coords(query=np.arange(1, 31)), wrong)
    with pytest.raises(ValueError, match="with both values"):
        mislabel_auc(norm, np.ones(30, bool))


def test_self_influence_of_an_overfit_classifier_finds_planted_labels() -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, wrong = planted_labels((x[:, 0] > 0).long().numpy(), 0.1)
    from influence.truth.stacked import train_stacked

    net = influence.Supervised(nn.Linear(4, 2).double(), x)
    rows, kept = influence.examples(labels), np.ones((1, 60), bool)
    settings: dict[str, Any] = {"epochs": 30, "batch_size": 10, "lr": 0.05, "dtype": torch.float64, "progress": False}
    lm = influence.load(train_stacked(net, rows, kept, [0], **settings).model(0))
    solver = ekfac.solver(influence.fit_ekfac(lm, rows, labels="expected", progress=False))
    from influence.attribution.norm import row_norm

    table = mislabel_auc({"EK-FAC": row_norm(lm, rows, solver, progress=False)}, wrong, resamples=20)
    assert table["auc"][0] > 0.9
