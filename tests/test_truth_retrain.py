"""Retraining by the user's recipe: known answers, resumption, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import FAMILIES
from datasets import Dataset
from small import token_rows
from torch import Tensor, nn

import influence
from influence.model.checkpoint import save_checkpoint
from influence.store import OtherSettings
from influence.truth.retrain import RecipeFailed, loo, measured_by, retrain, retrain_stacked
from influence.types import Batch

INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = INPUTS @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * torch.sin(7 * INPUTS[:, 0])
GAUSSIAN = influence.gaussian(TARGETS)
ROWS = influence.examples(np.zeros(12, int))
QUERIES = ROWS.select([1, 4, 7])


def ridge(places: list[int]) -> Tensor:
    x, y = INPUTS[places], TARGETS[places]
    return torch.linalg.solve(x.T @ x + 0.1 * torch.eye(3, dtype=torch.float64), x.T @ y)


def recipe(rows: Dataset, seed: int) -> nn.Module:
    """Ridge regression in closed form; the seed shifts the answer a little."""
    layer = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(ridge(rows["row"])[None] + 0.01 * seed)
    return influence.Supervised(layer, INPUTS)


def f(places: list[int], seed: int) -> np.ndarray:
    at = QUERIES["row"]
    return (-0.5 * (TARGETS[at] - INPUTS[at] @ (ridge(places) + 0.01 * seed)).square()).numpy()


def test_subsets_keep_exactly_their_share_and_only_grow() -> None:
    kept = influence.subsets(9, 7, seed=3)
    assert kept.shape == (7, 9) and kept.dtype == bool and (kept.sum(1) == 4).all()
    assert np.array_equal(kept, influence.subsets(9, 12, seed=3)[:7])
    assert not np.array_equal(kept, influence.subsets(9, 7, seed=4)) and len(np.unique(kept, axis=0)) == 7
    with pytest.raises(ValueError, match="9 of 9 rows"):
        influence.subsets(9, 2, share=1.0)


def test_retraining_measures_what_the_recipe_s_models_say(tmp_path: Path) -> None:
    kept = influence.subsets(12, 4)
    options: dict[str, Any] = {"seeds": (0, 5), "likelihood": GAUSSIAN, "progress": False}
    found = influence.retrain(recipe, ROWS, kept, QUERIES, tmp_path, **options)
    assert found.dims == ("subset", "seed", "query") and found["query"].values.tolist() == [1, 4, 7]
    for subset in range(4):
        for k, seed in enumerate((0, 5)):
            direct = f(np.flatnonzero(kept[subset]).tolist(), seed)
            np.testing.assert_allclose(found.values[subset, k], direct, rtol=1e-12)


def test_leaving_one_out_is_the_fall_without_it(tmp_path: Path) -> None:
    found = loo(recipe, ROWS, [2, 7], QUERIES, tmp_path, seeds=(0, 3), likelihood=GAUSSIAN, progress=False)
    for place, row in enumerate((2, 7)):
        rest = [k for k in range(12) if k != row]
        each = np.stack([f(list(range(12)), seed) - f(rest, seed) for seed in (0, 3)])
        np.testing.assert_allclose(found.values[:, place], each.mean(0), rtol=1e-9)
        np.testing.assert_allclose(found["error"].values[:, place], np.abs(each[0] - each[1]) / 2, rtol=1e-7)
    assert found["row"].values.tolist() == [2, 7]
    with pytest.raises(ValueError, match="different places from 0 to 11"):
        loo(recipe, ROWS, [12], QUERIES, tmp_path, likelihood=GAUSSIAN)


def test_a_recipe_that_raises_is_named_and_finished_ones_are_kept(tmp_path: Path) -> None:
    kept, calls = influence.subsets(12, 4), []

    def breaking(rows: Dataset, seed: int) -> nn.Module:
        calls.append(seed)
        if len(calls) == 6:
            raise ZeroDivisionError("oh")
        return recipe(rows, seed)

    asked: dict[str, Any] = {"seeds": (0, 1), "likelihood": GAUSSIAN, "progress": False}
    with pytest.raises(RecipeFailed, match=r"ZeroDivisionError for subset 1 \(6 rows\) and seed 1: oh"):
        retrain(breaking, ROWS, kept, QUERIES, tmp_path, **asked)
    found = retrain(breaking, ROWS, kept, QUERIES, tmp_path, **asked)
    assert len(calls) == 9
    whole = retrain(recipe, ROWS, kept, QUERIES, tmp_path / "other", **asked)
    np.testing.assert_array_equal(found.values, whole.values)
    (tmp_path / "subset-0002-seed-1.json").write_text("{}")
    with pytest.warns(UserWarning, match="damaged"):
        retrain(breaking, ROWS, kept, QUERIES, tmp_path, **asked)
    assert len(calls) == 10


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    kept = influence.subsets(12, 2)
    asked: dict[str, Any] = {"likelihood": GAUSSIAN, "progress": False}
    retrain(recipe, ROWS, kept, QUERIES, tmp_path, **asked)
    with pytest.raises(OtherSettings, match="subsets.sha256"):
        retrain(recipe, ROWS, ~kept, QUERIES, tmp_path, **asked)
    with pytest.raises(OtherSettings, match="queries.count: 3 there, 2 asked for"):
        retrain(recipe, ROWS, kept, QUERIES.select([0, 1]), tmp_path, **asked)
    with pytest.raises(OtherSettings, match="measure"):
        retrain(recipe, ROWS, kept, QUERIES, tmp_path, measure=lambda o, b: o[:, 0, 0], **asked)


def test_models_come_as_modules_folders_or_lms_and_stay_as_they_were(tmp_path: Path) -> None:
    net, queries = FAMILIES["gpt2"]().float().train(), token_rows(4, 1)
    save_checkpoint(tmp_path / "model", net, None)
    lm = influence.load(net)
    found = [measured_by(model, queries) for model in (net, lm, tmp_path / "model")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)
    assert all(module.training for module in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_stacked_retraining_gives_the_same_form(tmp_path: Path) -> None:
    net = influence.Supervised(nn.Linear(3, 1).double(), INPUTS)
    kept, settings = influence.subsets(12, 3), {"epochs": 3, "batch_size": 4, "lr": 0.1, "dtype": torch.float64}
    asked: dict[str, Any] = {"likelihood": GAUSSIAN, "progress": False, **settings}
    found = retrain_stacked(net, ROWS, kept, QUERIES, tmp_path, seeds=(0, 2), **asked)
    one = retrain_stacked(net, ROWS, kept[1:2], QUERIES, seeds=(2,), **asked)
    assert found.shape == (3, 2, 3)
    np.testing.assert_allclose(found.values[1, 1], one.values[0, 0], rtol=1e-9)


def test_bad_answers_are_named(tmp_path: Path) -> None:
    kept = influence.subsets(12, 2)

    def endless(outputs: Tensor, batch: Batch) -> Tensor:
        return outputs[:, 0, 0] / 0

    with pytest.raises(FloatingPointError, match="query 1 has the value .*inf under the model of subset 0 and seed 0"):
        retrain(recipe, ROWS, kept, QUERIES, tmp_path / "a", measure=endless, progress=False)
    with pytest.raises(RecipeFailed, match="returned NoneType"):
        retrain(lambda rows, seed: None, ROWS, kept, QUERIES, tmp_path / "b", progress=False)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="each once"):
        retrain(recipe, ROWS, kept, QUERIES, tmp_path / "c", seeds=(1, 1))
    with pytest.raises(ValueError, match="expected is bool"):
        retrain(recipe, ROWS, kept[:, :5], QUERIES, tmp_path / "c")
