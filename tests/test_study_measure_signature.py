"""Influence signatures and backward signals against dense gradients, and networks in which the label is planted."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest
import torch
from cases import FAMILIES, VOCAB, Float64, weight_gradient
from small import token_rows
from state import assert_same, state_of

import ekfac
from influence.attribution.fit import fit_ekfac
from influence.data.build import build
from influence.data.files import BadData
from influence.data.labelled import labelled
from influence.model.hidden import hidden_gradients
from influence.model.load import load
from influence.model.loss import log_p
from influence.model.sites import NoSite
from influence.study.measure.oriented import Oriented, backward_signals, label_words, oriented, signatures
from influence.study.measure.signature import signature_table
from influence.types import LM, Batch

FEW = ["gpt_neox", "gpt2", "llama", "gemma2", "mixtral", "live"]
WORDS = [[5], [6, 7], [8, 9, 10]]  # of the first label one, of the second two
WEIGHT = np.array([1.0, -0.5, -0.5])


def asked(items: int = 4, seed: int = 0) -> Oriented:
    """Random texts, each before every word; only the word is scored."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(3, VOCAB, size).tolist() for size in rng.integers(2, 7, items)]
    ids = [[*text, *word] for text in texts for word in WORDS]
    mask = [[0] * len(text) + [1] * len(word) for text in texts for word in WORDS]
    flat, bounds = np.concatenate(ids), np.r_[0, np.cumsum([len(one) for one in ids])]
    rows = build(flat, bounds, np.concatenate(mask).astype(np.int8), np.arange(len(ids)), {})
    return Oriented(rows, WEIGHT, np.array([len(text) - 1 for text in texts for _ in WORDS]))


def dense(lm: LM, one: Oriented, item: int) -> dict[str, torch.Tensor]:
    """The gradient of an item's measurement by ordinary backward passes through a copy of the model."""
    net = copy.deepcopy(lm.net).eval().requires_grad_(True)
    for k, weight in enumerate(WEIGHT):
        (weight * row_log_p(net, one.rows[item * len(WEIGHT) + k])).backward()
    return {block.name: weight_gradient(net, block.name) for block in lm.blocks}


def row_log_p(net: Any, row: dict[str, Any]) -> torch.Tensor:
    ids, mask = torch.tensor([row["input_ids"]]), torch.tensor([row["loss_mask"]]) == 1
    out = net(ids)
    return log_p(getattr(out, "logits", out), Batch(ids, mask, torch.tensor([0])))[0]


def row_gradient(lm: LM, row: dict[str, Any]) -> dict[str, torch.Tensor]:
    net = copy.deepcopy(lm.net).eval().requires_grad_(True)
    row_log_p(net, row).backward()
    return {block.name: weight_gradient(net, block.name) for block in lm.blocks}


@pytest.mark.parametrize("family", FEW)
def test_signatures_are_the_products_of_solved_gradients_by_layer(family: str) -> None:
    with Float64():
        lm, rows, one = load(FAMILIES[family]()), token_rows(5, 2), asked()
        solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
        before = state_of(lm.net)
        found = signatures(lm, rows, solver, one, batch_size=3)
        assert_same(before, state_of(lm.net))
        assert found.shape == (2, 4, 5)
        g = [row_gradient(lm, row) for row in rows]
        for item in (0, 3):
            v = solver({name: value[None] for name, value in dense(lm, one, item).items()}).value
            for layer in (0, 1):
                names = [block.name for block in lm.blocks if block.layer == layer]
                expected = [sum(float((v[name][0] * row[name]).sum()) for name in names) for row in g]
                assert np.allclose(found[layer, item], expected, rtol=1e-8, atol=1e-10 * np.abs(found).max())
        plain = signatures(lm, rows, lambda grad: solver(grad), one)
        assert np.allclose(plain, found, rtol=1e-8, atol=1e-10 * np.abs(found).max())


