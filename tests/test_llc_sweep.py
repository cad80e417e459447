"""Curves across checkpoints: one setting along a curve, clusters and stage borders that were planted."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from cases import FAMILIES
from small import token_rows

import influence
from influence.llc.sweep import clusters, curves, stages, sweep

STEPS = np.unique(np.geomspace(10, 10_000, 24).round())


def test_a_sweep_has_a_line_for_every_part_and_checkpoint() -> None:
    nets = {step: FAMILIES["live"]() for step in (0, 10)}
    with torch.no_grad():
        nets[10].head.weight *= 2
    opened: list[int] = []

    def opener(step: int):
        opened.append(step)
        return influence.load(nets[step])

    found = sweep(
        {step: lambda step=step: opener(step) for step in nets}, token_rows(6, 0), ["layer 0 head 0", "layer 1 mlp"],
        n_beta=5.0, gamma=50.0, chains=2, draws=8, thin=1, burn_in=4, batch_size=6, progress=False,
    )  # fmt: skip
    assert opened == [10, 0]
    assert found["step"].tolist() == [0, 0, 10, 10]
    assert found["part"].tolist() == ["layer 0 head 0", "layer 1 mlp"] * 2
    assert np.isfinite(found["value"]).all() and (found.groupby("part")["step_size"].nunique() == 1).all()
    assert curves(found).shape == (2, 2) and list(curves(found).columns) == [0, 10]


def test_a_part_whose_chains_diverge_has_no_value_and_says_why() -> None:
    found = sweep(
        {1: influence.load(FAMILIES["live"]())}, token_rows(6, 0), n_beta=5.0, gamma=1.0, step_size=50.0, chains=2,
        draws=8, thin=1, burn_in=4, batch_size=6, progress=False,
    )  # fmt: skip
    assert np.isnan(found["value"].iloc[0]) and "diverged" in found["notes"].iloc[0]


def test_planted_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    kinds = [np.log(STEPS), 10 - np.log(STEPS), np.full(len(STEPS), 5.0)]
    truth = [0, 1, 2, 1, 0, 2, 0, 1]
    table = pandas.DataFrame(
        [kinds[k] + 0.1 * rng.normal(size=len(STEPS)) for k in truth], index=[f"h{k}" for k in range(8)]
    )
    found = clusters(table)
    assert found.tolist() == [k + 1 for k in truth] and found.attrs["silhouette"] > 0.8
    assert clusters(table * 1.0, 2).nunique() == 2
    scaled = table.mul(rng.uniform(0.5, 20, 8), axis=0).iloc[[0, 1, 3, 4, 6, 7]]
    assert clusters(scaled, 2, shape=True).tolist() == [1, 2, 2, 1, 1, 2]
    noise = clusters(pandas.DataFrame(rng.normal(size=(12, 30))))
    assert noise.attrs["silhouette"] < 0.2
    with pytest.raises(ValueError, match="1 of them not finite"):
        clusters(table.assign(x=[np.nan] + [0.0] * 7))


@pytest.mark.parametrize("known", [True, False])
def test_planted_stages_are_found(known: bool) -> None:
    """Flat, rising, falling: two borders; a straight line has none."""
    x = np.log1p(STEPS)
    borders = [x[8], x[16]]
    values = np.where(x < borders[0], 1.0, 1 + 3 * (x - borders[0]))
    values = np.where(
        x < borders[1], values, values.max() * 0 + 1 + 3 * (borders[1] - borders[0]) - 2 * (x - borders[1])
    )
    noisy = values + 0.05 * np.random.default_rng(0).normal(size=len(x))
    errors = np.full(len(x), 0.05) if known else None
    found = stages(STEPS, noisy, errors)
    assert len(found) == 2
    own = pandas.Series(STEPS, index=np.arange(len(STEPS))[::-1])  # whose index is not the place
    assert stages(own, pandas.Series(noisy), errors) == found
    assert all(abs(np.searchsorted(STEPS, border) - place) <= 1 for border, place in zip(found, (8, 16), strict=True))
    straight = 2 * x + 0.05 * np.random.default_rng(1).normal(size=len(x))
    assert stages(STEPS, straight, errors) == []
    with pytest.raises(ValueError, match="must rise"):
        stages(STEPS[::-1], noisy)


def test_the_figure_shows_every_part_and_border() -> None:
    from influence.report.llc import llc_figure

    table = pandas.DataFrame(
        [
            {"step": s, "part": p, "value": v + s, "mcse": 0.1}
            for s in (0, 1, 10)
            for p, v in (("<b>", 1.0), ("mlp", 2.0))
        ]
    )
    found = llc_figure(table, pandas.Series({"<b>": 1, "mlp": 2}), [1.0])
    assert "2 parts at 3 steps from 0 to 10" in found.words and "Stages begin at 1." in found.words
    drawn = found.svg()
    assert "cluster 1" in drawn and "cluster 2" in drawn and "<b>" not in drawn
    with pytest.raises(ValueError, match="expected are"):
        llc_figure(table.drop(columns="mcse"))
