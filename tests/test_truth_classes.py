"""All baselines at once, and class removal on a small embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import FAMILIES
from datasets import Dataset
from small import token_rows
from torch import nn

import ekfac
import influence
from influence.attribution.gradients import query_gradients
from influence.data.tokenizer import world_tokenizer
from influence.data.world import world, world_queries, world_rows
from influence.grads import dense
from influence.model.sizes import Size, neox
from influence.truth.classes import class_agreement, class_drops, class_drops_stacked, class_masks, fact_classes
from influence.truth.panel import baselines


def flat(lm: Any, rows: Dataset) -> np.ndarray:
    found, _ = query_gradients(lm, rows, progress=False)
    return torch.cat([dense(value).flatten(1) for value in found.values()], 1).numpy()


def test_all_baselines_of_a_language_model_by_their_definitions() -> None:
    lm = influence.load(FAMILIES["gpt_neox"]())
    rows, queries = token_rows(7, 0), token_rows(3, 1, first=20)
    factors = influence.fit_ekfac(lm, rows, progress=False)
    diagonal = influence.fit_diagonal(lm, rows, progress=False)
    found = baselines(lm, rows, queries, factors, diagonal=diagonal, progress=False)
    names = {
        "random",
        "length",
        "gradient norm",
        "gradient dot",
        "gradient cosine",
        "hidden cosine",
        "diagonal",
        "K-FAC",
    }
    assert set(found) == names
    for one in found.values():
        assert one.dims == ("query", "row") and one.shape == (3, 7) and np.isfinite(one.values).all()
        assert one["query"].values.tolist() == [20, 21, 22] and one["row"].values.tolist() == list(range(7))
    g, v = flat(lm, rows), flat(lm, queries)
    norms = np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(found["gradient dot"], v @ g.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["gradient norm"], np.tile(norms, (3, 1)), rtol=1e-5)
    cosine = v @ g.T / np.linalg.norm(v, axis=1)[:, None] / norms
    np.testing.assert_allclose(found["gradient cosine"], cosine, rtol=1e-5, atol=1e-8)
    assert found["length"].values[0].tolist() == [sum(mask) for mask in rows["loss_mask"]]
    direct = influence.score(lm, rows, queries, ekfac.solver(ekfac.kfac(factors)), per="sequence", progress=False)
    np.testing.assert_array_equal(found["K-FAC"], direct)


def test_baselines_of_a_classifier_leave_out_what_it_lacks() -> None:
    net = influence.Supervised(nn.Linear(4, 3), torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    rows = influence.examples(np.arange(9) % 3)
    found = baselines(influence.load(net), rows, rows.select([0, 1]), progress=False)
    assert set(found) == {"random", "length", "gradient norm", "gradient dot", "gradient cosine"}


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    drawn = world(0, persons=3, countries=1, facts_each=2, prose=0)
    tokenizer = world_tokenizer(drawn, tmp_path_factory.mktemp("tokenizer"), vocab=400)
    return drawn, world_rows(drawn, tokenizer), world_queries(drawn, tokenizer, phrasing="held-out"), len(tokenizer)


def test_classes_are_the_rows_of_one_fact_in_one_form(small_world: Any) -> None:
    drawn, rows, queries, _ = small_world
    classes = fact_classes(drawn, queries, forms=("forward", "paraphrase"))
    assert len(classes) == 2 * len(drawn.facts)
    for one in classes:
        assert len(one.places) == {"forward": 1, "paraphrase": 4}[one.form]
        assert all(rows[place]["fact"] == one.fact and rows[place]["form"] == one.form for place in one.places)
        assert queries[one.query]["fact"] == one.fact
    kept = class_masks(classes, len(rows))
    assert kept[0].all() and (~kept).sum() == sum(len(one.places) for one in classes)
    with pytest.raises(ValueError, match="no row tells"):
        fact_classes(drawn, queries, forms=("sung",))
    with pytest.raises(ValueError, match="asked 0 times"):
        fact_classes(drawn, queries, ["nobody.none"])


def test_leaving_a_class_out_costs_what_is_measured(small_world: Any, tmp_path: Path) -> None:
    drawn, rows, queries, vocab = small_world
    classes = fact_classes(drawn, queries, queries["fact"][:2], ("forward", "paraphrase"))
    worth = {one: 0.1 + k for k, one in enumerate(classes)}
    inputs = torch.zeros(vocab, 1, dtype=torch.float64)

    def recipe(kept: Dataset, seed: int) -> nn.Module:
        """Every token of the vocabulary becomes likelier with what is left of the asked fact's classes."""
        there = set(kept["row"])
        rest = sum(value for one, value in worth.items() if rows[one.places[0]]["row"] in there)
        layer = nn.Linear(1, vocab).double()
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
            layer.bias[5] = -float(rest)
        return influence.Supervised(layer, inputs)

    table = class_drops(recipe, rows, classes, queries, tmp_path, seeds=(0, 1), progress=False)
    assert (table["drop"].diff()[1:] > 0).all() and (table["error"] == 0).all()
    assert table["rows"].tolist() == [1, 4, 1, 4]
    right = np.zeros((len(queries), len(rows)))
    for one, value in worth.items():
        right[one.query, list(one.places)] = value / len(one.places)
    import xarray

    scores = {"wrong": xarray.DataArray(-right, dims=("query", "row"))}
    scores["right"] = xarray.DataArray(right, dims=("query", "row"))
    found = class_agreement(scores, classes, table, resamples=50)
    assert found["method"].tolist() == ["right", "wrong"]
    assert found["spearman"].tolist() == pytest.approx([1.0, -1.0]) and found["within"].tolist() == pytest.approx(
        [1, -1]
    )
    with pytest.raises(ValueError, match="all rows on all queries"):
        class_agreement({"a": scores["right"][:, :3]}, classes, table)


