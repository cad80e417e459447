"""Influence on a probe's margin against ordinary backward passes, and a network in which the answer is planted."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import planted
import pytest
import torch
from cases import FAMILIES, VOCAB, Float64, weight_gradient
from small import token_rows
from state import assert_same, state_of

import ekfac
from influence.attribution.fit import fit_ekfac
from influence.attribution.gradients import query_gradients
from influence.data.build import build
from influence.data.files import BadData
from influence.data.labelled import labelled
from influence.model.capture import call, forward
from influence.model.hidden import hidden_output
from influence.model.load import load
from influence.model.quiet import quiet
from influence.model.sites import NoSite, recording
from influence.study.measure.fixed import Probes, fixed_probes
from influence.study.measure.margin import margin_gradients, margin_influence, margin_ranking, margin_table
from influence.study.measure.matching import matched_auc, matched_pairs
from influence.types import LM

ITEMS = np.array([0, 2, 3])
FEW = ["gpt_neox", "gpt2", "llama", "gemma2", "mixtral", "live"]


def random_probes(width: int, classes: int = 3, probes: int = 2, items: int = 5, seed: int = 0) -> Probes:
    rng = np.random.default_rng(seed)
    weights = {layer: torch.from_numpy(rng.standard_normal((2, probes, classes, width))) for layer in (-1, 0, 1)}
    ids = [rng.integers(3, VOCAB, size) for size in rng.integers(3, 9, items)]
    labels = np.stack([rng.permutation(np.arange(items) % classes) for _ in range(probes)])
    return Probes(weights, labels, rng.integers(0, 2, items), np.arange(items), ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_answers_with_its_hidden_state_and_is_left_alone(family: str) -> None:
    ids = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    with Float64():
        lm = load(FAMILIES[family]())
        before = state_of(lm.net)
        with recording(lm, ["resid_post"], [-1, 0, 1]) as record:
            expected = record(ids)
        for layer in (-1, 0, 1):
            with hidden_output(lm, layer), torch.no_grad(), quiet(lm.net):
                found = forward(lm.net, ids)
            assert torch.equal(found, expected["resid_post", layer])
        with hidden_output(lm, 0), torch.no_grad():
            swapped = call(lm.net, {name: 0 * p for name, p in lm.net.named_parameters()}, ids)
        assert not torch.equal(swapped, expected["resid_post", 0])
        with pytest.raises(KeyError), hidden_output(lm, 0):
            raise KeyError
        assert_same(before, state_of(lm.net))
    with pytest.raises(NoSite), hidden_output(lm, 2):
        pass


def dense_gradients(lm: LM, probes: Probes, layer: int, k: int) -> dict[str, torch.Tensor]:
    """Of the mean margin of ITEMS by ordinary backward passes through a copy of the model, one item at a time."""
    net = copy.deepcopy(lm.net).eval().requires_grad_(True)
    for item in ITEMS:
        with hidden_output(LM(net, None, lm.blocks, lm.n_layers, None, lm.tracked), layer):
            h = net(torch.from_numpy(probes.ids[item])[None])[0, -1]
        weight = probes.weights[layer][probes.split[item], k]
        y = probes.labels[k, item]
        others = [weight[c] for c in range(len(weight)) if c != y]
        ((weight[y] @ h - torch.stack(others).mean(0) @ h) / len(ITEMS)).backward()
    return {block.name: weight_gradient(net, block.name) for block in lm.blocks}


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_are_those_of_the_margin_and_zero_above(family: str, layer: int) -> None:
    with Float64():
        lm = load(FAMILIES[family]())
        before = state_of(lm.net)
        probes = random_probes(16, classes=3 if layer else 2)
        found = margin_gradients(lm, probes, layer, ITEMS, batch_size=2)
        assert_same(before, state_of(lm.net))
        for k in range(2):
            expected = dense_gradients(lm, probes, layer, k)
            scale = max(float(one.abs().max()) for one in expected.values())
            for block in lm.blocks:
                assert (found[block.name][k] - expected[block.name]).abs().max() < 1e-12 * scale, block.name
                if block.layer > layer:
                    assert not found[block.name][k].any(), block.name
    assert any(found[block.name].any() for block in lm.blocks if block.layer == layer)


def test_two_classes_give_the_plain_margin() -> None:
    weight = torch.randn(1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probes = Probes({0: torch.cat([-weight, weight], 2) / 2}, np.array([[0, 1]]), np.zeros(2, int), np.arange(2), [])
    assert torch.allclose(probes.directions(0, np.array([0, 1]))[0], torch.stack([-weight[0, 0, 0], weight[0, 0, 0]]))


def test_influence_is_the_solved_gradient_times_that_of_the_rows() -> None:
    lm, rows = load(FAMILIES["gpt_neox"]()), token_rows(9, 3)
    probes = random_probes(16)
    solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
    found = dict(margin_influence(lm, rows, solver, probes, ITEMS, batch_size=4))
    plain = dict(margin_influence(lm, rows, lambda grad: solver(grad), probes, ITEMS, batch_size=3))
    g = query_gradients(lm, rows, progress=False)[0]
    for layer in (0, 1):
        v = solver(margin_gradients(lm, probes, layer, ITEMS)).value
        expected = sum(v[name].flatten(1) @ g[name].flatten(1).T for name in g).numpy()
        assert np.abs(found[layer] - expected).max() < 1e-10 * np.abs(expected).max()
        assert np.abs(plain[layer] - expected).max() < 1e-10 * np.abs(expected).max()
    assert not found[-1].any(), "the embedding output depends on no tracked block"


def test_auc_inside_strata_by_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    values, bearing, stratum = rng.integers(0, 6, (2, 60)), rng.random(60) < 0.4, rng.integers(0, 4, 60)
    bearing[stratum == 3] = True
    expected = []
    for line in values:
        shares = []
        for place in np.flatnonzero(bearing & (stratum < 3)):
            others = line[(stratum == stratum[place]) & ~bearing]
            shares.append(np.mean((line[place] > others) + 0.5 * (line[place] == others)))
        expected.append(np.mean(shares))
    assert np.allclose(matched_auc(values, bearing, stratum), expected)
    assert np.isnan(matched_auc(values[:, :3], np.ones(3, bool), np.zeros(3))).all()
    shifted = values + 10 * np.arange(4)[stratum] * (~bearing)
    assert matched_auc(np.where(bearing, shifted + 100, shifted), bearing, stratum).tolist() == [1, 1]


def test_pairs_share_their_stratum_and_follow_the_seed() -> None:
    rng = np.random.default_rng(1)
    tags = SimpleNamespace(name="x", bearing=rng.random(300) < 0.3, stratum=rng.integers(-1, 4, 300))
    chosen, bearing = matched_pairs(tags, 300, 60, 0)
    assert len(chosen) == 60 and bearing.sum() == 30 and len(np.unique(chosen)) == 60
    assert (np.diff(chosen) > 0).all() and (tags.stratum[chosen] >= 0).all()
    assert np.array_equal(*(np.sort(tags.stratum[chosen][tag]) for tag in (bearing, ~bearing)))
    assert np.array_equal(chosen, matched_pairs(tags, 300, 60, 0)[0])
    assert not np.array_equal(chosen, matched_pairs(tags, 300, 60, 1)[0])
    with pytest.raises(ValueError, match="tags 300 rows"):
        matched_pairs(tags, 299, 60, 0)
    with pytest.raises(BadData, match="shares its stratum"):
        matched_pairs(SimpleNamespace(name="x", bearing=np.ones(4, bool), stratum=np.zeros(4, int)), 4, 60, 0)


AT, COUNT = 1, 300  # the block that computes the concept, the words


@pytest.fixture(scope="module")
def case() -> tuple[LM, object, object, ekfac.EKFACSolver]:
    """Rows "word answer", whose answer is the concept in half of them and any other word in the rest.

    The two answers are read off the direction into which block AT writes the concept, so rows with a right answer push
    their words' hidden states along it, and the others do not.
    """
    lm, y = planted.network(AT, blocks=3, count=COUNT, width=16)
    no, yes = COUNT - 2, COUNT - 1
    words = np.arange(COUNT - 2)
    with torch.no_grad():
        head = lm.net.lm_head.weight
        head[:, planted.R] = 0
        head[no], head[yes] = 0, 0
        head[no, planted.R], head[yes, planted.R] = -1, 1
    other = np.random.default_rng(0).integers(0, COUNT - 2, len(words))
    answers = np.concatenate([np.where(y[words] == 1, yes, no), other])
    flat = np.stack([np.tile(words, 2), answers], 1).ravel()
    bounds = 2 * np.arange(2 * len(words) + 1)
    rows = build(flat, bounds, np.tile([0, 1], 2 * len(words)).astype(np.int8), np.arange(2 * len(words)), {})
    items = labelled([f"w{word}" for word in words], [str(one) for one in y[words]], [f"w{word}" for word in words])
    bearing = np.arange(len(rows)) < len(words)
    concept = SimpleNamespace(name="alike", items=items, bearing=bearing, stratum=np.zeros(len(rows), np.int64))
    return lm, rows, concept, ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)


def test_planted_rows_rank_first_where_the_concept_is_readable(case) -> None:
    lm, rows, concept, solver = case
    before = state_of(lm.net)
    found = margin_table(lm, rows, solver, concept, items=60, draws=4)
    assert_same(before, state_of(lm.net))
    assert list(found.columns) == ["layer", "depth", "auc", "auc_control", "auc_random", "n_bearing"]
    assert found["layer"].tolist() == [0, 1, 2] and np.allclose(found["depth"], [1 / 3, 2 / 3, 1])
    assert (found["n_bearing"] == 256).all()
    assert (found["auc"][AT:] > 0.9).all(), found
    assert (found["auc"][:AT] < 0.75).all(), found
    assert (found[["auc_control", "auc_random"]] - 0.5).abs().max().max() < 0.25, found
    some = margin_table(lm, rows, solver, concept, items=60, draws=4, layers=[2], batch_size=7)
    assert np.allclose(some[["auc", "auc_random"]], found[["auc", "auc_random"]].iloc[2:], atol=2e-3)


def test_probes_do_not_know_the_items_they_are_asked_about(case) -> None:
    lm, _, concept, _ = case
    probes = fixed_probes(lm, concept, [0, 1, 2], draws=2, seed=3)
    chosen = probes.queries(40, 3)
    assert len(np.unique(chosen)) == 40 and np.bincount(probes.labels[0, chosen]).tolist() == [20, 20]
    assert (probes.split[chosen] >= 0).all()
    assert np.array_equal(chosen, fixed_probes(lm, concept, [1], draws=2, seed=3).queries(40, 3))
    with recording(lm, ["resid_post"], [1]) as record:
        h = record(torch.tensor([[int(probes.ids[place][0])] for place in chosen]))["resid_post", 1][:, 0]
    margins = (probes.directions(1, chosen) * h).sum(2)
    assert (margins[0] > 0).float().mean() > 0.95, "the true probe tells items it has not seen"
    assert 0.2 < (margins[1:3] > 0).float().mean() < 0.8, "labels drawn at random cannot be known beforehand"
    norm = probes.weights[1].norm(dim=3)
    assert torch.allclose(norm[:, 3:], norm[:, :1].expand(-1, 2, -1)), "random directions have the probe's norm"


def test_layers_and_counts_that_cannot_be(case) -> None:
    lm, rows, concept, solver = case
    for wrong in ({"layers": [3]}, {"layers": []}, {"layers": [-1]}, {"items": 0}, {"most": 1}, {"draws": 0}):
        with pytest.raises(ValueError, match="give layers from 0 to 2"):
            margin_table(lm, rows, solver, concept, **wrong)


def test_ranking_for_removal_begins_with_the_rows_that_raise_the_margin(case) -> None:
    lm, rows, concept, solver = case
    found = margin_ranking(lm, rows, solver, concept, layers=[2], items=60)
    assert np.array_equal(np.sort(found), np.flatnonzero(concept.bearing))
    probes = fixed_probes(lm, concept, [2], draws=1)
    values = next(margin_influence(lm, rows.select(found), solver, probes, probes.queries(60, 0)))[1][0]
    assert (np.diff(values) <= 1e-4 * np.abs(values).max()).all()


def test_layers_may_be_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, rows, probes = load(FAMILIES["gpt_neox"]()), token_rows(9, 3), random_probes(16)
    solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
    whole = dict(margin_influence(lm, rows, solver, probes, ITEMS))
    monkeypatch.setattr("influence.study.measure.margin.NUMBERS", 1)
    parts = dict(margin_influence(lm, rows, solver, probes, ITEMS))
    assert list(parts) == list(whole) == [-1, 0, 1]
    for layer, one in whole.items():
        assert np.abs(parts[layer] - one).max() <= 1e-10 * np.abs(one).max()


def test_bfloat16_agrees_roughly() -> None:
    lm, rows, probes = load(FAMILIES["gpt_neox"]().float()), token_rows(9, 3), random_probes(16)
    solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
    exact, rough = (
        dict(margin_influence(lm, rows, solver, probes, ITEMS, dtype=dtype)) for dtype in (None, "bfloat16")
    )
    assert np.corrcoef(rough[1].ravel(), exact[1].ravel())[0, 1] > 0.99


def test_concepts_of_several_classes(case) -> None:
    lm, rows, concept, solver = case
    names = np.array(concept.items["label"])
    texts = list(concept.items["text"])
    third = np.where(np.arange(len(names)) % 3 == 0, "2", names)
    items = labelled(texts, third.tolist(), texts)
    several = SimpleNamespace(name="three", items=items, bearing=concept.bearing, stratum=concept.stratum)
    found = margin_table(lm, rows, solver, several, items=30, most=100, draws=1, layers=[2])
    assert found["n_bearing"].tolist() == [50] and np.isfinite(found.to_numpy()).all()
    probes = fixed_probes(lm, several, [2], draws=1)
    assert probes.weights[2].shape == (6, 3, 3, 16)
    assert np.bincount(probes.labels[0, probes.queries(30, 0)]).tolist() == [10, 10, 10]
