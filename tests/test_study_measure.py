"""What a study measures of one model and one concept, against values that are known."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import planted_training
import pytest
import xarray

import ekfac
from influence.analysis.exponents import layer_exponents
from influence.attribution.fit import fit_ekfac
from influence.attribution.score import score
from influence.data.queries import queries
from influence.study import pieces
from influence.study.measure import asked, sparse, spread
from influence.study.measure.cell import Model, gathered, measure, parts, reasons
from influence.study.measure.depths import depth_frames, probed
from influence.study.measure.need import as_columns, need_table
from influence.study.measure.settings import Settings

BLOCKS, AT = 4, 2


@pytest.fixture(scope="module")
def known() -> planted_training.Planted:
    return planted_training.planted(AT, blocks=BLOCKS, concepts=3)


SETTINGS = Settings(splits=2, bootstrap=40, fit_rows=60, queries=4, controls=2, margin=4)


def scores_of(values: np.ndarray) -> xarray.DataArray:
    return xarray.DataArray(values, dims=("query", "row", "layer"), coords={"layer": np.arange(values.shape[2])})


def test_exponents_of_power_laws_by_layer_and_group() -> None:
    rng = np.random.default_rng(0)
    alpha = {("heavy", 0): 2.0, ("light", 0): 3.5, ("heavy", 1): 3.0, ("light", 1): 3.0}
    rows = {"heavy": np.arange(4000), "light": np.arange(4000, 8000)}
    values = np.empty((6, 8000, 2))
    for (name, layer), one in alpha.items():
        values[:, rows[name], layer] = rng.pareto(one - 1, (6, 4000)) + 1
    found = layer_exponents(scores_of(values), rows, top=2000).set_index(["group", "layer"])
    for key, one in alpha.items():
        assert abs(found.loc[key, "exponent"] - one) < 0.08 and found.loc[key, "low"] < one + 0.05
    assert (found["queries"] == 6).all() and (found["rows"] == 4000).all()
    few = layer_exponents(scores_of(values[:, :40]), {"few": np.arange(40)})
    assert few["exponent"].isna().all() and (few["queries"] == 0).all()
    with pytest.raises(ValueError, match="at least 50"):
        layer_exponents(scores_of(values), rows, top=10)


def test_a_query_s_influence_is_that_of_completion_less_contrast(known: planted_training.Planted) -> None:
    lm = known.lm
    lm.net.double()
    try:
        solver = ekfac.solver(fit_ekfac(lm, known.rows, progress=False), 0.1)
        one = known.concepts[0]
        [(found, control)] = asked.asked(lm, known.rows, solver, [one], SETTINGS, progress=False)
        parts = [
            score(lm, known.rows, queries([{"prompt": q["prompt"], "completion": q[end]} for q in one.queries], lm),
                  solver, per="layer", progress=False)
            for end in ("completion", "contrast")
        ]  # fmt: skip
        wanted = (parts[0] - parts[1]).transpose("query", "row", "layer")
        assert np.abs(found.values - wanted.values).max() < 1e-12 * np.abs(wanted.values).max()
        assert np.allclose(found["measurement"], parts[0]["measurement"] - parts[1]["measurement"], atol=1e-12)
        assert np.allclose(found["loss"], -parts[0]["measurement"]) and len(control["query"]) == 2
        both = asked.asked(lm, known.rows, solver, known.concepts, SETTINGS, progress=False)
        assert np.allclose(both[0][0].values, found.values, rtol=1e-9, atol=1e-15), "alone or with others"
    finally:
        lm.net.float()


def test_masses_sum_to_one_and_match_a_direct_ratio() -> None:
    rng = np.random.default_rng(2)
    scores, control = (scores_of(rng.normal(size=(q, 50, 3))) for q in (4, 2))
    scores.attrs["n_layers"] = 3
    found = spread.layer_mass(scores, control)
    ratio = np.abs(scores.values).sum(1) / np.abs(control.values).sum(1).mean(0)
    wanted = ratio / ratio.sum(1, keepdims=True)
    assert np.allclose(found["mass"].to_numpy().reshape(4, 3), wanted)
    assert np.allclose(found["depth"].to_numpy().reshape(4, 3), [1 / 3, 2 / 3, 1])


def test_the_depth_of_a_trained_model_is_where_its_attention_is(known: planted_training.Planted) -> None:
    assert known.loss < 0.05, "the model must have learned what is asked"
    for one in known.concepts:
        frames = depth_frames(probed(known.lm, one, SETTINGS))
        line = frames["depth"].iloc[0]
        assert AT / BLOCKS < line["d50"] <= (AT + 1) / BLOCKS
        curve = frames["curve"].set_index("layer")["value"]
        assert (curve[curve.index < AT] < 0.8).all() and (curve[curve.index >= AT] > 0.95).all()
        draws = frames["depth_draws"]
        assert len(draws) == SETTINGS.bootstrap and draws["d50"].notna().mean() > 0.9


def test_all_pieces_of_a_model_and_the_same_after_damage(known: planted_training.Planted, tmp_path) -> None:
    words: list[str] = []
    model = Model("m", tmp_path / "cells" / "m", known.lm, known.rows, SETTINGS, False)
    measure(model, known.concepts, words.append)
    assert len(words) == 3 * len(known.concepts)
    names = [one.name for one in known.concepts]
    before = tables(model.folder, names)
    assert set(before) == {"curve", "depth", "depth_draws", "layer_mass", "layer_tail", "tails", "margin"}
    assert (before["depth"]["recall"] > 0.95).all() and (before["depth"]["query_loss"] < 0.2).all()
    assert np.allclose(before["layer_mass"].groupby(["concept", "query"])["mass"].sum(), 1)
    assert not list(reasons(model.folder, names, {}))
    damaged = model.folder / pieces.slug(1, names[1]) / "influence" / "tails.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged"):
        measure(Model("m", model.folder, known.lm, known.rows, SETTINGS, False), known.concepts, words.append)
    after = tables(model.folder, names)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(frame, after[name])


def test_previous_tokens_are_needed_up_to_the_block_that_attends(known: planted_training.Planted) -> None:
    found = need_table(known.lm, known.concepts[0], dataclasses.replace(SETTINGS, edits=40))
    exact = found[found["metric"] == "exact match"].set_index("edit")
    assert set(exact.index) == {"noise", "freeze", "skip"}
    for edit in ("noise", "skip"):
        assert exact.loc[edit, "need"] == (AT + 1) / BLOCKS, "above the block that attends nothing is needed"
    assert exact.loc["noise", "unedited"] > 0.95 and exact.loc["noise", "all_edited"] < 0.8
    lines = found.assign(model="m", step=1, concept="c")
    wide = as_columns(lines)
    assert wide.loc[0, "need_noise"] == exact.loc["noise", "need"] and list(wide["concept"]) == ["c"]


def tables(folder, names: list[str]) -> dict[str, pd.DataFrame]:
    found: dict[str, list[pd.DataFrame]] = {}
    for name, frame in gathered(folder, names, {"model": "m", "step": 1}):
        found.setdefault(name, []).append(frame)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def test_a_concept_without_comparable_rows_is_skipped_with_its_reason(known, tmp_path) -> None:
    one = dataclasses.replace(known.concepts[0], stratum=np.full(len(known.rows), -1))
    model = Model("m", tmp_path / "m", known.lm, known.rows, SETTINGS, False)
    measure(model, [one], lambda word: None)
    said = list(reasons(model.folder, [one.name], {"model": "m"}))
    assert any(line["part"] == "margin" and "strat" in line["why"] for line in said)


def test_nothing_is_left_on_the_model(known: planted_training.Planted) -> None:
    hooks = sum(len(module._forward_hooks) + len(module._backward_hooks) for module in known.lm.net.modules())
    assert hooks == 0 and all(p.grad is None or not p.grad.any() for p in known.lm.net.parameters())


@pytest.mark.parametrize("wrong", [{"splits": 0}, {"damping": 0.0}, {"dtype": "int8"}, {"bootstrap": 3}])
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_names_of_pieces_lead_nowhere_else() -> None:
    assert pieces.slug(3, "../../etc/passwd") == "003-etc-passwd" and pieces.slug(0, "…") == "000-concept"


def test_untrained_models_are_asked_only_what_they_control() -> None:
    wanted = dataclasses.replace(SETTINGS, signature=8, edits=4, k95=True)
    assert parts(wanted, False) == ["probe", "influence", "margin", "signature", "edits", "k95"]
    assert parts(wanted, True) == ["probe", "influence", "signature", "k95"]
    assert parts(dataclasses.replace(SETTINGS, margin=0), True) == ["probe", "influence"]


@pytest.mark.parametrize(("k", "told"), [(3.5, 3.5), (float("inf"), np.nan), (None, np.nan)])
def test_few_neurons_are_a_number_or_undefined(
    known: planted_training.Planted, monkeypatch: pytest.MonkeyPatch, k: float | None, told: float
) -> None:
    found = SimpleNamespace(curves={"feature": SimpleNamespace(reached=lambda: SimpleNamespace(k=k))})
    monkeypatch.setattr(sparse, "sparse_probe", lambda *given, **settings: found)
    assert np.array_equal(sparse.neurons_for_95(known.lm, known.concepts[0], SETTINGS), told, equal_nan=True)