def test_class_removal_runs_stacked_with_language_models(small_world: Any) -> None:
    drawn, rows, queries, vocab = small_world
    classes = fact_classes(drawn, queries, queries["fact"][:1], ("forward", "paraphrase"))
    config = neox(Size(1, 16, 1e-2), vocab, heads=2, context=128)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "window": 4, "progress": False}
    table = class_drops_stacked(config, rows, classes, queries, seeds=(0, 1), **settings)
    assert np.isfinite(table["drop"]).all() and table["drop"].abs().max() > 0 and (table["error"] > 0).all()


def test_influence_predicts_retraining_on_a_small_regression() -> None:
    """The whole way: stacked retraining of half-subsets, EK-FAC and baselines of the full model, LDS beside them."""
    from influence.truth.lds import lds
    from influence.truth.retrain import retrain_stacked
    from influence.truth.stacked import train_stacked

    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    likelihood = influence.gaussian(torch.sin(2 * x[:, 0]) + x[:, 1] + 0.3 * noise)
    net = influence.Supervised(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double(), x)
    rows, kept = influence.examples(np.zeros(60, int)), influence.subsets(60, 24)
    queries = rows.select(range(12))
    settings: dict[str, Any] = {"epochs": 20, "batch_size": 10, "lr": 0.02, "dtype": torch.float64, "progress": False}
    settings |= {"likelihood": likelihood}
    truth = retrain_stacked(net, rows, kept, queries, seeds=(0, 1), **settings)
    lm = influence.load(train_stacked(net, rows, np.ones((1, 60), bool), [0], **settings).model(0))
    factors = influence.fit_ekfac(lm, rows, labels="expected", likelihood=likelihood, progress=False)
    options: dict[str, Any] = {"likelihood": likelihood, "progress": False}
    scores = baselines(lm, rows, queries, factors, **options)
    scores["EK-FAC"] = influence.score(lm, rows, queries, ekfac.solver(factors), per="sequence", **options)
    table = lds(scores, kept, truth, resamples=100).set_index("method")
    assert table["low"]["EK-FAC"] > 0 and table["lds"]["EK-FAC"] > table["lds"]["random"] + 0.2
    assert 0 < table.attrs["ceiling"] <= 1 and table.attrs["subsets"] == 24