def test_items_may_be_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, rows, one = load(FAMILIES["gpt_neox"]()), token_rows(5, 2), asked(7)
    solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
    whole = signatures(lm, rows, solver, one)
    monkeypatch.setattr("influence.study.measure.oriented.NUMBERS", 2 * sum(block.size for block in lm.blocks))
    assert np.allclose(signatures(lm, rows, solver, one), whole, rtol=1e-9, atol=1e-12 * np.abs(whole).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_signals_are_gradients_at_the_layers_outputs(family: str) -> None:
    """By finite differences of a nudge that an ordinary hook gives to the layer's output."""
    with Float64():
        lm, one = load(FAMILIES[family]()), asked(2)
        before = state_of(lm.net)
        found = backward_signals(lm, one, batch_size=4)
        assert_same(before, state_of(lm.net))
        nudge = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for layer in (0, 1):
            for item in (0, 1):
                change = sum(s * nudged(lm, one, item, layer, s * 1e-5 * nudge) for s in (1, -1)) / 2e-5
                expected = float(found[layer, item] @ nudge.numpy())
                assert abs(change - expected) < 1e-6 * max(1.0, abs(expected))


def nudged(lm: LM, one: Oriented, item: int, layer: int, nudge: torch.Tensor) -> float:
    """The measurement of an item when the layer's output at the text's last token is changed."""
    from influence.model.anatomy import parts

    last = int(one.last[item * len(WEIGHT)])

    def hook(_: Any, __: Any, output: Any) -> Any:
        value = (output if isinstance(output, torch.Tensor) else output[0]).clone()
        (value if value.ndim == 3 else value[None])[0, last] += nudge
        return value if isinstance(output, torch.Tensor) else (value, *output[1:])

    handle = lm.net.get_submodule(parts(lm.net)[layer].block).register_forward_hook(hook)
    try:
        with torch.no_grad():
            rows = one.rows.select(range(item * len(WEIGHT), (item + 1) * len(WEIGHT)))
            return sum(float(w * row_log_p(lm.net, row)) for w, row in zip(WEIGHT, rows, strict=True))
    finally:
        handle.remove()


def test_gradients_at_the_embeddings_too_and_nothing_stays() -> None:
    lm, one = load(FAMILIES["gpt2"]()), asked(1)
    ids, mask = torch.tensor([one.rows[0]["input_ids"]]), torch.tensor([one.rows[0]["loss_mask"]]) == 1
    before = state_of(lm.net)
    with hidden_gradients(lm, [-1, 1]) as run:
        found = run(Batch(ids, mask, torch.tensor([0])), log_p)
    assert list(found) == [-1, 1] and all(value.shape == (1, ids.shape[1], 16) for value in found.values())
    assert found[-1].any() and not found[1][0, int(one.last[0]) + 1 :].any()
    assert_same(before, state_of(lm.net))
    with pytest.raises(NoSite), hidden_gradients(lm, [2]):
        pass
    with pytest.raises(KeyError), hidden_gradients(lm, [0]):
        raise KeyError
    assert_same(before, state_of(lm.net))


def test_words_of_labels_are_the_commonest_of_their_own() -> None:
    class Items(dict[str, list[Any]]):
        column_names = ("label", "completion")

    items = Items(label=[0, 0, 0, 1, 1, 1, 1, 2], completion=[" a", " a", " b", " c", " d", " d", " b", " e"])
    assert label_words(items, [0, 1], 2) == ([" a"], [" d", " c"])
    assert label_words(items, [1, 2], 1) == ([" d"], [" e"])
    with pytest.raises(BadData, match="same completions"):
        label_words(Items(label=[0, 1], completion=[" a", " a"]), [0, 1], 2)
    items.column_names = ("label", "text")
    with pytest.raises(BadData, match="completion is needed"):
        label_words(items, [0, 1], 2)


AT, COUNT = 1, 200


@pytest.fixture(scope="module")
def case() -> tuple[LM, Any, Any, ekfac.EKFACSolver, np.ndarray]:
    """Words whose label is written into one direction by block AT, from which the head reads the two answers."""
    lm, y = planted.network(AT, blocks=3, count=COUNT, width=16)
    no, yes = COUNT - 2, COUNT - 1
    with torch.no_grad():
        lm.net.lm_head.weight[:, planted.R] = 0
        lm.net.lm_head.weight[no], lm.net.lm_head.weight[yes] = 0, 0
        lm.net.lm_head.weight[no, planted.R], lm.net.lm_head.weight[yes, planted.R] = -1, 1
    words = np.arange(COUNT - 2)
    flat = np.stack([words, np.where(y[words] == 1, yes, no)], 1).ravel()
    rows = build(flat, 2 * np.arange(len(words) + 1), np.tile([0, 1], len(words)).astype(np.int8), words, {})
    names = [f"w{word}" for word in words]
    items = labelled(names, [str(one) for one in y[words]], names)
    items = items.add_column("completion", [f" w{yes if one else no}" for one in y[words]])
    return lm, rows, SimpleNamespace(name="alike", items=items), ekfac.solver(
        fit_ekfac(lm, rows, progress=False), 0.1
    ), y[words]  # fmt: skip


def test_the_measurement_is_oriented_alike_for_every_item(case) -> None:
    lm, _, concept, _, y = case
    words = label_words(concept.items, [0, 1], 2)
    assert words == ([f" w{COUNT - 2}"], [f" w{COUNT - 1}"])
    one = oriented(lm, list(concept.items["text"])[:50], words)
    assert one.items == 50 and one.weight.tolist() == [1, -1] and (one.last == 0).all()
    values = np.array([row_log_p(lm.net, row).item() for row in one.rows]).reshape(50, 2) @ one.weight
    assert ((values < 0) == (y[:50] == 1)).mean() > 0.95, "it leans to the second word for items of the second label"


def test_the_table_of_a_planted_label(case) -> None:
    lm, rows, concept, solver, _ = case
    before = state_of(lm.net)
    found = signature_table(lm, rows, solver, concept, items=150, rows_used=60, bootstrap=100, splits=2)
    assert_same(before, state_of(lm.net))
    assert list(found.columns) == [
        "d50_signature", "d50_backward", "low", "high", "auc_signature", "auc_backward", "auc_random", "items", "rows",
    ]  # fmt: skip
    line = found.iloc[0]
    assert len(found) == 1 and line["items"] == 150 and line["rows"] == 60
    assert line["auc_signature"] > 0.8, found
    assert abs(line["auc_random"] - 0.5) < 0.25, found
    assert line["low"] <= line["d50_signature"] <= line["high"]
    pd_same = signature_table(lm, rows, solver, concept, items=150, rows_used=60, bootstrap=100, splits=2, batch_size=9)
    assert np.allclose(pd_same["auc_backward"], found["auc_backward"], atol=0.02)


def test_labels_without_words_of_their_own_have_no_signature(case) -> None:
    lm, rows, concept, solver, _ = case
    same = concept.items.remove_columns("completion").add_column("completion", [" w1"] * len(concept.items))
    with pytest.raises(BadData, match="oriented alike"):
        signature_table(lm, rows, solver, SimpleNamespace(name="x", items=same), items=150)
    with pytest.raises(ValueError, match="at least 1 of each"):
        signature_table(lm, rows, solver, concept, rows_used=0)


def test_bfloat16_agrees_roughly() -> None:
    lm, rows, one = load(FAMILIES["gpt_neox"]().float()), token_rows(5, 2), asked()
    solver = ekfac.solver(fit_ekfac(lm, rows, progress=False), 0.1)
    exact, rough = (signatures(lm, rows, solver, one, dtype=dtype) for dtype in (None, torch.bfloat16))
    assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.99
